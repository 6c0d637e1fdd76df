// SPDX-License-Identifier: MIT
// The emulator behind the device dialect on machines without a GPU. One device per process, as real programs
// see it; launches run one at a time: at once, or as late as a device may run them (Options::delay). The
// threads of a block are fibers on one OS thread: each runs until it waits at a barrier or a warp operation, in
// forward or reverse order.
//
// What finds which mistake; tests/emulator plants each of them.
//
// Always:
// * divergent barriers and warp operations, with the source lines of both; a thread that returns before a
//   barrier that others wait at
// * Array indices, misaligned vector accesses, writes just outside a device buffer or the shared memory, or
//   into a released buffer (guard zones, checked at the end of a launch)
// * more shared memory than was launched with, launches beyond the device's limits, copies beyond a buffer
// * shared memory above the limit of a kernel (detail::set_shared_limit), which lasts, when a graph is launched;
//   kernel arguments above 4 KB
// * waiting, allocating, releasing or copying to or from the host during a capture
// * the host touching device memory (SIGSEGV: it is mapped without access outside kernels and copies;
//   is_device_address() tells a signal handler)
//
// By value:
// * shared memory and fresh buffers are NaN (all bits set): what reads them before they are written is
//   not finite
// * a missing barrier or a write-after-read hazard changes the result between the forward and the reverse
//   order; a race between blocks, with their order (Options::blocks, interleave)
// * with Options::delay: a missing wait between streams, and memory that is filled again before the work that
//   reads it has run
//
// TSan build: data races of threads and of neighbouring blocks, also where the values happen to be right.
// Barriers order memory; shuffles and votes do not.
//
// ASan build: accesses outside buffers and after their release, reads too, at the line of the kernel.
//
// Not found: a kernel that spins on another thread's progress (it hangs), bank conflicts, registers, weak
// memory, the accuracy of CUDA's elementary functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <version>
#if defined(__cpp_lib_source_location)
#include <source_location>
#endif

#include "brenier/base/portable.hpp"

namespace brenier::device {
inline namespace BRENIER_DIALECT {
struct Launch;
}  // namespace BRENIER_DIALECT
}  // namespace brenier::device

namespace brenier::device::emulator {

// The place of a call in the kernel, which the caller never gives.
#if defined(__cpp_lib_source_location)
using Where = std::source_location;
#else
// clang before 16 does not take libstdc++'s. In a namespace of its own, so that a call with a place in its arguments does not
// find the emulator's functions beside the dialect's.
namespace fallback {
class SourceLocation {
 public:
  static constexpr SourceLocation current(const char* file = __builtin_FILE(),
                                          unsigned line = __builtin_LINE(),
                                          unsigned column = __builtin_COLUMN()) noexcept {
    SourceLocation here;
    here.file_ = file;
    here.line_ = line;
    here.column_ = column;
    return here;
  }
  constexpr const char* file_name() const noexcept { return file_; }
  constexpr unsigned line() const noexcept { return line_; }
  constexpr unsigned column() const noexcept { return column_; }

 private:
  const char* file_ = "";
  unsigned line_ = 0;
  unsigned column_ = 0;
};
}  // namespace fallback
using Where = fallback::SourceLocation;
#endif

enum class Order { forward, reverse, shuffled };

/// How the emulated device runs what is launched, and what it is. Sizes in bytes.
struct Options {
  Order threads = Order::forward;
  Order blocks = Order::forward;
  std::uint64_t seed = 0;                     // of shuffled orders
  bool interleave = false;                    // run two blocks of a grid by turns
  bool delay = false;                         // work of a stream waits until something waits for it
  std::size_t memory = std::size_t{1} << 30;  // of the device, at most 2 GiB
  std::size_t shared_memory = 227 * 1024;     // of a block, at most
  int devices = 1;                            // one memory for all: device_launches() tells them apart
};

const Options& options();

/// Sets options for its lifetime.
class ScopedOptions {
 public:
  explicit ScopedOptions(const Options& options);
  ~ScopedOptions();
  ScopedOptions(const ScopedOptions&) = delete;
  ScopedOptions& operator=(const ScopedOptions&) = delete;

 private:
  Options before_;
};

/// Bytes in device buffers now.
std::size_t memory_in_use();
/// Kernels that device k has run so far in this process.
std::uint64_t device_launches(int k);
/// Handles of cuBLAS that have been made so far in this process: on a device each takes milliseconds.
std::uint64_t handles_made();

/// Whether an address lies in device memory. For signal handlers.
bool is_device_address(const void* address) noexcept;

// What the dialect is made of; each throws DeviceError outside kernels.
int thread_index();
int block_index();
int block_size();
int grid_size();
void sync_block(const Where& where);
void sync_warp(const Where& where);
std::uint64_t exchange(std::uint64_t value, int source_lane, const Where& where);
unsigned ballot(bool predicate, const Where& where);
/// Every lane gives up to 8 floats; given(lane, k, the number returned) is one of a lane, until the caller's
/// next warp operation.
unsigned give(const float* values, int count, const Where& where);
float given(int lane, int k, unsigned operation);
void* shared_memory(std::size_t offset, std::size_t bytes, std::size_t alignment, const Where& where);
void* aligned(const void* address, std::size_t alignment, const Where& where);
[[noreturn]] void report_index(int index, int size);

/// Runs `body`, that of `kernel`, once in each thread of a launch, or records that where the stream is
/// capturing. `argument_bytes`: of all arguments together.
void submit(const void* kernel, const Launch& shape, std::size_t argument_bytes, std::function<void()> body);

}  // namespace brenier::device::emulator
