// SPDX-License-Identifier: MIT
// Numbers in messages and files.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdio>
#include <string>

#include "brenier/base/view.hpp"

namespace brenier {

/// A number as a user would write it.
inline std::string show(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value);
  return text;
}

/// The shortest text that reads back as the same number, also from TOML: -0 is written -0.0.
inline std::string exact_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  if (value == 0 && std::signbit(value)) return "-0.0";
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value);
  return {text, end.ptr};
}

}  // namespace brenier
