// SPDX-License-Identifier: MIT
#include "engine/src/files/archive.hpp"

#include <algorithm>
#include <array>
#include <new>
#include <string>
#include <utility>
#include <vector>
#ifdef BRENIER_ZLIB
#include <zlib.h>
#endif

namespace brenier {
namespace {

constexpr std::uint64_t kEndSize = 22, kEntrySize = 46, kLocalSize = 30;
constexpr std::uint64_t kLargestComment = 65535;
constexpr std::uint64_t kStored = 0, kDeflated = 8;  // methods
constexpr std::uint32_t kWide = 0xFFFFFFFF;          // the number stands in a field of 64 bits

/// Little-endian numbers in a block of bytes.
class Block {
 public:
  Block(InputFile& file, std::uint64_t offset, std::uint64_t count, const std::string& what) {
    file.narrow(offset, count, what);  // before so much memory is asked for
    bytes_.resize(static_cast<std::size_t>(count));
    file.read(bytes_, what);
  }
  std::uint64_t size() const { return bytes_.size(); }
  /// A number of `width` bytes; the caller has checked that they are there.
  std::uint64_t at(std::uint64_t place, int width) const {
    std::uint64_t out = 0;
    for (int i = width - 1; i >= 0; --i)
      out = (out << 8) | std::to_integer<std::uint64_t>(bytes_[static_cast<std::size_t>(place) + i]);
    return out;
  }
  std::string text(std::uint64_t place, std::uint64_t count) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + place, static_cast<std::size_t>(count)};
  }

 private:
  std::vector<std::byte> bytes_;
};

struct Member {
  std::string name;
  std::uint64_t method = 0, size = 0, packed = 0, header = 0, sum = 0;
};

struct Directory {
  std::uint64_t offset = 0, size = 0;
};

/// The directory that the end of the archive names.
Directory directory_of(InputFile& file, std::uint64_t size) {
  const auto broken = [&] { file.fail("not a whole .npz file: its directory is missing"); };
  if (size < kEndSize) broken();
  const std::uint64_t first = size - std::min(size, kEndSize + kLargestComment);
  const Block tail(file, first, size - first, "the end of the archive");
  std::uint64_t end = tail.size() - kEndSize;
  while (tail.at(end, 4) != 0x06054b50) {
    if (end == 0) broken();
    --end;
  }
  Directory out{tail.at(end + 16, 4), tail.at(end + 12, 4)};
  constexpr std::uint64_t locator = 20;
  if (out.offset == kWide || out.size == kWide) {
    if (end < locator || tail.at(end - locator, 4) != 0x07064b50) broken();
    const std::uint64_t place = tail.at(end - locator + 8, 8);
    const Block wide(file, place, 56, "the end of the archive");
    if (wide.at(0, 4) != 0x06064b50) broken();
    out = {wide.at(48, 8), wide.at(40, 8)};
  }
  return out;
}

/// Sizes and place in the field of 64-bit numbers.
void widen(const Block& directory, std::uint64_t extra, std::uint64_t end, Member& member) {
  while (extra + 4 <= end) {
    const std::uint64_t id = directory.at(extra, 2), count = directory.at(extra + 2, 2);
    std::uint64_t at = extra + 4;
    const std::uint64_t last = std::min(end, at + count);
    if (id == 1) {
      for (std::uint64_t* number : {&member.size, &member.packed, &member.header}) {
        if (*number != kWide || at + 8 > last) continue;
        *number = directory.at(at, 8);
        at += 8;
      }
    }
    extra += 4 + count;
  }
}

/// The .npy files of the archive.
std::vector<Member> members_of(InputFile& file, const Directory& place) {
  std::vector<Member> out;
  const Block directory(file, place.offset, place.size, "the directory of the archive");
  for (std::uint64_t at = 0; at + kEntrySize <= directory.size();) {
    if (directory.at(at, 4) != 0x02014b50) file.fail("not a whole .npz file: its directory is damaged");
    const std::uint64_t name = directory.at(at + 28, 2), extra = directory.at(at + 30, 2),
                        comment = directory.at(at + 32, 2);
    const std::uint64_t end = at + kEntrySize + name + extra;
    if (end > directory.size()) file.fail("not a whole .npz file: its directory is damaged");
    Member member{directory.text(at + kEntrySize, name),
                  directory.at(at + 10, 2),
                  directory.at(at + 24, 4),
                  directory.at(at + 20, 4),
                  directory.at(at + 42, 4),
                  directory.at(at + 16, 4)};
    widen(directory, at + kEntrySize + name, end, member);
    if (member.name.ends_with(".npy")) out.push_back(std::move(member));
    at = end + comment;
  }
  return out;
}

#ifdef BRENIER_ZLIB

