// SPDX-License-Identifier: MIT
// What the machine can do at best, measured in the same run as the benchmark: arithmetic in registers, and
// memory.
#pragma once

#include <string>

#include "brenier/base/team.hpp"

namespace brenier::bench {

/// Operations a second of independent fused multiply-adds (two operations each) in registers, on all threads
/// of the team, with the vectors of a variant of the cpu backend: "avx512", "avx2", or any other name for 16
/// bytes. "cuda": on the GPU.
template <class T>
double peak_flops(const std::string& variant, Team& team, double seconds = 0.05);

/// Bytes a second of a = b + s c over arrays of `elements` doubles (24 bytes an element; write-allocate
/// traffic is not counted). Take arrays well above the caches. "cuda": of a copy of 1 GiB in the GPU's
/// memory.
double memory_bandwidth(const std::string& variant, Team& team,
                        std::ptrdiff_t elements = std::ptrdiff_t{1} << 23, double seconds = 0.1);

}  // namespace brenier::bench
