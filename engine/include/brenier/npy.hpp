// SPDX-License-Identifier: MIT
// Point clouds in NumPy's .npy format (NEP 1 and numpy.lib.format: versions 1.0, 2.0 and 3.0). What is read may also be
// the array of a .npz file of numpy.savez or numpy.savez_compressed (one array, or the one called x), or a table of
// numbers as text (.csv, .tsv, .txt): a row a line, commas, semicolons, tabs or spaces between, lines with # and a first
// line of names left out.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// What the header of a .npy file says.
struct NpyInfo {
  std::string dtype;  // "float32", "float64", "bool", "int8" to "int64", "uint8" to "uint64", or "text"
  std::vector<Index> shape;  // one or two extents
  bool fortran_order = false;
};

/// Reads the header only, and checks that the file has the size that it promises.
/// IoError: not a .npy file, truncated or too long, a header above 65,536 bytes, another
/// dtype or byte order, a shape with other than 1 or 2 extents or too large to address.
NpyInfo read_npy_info(const std::filesystem::path& path);

/// Reads an (N, d) array; a 1-D array of N elements comes as (N, 1). Fortran order is transposed to
/// row-major. NaN and infinities pass through; false and true come as 0 and 1. IoError as for
/// read_npy_info, and where a whole number is 2^53 or more.
Matrix<double> read_npy(const std::filesystem::path& path);

/// Reads a 1-D array. IoError as for read_npy_info, and where the array is not 1-D.
std::vector<double> read_npy_vector(const std::filesystem::path& path);

/// Writes an (N, d) array, version 1.0, C order, atomically. Returns the checksum of the file. IoError as for
/// AtomicFile.
std::string write_npy(const std::filesystem::path& path, MatrixView<const float> values);
std::string write_npy(const std::filesystem::path& path, MatrixView<const double> values);

/// Writes a 1-D array.
std::string write_npy(const std::filesystem::path& path, std::span<const double> values);

}  // namespace brenier
