// SPDX-License-Identifier: MIT
#include <brenier/brenier.hpp>
#include <cmath>
#include <cstdio>

// Advection by the host, diffusion by Brenier: d rho/dt + div(b rho) = Laplace rho, b(x) = (shear x_1, 0), one after the
// other in each step. From N(0, I) the law stays normal, with the covariance
//     (1 + 2t + s^2 t^2 + 2/3 s^2 t^3,  s t + s t^2;  s t + s t^2,  1 + 2t).
int main() {
  using namespace brenier;
  constexpr double shear = 1, end = 0.4;
  double before = 0;
  for (const int steps : {8, 16}) {
    const double tau = end / steps;
    Flow<double> flow(
        entropy(), Density::gaussian(2, 0.0, 1.0).sample(256, Sampling::whitened),
        {.tau = tau, .network = {.hidden = {8, 4}, .quadratic_rank = 2}, .threads = 1, .keep_maps = false});
    for (int k = 0; k < steps; ++k) {
      Cloud cloud{flow.trajectory().x(), flow.trajectory().log_density()};
      for (Index i = 0; i < cloud.x.rows(); ++i) cloud.x(i, 0) += tau * shear * cloud.x(i, 1);  // div b = 0
      flow.set_cloud(std::move(cloud));
      if (!flow.step()) return 1;
    }
    const Matrix<double> found = gaussian_fit(flow.trajectory().x()).covariance;
    const double exact[3] = {1 + 2 * end + shear * shear * end * end * (1 + 2 * end / 3),
                             shear * end * (1 + end), 1 + 2 * end};
    const double error = std::abs(found(0, 0) - exact[0]) + std::abs(found(0, 1) - exact[1]) +
                         std::abs(found(1, 1) - exact[2]);
    std::printf("%2d steps: covariance %.4f %.4f %.4f, exact %.4f %.4f %.4f\n", steps, found(0, 0),
                found(0, 1), found(1, 1), exact[0], exact[1], exact[2]);
    // Both the splitting and the JKO step are of first order in tau.
    if (!(error < 2 * tau) || (before > 0 && !(error < 0.65 * before))) return 1;
    before = error;
  }
}
