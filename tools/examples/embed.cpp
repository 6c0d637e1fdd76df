// SPDX-License-Identifier: MIT
#include <brenier/brenier.hpp>
#include <cmath>
#include <cstdio>

// The Fokker-Planck equation in the well |x|^2/2, from N(2, 0.25): its exact mean at time t is 2 exp(-t).
int main() {
  using namespace brenier;
  const Functional energy = potential("0.5*sum(x^2)", 1) + entropy();
  const Cloud start = Density::gaussian(1, 2.0, 0.25).sample(1000, Sampling::whitened);
  Flow<float> flow(energy, start, {.tau = 0.1, .order = 2, .network = {.quadratic_rank = 1}});
  while (flow.steps() < 10) flow.step();

  double mean = 0;
  for (const double x : flow.trajectory().x().elements()) mean += x / 1000;
  const double exact = 2 * std::exp(-flow.time());
  std::printf("mean %.4f, exact %.4f; F %.4f\n", mean, exact, flow.functional().total());
  return std::abs(mean - exact) < 0.01 ? 0 : 1;
}
