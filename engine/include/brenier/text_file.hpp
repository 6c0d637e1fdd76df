// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "brenier/export.h"

namespace BRENIER_API brenier {

/// The bytes of a regular file. IoError: there is none, it cannot be read to its end, or it is larger than
/// `most` bytes.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t most = std::uint64_t{1} << 30);

}  // namespace brenier
