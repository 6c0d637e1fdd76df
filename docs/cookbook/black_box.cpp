// SPDX-License-Identifier: MIT
// A potential that exists as a function only, a force field of a host program: it gets many particles at a time and
// writes values and gradients. Here a double well, (x^2 - 1)^2 / 4 in each coordinate.
#include <brenier/brenier.hpp>
#include <cmath>
#include <cstdio>

int main() {
  using namespace brenier;
  constexpr int dim = 2;
  const auto wells = [](MatrixView<const double> x, double* v, MatrixView<double> gradient) {
    for (Index i = 0; i < x.rows; ++i) {
      double depth = 0;
      for (Index c = 0; c < x.cols; ++c) {
        const double at = x.row(i)[c], below = at * at - 1;
        depth += below * below / 4;
        if (gradient.data) gradient.row(i)[c] = at * below;  // either may not be asked for
      }
      if (v) v[i] = depth;
    }
  };
  const Functional energy = potential(dim, wells, {.name = "double well"}) + 0.1 * entropy();
  const Cloud start = Density::gaussian(dim, 0.0, 0.5).sample(500, Sampling::stratified);
  Flow<float> flow(energy, start, {.tau = 0.1, .network = {.hidden = {16, 8}, .quadratic_rank = 2}});
  const double before = flow.functional().total();
  while (flow.steps() < 5) flow.step();
  const double after = flow.functional().total();
  std::printf("F from %.4f to %.4f at t = %.1f\n", before, after, flow.time());
  return after < before ? 0 : 1;
}
