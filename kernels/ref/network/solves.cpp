// SPDX-License-Identifier: MIT
// Reference: linear solves with the Hessian by conjugate gradients, and the quadrature of its
// log-determinant by Lanczos. One right-hand side at a time; vectors in T, their dot products in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/model/tridiagonal.hpp"
#include "kernels/ref/ref.hpp"

namespace brenier::ref {
namespace {

template <class T>
double dot(const std::vector<T>& a, const std::vector<T>& b) {
  double sum = 0;
  for (std::size_t c = 0; c < a.size(); ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return sum;
}

/// v -> H(x) v at one particle.
template <class T>
struct HessianAt {
  const Icnn& net;
  const T* theta;
  MatrixView<const T> x;  // (1, d)
  Team& team;

  std::vector<T> operator()(const std::vector<T>& v) const {
    std::vector<T> out(v.size());
    const Index d = x.cols;
    ref::hessian_vector<T>(net, theta, x, {v.data(), 1, d}, {out.data(), 1, d}, team);
    return out;
  }
};

template <class T>
CgReport solve(const HessianAt<T>& hessian, const std::vector<T>& p, std::vector<T>& z,
               const CgOptions& options, double& log_det) {
  CgReport report;
  log_det = 0;
  const std::size_t d = p.size();
  const std::vector<T> zero(d, T(0));
  const double norm2 = dot(p, p);
  if (!std::isfinite(norm2) || norm2 == 0) {
    z = zero;
    if (norm2 != 0) report.worst_residual = std::numeric_limits<double>::infinity();
    if (norm2 != 0 && options.tolerance > 0) report.unconverged = 1;
    return report;
  }
  if (!options.warm_start) z = zero;
  std::vector<T> r = p;
  if (options.warm_start) {
    const std::vector<T> hz = hessian(z);
    for (std::size_t c = 0; c < d; ++c) r[c] = p[c] - hz[c];
    if (!(dot(r, r) <= norm2)) {
      z = zero;
      r = p;
    }
  }
  double r2 = dot(r, r);
  const double floor = static_cast<double>(std::numeric_limits<T>::epsilon());
  const double end = std::pow(std::max(options.tolerance, floor), 2) * norm2;
  // A step that long would overflow T: the curvature is 0 to rounding.
  const double longest = std::sqrt(static_cast<double>(std::numeric_limits<T>::max()));
  std::vector<T> s = r;
  std::vector<double> diagonal, off_diagonal;  // Lanczos matrix of the steps
  double carry = 0;
  while (report.iterations < options.iterations && !(r2 <= end)) {
    const std::vector<T> hs = hessian(s);
    const double curvature = dot(s, hs);
    const double alpha = r2 / curvature;
    if (!(curvature > 0) || !(alpha < longest)) {
      report.indefinite = 1;
      break;
    }
    for (std::size_t c = 0; c < d; ++c) {
      z[c] += static_cast<T>(alpha) * s[c];
      r[c] -= static_cast<T>(alpha) * hs[c];
    }
    const double next = dot(r, r);
    const double ratio = next / r2;
    for (std::size_t c = 0; c < d; ++c) s[c] = r[c] + static_cast<T>(ratio) * s[c];
    r2 = next;
    ++report.iterations;
    cg_lanczos_row(alpha, ratio, carry, diagonal.emplace_back(), off_diagonal.emplace_back());
  }
  if (report.iterations > 0) {
    std::vector<double> first(diagonal.size());
    log_det = norm2 * tridiagonal_log(report.iterations, diagonal.data(), off_diagonal.data(), first.data());
  }
  report.worst_residual = std::isfinite(r2) ? std::sqrt(r2 / norm2) : std::numeric_limits<double>::infinity();
  if (options.tolerance > 0 && !(r2 <= end)) report.unconverged = 1;
  return report;
}

/// |p|^2 e_1^T log(T) e_1, T the tridiagonal matrix of `steps` Lanczos steps from p.
template <class T>
double lanczos_log(const HessianAt<T>& hessian, const std::vector<T>& p, int steps) {
  const std::size_t d = p.size();
  const double norm2 = dot(p, p);
  if (norm2 == 0) return 0;
  std::vector<std::vector<T>> basis;
  std::vector<double> diagonal, off_diagonal;
  std::vector<T> v(d);
  for (std::size_t c = 0; c < d; ++c) v[c] = static_cast<T>(static_cast<double>(p[c]) / std::sqrt(norm2));
  double scale = 0;  // of H, as far as it has been seen
  while (static_cast<int>(basis.size()) < std::min(steps, static_cast<int>(d))) {
    basis.push_back(v);
    std::vector<T> rest = hessian(v);
    double alpha = 0;
    for (int pass = 0; pass < 2; ++pass) {  // twice is enough (Kahan and Parlett)
      for (std::size_t i = basis.size(); i-- > 0;) {
        const double along = dot(basis[i], rest);
        for (std::size_t c = 0; c < d; ++c) rest[c] -= static_cast<T>(along) * basis[i][c];
        if (i + 1 == basis.size()) alpha += along;
      }
    }
    const double beta = std::sqrt(dot(rest, rest));
    diagonal.push_back(alpha);
    off_diagonal.push_back(beta);
    scale = std::max(scale, std::abs(alpha) + beta);
    // What is left is rounding: the Krylov space is invariant.
    if (!(beta > 16 * static_cast<double>(std::numeric_limits<T>::epsilon()) * scale)) break;
    for (std::size_t c = 0; c < d; ++c) v[c] = static_cast<T>(static_cast<double>(rest[c]) / beta);
  }
  std::vector<double> first(basis.size());
  return norm2 *
         tridiagonal_log(static_cast<int>(basis.size()), diagonal.data(), off_diagonal.data(), first.data());
}

}  // namespace

template <class T>
CgReport solve_log_det(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                       MatrixView<T> z, const CgOptions& options, double* log_det, Team& team) {
  CgReport report;
  const Index d = net.dim();
  for (Index i = 0; i < x.rows; ++i) {
    double sum = 0;
    const HessianAt<T> hessian{net, theta, x.rows_from(i, 1), team};
    for (Index at = 0; at < p.cols; at += d) {
      const std::vector<T> rhs(p.row(i) + at, p.row(i) + at + d);
      std::vector<T> solution(z.row(i) + at, z.row(i) + at + d);
      double value = 0;
      report.add(solve(hessian, rhs, solution, options, value));
      sum += value;
      std::copy(solution.begin(), solution.end(), z.row(i) + at);
    }
    if (log_det) log_det[i] = sum / static_cast<double>(p.cols / d);
  }
  return report;
}

template <class T>
CgReport solve_hessian(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                       MatrixView<T> z, const CgOptions& options, Team& team) {
  return solve_log_det(net, theta, x, p, z, options, nullptr, team);
}

template <class T>
void log_det_lanczos(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p, int steps,
                     double* estimate, double* variance, Team& team) {
  const Index d = net.dim();
  for (Index i = 0; i < x.rows; ++i) {
    const HessianAt<T> hessian{net, theta, x.rows_from(i, 1), team};
    RunningMean mean{};
    for (Index at = 0; at < p.cols; at += d) {
      mean.add(lanczos_log(hessian, std::vector<T>(p.row(i) + at, p.row(i) + at + d), steps));
    }
    estimate[i] = mean.mean;
    if (variance) variance[i] = mean.variance();
  }
}

#define BRENIER_INSTANTIATE(T)                                                                           \
  template CgReport solve_hessian<T>(const Icnn&, const T*, MatrixView<const T>, MatrixView<const T>,    \
                                     MatrixView<T>, const CgOptions&, Team&);                            \
  template CgReport solve_log_det<T>(const Icnn&, const T*, MatrixView<const T>, MatrixView<const T>,    \
                                     MatrixView<T>, const CgOptions&, double*, Team&);                   \
  template void log_det_lanczos<T>(const Icnn&, const T*, MatrixView<const T>, MatrixView<const T>, int, \
                                   double*, double*, Team&);
BRENIER_INSTANTIATE(float)
BRENIER_INSTANTIATE(double)
#undef BRENIER_INSTANTIATE

}  // namespace brenier::ref
