// SPDX-License-Identifier: MIT
#include "kernels/base/arena.hpp"

#include <cstdint>
#include <cstdlib>
#include <utility>

#include "brenier/base/out_of_memory.hpp"

namespace brenier {
namespace {
constexpr std::size_t kAlignment = 64;
}

// Pages fresh from the system are zero, which calloc knows: a large block is first touched by the threads
// that use it, not by this one.
Arena::Arena(std::size_t bytes) : block_(static_cast<std::byte*>(std::calloc(bytes + kAlignment, 1))) {
  if (!block_) throw OutOfMemory(bytes);
  data_ = block_ + (kAlignment - reinterpret_cast<std::uintptr_t>(block_) % kAlignment);
}

Arena::~Arena() {
  std::free(block_);
}

Arena::Arena(Arena&& other) noexcept
    : block_(std::exchange(other.block_, nullptr)), data_(std::exchange(other.data_, nullptr)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(block_, other.block_);
  std::swap(data_, other.data_);
  return *this;
}

}  // namespace brenier
