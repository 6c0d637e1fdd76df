// SPDX-License-Identifier: MIT
// Numbers in messages and files.
#pragma once

#include <charconv>
#include <cmath>
#include <string>

#include "brenier/base/view.hpp"

namespace brenier {

/// A number as a user would write it, to so many digits (at most 17). A point is a point in every locale of the host.
inline std::string show(double value, int digits = 10) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::general, digits);
  return {text, end.ptr};
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
