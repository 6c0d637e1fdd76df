// SPDX-License-Identifier: MIT
// Gaussian measures under a quadratic potential and the entropy.
#include <Eigen/Core>
#include <limits>
#include <numbers>
#include <optional>

#include "brenier/oracles.hpp"
#include "engine/src/checks/matrix_check.hpp"
#include "engine/src/oracles/check.hpp"
#include "solvers/dense.hpp"

namespace brenier {

namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

MatrixXd to_eigen(const Matrix<double>& from) {
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<const RowMajor>(from.data(), from.rows(), from.cols());
}

VectorXd to_eigen(const std::vector<double>& from) {
  return Eigen::Map<const VectorXd>(from.data(), static_cast<Index>(from.size()));
}

Matrix<double> from_eigen(const MatrixXd& from) {
  Matrix<double> to(from.rows(), from.cols());
  for (Index i = 0; i < from.rows(); ++i)
    for (Index j = 0; j < from.cols(); ++j) to(i, j) = from(i, j);
  return to;
}

/// A B and A B^T. One function each: every product of Eigen's takes a second to compile.
MatrixXd product(const MatrixXd& a, const MatrixXd& b) {
  return a * b;
}
MatrixXd product_transposed(const MatrixXd& a, const MatrixXd& b) {
  return a * b.transpose();
}
VectorXd product(const MatrixXd& a, const VectorXd& b) {
  return a * b;
}
VectorXd transposed_product(const MatrixXd& a, const VectorXd& b) {
  return a.transpose() * b;
}

/// V diag(values) V^T.
MatrixXd composed(const MatrixXd& v, const VectorXd& values) {
  return product_transposed(v * values.asDiagonal(), v);
}

GaussianState to_state(const VectorXd& mean, const MatrixXd& covariance) {
  return {{mean.data(), mean.data() + mean.size()}, from_eigen(0.5 * (covariance + covariance.transpose()))};
}

dense::Cholesky factor_of(const Matrix<double>& covariance) {
  std::optional<dense::Cholesky> factor = dense::Cholesky::of(covariance);
  if (!factor) throw ValueError("the covariance is not positive definite to working precision");
  return *std::move(factor);
}

}  // namespace

/// One JKO step: the map is x -> mean + map (x - mean before).
struct GaussianFlow::Step {
  VectorXd mean;
  MatrixXd map;
};

GaussianFlow::GaussianFlow(const Matrix<double>& stiffness, std::vector<double> centre, double diffusion)
    : stiffness_(stiffness), centre_(std::move(centre)), diffusion_(diffusion) {
  const Index d = static_cast<Index>(centre_.size());
  if (d < 1 || stiffness.rows() != d || stiffness.cols() != d)
    throw ShapeError("stiffness is (" + std::to_string(stiffness.rows()) + ", " +
                     std::to_string(stiffness.cols()) + ") and centre has " + std::to_string(d) +
                     " values; (d, d) and d >= 1 are needed");
  if (!(diffusion >= 0) || !std::isfinite(diffusion))
    throw ValueError("diffusion is " + show(diffusion) + "; it must be 0 or above");
  check_symmetric("stiffness", stiffness);
  check_finite("centre", centre_);
  dense::SymmetricEigen eigen = dense::symmetric_eigen(stiffness, true);
  if (!eigen.converged) throw NumericalError("the eigenvalues of stiffness did not converge");
  axes_ = std::move(eigen.vectors);
  spectrum_ = std::move(eigen.values);
}

void GaussianFlow::check(const GaussianState& state) const {
  if (static_cast<Index>(state.mean.size()) != dim() || state.covariance.rows() != dim() ||
      state.covariance.cols() != dim())
    throw ShapeError("a Gaussian with " + std::to_string(state.mean.size()) + " means and a (" +
                     std::to_string(state.covariance.rows()) + ", " +
                     std::to_string(state.covariance.cols()) + ") covariance; dimension " +
                     std::to_string(dim()) + " is needed");
  check_finite("mean", state.mean);
  check_positive_definite("covariance", state.covariance);
}

GaussianState GaussianFlow::exact(const GaussianState& initial, double t) const {
  check(initial);
  check_time(t);
  const MatrixXd P = to_eigen(axes_);
  const VectorXd b = to_eigen(centre_);
  VectorXd decay(dim()), gained(dim());
  for (Index i = 0; i < dim(); ++i) {
    const double a = spectrum_[i];
    decay(i) = std::exp(-a * t);
    gained(i) = diffusion_ * (a == 0 ? 2 * t : -std::expm1(-2 * a * t) / a);
  }
  const MatrixXd E = composed(P, decay);
  const MatrixXd covariance = product(product(E, to_eigen(initial.covariance)), E) + composed(P, gained);
  return to_state(b + product(E, VectorXd(to_eigen(initial.mean) - b)), covariance);
}

