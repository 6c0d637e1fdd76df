// SPDX-License-Identifier: MIT
// What the fuzz targets share. A target calls what a user's bytes reach: a typed error is an answer, everything else
// (a crash, another exception, a result that contradicts itself) is a fault and ends the process.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>

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

/// The name of this process's folder for files that are read and written. They lie in memory (memory_files.cpp); the folder
/// is not there unless a target makes it.
inline const std::string& scratch_folder() {
  static const std::string folder =
      (std::filesystem::temp_directory_path() / ("brenier-fuzz-" + std::to_string(::getpid()))).string();
  return folder;
}

inline std::filesystem::path scratch(const char* name) {
  return std::filesystem::path(scratch_folder()) / name;
}

/// A file of scratch() has these bytes from now on. Returns its name.
const std::filesystem::path& put(const std::filesystem::path& file, std::string_view bytes);

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
