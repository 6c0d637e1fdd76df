// SPDX-License-Identifier: MIT
// What the parts of the emulator share: emulator.cpp (blocks and threads), emulator_memory.cpp and
// emulator_host.cpp (streams, graphs, copies, products).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "kernels/device/emulator/emulator.hpp"
#include "kernels/device/host.hpp"

#if defined(__SANITIZE_THREAD__)
#define BRENIER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BRENIER_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define BRENIER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BRENIER_ASAN 1
#endif
#endif
#ifndef BRENIER_TSAN
#define BRENIER_TSAN 0
#endif
#ifndef BRENIER_ASAN
#define BRENIER_ASAN 0
#endif

namespace brenier::device::emulator {

using detail::Address;

// Guard zones hold this word: NaN as float and as double, so that reads out of bounds show too.
inline constexpr std::uint32_t kGuardWord = 0x7FFDBEEFu;

void fill_guard(std::byte* begin, std::byte* end);
/// The first byte that is not as fill_guard left it, or null. The guard is restored.
std::byte* check_guard(std::byte* begin, std::byte* end);
/// ASan builds report any access to poisoned memory. Nothing in other builds.
void poison(const std::byte* begin, const std::byte* end);
void unpoison(const std::byte* begin, const std::byte* end);

/// Device memory is accessible while one of these lives. Kernels and copies hold it one at a time.
class OpenMemory {
 public:
  OpenMemory();
  ~OpenMemory();
  OpenMemory(const OpenMemory&) = delete;
  OpenMemory& operator=(const OpenMemory&) = delete;

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

/// What the guard zones of all device buffers say: "" or what was overwritten. Needs OpenMemory.
std::string check_device_guards();
/// DeviceError unless [address, address + bytes) lies inside one buffer.
void check_range(Address address, std::size_t bytes, const char* what);

/// Runs one launch to its end. Throws DeviceError with all that is wrong.
void run_launch(const Launch& shape, const std::function<void()>& body);

/// A piece of work for a stream; of a kernel also what its launch needs.
struct Task {
  std::function<void()> run{};
  const void* kernel = nullptr;
  std::size_t shared_bytes = 0;
  std::string name{};  // for messages
};
/// Executes `task` in stream order: at once, when something waits for it, or recorded.
void enqueue(Stream::State& stream, Task task);
/// Executes what still waits in the streams of this process. What goes wrong is thrown by the next call that
/// waits.
void run_pending() noexcept;
/// Counts a call that makes the host wait; DeviceError during a capture.
void count_synchronisation(const char* what);

/// The shared memory of one block: exactly `bytes`, between guard zones, all bits set.
class SharedMemory {
 public:
  SharedMemory(std::size_t bytes, int of_block);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::string check() const;  // "" or what was overwritten

 private:
  std::size_t size_ = 0;
  int of_block_ = 0;
  std::unique_ptr<std::byte[]> block_;
  std::byte* data_ = nullptr;
};

}  // namespace brenier::device::emulator
