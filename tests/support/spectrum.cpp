// SPDX-License-Identifier: MIT
#include "tests/support/spectrum.hpp"

#include <stdexcept>

namespace brenier::test {

Spectrum::Spectrum(const Eigen::MatrixXd& matrix) : h(matrix) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(matrix);
  values = solver.eigenvalues();
  vectors = solver.eigenvectors();
}

double Spectrum::log_det() const {
  return values.array().log().sum();
}

Eigen::MatrixXd Spectrum::log() const {
  return vectors * values.array().log().matrix().asDiagonal() * vectors.transpose();
}

Eigen::VectorXd solve(const Eigen::MatrixXd& h, const Eigen::VectorXd& b) {
  return h.ldlt().solve(b);
}

Eigen::MatrixXd inverse(const Eigen::MatrixXd& h) {
  return h.inverse();
}

Eigen::MatrixXd hadamard(int d) {
  Eigen::MatrixXd h = Eigen::MatrixXd::Ones(d, d);
  if ((d & (d - 1)) == 0) {
    for (int i = 0; i < d; ++i) {
      for (int j = 0; j < d; ++j)
        h(i, j) = __builtin_popcount(static_cast<unsigned>(i & j)) % 2 == 0 ? 1 : -1;
    }
  } else {
    const int q = d - 1;
    std::vector<bool> square(q, false);
    for (int k = 1; k < q; ++k) square[k * k % q] = true;
    for (int i = 1; i < d; ++i) h(i, 0) = -1;
    for (int i = 1; i < d; ++i) {
      for (int j = 1; j < d; ++j) h(i, j) = i == j || square[((i - j) % q + q) % q] ? 1 : -1;
    }
  }
  if (!(h * h.transpose()).isApprox(d * Eigen::MatrixXd::Identity(d, d))) {
    throw std::logic_error("no Hadamard matrix of this order is built here");
  }
  return h;
}

}  // namespace brenier::test
