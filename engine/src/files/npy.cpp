// SPDX-License-Identifier: MIT
#include "brenier/npy.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>

#include "brenier/atomic_file.hpp"
#include "engine/src/files/archive.hpp"
#include "engine/src/files/input_file.hpp"
#include "engine/src/files/table.hpp"

namespace brenier {

namespace fs = std::filesystem;

namespace {

constexpr std::array<unsigned char, 6> magic = {0x93, 'N', 'U', 'M', 'P', 'Y'};
constexpr std::size_t largest_dictionary = 65536;
constexpr std::size_t alignment = 64;

/// Numbers of a .npy file on their way to double.
template <class Stored>
void read_as(InputFile& file, std::span<double> out) {
  file.read_values<Stored>(out, "the data");
  if constexpr (std::is_integral_v<Stored> && sizeof(Stored) == 8) {
    constexpr double limit = 9007199254740992;
    for (const double value : out)
      if (std::abs(value) >= limit)
        file.fail(
            "a whole number of 2^53 or more, which float64 need not hold: where that does not matter, "
            "convert with array.astype('<f8')");
  }
}

struct Type {
  const char *descr, *name;
  std::uint64_t width;
  void (*read)(InputFile&, std::span<double>);
};
constexpr Type kTypes[] = {
    {"<f4", "float32", 4, read_as<float>},        {"<f8", "float64", 8, read_as<double>},
    {"|b1", "bool", 1, read_as<std::uint8_t>},    {"|i1", "int8", 1, read_as<std::int8_t>},
    {"|u1", "uint8", 1, read_as<std::uint8_t>},   {"<i2", "int16", 2, read_as<std::int16_t>},
    {"<u2", "uint16", 2, read_as<std::uint16_t>}, {"<i4", "int32", 4, read_as<std::int32_t>},
    {"<u4", "uint32", 4, read_as<std::uint32_t>}, {"<i8", "int64", 8, read_as<std::int64_t>},
    {"<u8", "uint64", 8, read_as<std::uint64_t>},
};

const Type& type_of(const NpyInfo& info) {
  return *std::find_if(std::begin(kTypes), std::end(kTypes),
                       [&](const Type& type) { return info.dtype == type.name; });
}

/// Parser of the header: a Python dictionary literal with the keys descr, fortran_order and shape.
class HeaderParser {
 public:
  HeaderParser(const std::string& text, const InputFile& file) : text_(text), file_(file) {}

  NpyInfo parse() {
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted("a key");
      expect(':');
      if (key == "descr") {
        dtype_ = dtype();
      } else if (key == "fortran_order") {
        fortran_ = boolean();
      } else if (key == "shape") {
        shape_ = shape();
      } else {
        file_.fail("unknown key '" + key + "' in the header; allowed are descr, fortran_order, shape");
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) file_.fail("text after the dictionary in the header");
    if (!dtype_) file_.fail("the header has no descr");
    if (!fortran_) file_.fail("the header has no fortran_order");
    if (!shape_) file_.fail("the header has no shape");
    return {*dtype_, *shape_, *fortran_};
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }

  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!accept(c))
      file_.fail(std::string("the header is not a dictionary: '") + c + "' expected at byte " +
                 std::to_string(at_) + " of it");
  }

  std::string quoted(const std::string& what) {
    skip_space();
    if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"'))
      file_.fail(what + " in quotes expected at byte " + std::to_string(at_) + " of the header");
    const std::size_t end = text_.find(text_[at_], at_ + 1);
    if (end == std::string::npos) file_.fail("a quote in the header does not end");
    const std::string inside = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return inside;
  }

  std::string dtype() {
    skip_space();
    if (at_ < text_.size() && text_[at_] == '[')
      file_.fail("structured dtypes are not supported; save a plain float32 or float64 array");
    const std::string name = quoted("descr");
    for (const Type& type : kTypes)
      if (name == type.descr) return type.name;
    file_.fail("dtype '" + name +
               "' is not supported; allowed are little-endian float32 and float64, whole " +
               "numbers of at most 8 bytes, and bool: convert with array.astype('<f8')");
  }

