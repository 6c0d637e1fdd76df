// SPDX-License-Identifier: MIT
// Memory of the emulated device: one reserved region without access rights outside kernels and copies, every
// buffer between guard zones, fresh memory filled with NaN.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "kernels/device/emulator/impl.hpp"

#if BRENIER_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace brenier::device::emulator {
namespace {

constexpr std::size_t kRegion = std::size_t{2} << 30;
constexpr std::size_t kGuard = 1024;     // bytes on either side of a buffer
constexpr std::size_t kAlignment = 256;  // as cudaMalloc
constexpr std::size_t kSharedGuard = 256;
constexpr std::size_t kPage = std::size_t{2} << 20;  // a huge page: rights change by whole ones
constexpr std::size_t kReleasedKept = 128 * 1024;    // bytes of released buffers that are watched

constexpr std::size_t round_up(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// A buffer: [at, at + kGuard) guard, `bytes` of payload, guard up to at + whole. One that was released is
// guard throughout (bytes = 0) for a while, so that its use shows, before its place is taken again.
struct Buffer {
  std::size_t bytes;
  std::size_t whole;
  int device;  // that was current when it was allocated
};

struct Memory {
  std::byte* region = nullptr;
  std::map<std::size_t, Buffer> buffers;  // by offset of the first guard
  std::deque<std::size_t> released;       // offsets in `buffers`, oldest first
  std::size_t released_bytes = 0;         // of those, guards included
  std::size_t in_use = 0;                 // payload bytes
  std::size_t touched = 0;                // everything used so far lies below
  int open = 0;
  std::recursive_mutex mutex;
};

Memory& memory() {
  static Memory instance;
  return instance;
}

std::byte* payload(const Memory& m, std::size_t at) {
  return m.region + at + kGuard;
}

void reserve(Memory& m) {
  if (m.region) return;
  void* at = ::mmap(nullptr, kRegion + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw DeviceError("emulator: the system refused the address range of device memory");
  std::size_t room = kRegion + kPage;
  m.region = static_cast<std::byte*>(std::align(kPage, kRegion, at, room));
  ::madvise(m.region, kRegion, MADV_HUGEPAGE);  // where refused, changes of rights take longer
}

bool protect(const Memory& m, int rights) {
  return m.touched == 0 || ::mprotect(m.region, (m.touched + kPage - 1) / kPage * kPage, rights) == 0;
}

// The lowest gap between buffers that holds `whole` bytes.
std::size_t first_gap(const Memory& m, std::size_t whole) {
  std::size_t at = 0;
  for (const auto& [offset, buffer] : m.buffers) {
    if (offset - at >= whole) break;
    at = offset + buffer.whole;
  }
  return at;
}

void forget_released(Memory& m, std::size_t keep) {
  while (m.released_bytes > keep) {
    const auto oldest = m.buffers.find(m.released.front());
    m.released_bytes -= oldest->second.whole;
    m.buffers.erase(oldest);
    m.released.pop_front();
  }
}

/// The buffer that [address, address + bytes) lies in, or none.
std::optional<Buffer> buffer_of(Address address, std::size_t bytes) {
  Memory& m = memory();
  std::lock_guard lock(m.mutex);
  const std::size_t offset = address - reinterpret_cast<Address>(m.region);
  auto after = m.buffers.upper_bound(offset);
  if (after == m.buffers.begin()) return std::nullopt;
  const auto& [at, buffer] = *--after;
  const std::size_t inside = offset - at - kGuard;  // huge where the address is in the guard before
  return inside <= buffer.bytes && bytes <= buffer.bytes - inside ? std::optional(buffer) : std::nullopt;
}

std::byte guard_byte(const std::byte* at) {
  return static_cast<std::byte>(kGuardWord >> (8 * (reinterpret_cast<Address>(at) % sizeof(kGuardWord))));
}

// A write outside an array of `bytes` at `first`.
std::string describe_write(const std::byte* bad, const std::byte* first, std::size_t bytes,
                           const char* array) {
  return "a write outside " + std::string(array) + " of " + std::to_string(bytes) + " bytes, at byte " +
         std::to_string(bad - first);
}

}  // namespace

void fill_guard(std::byte* begin, std::byte* end) {
  for (std::byte* p = begin; p < end; ++p) *p = guard_byte(p);
}

std::byte* check_guard(std::byte* begin, std::byte* end) {
  // The pattern equals itself one word later: the usual case needs no loop.
  constexpr std::ptrdiff_t kWord = sizeof(kGuardWord);
  const bool starts = end - begin > kWord && begin[0] == guard_byte(begin) &&
                      begin[1] == guard_byte(begin + 1) && begin[2] == guard_byte(begin + 2) &&
                      begin[3] == guard_byte(begin + 3);
  if (starts && std::memcmp(begin, begin + kWord, static_cast<std::size_t>(end - begin - kWord)) == 0)
    return nullptr;
  for (std::byte* p = begin; p < end; ++p) {
    if (*p == guard_byte(p)) continue;
    fill_guard(begin, end);
    return p;
  }
  return nullptr;
}

void poison([[maybe_unused]] const std::byte* begin, [[maybe_unused]] const std::byte* end) {
#if BRENIER_ASAN
  __asan_poison_memory_region(begin, static_cast<std::size_t>(end - begin));
#endif
}

void unpoison([[maybe_unused]] const std::byte* begin, [[maybe_unused]] const std::byte* end) {
#if BRENIER_ASAN
  __asan_unpoison_memory_region(begin, static_cast<std::size_t>(end - begin));
#endif
}

OpenMemory::OpenMemory() : lock_(memory().mutex) {
  Memory& m = memory();
  if (!protect(m, PROT_READ | PROT_WRITE))
    throw DeviceError("emulator: the system refused access to " + std::to_string(m.touched) + " bytes");
  ++m.open;
}

OpenMemory::~OpenMemory() {
  Memory& m = memory();
  if (--m.open == 0) protect(m, PROT_NONE);
}

bool is_device_address(const void* address) noexcept {
  const std::byte* region = memory().region;
  const auto* p = static_cast<const std::byte*>(address);
  return region && p >= region && p < region + kRegion;
}

std::size_t memory_in_use() {
  std::lock_guard lock(memory().mutex);
  return memory().in_use;
}

std::string check_device_guards() {
  if (BRENIER_ASAN) return "";  // the zones are poisoned: accesses were reported as they happened
  Memory& m = memory();
  for (const auto& [at, buffer] : m.buffers) {
    std::byte* first = payload(m, at);
    const char* array = buffer.bytes > 0 ? "a device buffer" : "a released device buffer, now";
    const std::byte* bad = check_guard(first - kGuard, first);
    if (!bad) bad = check_guard(first + buffer.bytes, m.region + at + buffer.whole);
    if (bad) return describe_write(bad, first, buffer.bytes, array);
  }
  return "";
}

void check_range(Address address, std::size_t bytes, const char* what) {
  if (buffer_of(address, bytes) || bytes == 0) return;
  throw DeviceError(std::string(what) + ": " + std::to_string(bytes) +
                    " bytes do not lie inside one device buffer");
}

SharedMemory::SharedMemory(std::size_t bytes, int of_block)
    : size_(bytes), of_block_(of_block), block_(new std::byte[bytes + 2 * kSharedGuard + 16]) {
  void* at = block_.get() + kSharedGuard;
  std::size_t room = bytes + kSharedGuard + 16;
  data_ = static_cast<std::byte*>(std::align(16, bytes, at, room));
  fill_guard(data_ - kSharedGuard, data_);
  std::memset(data_, 0xFF, bytes);
  fill_guard(data_ + bytes, data_ + bytes + kSharedGuard);
  poison(data_ - kSharedGuard, data_);
  poison(data_ + bytes, data_ + bytes + kSharedGuard);
}

SharedMemory::~SharedMemory() {
  unpoison(data_ - kSharedGuard, data_ + size_ + kSharedGuard);
}

std::string SharedMemory::check() const {
  if (BRENIER_ASAN) return "";
  const std::byte* bad = check_guard(data_ - kSharedGuard, data_);
  if (!bad) bad = check_guard(data_ + size_, data_ + size_ + kSharedGuard);
  if (!bad) return "";
  return "block " + std::to_string(of_block_) + ": " + describe_write(bad, data_, size_, "the shared memory");
}

}  // namespace brenier::device::emulator

namespace brenier::device {
inline namespace BRENIER_DIALECT {

int device_of(const void* address) {
  const std::optional<emulator::Buffer> found =
      emulator::buffer_of(reinterpret_cast<detail::Address>(address), 1);
  return found ? found->device : -1;
}

namespace detail {

using namespace emulator;

Address allocate(std::size_t bytes, const char* purpose) {
  if (MemoryProbe* probe = MemoryProbe::active()) return probe->allocate(bytes);
  count_synchronisation("allocation");
  Memory& m = memory();
  std::lock_guard lock(m.mutex);
  const std::size_t limit = std::min(options().memory, kRegion);
  const std::size_t free = limit > m.in_use ? limit - m.in_use : 0;
  if (bytes > free) throw OutOfDeviceMemory(purpose, bytes, free, limit);
  reserve(m);
  const std::size_t whole = kGuard + round_up(bytes) + kGuard;
  if (first_gap(m, whole) + whole > kRegion) forget_released(m, 0);
  const std::size_t at = first_gap(m, whole);
  if (at + whole > kRegion) throw OutOfDeviceMemory(purpose, bytes, free, limit);
  m.touched = std::max(m.touched, at + whole);
  m.buffers.emplace(at, Buffer{bytes, whole, current_device()});
  m.in_use += bytes;

  const OpenMemory access;
  std::byte* first = payload(m, at);
  unpoison(first - kGuard, m.region + at + whole);
  fill_guard(first - kGuard, first);
  std::memset(first, 0xFF, bytes);
  fill_guard(first + bytes, m.region + at + whole);
  poison(first - kGuard, first);
  poison(first + bytes, m.region + at + whole);
  return reinterpret_cast<Address>(first);
}

void release(Address address) noexcept {
  if (MemoryProbe* probe = MemoryProbe::active(); probe && probe->release(address)) return;
  run_pending();  // as cudaFree waits for the device
  Memory& m = memory();
  std::lock_guard lock(m.mutex);
  const std::size_t at = address - reinterpret_cast<Address>(m.region) - kGuard;
  const auto found = m.buffers.find(at);
  if (found == m.buffers.end()) return;
  Buffer& buffer = found->second;
  try {
    const OpenMemory access;
    std::byte* first = payload(m, at);
    unpoison(first, m.region + at + buffer.whole);
    fill_guard(first, m.region + at + buffer.whole);
    poison(first, m.region + at + buffer.whole);
    m.released.push_back(at);
    m.released_bytes += buffer.whole;
    m.in_use -= std::exchange(buffer.bytes, 0);
    forget_released(m, kReleasedKept);
    count_synchronisation("release");  // last: it throws during a capture, and the capture will report that
  } catch (const Error&) {
  }
}

}  // namespace detail
}  // namespace BRENIER_DIALECT
}  // namespace brenier::device
