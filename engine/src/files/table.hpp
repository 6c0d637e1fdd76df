// SPDX-License-Identifier: MIT
// Numbers as text, a row a line.
#pragma once

#include <filesystem>

#include "brenier/base/view.hpp"

namespace brenier {

/// Whether the name of a file says that it is a table: .csv, .tsv, .txt.
bool is_table(const std::filesystem::path& path);

/// (N, d). Commas, semicolons, tabs or spaces between the numbers, whose exponents may be Fortran's; empty lines and what
/// follows a # are left out, and so is a first line of names. A line of words such as NA is an error wherever it is, not
/// names. A first row 0, 1, ..., d - 1 above numbers with a point, and an index column, whose name is empty, are errors that
/// say what to write. IoError with the line: these, no number, another count of them than in the first row; no rows; the
/// file.
Matrix<double> read_table(const std::filesystem::path& path);

}  // namespace brenier
