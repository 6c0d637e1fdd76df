// SPDX-License-Identifier: MIT
// A program with headers of its own under the names of the library's: neither sees the other's.
#include <brenier/brenier.hpp>
#include <cstdio>

#include "engine/src/flow/state.hpp"
#include "kernels/base/arena.hpp"
#include "kernels/operations.hpp"
#include "kernels/ops.hpp"
#include "model/icnn.hpp"
#include "options.hpp"
#include "util.hpp"

int main() {
  const int own = host::part0() + host::part1() + host::part2() + host::part3() + host::part4() +
                  host::part5() + host::part6();
  const brenier::Cloud cloud = brenier::Density::gaussian(1, 0.0, 1.0).sample(3);
  std::printf("%d %td\n", own, cloud.x.rows());
  return own == 127 && cloud.x.rows() == 3 ? 0 : 1;
}
