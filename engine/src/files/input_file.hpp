// SPDX-License-Identifier: MIT
// Reading of files whose size is known before anything is allocated.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "brenier/checksum.hpp"

namespace brenier {

static_assert(std::endian::native == std::endian::little,
              "the file formats are read as little-endian memory");

/// What the system says of an errno.
std::string reason(int code);

/// An open regular file, or bytes in memory, read from front to back.
class InputFile {
 public:
  /// IoError: no such file, not a regular one, not readable.
  explicit InputFile(const std::filesystem::path& path);
  /// The same for bytes in memory, which must outlive it; `name` stands for the file in messages.
  InputFile(std::span<const std::byte> bytes, const std::string& name);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  std::uint64_t size() const { return size_; }
  std::uint64_t remaining() const { return size_ - position_; }

  /// From here on the file is its bytes [offset, offset + count). Offsets are those of the whole
  /// file, also the second time. IoError that names `what` where it ends before.
  void narrow(std::uint64_t offset, std::uint64_t count, const std::string& what);

  /// From here on the file is these bytes, at their start.
  void replace(std::vector<std::byte> bytes);

  /// From here on `checksum` takes up what is read; nullptr: no longer.
  void watch(Checksum* checksum) { checksum_ = checksum; }

  /// Fills `bytes`; IoError that names `what` where the file ends before, or the system reports an error.
  void read(std::span<std::byte> bytes, const std::string& what);

  /// Reads out.size() elements of type Stored and makes them double.
  template <class Stored>
  void read_values(std::span<double> out, const std::string& what) {
    if constexpr (std::is_same_v<Stored, double>) {
      read(std::as_writable_bytes(out), what);
    } else {
      constexpr std::size_t block = 65536;
      std::vector<Stored> buffer(out.size() < block ? out.size() : block);
      for (std::size_t first = 0; first < out.size(); first += block) {
        const std::size_t count = out.size() - first < block ? out.size() - first : block;
        read(std::as_writable_bytes(std::span<Stored>(buffer).first(count)), what);
        for (std::size_t i = 0; i < count; ++i) out[first + i] = static_cast<double>(buffer[i]);
      }
    }
  }

  /// Throws IoError with the name of the file in front.
  [[noreturn]] void fail(const std::string& message) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  const std::byte* memory_ = nullptr;  // in the place of a file
  std::vector<std::byte> own_;         // that memory, after replace()
  std::uint64_t size_ = 0;
  std::uint64_t whole_ = 0;  // size, before narrow()
  std::uint64_t position_ = 0;
  Checksum* checksum_ = nullptr;
};

}  // namespace brenier
