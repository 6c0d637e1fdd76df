// SPDX-License-Identifier: MIT
// A failed allocation that says how much was asked for.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstring>
#include <new>

#include "brenier/export.h"

namespace BRENIER_API brenier {

/// Memory of the host ran out; nothing was allocated. Takes no memory itself.
class OutOfMemory : public std::bad_alloc {
 public:
  /// `bytes`: what was asked for.
  explicit OutOfMemory(std::size_t bytes_in) noexcept : bytes(bytes_in) {
    std::strcpy(text_, "out of memory: ");
    char* const digits = text_ + std::strlen(text_);
    std::strcpy(std::to_chars(digits, digits + 24, bytes).ptr, " bytes could not be had");
  }
  const char* what() const noexcept override { return text_; }
  std::size_t bytes;

 private:
  char text_[80];
};

}  // namespace brenier
