// SPDX-License-Identifier: MIT
// Dense linear algebra on small Hessians, independent of the kernels, and probes for their traces.
#pragma once

#include <Eigen/Dense>
#include <vector>

#include "brenier/base/philox.hpp"
#include "kernels/operations.hpp"

namespace brenier::test {

// Decompositions take seconds to compile in each file that names them: spectrum.cpp has them.

/// A symmetric positive definite matrix by its eigenvalues.
struct Spectrum {
  Eigen::MatrixXd h;
  Eigen::VectorXd values;
  Eigen::MatrixXd vectors;

  explicit Spectrum(const Eigen::MatrixXd& matrix);
  double condition() const { return values.maxCoeff() / values.minCoeff(); }
  double log_det() const;
  Eigen::MatrixXd log() const;
};

/// h^{-1} b of a symmetric h by LDL^T, and h^{-1} by LU.
Eigen::VectorXd solve(const Eigen::MatrixXd& h, const Eigen::VectorXd& b);
Eigen::MatrixXd inverse(const Eigen::MatrixXd& h);

/// d rows of +-1, orthogonal: as probes they give traces exactly. Sylvester's for powers of two, Paley's for
/// d = q + 1 with a prime q = 3 mod 4.
Eigen::MatrixXd hadamard(int d);

/// Hessians at the rows of x, by the reference in double.
template <class T>
std::vector<Eigen::MatrixXd> hessians(const Icnn& net, const std::vector<T>& theta, const Matrix<T>& x) {
  const Index d = net.dim();
  const std::vector<double> exact(theta.begin(), theta.end());
  const Matrix<double> points = cast<double>(x);
  Matrix<double> h(x.rows(), d * d);
  MapOutputs<double> out;
  out.hessian = h;
  Team team(1);
  ref::operations<double>().evaluate(net, exact.data(), points, out, team);
  std::vector<Eigen::MatrixXd> list;
  for (Index i = 0; i < x.rows(); ++i) list.push_back(Eigen::Map<Eigen::MatrixXd>(h.row(i), d, d));
  return list;
}

/// Columns [first, first + d) of row i.
template <class T>
Eigen::VectorXd part_of(const Matrix<T>& m, Index i, Index first, Index d) {
  return Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>>(m.row(i) + first, d).template cast<double>();
}

/// (rows, cols) of +-1, independent.
template <class T>
Matrix<T> rademacher(Index rows, Index cols, std::uint64_t seed) {
  const Random random(seed, RandomStream::probes);
  Matrix<T> m(rows, cols);
  std::uint64_t next = 0;
  for (T& value : m.elements()) value = random.uniform(1, 0, next++) < 0.5 ? T(-1) : T(1);
  return m;
}

/// The rows of a Hadamard matrix side by side, for each of n particles: (n, d*d).
template <class T>
Matrix<T> hadamard_probes(Index n, int d) {
  const Eigen::MatrixXd h = hadamard(d);
  Matrix<T> p(n, Index{d} * d);
  for (Index i = 0; i < n; ++i) {
    for (Index k = 0; k < Index{d} * d; ++k) p(i, k) = static_cast<T>(h(k / d, k % d));
  }
  return p;
}

}  // namespace brenier::test
