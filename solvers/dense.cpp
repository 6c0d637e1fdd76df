// SPDX-License-Identifier: MIT
#include "solvers/dense.hpp"

#include <Eigen/Dense>
#include <cmath>

namespace brenier::dense {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using ConstView = Eigen::Map<const RowMajor, 0, Eigen::OuterStride<>>;
using View = Eigen::Map<RowMajor, 0, Eigen::OuterStride<>>;
using ConstColumns = Eigen::Map<const MatrixXd>;

ConstView view(MatrixView<const double> a) {
  return {a.data, a.rows, a.cols, Eigen::OuterStride<>(a.ld)};
}

View view(MatrixView<double> a) {
  return {a.data, a.rows, a.cols, Eigen::OuterStride<>(a.ld)};
}

Matrix<double> from_eigen(const MatrixXd& from) {
  Matrix<double> to(from.rows(), from.cols());
  Eigen::Map<RowMajor>(to.data(), to.rows(), to.cols()) = from;
  return to;
}

}  // namespace

SymmetricEigen symmetric_eigen(MatrixView<const double> a, bool vectors) {
  const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(
      MatrixXd(view(a)), vectors ? Eigen::ComputeEigenvectors : Eigen::EigenvaluesOnly);
  SymmetricEigen out;
  out.values.assign(solver.eigenvalues().data(), solver.eigenvalues().data() + a.rows);
  out.converged = solver.info() == Eigen::Success;
  if (vectors && out.converged) out.vectors = from_eigen(solver.eigenvectors());
  return out;
}

Matrix<double> symmetric_root(MatrixView<const double> a) {
  return from_eigen(Eigen::SelfAdjointEigenSolver<MatrixXd>(MatrixXd(view(a))).operatorSqrt());
}

std::optional<Cholesky> Cholesky::of(MatrixView<const double> a, double shift) {
  MatrixXd shifted = view(a);
  if (shift != 0) shifted.diagonal().array() += shift;
  const Eigen::LLT<MatrixXd> factor(shifted);
  if (factor.info() != Eigen::Success) return std::nullopt;
  Cholesky out;
  out.dim_ = a.rows;
  out.columns_.resize(a.rows * a.rows);
  Eigen::Map<MatrixXd>(out.columns_.data(), a.rows, a.rows) = factor.matrixL();
  return out;
}

Cholesky::Cholesky(MatrixView<const double> factor) : dim_(factor.rows), columns_(factor.rows * factor.rows) {
  Eigen::Map<MatrixXd>(columns_.data(), dim_, dim_) = view(factor);
}

double Cholesky::log_determinant() const {
  double sum = 0;
  for (Index i = 0; i < dim_; ++i) sum += std::log(diagonal(i));
  return 2 * sum;
}

void Cholesky::solve(const double* b, double* x) const {
  const ConstColumns factor(columns_.data(), dim_, dim_);
  VectorXd out = Eigen::Map<const VectorXd>(b, dim_);
  factor.triangularView<Eigen::Lower>().solveInPlace(out);
  factor.transpose().triangularView<Eigen::Upper>().solveInPlace(out);
  Eigen::Map<VectorXd>(x, dim_) = out;
}

Matrix<double> Cholesky::solve(MatrixView<const double> b) const {
  const ConstColumns factor(columns_.data(), dim_, dim_);
  MatrixXd out = view(b);
  factor.triangularView<Eigen::Lower>().solveInPlace(out);
  factor.transpose().triangularView<Eigen::Upper>().solveInPlace(out);
  return from_eigen(out);
}

double Cholesky::inverse_square(const double* x) const {
  const ConstColumns factor(columns_.data(), dim_, dim_);
  VectorXd out = Eigen::Map<const VectorXd>(x, dim_);
  factor.triangularView<Eigen::Lower>().solveInPlace(out);
  return out.squaredNorm();
}

