// SPDX-License-Identifier: MIT
#include "brenier/checksum.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <vector>

#include "engine/src/files/input_file.hpp"

namespace brenier {

struct Checksum::State {
  XXH64_state_t xxh;
};

Checksum::Checksum() : state_(std::make_unique<State>()) {
  XXH64_reset(&state_->xxh, 0);
}
Checksum::~Checksum() = default;
Checksum::Checksum(Checksum&&) noexcept = default;
Checksum& Checksum::operator=(Checksum&&) noexcept = default;

void Checksum::update(std::span<const std::byte> bytes) {
  if (!bytes.empty()) XXH64_update(&state_->xxh, bytes.data(), bytes.size());
}

std::string Checksum::text() const {
  std::uint64_t value = XXH64_digest(&state_->xxh);
  std::string out(digits, '0');
  for (std::size_t i = digits; i-- > 0; value >>= 4) out[i] = "0123456789abcdef"[value & 15];
  return out;
}

std::string checksum_of(const std::string& bytes) {
  Checksum checksum;
  checksum.update(std::as_bytes(std::span(bytes)));
  return checksum.text();
}

std::string checksum_of_file(const std::filesystem::path& path) {
  InputFile file(path);
  Checksum checksum;
  std::vector<std::byte> block(std::size_t{1} << 20);
  while (file.remaining() > 0) {
    const auto piece = std::span(block).first(std::min<std::uint64_t>(block.size(), file.remaining()));
    file.read(piece, "the file");
    checksum.update(piece);
  }
  return checksum.text();
}

}  // namespace brenier
