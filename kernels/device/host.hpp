// SPDX-License-Identifier: MIT
// What the host does with a device: memory, streams, events, graphs, matrix products. Declared once; CUDA
// (device_cuda.cu) and the emulator (emulator*.cpp) define the same names. Include
// kernels/device/device.hpp.
//
// The host never sees an address it could dereference by accident, copies only where a function says so, and
// counts every call that makes it wait: an inner loop that claims to run without the host can be held to it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/base/portable.hpp"
#include "brenier/base/view.hpp"

namespace brenier::device {
inline namespace BRENIER_DIALECT {

/// Limits of the current device. Sizes in bytes.
struct DeviceProperties {
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int multiprocessors = 0;
  int max_threads_per_block = 0;
  int max_grid = 0;
  std::size_t shared_per_block = 0;         // without asking
  std::size_t shared_per_block_opt_in = 0;  // what launch() can ask for
  std::size_t shared_per_multiprocessor = 0;
  std::size_t memory_total = 0;
  std::size_t memory_free = 0;
};

/// Devices that can be used; 0 where there is no driver. Never throws.
int device_count() noexcept;
/// Why device_count() is 0, in the words of CUDA; empty where it is not.
std::string device_trouble();
/// Makes device k current for this host thread. Throws NotAvailable where there is no such device.
void use_device(int k);
/// The device that is current for this host thread; 0 in a thread that has chosen none.
int current_device();
/// Of the current device. Throws NotAvailable where there is no device.
DeviceProperties properties();
/// Of device k, but for memory_free: only its context knows that, and a context takes memory on the device.
/// Throws NotAvailable where there is no such device.
DeviceProperties properties_of(int k);
/// properties().shared_per_block_opt_in alone, which does not wait for the driver to collect the others.
std::size_t most_shared_bytes();
/// The shared memory that a block may have where `blocks` of them are to be on a multiprocessor at once.
std::size_t most_shared_bytes(int blocks);

/// The device whose memory an address lies in; -1 for memory of the host, and for what is nobody's. What CUDA moves between
/// them is on the current one.
int device_of(const void* address);

/// Calls so far that made the host of this process wait for the device, or could have: copies to and from the
/// host, synchronise(), allocation and release. For tests and reports; take the difference of two readings.
std::uint64_t host_synchronisations() noexcept;
/// Bytes so far that copies brought from the host of this process to its devices, and back. Likewise.
std::uint64_t host_traffic() noexcept;

/// An address on the device. It can be passed about and offset on the host, but only device code can
/// dereference it (get(), []): under CUDA this does not compile on the host, under emulation it throws.
template <class T>
class DevicePointer;

/// While one lives, the calls of this host thread only count memory: buffers have addresses and no memory,
/// copies, launches and graphs do nothing, what is read from the device is zero. Tells how much memory some
/// work needs, also where that is more than there is. Buffers must not outlive it. Not nested.
class MemoryProbe {
 public:
  MemoryProbe() { active() = this; }
  ~MemoryProbe() { active() = nullptr; }
  MemoryProbe(const MemoryProbe&) = delete;
  MemoryProbe& operator=(const MemoryProbe&) = delete;

  /// The most that was held at one time: bytes, each buffer a multiple of 256 as on the device.
  std::size_t peak() const { return peak_; }

  /// That of this thread, or null.
  static MemoryProbe*& active() {
    static thread_local MemoryProbe* probe = nullptr;
    return probe;
  }
  std::uintptr_t allocate(std::size_t bytes) {
    const std::size_t whole = (bytes + 255) / 256 * 256;
    const std::uintptr_t address = next_;
    next_ += whole;
    sizes_.emplace(address, whole);
    held_ += whole;
    peak_ = std::max(peak_, held_);
    return address;
  }
  /// False for a buffer that was there before.
  bool release(std::uintptr_t address) noexcept {
    const auto found = sizes_.find(address);
    if (found == sizes_.end()) return false;
    held_ -= found->second;
    sizes_.erase(found);
    return true;
  }

 private:
  std::map<std::uintptr_t, std::size_t> sizes_;
  std::uintptr_t next_ = 4096;  // the first page is nobody's: no address of a real buffer is so low
  std::size_t held_ = 0, peak_ = 0;
};

namespace detail {
BRENIER_DEVICE void require_kernel();  // emulation: throws DeviceError outside kernels; CUDA: nothing
using Address = std::uintptr_t;
Address allocate(std::size_t bytes, const char* purpose);
void release(Address address) noexcept;
}  // namespace detail

template <class T>
class DevicePointer {
 public:
  DevicePointer() = default;
  DevicePointer(std::nullptr_t) {}
  explicit DevicePointer(detail::Address address) : address_(address) {}
  /// A pointer to mutable elements is also a pointer to constant ones.
  template <class U>
  requires std::is_same_v<T, const U> DevicePointer(DevicePointer<U> other) : address_(other.address()) {}

  BRENIER_DEVICE T* get() const {
    detail::require_kernel();
    return reinterpret_cast<T*>(address_);
  }
  BRENIER_DEVICE T& operator[](Index i) const { return get()[i]; }

  BRENIER_HOST_DEVICE explicit operator bool() const { return address_ != 0; }
  BRENIER_HOST_DEVICE detail::Address address() const { return address_; }
  BRENIER_HOST_DEVICE friend DevicePointer operator+(DevicePointer p, Index n) {
    p.address_ += static_cast<detail::Address>(n * static_cast<Index>(sizeof(T)));
    return p;
  }

 private:
  detail::Address address_ = 0;
};

struct StreamOptions {
  /// Wait after every launch, so that an error is thrown by the launch that caused it; an inner loop then
  /// launches its kernels one by one, without a graph. Slow.
  bool synchronise_launches = false;
  /// What a stream has that is told nothing: synchronise_launches where the environment variable
  /// BRENIER_SYNC_LAUNCHES is set and not 0. Read once for each stream.
  static StreamOptions from_environment() {
    const char* value = std::getenv("BRENIER_SYNC_LAUNCHES");
    return {.synchronise_launches = value && *value && std::string(value) != "0"};
  }
};

class Event;

/// A queue of work for the device; work runs in order. Move-only, not for two threads at once.
class Stream {
 public:
  explicit Stream(StreamOptions options = StreamOptions::from_environment());
  /// Waits for the work in the queue. Throws DeviceError where any of it failed.
  void synchronise();
  /// Later work of this stream starts after what `event` recorded.
  void wait(const Event& event);
  /// Later work of this stream starts after all that `other` has been given so far: a stream of the host program as
  /// native() has it, or null for CUDA's default stream.
  void follow(void* other);
  /// Later work of `other` starts after all that this stream has been given so far.
  void lead(void* other);
  /// Between the start and the end of Graph::capture.
  bool capturing() const;
  const StreamOptions& options() const;

  struct State;
  State& state() const { return *state_; }
  void* native() const;  // cudaStream_t; under emulation, where no other stream is the default, the state

 private:
  struct Delete {
    void operator()(State* state) const noexcept;
  };
  std::unique_ptr<State, Delete> state_;
};

/// A point in a stream. Move-only.
class Event {
 public:
  Event();
  void record(Stream& stream);
  void synchronise();
  /// From `start` to this event, both recorded; milliseconds. Waits for this event.
  double milliseconds_since(const Event& start);

  struct State;
  State& state() const { return *state_; }

 private:
  struct Delete {
    void operator()(State* state) const noexcept;
  };
  std::unique_ptr<State, Delete> state_;
};

/// Work that is recorded once and launched many times with the same arguments. Buffers that it uses must
/// outlive it. Move-only.
class Graph {
 public:
  /// Runs `work`, which fills `stream`, without executing it on the device. Whatever waits for the device,
  /// allocates or copies to or from the host throws DeviceError there.
  static Graph capture(Stream& stream, const std::function<void()>& work);
  void launch(Stream& stream);
  int nodes() const;

  struct State;

 private:
  struct Delete {
    void operator()(State* state) const noexcept;
  };
  explicit Graph(State* state) : state_(state) {}
  std::unique_ptr<State, Delete> state_;
};

/// How a kernel is launched. Grid and block have one dimension.
struct Launch {
  int grid = 1;                  // blocks
  int block = 32;                // threads, a multiple of 32, at most 1024
  std::size_t shared_bytes = 0;  // of shared_storage; above 48 KiB launch() asks the device for it
  Stream& stream;
  const char* name;  // of the kernel, for messages
};

namespace detail {
void copy_to_device(Address to, const void* from, std::size_t bytes, Stream& stream);
void copy_to_host(void* to, Address from, std::size_t bytes, Stream& stream);
void copy_on_device(Address to, Address from, std::size_t bytes, Stream& stream);
void fill_zero(Address to, std::size_t bytes, Stream& stream);

/// ShapeError where the sizes of a copy differ.
inline void check_sizes(Index buffer, std::size_t host) {
  if (static_cast<std::size_t>(buffer) == host) return;
  throw ShapeError("copy between a device buffer of " + std::to_string(buffer) + " elements and " +
                   std::to_string(host) + " on the host; they must agree");
}

/// 'kernel "name" (grid 2, block 64, shared 1024 bytes)'
inline std::string describe(const Launch& shape) {
  return "kernel \"" + std::string(shape.name) + "\" (grid " + std::to_string(shape.grid) + ", block " +
         std::to_string(shape.block) + ", shared " + std::to_string(shape.shared_bytes) + " bytes)";
}

/// ValueError for a shape that no device runs.
inline void check_launch(const Launch& shape) {
  if (shape.grid < 1) throw ValueError(describe(shape) + ": the grid must have at least 1 block");
  if (shape.block < 32 || shape.block > 1024 || shape.block % 32 != 0)
    throw ValueError(describe(shape) + ": the block must be a multiple of 32 from 32 to 1024");
}

/// What every kernel may have without asking, in bytes.
inline constexpr std::size_t kSharedWithoutAsking = 48 * 1024;
/// How much shared memory `kernel` may be launched with on the current device from now on: an attribute of the
/// kernel, which lasts, and which a smaller request lowers, also for graphs that were recorded before.
void set_shared_limit(const void* kernel, std::size_t bytes);

/// Sees to it that `kernel` may have the shared memory of a launch: the first launch that needs more than there
/// is without asking asks for the most that the device has, so that no later one has to lower the limit.
inline void require_shared(const void* kernel, std::size_t bytes) {
  if (bytes <= kSharedWithoutAsking) return;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, std::size_t> limits;  // what this process has set
  const std::lock_guard lock(mutex);
  std::size_t& limit = limits[{kernel, current_device()}];
  if (bytes <= limit) return;
  const std::size_t most = most_shared_bytes();
  set_shared_limit(kernel, most);
  limit = most;
}

/// A kernel's parameter from what launch() was given. Device pointers lose their wrapper, host pointers do
/// not compile.
template <class P, class A>
P kernel_argument(const A& value) {
  static_assert(std::is_trivially_copyable_v<P>, "kernel parameters are copied bit by bit");
  static_assert(!std::is_pointer_v<A> && !std::is_array_v<A>, "pass a DevicePointer, not a host pointer");
  if constexpr (std::is_same_v<A, std::nullptr_t>) {
    return P{};
  } else if constexpr (std::is_pointer_v<P>) {
    using Element = std::remove_pointer_t<P>;
    return reinterpret_cast<P>(DevicePointer<Element>(value).address());
  } else {
    return value;
  }
}
}  // namespace detail

/// to[0 .. count) = from[0 .. count), in stream order. The ranges must not overlap.
template <class T>
void copy_on_device(DevicePointer<T> to, DevicePointer<const T> from, Index count, Stream& stream) {
  detail::copy_on_device(to.address(), from.address(), static_cast<std::size_t>(count) * sizeof(T), stream);
}

/// Writes `from.size()` elements, and waits for all earlier work of the stream.
template <class T>
void copy_to_device(DevicePointer<T> to, std::type_identity_t<std::span<const T>> from, Stream& stream) {
  detail::copy_to_device(to.address(), from.data(), from.size_bytes(), stream);
}

/// Reads `to.size()` elements and waits for them and for all earlier work of the stream.
template <class T>
void copy_to_host(std::span<T> to, DevicePointer<const T> from, Stream& stream) {
  detail::copy_to_host(to.data(), from.address(), to.size_bytes(), stream);
}

/// Owns `size` elements on the current device, aligned to 256 bytes. Not initialised (emulation: all bits
/// set, which is NaN). Move-only: copies are made by the functions that say so. Throws OutOfDeviceMemory.
/// Its destruction waits for all work of the device.
template <class T>
class DeviceBuffer {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_const_v<T>);

 public:
  DeviceBuffer() = default;
  /// `purpose`: what an OutOfDeviceMemory says that the memory was for.
  explicit DeviceBuffer(Index size, const char* purpose = "a buffer") : size_(size) {
    if (size < 0)
      throw ValueError("DeviceBuffer: size " + std::to_string(size) + " is negative; it must be >= 0");
    if (size > 0) address_ = detail::allocate(static_cast<std::size_t>(size) * sizeof(T), purpose);
  }
  ~DeviceBuffer() {
    if (address_) detail::release(address_);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : address_(std::exchange(other.address_, 0)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer moved(std::move(other));
    std::swap(address_, moved.address_);
    std::swap(size_, moved.size_);
    return *this;
  }

  Index size() const { return size_; }
  DevicePointer<T> pointer(Index offset = 0) { return DevicePointer<T>(address_) + offset; }
  DevicePointer<const T> pointer(Index offset = 0) const { return DevicePointer<const T>(address_) + offset; }

  /// Both wait for all earlier work of the stream. ShapeError unless `host` has size() elements.
  void copy_to_device(std::type_identity_t<std::span<const T>> host, Stream& stream) {
    detail::check_sizes(size_, host.size());
    detail::copy_to_device(address_, host.data(), host.size_bytes(), stream);
  }
  void copy_to_host(std::type_identity_t<std::span<T>> host, Stream& stream) const {
    detail::check_sizes(size_, host.size());
    detail::copy_to_host(host.data(), address_, host.size_bytes(), stream);
  }
  /// In stream order; does not wait.
  void fill_zero(Stream& stream) {
    detail::fill_zero(address_, static_cast<std::size_t>(size_) * sizeof(T), stream);
  }

 private:
  detail::Address address_ = 0;
  Index size_ = 0;
};

enum class Transpose { no, yes };

namespace detail {
/// States that this thread has no use for at the moment: a handle of cuBLAS and its workspace take
/// milliseconds to make, and every network that goes layer by layer wants one.
template <class State>
class IdleStates {
 public:
  /// One of a device, or null. A MemoryProbe gets none: it counts what a first use takes.
  State* take(int device) {
    if (MemoryProbe::active()) return nullptr;
    for (auto& state : states_) {
      if (state->device != device) continue;
      std::swap(state, states_.back());
      State* const found = states_.back().release();
      states_.pop_back();
      return found;
    }
    return nullptr;
  }
  /// Keeps it where its work is over, else it goes.
  void give(std::unique_ptr<State> state, bool over) noexcept {
    if (!over) return;
    try {
      states_.push_back(std::move(state));
    } catch (const std::bad_alloc&) {
    }
  }

 private:
  std::vector<std::unique_ptr<State>> states_;
};
template <class State>
IdleStates<State>& idle() {
  static thread_local IdleStates<State> states;
  return states;
}
}  // namespace detail

/// A cuBLAS handle with its own workspace, so that products can be captured and have the same bits on every
/// run; from those that this thread has used on this device before, where one is idle. Used with one stream at
/// a time. Move-only. Its destruction waits for all work of the device.
class Blas {
 public:
  Blas();

  struct State;
  State& state() const { return *state_; }

 private:
  struct Delete {
    void operator()(State* state) const noexcept;
  };
  std::unique_ptr<State, Delete> state_;
};

/// A matrix as it is stored, row-major with rows `ld` apart, and whether a product takes its transpose.
template <class T>
struct Factor {
  DevicePointer<const T> data;
  int ld = 0;
  Transpose transpose = Transpose::no;
};

/// C = alpha op(A) op(B) + beta C: op(A) is (m, k), op(B) is (k, n), C is (m, n), row-major with rows ldc apart.
template <class T>
struct Product {
  int m = 0, n = 0, k = 0;
  Factor<T> a, b;
  DevicePointer<T> c;
  int ldc = 0;
  T alpha = 1;
  T beta = 0;  // C is not read where it is 0
};

/// In full precision (no TF32). T = float or double. Does not wait.
template <class T>
void gemm(Blas& blas, Stream& stream, const Product<T>& product);

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device
