// SPDX-License-Identifier: MIT
// .npy, .safetensors and atomic writes: round trips to the bit, and every way in which a file can be wrong.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/npy.hpp"
#include "brenier/safetensors.hpp"
#include "tests/support/temporary_folder.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

std::string get(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// A .npy file with a header of our own making.
std::string npy(const std::string& dictionary, const std::string& data, int version = 1) {
  const std::size_t length = dictionary.size() + 1;
  std::string text = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) text += static_cast<char>((length >> (8 * i)) & 0xFF);
  return text + dictionary + "\n" + data;
}

std::string npy_header(const std::string& dtype, const std::string& shape, bool fortran = false) {
  return "{'descr': '" + dtype + "', 'fortran_order': " + (fortran ? "True" : "False") +
         ", 'shape': " + shape + "}";
}

std::string safetensors(const std::string& header, const std::string& data) {
  return bytes_of(std::vector<std::uint64_t>{header.size()}) + header + data;
}

/// Cut anywhere, a file must be refused, and nothing else may happen.
template <class Read>
void check_cuts(const std::string& whole, const fs::path& path, const Read& read) {
  for (std::size_t length = 0; length < whole.size(); ++length) {
    put(path, whole.substr(0, length));
    CHECK_THROWS_AS(read(path), IoError);
  }
}

/// The message of the IoError that the call must throw.
template <class Call>
std::string io_error(const Call& call) {
  try {
    call();
  } catch (const IoError& error) {
    return error.what();
  }
  return "(nothing was thrown)";
}

/// The same of reading `content`.
template <class Read>
std::string io_error_of(const std::string& content, const fs::path& path, const Read& read) {
  put(path, content);
  return io_error([&] { read(path); });
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

std::vector<double> awkward() {
  using limits = std::numeric_limits<double>;
  return {0.0,   -0.0, 1.0 / 3, limits::denorm_min(), limits::max(), -limits::infinity(), limits::quiet_NaN(),
          1e-300};
}

}  // namespace

TEST_CASE("npy: float64 and float32 come back to the bit") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "cloud.npy";
  Matrix<double> cloud(4, 2);
  cloud.elements() = awkward();
  write_npy(path, cloud.view());
  CHECK(same_bits(read_npy(path).elements(), cloud.elements()));
  CHECK(read_npy_info(path).dtype == "float64");
  CHECK(read_npy_info(path).shape == std::vector<Index>{4, 2});
  // NumPy wants the data at a multiple of 64 bytes.
  CHECK(fs::file_size(path) == 128 + 64);

  Matrix<float> single(3, 5);
  for (std::size_t i = 0; i < 15; ++i) single.elements()[i] = 1.0f / static_cast<float>(i + 1);
  write_npy(path, single.view());
  const Matrix<double> back = read_npy(path);
  CHECK(cast<float>(back).elements() == single.elements());
  CHECK(read_npy_info(path).dtype == "float32");
  CHECK(folder.entries() == 1);
}

TEST_CASE("npy: views with padding, vectors and empty arrays") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.npy";
  const std::vector<double> storage = {1, 2, 99, 3, 4, 99, 5, 6, 99};
  write_npy(path, MatrixView<const double>(storage.data(), 3, 2, 3));
  CHECK(read_npy(path).elements() == std::vector<double>{1, 2, 3, 4, 5, 6});
  CHECK(contains(io_error([&] { read_npy_vector(path); }), "a 1-D array is needed; the shape is (3, 2)"));

  const std::vector<double> line = {7, 8, 9};
  write_npy(path, line);
  CHECK(read_npy_info(path).shape == std::vector<Index>{3});
  CHECK(read_npy_vector(path) == line);
  CHECK(read_npy(path).rows() == 3);
  CHECK(read_npy(path).cols() == 1);

  write_npy(path, Matrix<double>(0, 7).view());
  CHECK(read_npy(path).rows() == 0);
  CHECK(read_npy(path).cols() == 7);
}

