// SPDX-License-Identifier: MIT
// The parser of the expression language: recursive descent, recording on a tape as it reads.
#pragma once

#include <map>
#include <string>

#include "brenier/expression.hpp"
#include "brenier/tape.hpp"

namespace brenier {

/// Reads `text` and records it on `tape`, with the given meaning of the variables.
/// Errors as in Expression::potential. The value may be a vector: the caller checks.
Var parse_expression(const std::string& text, Tape& tape, const std::map<std::string, Var>& variables,
                     const Parameters& parameters);

}  // namespace brenier
