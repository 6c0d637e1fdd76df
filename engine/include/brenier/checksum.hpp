// SPDX-License-Identifier: MIT
// Checksums of files: they find damage (a flipped bit, a truncation), not intent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "brenier/export.h"

namespace BRENIER_API brenier {

/// xxHash-64 with seed 0, as `xxh64sum` computes it, of bytes that come in pieces.
class Checksum {
 public:
  static constexpr std::size_t digits = 16;

  Checksum();
  ~Checksum();
  Checksum(Checksum&&) noexcept;
  Checksum& operator=(Checksum&&) noexcept;

  void update(std::span<const std::byte> bytes);
  /// Of all bytes so far: 16 hexadecimal digits.
  std::string text() const;

 private:
  struct BRENIER_HIDDEN State;
  std::unique_ptr<State> state_;
};

std::string checksum_of(const std::string& bytes);
/// IoError where the file cannot be read to its end.
std::string checksum_of_file(const std::filesystem::path& path);

}  // namespace brenier
