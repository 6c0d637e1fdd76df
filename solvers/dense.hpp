// SPDX-License-Identifier: MIT
// Small dense matrices: decompositions, and what is formed with them. The one file behind this header is the
// only one of the library that compiles Eigen's decompositions: each takes seconds, in every file that names
// it.
//
// Matrices are row-major, (d, d) unless said otherwise, d >= 1, and trusted to be: callers check shapes.
// Values that are not finite give results that are not finite, or "not positive definite".
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "brenier/base/view.hpp"

namespace brenier::dense {

/// Of a symmetric matrix, whose lower triangle is read.
struct SymmetricEigen {
  std::vector<double> values;  // ascending
  Matrix<double> vectors;      // in columns; empty where only values were asked for
  bool converged = true;
};
SymmetricEigen symmetric_eigen(MatrixView<const double> a, bool vectors);

/// The symmetric square root of a symmetric matrix without negative eigenvalues.
Matrix<double> symmetric_root(MatrixView<const double> a);

/// A lower triangular factor L with positive diagonal, A = L L^T.
class Cholesky {
 public:
  /// Of a + shift I; the lower triangle is read. Nothing where that is not positive definite to rounding.
  static std::optional<Cholesky> of(MatrixView<const double> a, double shift = 0);
  /// From L itself; what lies above its diagonal must be 0.
  explicit Cholesky(MatrixView<const double> factor);

  Index dim() const { return dim_; }
  double diagonal(Index i) const { return columns_[i * dim_ + i]; }  // of L
  double log_determinant() const;                                    // of A

  /// x = A^{-1} b of length d; x may be b.
  void solve(const double* b, double* x) const;
  /// A^{-1} b, b (d, m).
  Matrix<double> solve(MatrixView<const double> b) const;
  /// x^T A^{-1} x = |L^{-1} x|^2.
  double inverse_square(const double* x) const;
  /// out = offset + L z, of length d each.
  void spread(const double* offset, const double* z, double* out) const;
  /// z L^T: rows z_i (n, d) become L z_i.
  Matrix<double> spread(MatrixView<const double> z) const;

 private:
  Cholesky() = default;

  Index dim_ = 0;
  std::vector<double> columns_;  // of L, one after the other, zeros included
};

/// Changes the rows of z (n, d) so that their mean is 0 and their second moment (1/n) the identity, to
/// rounding. False, with z anyhow, where the sample covariance is singular.
bool whiten(Matrix<double>& z);

/// a^{-1} b by LDL^T, a symmetric and definite, b (d, m).
Matrix<double> symmetric_solve(MatrixView<const double> a, MatrixView<const double> b);

/// By LU with partial pivoting: a^{-1} b of a vector (x may be b), or of b (d, m); the inverse.
void lu_solve(MatrixView<const double> a, const double* b, double* x);
Matrix<double> lu_solve(MatrixView<const double> a, MatrixView<const double> b);
Matrix<double> inverse(MatrixView<const double> a);

/// LU with partial pivoting of one small matrix after another, with no allocation between them.
class Lu {
 public:
  explicit Lu(Index d);
  Lu(Lu&&) noexcept;
  Lu& operator=(Lu&&) noexcept;
  ~Lu();

  void factor(MatrixView<const double> a);
  /// Of the last matrix.
  double determinant() const;
  void inverse(MatrixView<double> out) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Whether the symmetric matrix whose lower triangle `a` holds is positive definite, to rounding; that
/// triangle becomes its Cholesky factor as far as it exists.
bool factor_in_place(MatrixView<double> a);

/// |x|, x of length n.
double norm(const double* x, Index n);

Matrix<double> transposed(MatrixView<const double> a);
/// q a q^T.
Matrix<double> congruent(MatrixView<const double> q, MatrixView<const double> a);

/// out = a b, (n, k) by (k, m); out must be neither a nor b.
void multiply(MatrixView<const double> a, MatrixView<const double> b, MatrixView<double> out);

}  // namespace brenier::dense