  bool boolean() {
    skip_space();
    for (const bool value : {true, false}) {
      const std::string word = value ? "True" : "False";
      if (text_.compare(at_, word.size(), word) == 0) {
        at_ += word.size();
        return value;
      }
    }
    file_.fail("fortran_order must be True or False");
  }

  std::vector<Index> shape() {
    std::vector<Index> extents;
    expect('(');
    while (!accept(')')) {
      extents.push_back(extent());
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    if (extents.empty() || extents.size() > 2)
      file_.fail("an array with " + std::to_string(extents.size()) +
                 " dimensions; allowed are 1 (N) and 2 (N, d)");
    return extents;
  }

  Index extent() {
    skip_space();
    const std::size_t first = at_;
    Index value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      const int digit = text_[at_] - '0';
      if (value > (std::numeric_limits<Index>::max() - digit) / 10)
        file_.fail("the shape has an extent that is too large to address, at byte " + std::to_string(first) +
                   " of the header");
      value = 10 * value + digit;
      ++at_;
    }
    if (at_ == first)
      file_.fail("the shape has an extent that is not a non-negative whole number, at byte " +
                 std::to_string(first) + " of the header");
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // written by Python 2
    return value;
  }

  const std::string& text_;
  const InputFile& file_;
  std::size_t at_ = 0;
  std::optional<std::string> dtype_;
  std::optional<bool> fortran_;
  std::optional<std::vector<Index>> shape_;
};

std::size_t header_length(InputFile& file) {
  std::array<unsigned char, 8> start{};
  file.read(std::as_writable_bytes(std::span(start)), "the .npy signature");
  for (std::size_t i = 0; i < magic.size(); ++i)
    if (start[i] != magic[i])
      file.fail(
          "not a .npy file: it does not start with \\x93NUMPY; other files of numbers that are read are "
          ".npz, "
          ".csv, .tsv and .txt");
  const int major = start[6];
  if (major < 1 || major > 3 || start[7] != 0)
    file.fail(".npy version " + std::to_string(major) + "." + std::to_string(start[7]) +
              " is not known; allowed are 1.0, 2.0 and 3.0");
  std::array<unsigned char, 4> length{};
  file.read(std::as_writable_bytes(std::span(length)).first(major == 1 ? 2 : 4), "the header's length");
  const std::size_t bytes = length[0] | (std::size_t{length[1]} << 8) | (std::size_t{length[2]} << 16) |
                            (std::size_t{length[3]} << 24);
  if (bytes > largest_dictionary)
    file.fail("a header of " + std::to_string(bytes) + " bytes; allowed are at most " +
              std::to_string(largest_dictionary));
  return bytes;
}

NpyInfo read_header(InputFile& file) {
  std::string text(header_length(file), '\0');
  file.read(std::as_writable_bytes(std::span(text)), "the header");
  const NpyInfo info = HeaderParser(text, file).parse();
  const std::uint64_t width = type_of(info).width;
  // In memory every element takes 8 bytes.
  std::uint64_t elements = 1;
  const std::uint64_t most = std::numeric_limits<Index>::max() / 8;
  bool none = false;
  for (const Index extent : info.shape) none = none || extent == 0;
  for (const Index extent : info.shape) {
    if (none) break;
    if (static_cast<std::uint64_t>(extent) > most / elements)
      file.fail("the shape has more elements than can be addressed (" + std::to_string(elements) + " times " +
                std::to_string(extent) + ")");
    elements *= static_cast<std::uint64_t>(extent);
  }
  if (none) elements = 0;
  // Loops go over rows, also over those without elements.
  for (const Index extent : info.shape)
    if (none && extent > 1'000'000)
      file.fail("an array without elements has the extent " + std::to_string(extent));
  if (file.remaining() != elements * width)
    file.fail((file.remaining() < elements * width ? std::string("truncated: ") : std::string("too long: ")) +
              std::to_string(elements) + " elements of " + info.dtype + " take " +
              std::to_string(elements * width) + " bytes, the file has " + std::to_string(file.remaining()));
  return info;
}

