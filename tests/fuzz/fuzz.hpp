// SPDX-License-Identifier: MIT
// What the fuzz targets share. A target calls what a user's bytes reach: a typed error is an answer, everything else
// (a crash, another exception, a result that contradicts itself) is a fault and ends the process.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "brenier/base/error.hpp"

namespace brenier::fuzz {

/// Ends the process where a result is not what it must be.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "contradiction: %s\n", what);
  std::abort();
}

/// Calls `action`; whether it came back without a typed error.
template <class Action>
bool accepted(Action&& action) {
  try {
    action();
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// A file in memory, with a name that can be opened.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("fuzz", 0)) { require(descriptor_ >= 0, "memfd_create"); }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void put(const std::string& bytes) {
    require(::ftruncate(descriptor_, 0) == 0, "ftruncate");
    const auto written = ::pwrite(descriptor_, bytes.data(), bytes.size(), 0);
    require(written == static_cast<ssize_t>(bytes.size()), "pwrite");
  }
  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

/// A name for files that are written; one for each process. In memory where the system has such a file system: a disk
/// takes longer for each fsync than all else together.
inline std::filesystem::path scratch(const char* name) {
  static const bool memory = ::access("/dev/shm", W_OK | X_OK) == 0;
  const std::filesystem::path folder =
      (memory ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path()) /
      ("brenier-fuzz-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  return folder / name;
}

/// A .safetensors file: the input as it is, or, where its first byte asks for that, as a header before data of our own,
/// so that mutations of the text need not keep the lengths right. Byte 1 and 2: how many numbers.
inline std::string safetensors_of(const std::uint8_t* data, std::size_t size) {
  if (size < 3 || data[0] != 'h') return {reinterpret_cast<const char*>(data), size};
  const std::size_t numbers = data[1] | ((data[2] & 7) << 8);
  const std::uint64_t length = size - 3;
  std::string out(reinterpret_cast<const char*>(&length), sizeof length);
  out.append(reinterpret_cast<const char*>(data) + 3, size - 3);
  for (std::size_t i = 0; i < numbers; ++i) {
    const double value = 0.125 * static_cast<double>(1 + i % 3);
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  return out;
}

}  // namespace brenier::fuzz
