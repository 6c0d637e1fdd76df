// SPDX-License-Identifier: MIT
// Reading of binary files whose size is known before anything is allocated.
#pragma once

#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "brenier/base/error.hpp"

namespace brenier {

static_assert(std::endian::native == std::endian::little,
              "the file formats are read as little-endian memory");

/// An open regular file, read from front to back.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path) : path_(path) {
    std::error_code code;
    const auto status = std::filesystem::status(path, code);
    if (!std::filesystem::exists(status)) fail("no such file");
    if (!std::filesystem::is_regular_file(status)) fail("not a regular file");
    size_ = std::filesystem::file_size(path, code);
    stream_.open(path, std::ios::binary);
    if (code || !stream_) fail("cannot be opened: " + std::system_category().message(errno));
  }

  std::uint64_t size() const { return size_; }
  std::uint64_t remaining() const { return size_ - position_; }

  /// Fills `bytes`; IoError that names `what` where the file ends before.
  void read(std::span<std::byte> bytes, const std::string& what) {
    if (bytes.size() > remaining())
      fail("truncated: " + what + " needs " + std::to_string(bytes.size()) + " bytes, " +
           std::to_string(remaining()) + " are left of " + std::to_string(size_));
    stream_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!stream_) fail("cannot be read (" + what + ")");
    position_ += bytes.size();
  }

  /// Reads out.size() elements of type Stored and widens them. Stored is float or double.
  template <class Stored>
  void read_values(std::span<double> out, const std::string& what) {
    constexpr std::size_t block = 65536;
    std::vector<Stored> buffer(out.size() < block ? out.size() : block);
    for (std::size_t first = 0; first < out.size(); first += block) {
      const std::size_t count = out.size() - first < block ? out.size() - first : block;
      read(std::as_writable_bytes(std::span<Stored>(buffer).first(count)), what);
      for (std::size_t i = 0; i < count; ++i) out[first + i] = static_cast<double>(buffer[i]);
    }
  }

  /// Throws IoError with the name of the file in front.
  [[noreturn]] void fail(const std::string& message) const {
    throw IoError("'" + path_.string() + "': " + message);
  }

 private:
  std::filesystem::path path_;
  std::ifstream stream_;
  std::uint64_t size_ = 0;
  std::uint64_t position_ = 0;
};

}  // namespace brenier