void read_elements(InputFile& file, const NpyInfo& info, std::span<double> out) {
  type_of(info).read(file, out);
}

template <class T>
std::string write_array(const fs::path& path, MatrixView<const T> values, const std::string& shape) {
  std::string header = std::string("{'descr': '") + (sizeof(T) == 4 ? "<f4" : "<f8") +
                       "', 'fortran_order': False, 'shape': " + shape + ", }";
  // Ten bytes stand before the header, a line feed ends it, and the data begin at a multiple of 64.
  const std::size_t before = magic.size() + 4;
  const std::size_t total = (before + header.size() + 1 + alignment - 1) / alignment * alignment;
  header.append(total - before - header.size() - 1, ' ');
  header.push_back('\n');

  std::string start(reinterpret_cast<const char*>(magic.data()), magic.size());
  start += {'\x01', '\x00', static_cast<char>(header.size() & 0xFF), static_cast<char>(header.size() >> 8)};
  AtomicFile file(path);
  start += header;
  file.write(std::as_bytes(std::span(start)));
  if (values.ld == values.cols) {
    file.write(std::as_bytes(std::span(values.data, static_cast<std::size_t>(values.rows * values.cols))));
  } else {
    for (Index i = 0; i < values.rows; ++i)
      file.write(std::as_bytes(std::span(values.row(i), static_cast<std::size_t>(values.cols))));
  }
  file.commit();
  return file.checksum();
}

template <class T>
std::string shape_text(MatrixView<const T> values) {
  return "(" + std::to_string(values.rows) + ", " + std::to_string(values.cols) + ")";
}

}  // namespace

NpyInfo read_npy_info(const fs::path& path) {
  if (is_table(path)) {
    const Matrix<double> values = read_table(path);
    return {"text", {values.rows(), values.cols()}, false};
  }
  InputFile file(path);
  enter_archive(file);
  return read_header(file);
}

Matrix<double> read_npy(const fs::path& path) {
  if (is_table(path)) return read_table(path);
  InputFile file(path);
  enter_archive(file);
  const NpyInfo info = read_header(file);
  const Index rows = info.shape[0];
  const Index cols = info.shape.size() == 2 ? info.shape[1] : 1;
  if (!info.fortran_order) {
    Matrix<double> values(rows, cols);
    read_elements(file, info, values.elements());
    return values;
  }
  Matrix<double> transposed(cols, rows);
  read_elements(file, info, transposed.elements());
  Matrix<double> values(rows, cols);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) values(i, j) = transposed(j, i);
  return values;
}

std::vector<double> read_npy_vector(const fs::path& path) {
  if (is_table(path)) {
    const Matrix<double> values = read_table(path);
    if (values.cols() != 1)
      throw IoError("'" + path.string() + "': one number a line is needed; there are " +
                    std::to_string(values.cols()));
    return values.elements();
  }
  InputFile file(path);
  enter_archive(file);
  const NpyInfo info = read_header(file);
  if (info.shape.size() != 1)
    file.fail("a 1-D array is needed; the shape is (" + std::to_string(info.shape[0]) + ", " +
              std::to_string(info.shape[1]) + ")");
  std::vector<double> values(static_cast<std::size_t>(info.shape[0]));
  read_elements(file, info, values);
  return values;
}

std::string write_npy(const fs::path& path, MatrixView<const float> values) {
  return write_array(path, values, shape_text(values));
}

std::string write_npy(const fs::path& path, MatrixView<const double> values) {
  return write_array(path, values, shape_text(values));
}

std::string write_npy(const fs::path& path, std::span<const double> values) {
  const Index count = static_cast<Index>(values.size());
  return write_array(path, MatrixView<const double>(values.data(), count, 1),
                     "(" + std::to_string(count) + ",)");
}

}  // namespace brenier
