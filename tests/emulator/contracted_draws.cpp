// SPDX-License-Identifier: MIT
// The draws of kernels/include/brenier/base/philox.hpp as a compiler makes them that contracts products and sums (as nvcc
// does, and the vectorised backends): this file is compiled with -O3 -mfma -ffp-contract=fast where there are
// such flags. Another namespace keeps its inline functions apart from everybody else's.
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#define brenier brenier_contracted
#include "brenier/base/philox.hpp"

namespace brenier_contracted {

/// `pairs` (2 n): the normals of particles 0 .. n-1.
void draw_normals(std::uint64_t seed, int n, double* pairs) {
  const Random random(seed, RandomStream::probes);
  for (int i = 0; i < n; ++i) {
    const auto pair = random.normals(1, 2, static_cast<std::uint64_t>(i));
    pairs[2 * i] = pair[0];
    pairs[2 * i + 1] = pair[1];
  }
}

/// a b + c as this file's flags make it: rounded once where they contract.
double multiply_add(double a, double b, double c) {
  return a * b + c;
}

}  // namespace brenier_contracted
