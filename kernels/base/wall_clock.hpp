// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

namespace brenier {

/// Seconds since some fixed moment.
inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace brenier