GaussianFlow::Step GaussianFlow::step(const std::vector<double>& mean, const Matrix<double>& covariance,
                                      double tau) const {
  const MatrixXd P = to_eigen(axes_);
  VectorXd root(dim()), inverse(dim()), pull(dim());
  for (Index i = 0; i < dim(); ++i) {
    const double B = 1 + tau * spectrum_[i];
    if (!(B > 0))
      throw ValueError("tau is " + show(tau) + " and stiffness has the eigenvalue " + show(spectrum_[i]) +
                       ": the JKO step has no minimiser; take tau below " + show(-1 / spectrum_[i]));
    root(i) = 1 / std::sqrt(B);
    inverse(i) = 1 / B;
    pull(i) = tau * spectrum_[i] / B;
  }
  const MatrixXd R = composed(P, root);
  const dense::SymmetricEigen eigen =
      dense::symmetric_eigen(from_eigen(product(product(R, to_eigen(covariance)), R)), true);
  if (!eigen.converged) throw NumericalError("the eigenvalues of the covariance did not converge");
  VectorXd stretch(dim());
  for (Index i = 0; i < dim(); ++i) {
    const double q = eigen.values[i];
    if (!(q > 0)) throw NumericalError("the covariance of an iterate is singular to working precision");
    // sqrt(X/q) from (X - c)^2 = q X, c = tau diffusion, without a difference.
    stretch(i) = 0.5 * (1 + std::sqrt(1 + 4 * tau * diffusion_ / q));
  }
  const MatrixXd U = product(R, to_eigen(eigen.vectors));
  const VectorXd before = transposed_product(P, to_eigen(mean));
  const VectorXd target = transposed_product(P, to_eigen(centre_));
  return {product(P, VectorXd(inverse.cwiseProduct(before) + pull.cwiseProduct(target))),
          composed(U, stretch)};
}

std::vector<GaussianState> GaussianFlow::iterates(const GaussianState& initial, double tau, int steps,
                                                  int order) const {
  check(initial);
  check_stepping(tau, steps, order);
  const MatrixXd S = to_eigen(initial.covariance);
  // Every particle is mean + G (x_0 - mean_0); G is not symmetric once order 2 mixes two steps.
  struct Affine {
    VectorXd mean;
    MatrixXd G;
  };
  const auto jko = [&](const Affine& from, double length) {
    const std::vector<double> mean(from.mean.data(), from.mean.data() + from.mean.size());
    const Step step_taken = step(mean, from_eigen(product_transposed(product(from.G, S), from.G)), length);
    return Affine{step_taken.mean, product(step_taken.map, from.G)};
  };
  Affine now{to_eigen(initial.mean), MatrixXd::Identity(dim(), dim())};
  Affine before = now;
  std::vector<GaussianState> states = {initial};
  for (int n = 0; n < steps; ++n) {
    Affine next;
    if (order == 2 && n == 0) {
      next = now;
      for (int i = 0; i < startup_steps; ++i) next = jko(next, tau / startup_steps);
    } else if (order == 2) {
      // Extrapolate only along a monotone map (4 R - I)/3, R = G_n G_{n-1}^-1.
      const MatrixXd R =
          to_eigen(dense::lu_solve(from_eigen(before.G.transpose()), from_eigen(now.G.transpose())))
              .transpose();
      const MatrixXd jacobian = (4 * R - MatrixXd::Identity(dim(), dim())) / 3;
      next = dense::Cholesky::of(from_eigen(0.5 * (jacobian + jacobian.transpose())))
                 ? jko({(4 * now.mean - before.mean) / 3, (4 * now.G - before.G) / 3}, 2 * tau / 3)
                 : jko(now, tau);
    } else {
      next = jko(now, tau);
    }
    before = now;
    now = next;
    states.push_back(to_state(now.mean, product_transposed(product(now.G, S), now.G)));
  }
  return states;
}

double GaussianFlow::energy(const GaussianState& state) const {
  check(state);
  const MatrixXd A = to_eigen(stiffness_);
  const MatrixXd S = to_eigen(state.covariance);
  const VectorXd offset = to_eigen(state.mean) - to_eigen(centre_);
  const double potential = 0.5 * (product(A, S).trace() + offset.dot(product(A, offset)));
  const double entropy = -0.5 * (static_cast<double>(dim()) * (1 + std::log(2 * std::numbers::pi)) +
                                 factor_of(state.covariance).log_determinant());
  return potential + diffusion_ * entropy;
}