TEST_CASE("npy: every version, Fortran order and other spellings of the header") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.npy";
  const std::vector<double> data = {1, 2, 3, 4, 5, 6};
  for (const int version : {1, 2, 3}) {
    put(path, npy(npy_header("<f8", "(2, 3)"), bytes_of(data), version));
    CHECK(read_npy(path).elements() == data);
  }
  put(path, npy(npy_header("<f8", "(2, 3)", true), bytes_of(data)));
  CHECK(read_npy(path).elements() == std::vector<double>{1, 3, 5, 2, 4, 6});
  CHECK(read_npy_info(path).fortran_order);
  put(path, npy("{ \"shape\":(6L,),\"fortran_order\" :False , \"descr\":\"<f8\" , }", bytes_of(data)));
  CHECK(read_npy_vector(path) == data);
}

TEST_CASE_TEMPLATE("npy: whole numbers come as the same numbers", T, std::int8_t, std::uint8_t, std::int16_t,
                   std::uint16_t, std::int32_t, std::uint32_t, std::int64_t, std::uint64_t) {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.npy";
  using Limits = std::numeric_limits<T>;
  constexpr bool is_long = sizeof(T) == 8;
  const T largest = is_long ? static_cast<T>((1ULL << 53) - 1) : Limits::max();
  const std::vector<T> numbers = {0, 1, largest,
                                  Limits::is_signed ? static_cast<T>(-100) : static_cast<T>(100)};
  const std::string order = sizeof(T) == 1 ? "|" : "<", kind = Limits::is_signed ? "i" : "u";
  put(path, npy(npy_header(order + kind + std::to_string(sizeof(T)), "(4,)"), bytes_of(numbers)));
  const std::vector<double> read = read_npy_vector(path);
  REQUIRE(read.size() == numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) CHECK(read[i] == static_cast<double>(numbers[i]));
  CHECK(read_npy_info(path).dtype ==
        std::string(Limits::is_signed ? "int" : "uint") + std::to_string(8 * sizeof(T)));
}

TEST_CASE("npy: booleans are 0 and 1") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.npy";
  put(path, npy(npy_header("|b1", "(3,)"), std::string("\0\1\1", 3)));
  CHECK(read_npy_vector(path) == std::vector<double>{0, 1, 1});
}

TEST_CASE("npy: what is wrong is said") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.npy";
  const auto message = [&](const std::string& content) { return io_error_of(content, path, read_npy); };
  const std::string six = bytes_of(std::vector<double>{1, 2, 3, 4, 5, 6});
  CHECK(contains(io_error([&] { read_npy(folder.path / "none.npy"); }), "none.npy': no such file"));
  CHECK(contains(io_error([&] { read_npy(folder.path); }), "not a regular file"));
  CHECK(contains(message(""), "truncated: the .npy signature needs 8 bytes, 0 are left of 0"));
  CHECK(contains(message("PK\x03\x04 and more"), "not a whole .npz file"));
  CHECK(contains(message(npy(npy_header("<f8", "(2, 3)"), six, 4)), "version 4.0 is not known"));
  CHECK(contains(message(npy(npy_header("<c16", "(2, 3)"), six)), "dtype '<c16' is not supported"));
  CHECK(
      contains(message(npy(npy_header("<i8", "(2,)"), bytes_of(std::vector<std::int64_t>{1, -(1LL << 53)}))),
               "a whole number of 2^53 or more"));
  CHECK(contains(message(npy(npy_header(">f8", "(2, 3)"), six)), "dtype '>f8' is not supported"));
  CHECK(contains(message(npy("{'descr': [('x', '<f8')], 'fortran_order': False, 'shape': (6,)}", six)),
                 "structured dtypes"));
  CHECK(contains(message(npy(npy_header("<f8", "(1, 2, 3)"), six)), "an array with 3 dimensions"));
  CHECK(contains(message(npy(npy_header("<f8", "()"), six)), "an array with 0 dimensions"));
  CHECK(contains(message(npy(npy_header("<f8", "(-2, 3)"), six)), "not a non-negative whole number"));
  CHECK(contains(message(npy(npy_header("<f8", "(99999999999999999999, 3)"), six)), "too large to address"));
  CHECK(contains(message(npy(npy_header("<f8", "(4294967296, 4294967296)"), six)),
                 "more elements than can be"));
  CHECK(contains(message(npy(npy_header("<f8", "(2, 4)"), six)),
                 "truncated: 8 elements of float64 take 64 bytes, the file has 48"));
  CHECK(contains(message(npy(npy_header("<f8", "(2, 2)"), six)),
                 "too long: 4 elements of float64 take 32 bytes, the file has 48"));
  CHECK(contains(message(npy("{'descr': '<f8', 'shape': (6,)}", six)), "the header has no fortran_order"));
  // Rows without elements take no bytes, but time.
  for (const char* shape : {"(900000000, 0)", "(0, 1000001)"})
    CHECK(contains(message(npy(npy_header("<f8", shape, true), "")),
                   "an array without elements has the extent"));
  CHECK(contains(message(npy("{'descr': '<f8', 'extra': 1}", six)), "unknown key 'extra'"));
  CHECK(contains(message(npy("'descr'", six)), "not a dictionary"));
  CHECK(contains(message(npy("{'descr", six)), "a quote in the header does not end"));
  std::string huge = npy(npy_header("<f8", "(2, 3)"), six, 2);
  huge[10] = '\x7f';
  CHECK(contains(message(huge), "allowed are at most 65536"));
  check_cuts(npy(npy_header("<f8", "(2, 3)"), six), path, read_npy);
}