void Cholesky::spread(const double* offset, const double* z, double* out) const {
  const ConstColumns factor(columns_.data(), dim_, dim_);
  const VectorXd sum = Eigen::Map<const VectorXd>(offset, dim_) +
                       factor.triangularView<Eigen::Lower>() * Eigen::Map<const VectorXd>(z, dim_);
  Eigen::Map<VectorXd>(out, dim_) = sum;
}

Matrix<double> Cholesky::spread(MatrixView<const double> z) const {
  return from_eigen(MatrixXd(view(z)) * ConstColumns(columns_.data(), dim_, dim_).transpose());
}

bool whiten(Matrix<double>& z) {
  MatrixXd rows = view(z.view());
  // A second pass removes the rounding of the first.
  for (int pass = 0; pass < 2; ++pass) {
    const Eigen::RowVectorXd mean = rows.colwise().mean();
    rows.rowwise() -= mean;
    const MatrixXd second = rows.transpose() * rows / static_cast<double>(rows.rows());
    const Eigen::LLT<MatrixXd> factor(second);
    if (factor.info() != Eigen::Success) return false;
    rows = factor.matrixL().solve(rows.transpose()).transpose().eval();
  }
  z = from_eigen(rows);
  return true;
}

Matrix<double> symmetric_solve(MatrixView<const double> a, MatrixView<const double> b) {
  return from_eigen(MatrixXd(view(a)).ldlt().solve(MatrixXd(view(b))));
}

void lu_solve(MatrixView<const double> a, const double* b, double* x) {
  const VectorXd out = Eigen::PartialPivLU<RowMajor>(view(a)).solve(Eigen::Map<const VectorXd>(b, a.rows));
  Eigen::Map<VectorXd>(x, a.rows) = out;
}

Matrix<double> lu_solve(MatrixView<const double> a, MatrixView<const double> b) {
  Matrix<double> out(b.rows, b.cols);
  Eigen::Map<RowMajor>(out.data(), b.rows, b.cols) = Eigen::PartialPivLU<RowMajor>(view(a)).solve(view(b));
  return out;
}

Matrix<double> inverse(MatrixView<const double> a) {
  Matrix<double> out(a.rows, a.cols);
  Eigen::Map<RowMajor>(out.data(), a.rows, a.cols) = Eigen::PartialPivLU<RowMajor>(view(a)).inverse();
  return out;
}

struct Lu::Impl {
  Eigen::PartialPivLU<RowMajor> lu;
};

Lu::Lu(Index d) : impl_(std::make_unique<Impl>(Impl{Eigen::PartialPivLU<RowMajor>(d)})) {}
Lu::Lu(Lu&&) noexcept = default;
Lu& Lu::operator=(Lu&&) noexcept = default;
Lu::~Lu() = default;

void Lu::factor(MatrixView<const double> a) {
  impl_->lu.compute(view(a));
}

double Lu::determinant() const {
  return impl_->lu.determinant();
}

void Lu::inverse(MatrixView<double> out) const {
  view(out) = impl_->lu.inverse();
}

bool factor_in_place(MatrixView<double> a) {
  Eigen::Ref<RowMajor, 0, Eigen::OuterStride<>> matrix = view(a);
  return Eigen::LLT<decltype(matrix)>(matrix).info() == Eigen::Success;
}

double norm(const double* x, Index n) {
  return Eigen::Map<const VectorXd>(x, n).norm();
}

Matrix<double> transposed(MatrixView<const double> a) {
  Matrix<double> out(a.cols, a.rows);
  view(out.view()) = view(a).transpose();
  return out;
}

Matrix<double> congruent(MatrixView<const double> q, MatrixView<const double> a) {
  Matrix<double> out(q.rows, q.rows);
  view(out.view()).noalias() = view(q) * view(a) * view(q).transpose();
  return out;
}

void multiply(MatrixView<const double> a, MatrixView<const double> b, MatrixView<double> out) {
  view(out).noalias() = view(a) * view(b);
}

}  // namespace brenier::dense
