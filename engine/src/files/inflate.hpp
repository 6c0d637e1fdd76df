// SPDX-License-Identifier: MIT
// Compressed data in zip archives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace brenier {

/// No data get longer than this many times their compressed size: a pair of bits stands for at most 258 bytes.
inline constexpr std::uint64_t kLargestExpansion = 1032;

/// Decompresses DEFLATE (RFC 1951) into `out`, whose size is that of the original. False where the data are damaged, end
/// early, or are of another size; `out` then has anything.
bool inflate(std::span<const std::byte> packed, std::span<std::byte> out);

/// The checksum of zip and gzip (CRC-32, ISO 3309), of the bytes so far and these.
std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t before = 0);

}  // namespace brenier
