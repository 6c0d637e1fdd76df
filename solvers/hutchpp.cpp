// SPDX-License-Identifier: MIT
#include "brenier/hutchpp.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/base/philox.hpp"
#include "kernels/operations.hpp"

namespace brenier {
namespace {

/// y -= (q . y) q
template <class T>
void remove(const T* q, T* y, Index d) {
  double along = 0;
  for (Index c = 0; c < d; ++c) along += static_cast<double>(q[c]) * static_cast<double>(y[c]);
  for (Index c = 0; c < d; ++c) y[c] -= static_cast<T>(along) * q[c];
}

template <class T>
double norm(const T* y, Index d) {
  double squares = 0;
  for (Index c = 0; c < d; ++c) squares += static_cast<double>(y[c]) * static_cast<double>(y[c]);
  return std::sqrt(squares);
}

/// Orthonormal columns in the place of k vectors, side by side; 0 for one that depends on those before it.
template <class T>
void orthonormalise(T* y, int k, Index d, double smallest) {
  for (int j = 0; j < k; ++j) {
    T* column = y + j * d;
    const double before = norm(column, d);
    for (int pass = 0; pass < 2; ++pass) {  // twice is enough (Giraud, Langou and Rozloznik 2005)
      for (int i = 0; i < j; ++i) remove(y + i * d, column, d);
    }
    const double length = norm(column, d);
    const bool independent = length > smallest * before && before > 0;
    for (Index c = 0; c < d; ++c) column[c] = independent ? static_cast<T>(column[c] / length) : T(0);
  }
}

}  // namespace

template <class T>
void log_det_hutchpp(const Operations<T>& ops, const Icnn& net, const T* theta, MatrixView<const T> x,
                     const HutchppOptions& options, double* estimate, double* variance, Team& team) {
  const Index n = x.rows, d = net.dim();
  const int k = options.sketch, p = options.probes;
  if (x.cols != d) {
    throw ShapeError("hutch++: points of dimension " + std::to_string(x.cols) +
                     " for a network of dimension " + std::to_string(d));
  }
  const auto check = [](const char* name, int value, Index low, Index high) {
    if (value < low || value > high) {
      throw ValueError("hutch++: " + std::string(name) + " = " + std::to_string(value) + "; it must be in [" +
                       std::to_string(low) + ", " + std::to_string(high) + "]");
    }
  };
  check("sketch", k, 0, d);
  check("probes", p, 1, 10'000);
  check("steps", options.steps, 1, 10'000);
  const auto signs = [&](int first, Index place, int j, T* out) {
    RademacherProbes(options.seed, 0, 0, static_cast<int>(d))
        .for_components(static_cast<std::uint64_t>(place), first + j,
                        [&](int c, bool negative) { out[c] = negative ? T(-1) : T(1); });
  };
  Matrix<T> basis(n, k * d), rest(n, p * d), s(k > 0 ? n : 0, d), hs(k > 0 ? n : 0, d);
  for (int j = 0; j < k; ++j) {
    for (Index i = 0; i < n; ++i) signs(0, i, j, s.row(i));
    ops.hessian_vector(net, theta, x, s, hs, team);
    for (Index i = 0; i < n; ++i) {
      for (Index c = 0; c < d; ++c) basis(i, j * d + c) = hs(i, c) - s(i, c);
    }
  }
  const double smallest =
      32 * std::sqrt(static_cast<double>(d)) * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (Index i = 0; i < n; ++i) {
    orthonormalise(basis.row(i), k, d, smallest);
    for (int j = 0; j < p; ++j) {
      T* probe = rest.row(i) + j * d;
      signs(k, i, j, probe);
      for (int pass = 0; pass < 2; ++pass) {
        for (int q = 0; q < k; ++q) remove(basis.row(i) + q * d, probe, d);
      }
    }
  }
  ops.log_det_lanczos(net, theta, x, rest, options.steps, estimate, variance, team);
  if (variance) {
    for (Index i = 0; i < n; ++i) variance[i] /= p;
  }
  if (k == 0) return;
  std::vector<double> exact(n);
  ops.log_det_lanczos(net, theta, x, basis, options.steps, exact.data(), nullptr, team);
  for (Index i = 0; i < n; ++i) estimate[i] += k * exact[i];
}

template void log_det_hutchpp(const Operations<float>&, const Icnn&, const float*, MatrixView<const float>,
                              const HutchppOptions&, double*, double*, Team&);
template void log_det_hutchpp(const Operations<double>&, const Icnn&, const double*, MatrixView<const double>,
                              const HutchppOptions&, double*, double*, Team&);

}  // namespace brenier
