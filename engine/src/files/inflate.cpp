// SPDX-License-Identifier: MIT
#include "engine/src/files/inflate.hpp"

#include <array>
#include <vector>

namespace brenier {
namespace {

constexpr int kLongest = 15;  // bits of a code
constexpr int kEndOfBlock = 256;

/// Bits, the lowest of a byte first. After the end come zeros.
class Bits {
 public:
  explicit Bits(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::uint32_t peek(int count) {
    for (; held_ < count; held_ += 8, ++next_)
      if (next_ < bytes_.size()) word_ |= std::to_integer<std::uint64_t>(bytes_[next_]) << held_;
    return static_cast<std::uint32_t>(word_ & ((1U << count) - 1));
  }
  void skip(int count) {
    word_ >>= count;
    held_ -= count;
  }
  std::uint32_t take(int count) {
    const std::uint32_t out = peek(count);
    skip(count);
    return out;
  }
  void to_byte() { skip(held_ % 8); }
  /// Whether more has been taken than there was.
  bool over() const { return next_ - static_cast<std::size_t>(held_ / 8) > bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t word_ = 0;
  int held_ = 0;
  std::size_t next_ = 0;
};

/// A Huffman code: the symbol and the length for any next 15 bits.
class Code {
 public:
  /// From the length of each symbol's code, 0 where it has none. Such codes are canonical: shorter ones first, then in the
  /// order of the symbols. False where the lengths are those of no code.
  bool make(std::span<const std::uint8_t> lengths) {
    entries_.assign(std::size_t{1} << kLongest, {});
    std::uint32_t code = 0;
    for (int length = 1; length <= kLongest; ++length, code <<= 1) {
      for (std::size_t symbol = 0; symbol < lengths.size(); ++symbol) {
        if (lengths[symbol] != length) continue;
        if (code >> length) return false;
        std::uint32_t reversed = 0;  // codes stand in the data with their highest bit first
        for (int bit = 0; bit < length; ++bit) reversed |= ((code >> bit) & 1U) << (length - 1 - bit);
        for (std::size_t at = reversed; at < entries_.size(); at += std::size_t{1} << length)
          entries_[at] = {static_cast<std::uint16_t>(symbol), static_cast<std::uint16_t>(length)};
        ++code;
      }
    }
    return true;
  }
  /// The next symbol; -1 where the bits are no code.
  int next(Bits& bits) const {
    const Entry entry = entries_[bits.peek(kLongest)];
    bits.skip(entry.length);
    return entry.length > 0 ? entry.symbol : -1;
  }

 private:
  struct Entry {
    std::uint16_t symbol = 0, length = 0;
  };
  std::vector<Entry> entries_;
};

/// A symbol that stands for base + the number in the `extra` bits after it.
struct Range {
  std::uint16_t base, extra;
};

// Symbols 257 to 285: how many bytes are repeated.
constexpr std::array<Range, 29> kLengths = {
    {{3, 0},  {4, 0},  {5, 0},  {6, 0},   {7, 0},   {8, 0},   {9, 0},   {10, 0},  {11, 1}, {13, 1},
     {15, 1}, {17, 1}, {19, 2}, {23, 2},  {27, 2},  {31, 2},  {35, 3},  {43, 3},  {51, 3}, {59, 3},
     {67, 4}, {83, 4}, {99, 4}, {115, 4}, {131, 5}, {163, 5}, {195, 5}, {227, 5}, {258, 0}}};
// From how far back.
constexpr std::array<Range, 30> kDistances = {
    {{1, 0},     {2, 0},     {3, 0},     {4, 0},      {5, 1},      {7, 1},     {9, 2},     {13, 2},
     {17, 3},    {25, 3},    {33, 4},    {49, 4},     {65, 5},     {97, 5},    {129, 6},   {193, 6},
     {257, 7},   {385, 7},   {513, 8},   {769, 8},    {1025, 9},   {1537, 9},  {2049, 10}, {3073, 10},
     {4097, 11}, {6145, 11}, {8193, 12}, {12289, 12}, {16385, 13}, {24577, 13}}};

/// The codes of one block: literals and lengths, distances.
struct Codes {
  Code literals, distances;

  bool make_fixed() {
    std::array<std::uint8_t, 288> lengths{};
    for (std::size_t i = 0; i < lengths.size(); ++i)
      lengths[i] = static_cast<std::uint8_t>(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
    std::array<std::uint8_t, 30> fives{};
    fives.fill(5);
    return literals.make(lengths) && distances.make(fives);
  }

  /// Codes that stand at the start of the block, their lengths in a code themselves.
  bool read(Bits& bits) {
    constexpr std::array<std::uint8_t, 19> order = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                    11, 4,  12, 3, 13, 2, 14, 1, 15};
    const std::size_t literal_count = bits.take(5) + 257, distance_count = bits.take(5) + 1,
                      count = bits.take(4) + 4;
    std::array<std::uint8_t, 19> first{};
    for (std::size_t i = 0; i < count; ++i) first[order[i]] = static_cast<std::uint8_t>(bits.take(3));
    Code code;
    if (!code.make(first)) return false;
    std::vector<std::uint8_t> lengths;
    while (lengths.size() < literal_count + distance_count) {
      const int symbol = code.next(bits);
      if (symbol < 0 || bits.over() || (symbol == 16 && lengths.empty())) return false;
      if (symbol < 16)
        lengths.push_back(static_cast<std::uint8_t>(symbol));
      else if (symbol == 16)
        lengths.insert(lengths.end(), 3 + bits.take(2), std::uint8_t{lengths.back()});
      else
        lengths.insert(lengths.end(), symbol == 17 ? 3 + bits.take(3) : 11 + bits.take(7), std::uint8_t{0});
    }
    if (lengths.size() != literal_count + distance_count || lengths[kEndOfBlock] == 0) return false;
    const std::span<const std::uint8_t> all(lengths);
    return literals.make(all.first(literal_count)) && distances.make(all.subspan(literal_count));
  }
};

/// Decodes the symbols of a block to out[at] and on. False where they are damaged or do not fit.
bool decode(Bits& bits, const Codes& codes, std::span<std::byte> out, std::size_t& at) {
  while (!bits.over()) {
    const int symbol = codes.literals.next(bits);
    if (symbol == kEndOfBlock) return true;
    if (symbol < 0 || symbol > 285 || at == out.size()) return false;
    if (symbol < kEndOfBlock) {
      out[at++] = static_cast<std::byte>(symbol);
      continue;
    }
    const Range length = kLengths[static_cast<std::size_t>(symbol) - 257];
    const std::size_t count = length.base + bits.take(length.extra);
    const int far = codes.distances.next(bits);
    if (far < 0 || far >= static_cast<int>(kDistances.size())) return false;
    const Range distance = kDistances[static_cast<std::size_t>(far)];
    const std::size_t back = distance.base + bits.take(distance.extra);
    if (back > at || count > out.size() - at) return false;
    for (std::size_t i = 0; i < count; ++i, ++at) out[at] = out[at - back];  // may repeat what it writes
  }
  return false;
}

bool copy(Bits& bits, std::span<std::byte> out, std::size_t& at) {
  bits.to_byte();
  const std::size_t count = bits.take(16);
  if (count != (bits.take(16) ^ 0xFFFF) || count > out.size() - at) return false;
  for (std::size_t i = 0; i < count; ++i) out[at++] = static_cast<std::byte>(bits.take(8));
  return true;
}

}  // namespace

bool inflate(std::span<const std::byte> packed, std::span<std::byte> out) {
  Bits bits(packed);
  Codes codes;
  std::size_t at = 0;
  for (bool last = false; !last;) {
    last = bits.take(1) == 1;
    bool fine = false;
    switch (bits.take(2)) {
      case 0:
        fine = copy(bits, out, at);
        break;
      case 1:
        fine = codes.make_fixed() && decode(bits, codes, out, at);
        break;
      case 2:
        fine = codes.read(bits) && decode(bits, codes, out, at);
        break;
      default:
        break;
    }
    if (!fine || bits.over()) return false;
  }
  return at == out.size();
}

std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t before) {
  static constexpr std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> out{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xEDB88320U : 0U);
      out[i] = value;
    }
    return out;
  }();
  std::uint32_t out = ~before;
  for (const std::byte byte : bytes)
    out = (out >> 8) ^ table[(out ^ std::to_integer<std::uint32_t>(byte)) & 0xFF];
  return ~out;
}

}  // namespace brenier
