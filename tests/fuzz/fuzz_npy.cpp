// SPDX-License-Identifier: MIT
// .npy files: what is read is written and read again to the same bits.
#include "brenier/npy.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace brenier;
using namespace brenier::fuzz;

namespace {

/// The input as it is, or, after a zero byte, as a header before data of our own.
std::string file_of(const std::uint8_t* data, std::size_t size) {
  if (size < 3 || data[0] != 0) return {reinterpret_cast<const char*>(data), size};
  const std::size_t length = size - 3;
  std::string out = "\x93NUMPY";
  out += {static_cast<char>(1 + (data[1] & 1)), '\0', static_cast<char>(length & 255),
          static_cast<char>((length >> 8) & 255)};
  if (data[1] & 1) out.append(2, '\0');
  out.append(reinterpret_cast<const char*>(data) + 3, length);
  return out.append(std::size_t{data[2]} * 4, '\x3f');
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::filesystem::path file = scratch("file"), copy = scratch("copy.npy");
  put(file, file_of(data, size));
  NpyInfo info;
  Matrix<double> x;
  const bool has_info = accepted([&] { info = read_npy_info(file); });
  // An error takes longer than all else: what the first reader refuses is not always shown to the others.
  const bool all = has_info || size % 8 == 0;
  const bool is_array = all && accepted([&] { x = read_npy(file); });
  const bool is_vector = all && accepted([&] { read_npy_vector(file); });
  const bool may_not_fit = info.dtype.ends_with("int64");
  require(is_array ? has_info : !has_info || may_not_fit, "a header that is right for one reader only");
  require(!is_vector || is_array, "a vector that is no array");
  if (!is_array) return 0;
  require(x.rows() == info.shape[0], "rows");
  write_npy(copy, MatrixView<const double>(x));
  const Matrix<double> again = read_npy(copy);
  require(again.rows() == x.rows() && again.cols() == x.cols(), "the shape of the copy");
  const std::size_t bytes = x.elements().size() * sizeof(double);
  require(bytes == 0 || std::memcmp(again.elements().data(), x.elements().data(), bytes) == 0, "its bits");
  return 0;
}