double GaussianFlow::infimum() const {
  const double smallest = spectrum_.front();
  if (diffusion_ == 0) return smallest >= 0 ? 0.0 : -std::numeric_limits<double>::infinity();
  if (!(smallest > 0)) return -std::numeric_limits<double>::infinity();
  // At N(b, diffusion A^-1).
  double sum = 0;
  for (const double a : spectrum_) sum += std::log(2 * std::numbers::pi * diffusion_ / a);
  return -0.5 * diffusion_ * sum;
}

namespace {
void check_pair(const GaussianState& p, const GaussianState& q) {
  const std::size_t d = p.mean.size();
  for (const GaussianState* state : {&p, &q}) {
    if (d < 1 || state->mean.size() != d || state->covariance.rows() != static_cast<Index>(d) ||
        state->covariance.cols() != static_cast<Index>(d))
      throw ShapeError("two Gaussians of different dimensions, or without one");
    check_positive_definite("covariance", state->covariance);
  }
}
}  // namespace

double smallest_eigenvalue(const Matrix<double>& symmetric) {
  if (symmetric.rows() != symmetric.cols() || symmetric.rows() < 1) {
    throw ShapeError("smallest eigenvalue: the matrix is " + std::to_string(symmetric.rows()) + " x " +
                     std::to_string(symmetric.cols()) + "; it must be square");
  }
  check_symmetric("smallest eigenvalue: the matrix", symmetric);
  return dense::symmetric_eigen(symmetric, false).values.front();
}

double symmetric_kl(const GaussianState& p, const GaussianState& q) {
  check_pair(p, q);
  const Matrix<double> D = from_eigen(to_eigen(p.covariance) - to_eigen(q.covariance));
  const VectorXd offset = to_eigen(p.mean) - to_eigen(q.mean);
  const dense::Cholesky p_factor = factor_of(p.covariance), q_factor = factor_of(q.covariance);
  // tr(Q^-1 P + P^-1 Q - 2 I) = tr(P^-1 D Q^-1 D) with D = P - Q: no cancellation between near Gaussians.
  const MatrixXd both = product(to_eigen(p_factor.solve(D)), to_eigen(q_factor.solve(D)));
  VectorXd p_offset = offset, q_offset = offset;
  p_factor.solve(p_offset.data(), p_offset.data());
  q_factor.solve(q_offset.data(), q_offset.data());
  return 0.5 * (both.trace() + offset.dot(p_offset + q_offset));
}

double wasserstein_2(const GaussianState& p, const GaussianState& q) {
  check_pair(p, q);
  const MatrixXd P = to_eigen(p.covariance);
  const Matrix<double> q_root = dense::symmetric_root(q.covariance);
  const MatrixXd root = to_eigen(q_root);
  const Matrix<double> middle = dense::symmetric_root(from_eigen(product(product(root, P), root)));
  // The optimal map Q -> P is T = Q^-1/2 (Q^1/2 P Q^1/2)^1/2 Q^-1/2; E|T y - y|^2 over N(0, Q) is the norm of
  // (T - I) Q^1/2: between near Gaussians nothing cancels, as it does between the traces.
  const MatrixXd map =
      product(to_eigen(dense::symmetric_solve(q_root, middle)), to_eigen(dense::inverse(q_root)));
  const MatrixXd step = product(map - MatrixXd::Identity(P.rows(), P.cols()), root);
  return std::sqrt((to_eigen(p.mean) - to_eigen(q.mean)).squaredNorm() + step.squaredNorm());
}

GaussianState gaussian_fit(MatrixView<const double> x) {
  if (x.rows < 1 || x.cols < 1) throw ShapeError("gaussian_fit: a cloud without points");
  const Index n = x.rows, d = x.cols;
  GaussianState fit{std::vector<double>(d, 0.0), Matrix<double>(d, d)};
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) fit.mean[c] += x(i, c) / static_cast<double>(n);
  }
  for (Index i = 0; i < n; ++i) {
    for (Index a = 0; a < d; ++a) {
      const double share = (x(i, a) - fit.mean[a]) / static_cast<double>(n);
      for (Index b = 0; b <= a; ++b) fit.covariance(a, b) += share * (x(i, b) - fit.mean[b]);
    }
  }
  for (Index a = 0; a < d; ++a) {
    for (Index b = 0; b < a; ++b) fit.covariance(b, a) = fit.covariance(a, b);
  }
  return fit;
}

}  // namespace brenier
