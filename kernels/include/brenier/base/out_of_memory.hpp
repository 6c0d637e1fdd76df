// SPDX-License-Identifier: MIT
// Host memory that ran out, with the size that was asked for.
#pragma once

#include <cstddef>
#include <cstdio>
#include <new>

#include "brenier/export.h"

namespace BRENIER_API brenier {

/// Memory ran out; nothing was allocated. A std::bad_alloc, which is what containers end with where the program has no
/// `operator new` of its own. Making and reading it takes no memory.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::size_t requested_in) noexcept : requested(requested_in) {
    std::snprintf(text_, sizeof text_, "out of memory: %zu bytes requested", requested);
  }
  const char* what() const noexcept override { return text_; }

  std::size_t requested;  // bytes

 private:
  char text_[64];
};

}  // namespace brenier