TEST_CASE("npz: a compressed array, whole or refused") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.npz";
  const std::string digits =  // numpy.savez_compressed of [[1], [1]]
      "504b0304140000000800000021008c43307a4c0000009000000005000000782e6e70799bec17ea1b10c9c850c6"
      "50ad9e925a9c5ca46ea5a06e9366a1aea3a09e965f54529498179f5f94920a12774bcc294e058a17672416a402"
      "f91a463a0a869a3a0ab50a64032e0630f8600fa301504b01021403140000000800000021008c43307a4c000000"
      "90000000050000000000000000000000800100000000782e6e7079504b05060000000001000100330000006f00"
      "00000000";
  std::string whole;
  for (std::size_t i = 0; i < digits.size(); i += 2)
    whole += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  put(path, whole);
  std::vector<double> read;
  if (contains(io_error([&] { read = read_npy(path).elements(); }), "without zlib")) return;
  CHECK(read == std::vector<double>{1, 1});
  CHECK(read_npy_info(path).shape == std::vector<Index>{2, 1});
  check_cuts(whole, path, read_npy);
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    put(path, damaged);
    std::vector<double> now = read;  // a refusal is as good
    try {
      now = read_npy(path).elements();
    } catch (const IoError&) {
    }
    CHECK(now == read);
  }
}

TEST_CASE("tables in UTF-16 are named as such") {
  const TemporaryFolder folder;
  const auto said = [&](const std::string& text) -> std::string {
    std::ofstream(folder.path / "x.csv", std::ios::binary) << text;
    try {
      read_npy(folder.path / "x.csv");
    } catch (const IoError& error) {
      return error.what();
    }
    return "";
  };
  using namespace std::string_literals;
  for (const std::string& text : {"\xFF\xFE"
                                  "1\0,\0"
                                  "2\0\n\0"s,
                                  "\xFE\xFF\0"
                                  "1\0,\0"
                                  "2\0\n"s,
                                  "1\0,\0"
                                  "2\0\n\0"s}) {
    CHECK(said(text).find("x.csv") != std::string::npos);
    CHECK(said(text).find("UTF-16") != std::string::npos);
    CHECK(said(text).find("save it") != std::string::npos);
    CHECK(said(text).find('\0') == std::string::npos);
  }
  CHECK(said("\xEF\xBB\xBF"
             "1,2\n") == "");
}

