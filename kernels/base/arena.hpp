// SPDX-License-Identifier: MIT
// One aligned block of memory, carved into arrays. Used where a kernel needs many work arrays at once.
#pragma once

#include <cstddef>

#include "brenier/base/view.hpp"

namespace brenier {

/// Owns `bytes` of zeroed memory, aligned to 64 bytes. Move-only. Throws std::bad_alloc.
class Arena {
 public:
  Arena() = default;
  explicit Arena(std::size_t bytes);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  std::byte* data() const { return data_; }

 private:
  std::byte* block_ = nullptr;  // as allocated
  std::byte* data_ = nullptr;
};

/// Hands out arrays from a block, each aligned to 64 bytes. With a null base it only counts: run the same
/// sequence of take() twice, first to size the block and then to place the arrays.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}

  template <class U>
  U* take(Index count) {
    const std::size_t at = used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(U) + 63) / 64 * 64;
    return base_ ? reinterpret_cast<U*>(base_ + at) : nullptr;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

}  // namespace brenier
