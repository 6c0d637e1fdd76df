// SPDX-License-Identifier: MIT
// Numbers in messages.
#pragma once

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

}  // namespace brenier