TEST_CASE("a table has the rows that its lines say, none more and none less") {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& text) {
    std::ofstream(folder.path / "x.csv", std::ios::binary) << text;
    return read_npy(folder.path / "x.csv");
  };
  const auto error = [&](const std::string& text) -> std::string {
    try {
      read(text);
    } catch (const IoError& caught) {
      return caught.what();
    }
    return "";
  };
  const auto is = [](const Matrix<double>& x, Index rows, Index columns, double first) {
    return x.rows() == rows && x.cols() == columns && x(0, 0) == first;
  };
  // Exponents as Fortran writes them.
  CHECK(is(read("1.0D+00 2.0D+00\n-3.5d-1 .5D2\n"), 2, 2, 1));
  CHECK(read("1.0D+00 2.0D+00\n-3.5d-1 .5D2\n")(1, 0) == -0.35);
  CHECK(read("1.D+01,2\n3,4\n")(0, 0) == 10);
  // Names, also those that a part of a number would make.
  for (const char* names : {"x,y", "d,D", "e,e1", "x,NA", "\"x\",\"y\"", "D1,D2", "a,0b"}) {
    CAPTURE(names);
    CHECK(is(read(std::string(names) + "\n1,2\n3,4\n"), 2, 2, 1));
  }
  // No value, at the top as elsewhere.
  for (const char* none : {"NA,NA", "N/A,n/a", "null,NULL", "None,None", "-,-", "?,?", ",", "\"\",\"NA\"",
                           "1e999,1e999", "1.5x,2", "#N/A,#N/A", "#N/A,2", "#DIV/0!,1", "\"1\",\"2\""}) {
    CAPTURE(none);
    CHECK(error(std::string(none) + "\n1,2\n3,4\n").find("line 1: '") != std::string::npos);
    CHECK(error("1,2\n" + std::string(none) + "\n3,4\n").find("line 2: '") != std::string::npos);
  }
  CHECK(error("1,5;2,5\n3,5;4,5\n").find("line 1: '1,5' is no number") != std::string::npos);
  // Numbers of columns, or a point.
  for (const char* text :
       {"0,1\n1.5,2\n3,4\n", "0,1,2\n1,2,3\n4,5,6e-3\n", "0\n1.5\n2.5\n", "\"0\",\"1\"\n1.5,2.5\n"}) {
    CAPTURE(text);
    CHECK(error(text).find("line 1") != std::string::npos);
  }
  CHECK(error("# a\n\n0,1\n1.5,2\n").find("line 3 is 0, 1, which may be") != std::string::npos);
  CHECK(is(read("0.0,1.0\n1.5,2\n"), 2, 2, 0));
  CHECK(is(read("0,1\n1,2\n"), 2, 2, 0));
  CHECK(is(read("0,1\n"), 1, 2, 0));
  CHECK(is(read("0\n0.5\n1\n"), 3, 1, 0));
  CHECK(is(read("1,0\n0.5,1\n"), 2, 2, 1));
  CHECK(is(read("#0,1\n0.5,1\n"), 1, 2, 0.5));
  // The index of a frame.
  for (const char* names : {",x,y", "\"\",\"x\",\"y\"", ",0,1", "Unnamed: 0,x,y", ";x;y"}) {
    CAPTURE(names);
    const std::string rows = names[0] == ';' ? "\n0;1;2\n1;3;4\n" : "\n0,1,2\n1,3,4\n";
    CHECK(error(names + rows).find("index=False") != std::string::npos);
  }
}

TEST_CASE("atomic writes replace the whole file or nothing") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "state";
  const auto piece = [](const std::string& text) { return std::as_bytes(std::span(text)); };
  const std::string one = "first ", two = "second";
  write_file_atomically(path, {piece(one), piece(two)});
  CHECK(get(path) == "first second");
  {
    AtomicFile file(path);
    file.write(piece(one));
    CHECK(folder.entries() == 2);
    CHECK(get(path) == "first second");
  }
  // Given up: nothing has changed, nothing is left.
  CHECK(folder.entries() == 1);
  CHECK(get(path) == "first second");
  write_file_atomically(path, piece(two));
  CHECK(get(path) == "second");

  fs::create_symlink("state", folder.path / "link");
  write_file_atomically(folder.path / "link", piece(one));
  CHECK(fs::is_symlink(folder.path / "link"));
  CHECK(get(path) == "first ");
  fs::create_symlink("later", folder.path / "ahead");  // of its file
  write_file_atomically(folder.path / "ahead", piece(two));
  CHECK(fs::is_symlink(folder.path / "ahead"));
  CHECK(get(folder.path / "later") == "second");

  CHECK(contains(io_error([&] { write_file_atomically(folder.path / "no" / "x", piece(one)); }),
                 "create it first"));
  CHECK(contains(io_error([&] { write_file_atomically(folder.path, piece(one)); }), "it names a folder"));
}