/// The next part of the file, into `block`; empty at its end.
std::span<std::byte> next_part(InputFile& file, std::vector<std::byte>& block) {
  const std::span<std::byte> part = std::span(block).first(
      static_cast<std::size_t>(std::min<std::uint64_t>(file.remaining(), block.size())));
  file.read(part, "the array");
  return part;
}

std::vector<std::byte> block_for(const InputFile& file) {
  return std::vector<std::byte>(static_cast<std::size_t>(std::min<std::uint64_t>(file.remaining(), 1 << 20)));
}

std::uint64_t sum_with(std::uint64_t sum, std::span<const std::byte> bytes) {
  return ::crc32_z(static_cast<uLong>(sum), reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
}

/// The checksum of what is left of the file.
std::uint64_t sum_of(InputFile& file) {
  std::vector<std::byte> block = block_for(file);
  std::uint64_t out = 0;
  while (file.remaining() > 0) out = sum_with(out, next_part(file, block));
  return out;
}

/// Decompresses what is left of the file. False where it is damaged or not as long as `out`.
bool inflated(InputFile& file, std::span<std::byte> out) {
  std::vector<std::byte> block = block_for(file);
  z_stream stream{};
  if (::inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::bad_alloc();  // minus: the bare data
  struct End {
    z_stream* stream;
    ~End() { ::inflateEnd(stream); }
  } const end{&stream};
  std::size_t written = 0;
  int code = Z_OK;
  while (code == Z_OK) {
    if (stream.avail_in == 0) {
      const std::span<std::byte> part = next_part(file, block);
      if (part.empty()) break;
      stream.next_in = reinterpret_cast<Bytef*>(part.data());
      stream.avail_in = static_cast<uInt>(part.size());
    }
    const std::size_t room = std::min(out.size() - written, std::size_t{1} << 30);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + written);
    stream.avail_out = static_cast<uInt>(room);
    code = ::inflate(&stream, Z_NO_FLUSH);
    written += room - stream.avail_out;
  }
  return code == Z_STREAM_END && written == out.size();
}

/// Makes the file, narrowed to the compressed array, the array.
void decompress(InputFile& file, const Member& member) {
  constexpr std::uint64_t expansion = 1032;  // of DEFLATE at most: two bits for 258 bytes
  if (member.size / expansion > member.packed)
    file.fail("not a whole .npz file: an array of " + std::to_string(member.size) + " bytes in " +
              std::to_string(member.packed) + " compressed ones");
  std::vector<std::byte> array(static_cast<std::size_t>(member.size));
  if (!inflated(file, array) || sum_with(0, array) != member.sum)
    file.fail("its compressed array is damaged: save it again");
  file.replace(std::move(array));
}

#else

void decompress(InputFile& file, const Member&) {
  file.fail(
      "its array is compressed, and this build is without zlib: save it with numpy.savez or numpy.save, or "
      "build where "
      "zlib is (Debian: zlib1g-dev)");
}

#endif

}  // namespace

void enter_archive(InputFile& file) {
  const std::uint64_t size = file.size();
  std::array<std::byte, 4> start{};
  if (size < start.size()) return;
  file.read(start, "its first bytes");
  const bool archive = start[0] == std::byte{'P'} && start[1] == std::byte{'K'};
  file.narrow(0, size, "the file");
  if (!archive) return;
  const Directory directory = directory_of(file, size);
  const std::vector<Member> members = members_of(file, directory);
  const auto named =
      std::find_if(members.begin(), members.end(), [](const Member& m) { return m.name == "x.npy"; });
  if (members.empty()) file.fail("a .npz file without arrays");
  if (members.size() > 1 && named == members.end()) {
    std::string names;
    for (const Member& member : members)
      names += (names.empty() ? "" : ", ") + member.name.substr(0, member.name.size() - 4);
    file.fail("a .npz file with the arrays " + names +
              ", none of them called x: save one of them alone, or as x");
  }
  const Member& member = named == members.end() ? members.front() : *named;
  if (member.method != kStored && member.method != kDeflated)
    file.fail("its array is compressed by method " + std::to_string(member.method) +
              " of zip, which is not read: save it with numpy.savez, numpy.savez_compressed or numpy.save");
  const Block local(file, member.header, kLocalSize, "the header of the array");
  if (local.at(0, 4) != 0x04034b50)
    file.fail("not a whole .npz file: an array is not where its directory says");
  const std::uint64_t data = member.header + kLocalSize + local.at(26, 2) + local.at(28, 2);
  if (member.method == kDeflated) {
    file.narrow(data, member.packed, "the array");
    decompress(file, member);
    return;
  }
#ifdef BRENIER_ZLIB
  file.narrow(data, member.size, "the array");
  if (sum_of(file) != member.sum) file.fail("its array is damaged: save it again");
#endif
  file.narrow(data, member.size, "the array");
}

}  // namespace brenier
