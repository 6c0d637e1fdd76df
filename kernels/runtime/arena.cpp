// SPDX-License-Identifier: MIT
#include "kernels/runtime/arena.hpp"

#include <cstring>
#include <new>
#include <utility>

namespace brenier {
namespace {
constexpr std::align_val_t kAlignment{64};
}

Arena::Arena(std::size_t bytes) : data_(static_cast<std::byte*>(::operator new(bytes, kAlignment))) {
  std::memset(data_, 0, bytes);
}

Arena::~Arena() {
  ::operator delete(data_, kAlignment);
}

Arena::Arena(Arena&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  return *this;
}

}  // namespace brenier