TEST_CASE("a full disk is reported, and the earlier file survives") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.npy";
  const Matrix<double> small(3, 2, 1.5);
  write_npy(path, small.view());
  const Matrix<double> large(1000, 100);

  // A limit on the size of files stands for the disk: write() fails half way in the same manner.
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = 4096;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  const std::string message = io_error([&] { write_npy(path, large.view()); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  CHECK(contains(message, "a.npy' (write): File too large"));
  CHECK(folder.entries() == 1);
  CHECK(read_npy(path).elements() == small.elements());

  if (fs::is_character_file("/dev/full")) {
    CHECK(contains(io_error([&] { write_npy("/dev/full", small.view()); }),
                   "cannot write '/dev/full' (write): No space left on device"));
    CHECK(fs::is_character_file("/dev/full"));
  } else {
    MESSAGE("skipped: this system has no /dev/full");
  }
}

TEST_CASE("safetensors: round trip to the bit, order and metadata") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "map.safetensors";
  std::vector<double> singles = {1.0f / 3.0f, -0.0, std::numeric_limits<float>::denorm_min(),
                                 std::numeric_limits<float>::max(), std::numeric_limits<double>::infinity()};
  singles.push_back(std::numeric_limits<double>::quiet_NaN());
  const TensorFile content = {{{"layer0.weight", {3, 2}, singles, DType::float32},
                               {"theta", {8}, awkward(), DType::float64},
                               {"a scalar", {}, {0.1}, DType::float64},
                               {"empty", {0, 4}, {}, DType::float32},
                               {"naïve \"name\"", {1, 1, 1}, {2}, DType::float32}},
                              {{"what", "a test"}, {"step", "12"}}};
  write_safetensors(path, content);
  const TensorFile back = read_safetensors(path);
  CHECK(back.metadata == content.metadata);
  REQUIRE(back.tensors.size() == content.tensors.size());
  for (const Tensor& tensor : content.tensors) {
    const Tensor& other = back.at(tensor.name);
    CAPTURE(tensor.name);
    CHECK(other.shape == tensor.shape);
    CHECK(other.dtype == tensor.dtype);
    CHECK(same_bits(other.values, tensor.values));
  }
  // A second round trip gives the same file.
  write_safetensors(folder.path / "again", back);
  CHECK(get(path) == get(folder.path / "again"));
  // Aligned data.
  CHECK(std::bit_cast<std::uint64_t>(*reinterpret_cast<const std::array<char, 8>*>(get(path).data())) % 8 ==
        0);
  CHECK(back.find("nothing") == nullptr);
  CHECK_THROWS_AS(back.at("nothing"), ValueError);
  write_safetensors(path, {});
  CHECK(read_safetensors(path).tensors.empty());
}

TEST_CASE("safetensors: what is wrong is said") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.safetensors";
  const auto message = [&](const std::string& content) {
    return io_error_of(content, path, read_safetensors);
  };
  const std::string data(16, '\0');
  const auto one = [&](const std::string& entry) {
    return message(safetensors("{\"x\":" + entry + "}", data));
  };
  CHECK(contains(message("abc"), "truncated: the header's length needs 8 bytes, 3 are left of 3"));
  CHECK(contains(message(bytes_of(std::vector<std::uint64_t>{500}) + "{}"),
                 "truncated: a header of 500 bytes, 2 are left"));
  CHECK(contains(message(std::string(16, '\xff')), "allowed are at most 100000000"));
  CHECK(contains(message(safetensors("{\"x\":", "")), "not valid JSON"));
  CHECK(contains(message(safetensors("{\"\xff\":1}", "")), "not valid JSON"));
  CHECK(contains(message(safetensors("[1]", "")), "not a JSON object"));
  CHECK(contains(message(safetensors(std::string(100000, '['), "")), "nested too deeply"));
  CHECK(contains(one("3"), "tensor 'x': its entry is 3, an object is needed"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[4]})"), "tensor 'x': has no data_offsets"));
  CHECK(contains(one(R"({"dtype":"BF16","shape":[8],"data_offsets":[0,16]})"),
                 "dtype \"BF16\" is not supported; allowed are F32 and F64"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})"), "shape has the extent -4"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[4.0],"data_offsets":[0,16]})"), "shape has the extent 4.0"));
  CHECK(contains(one(R"({"dtype":"F32","shape":4,"data_offsets":[0,16]})"), "shape is 4, a list is needed"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]})"),
                 "more elements than can be addressed"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,16]})"), "hold 16 bytes"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[8],"data_offsets":[0,32]})"), "[0,32] are out of range"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[4],"data_offsets":[16,0]})"), "[16,0] are out of range"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[4],"data_offsets":[0]})"), "two non-negative whole numbers"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), "the tensors take 8 bytes"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,16]})"), "(they leave a gap)"));
  CHECK(contains(one(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16],"dtype":"F32"})"),
                 "'dtype' occurs twice"));
  const std::string entry = R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})";
  CHECK(
      contains(message(safetensors("{\"x\":" + entry + ",\"x\":" + entry + "}", data)), "'x' occurs twice"));
  CHECK(contains(message(safetensors("{\"x\":" + entry + ",\"y\":" + entry + "}", data)), "(they overlap)"));
  CHECK(contains(message(safetensors(R"({"__metadata__":{"a":1}})", "")), "__metadata__ 'a' is 1, a string"));
  CHECK(contains(message(safetensors("{\"x\":" + entry + "}", data)), "(nothing was thrown)"));
  check_cuts(safetensors("{\"x\":" + entry + "}", data), path, read_safetensors);
}

TEST_CASE("safetensors: content that cannot be written is refused before the file is touched") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "a.safetensors";
  CHECK_THROWS_AS(write_safetensors(path, {{{"x", {1}, {1}}, {"x", {1}, {1}}}, {}}), ValueError);
  CHECK_THROWS_AS(write_safetensors(path, {{{"__metadata__", {1}, {1}}}, {}}), ValueError);
  CHECK_THROWS_AS(write_safetensors(path, {{{"x", {2}, {1}}}, {}}), ValueError);
  CHECK_THROWS_AS(write_safetensors(path, {{{"x", {-1}, {1}}}, {}}), ValueError);
  CHECK_THROWS_AS(write_safetensors(path, {{{"x", {1}, {1e39}, DType::float32}}, {}}), ValueError);
  CHECK_THROWS_AS(write_safetensors(path, {{{"\xff", {1}, {1}}}, {}}), ValueError);
  CHECK(folder.entries() == 0);
}

TEST_CASE("the published surrogate and embeddings can be read") {
  const char* data = std::getenv("BRENIER_DATA");
  const fs::path folder = data == nullptr ? fs::path() : fs::path(data) / "molecules";
  if (data == nullptr || !fs::exists(folder / "surrogate.safetensors")) {
    MESSAGE("skipped: set BRENIER_DATA to the data folder (molecules/surrogate.safetensors)");
    return;
  }
  const TensorFile surrogate = read_safetensors(folder / "surrogate.safetensors");
  CHECK(surrogate.metadata.at("activation") == "softplus");
  CHECK(surrogate.at("layer0.input.weight").shape == std::vector<Index>{128, 128});
  CHECK(surrogate.at("layer0.input.weight").dtype == DType::float32);
  const Matrix<double> embeddings = read_npy(folder / "embeddings.npy");
  CHECK(embeddings.rows() == 1000);
  CHECK(embeddings.cols() == 128);
  CHECK(read_npy_vector(folder / "surrogate_value.npy").size() == 1000);
}
