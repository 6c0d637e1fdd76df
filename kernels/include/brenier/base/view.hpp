// SPDX-License-Identifier: MIT
// Non-owning views of matrices. A cloud of N particles in R^d is an (N, d) row-major matrix.
#pragma once

#if __cplusplus < 202002L
#error \
    "Brenier's C++ headers need C++20: CXX_STANDARD 20 or -std=c++20; brenier/brenier.h is for all of C and C++"
#endif

#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "brenier/export.h"

namespace BRENIER_API brenier {

using Index = std::ptrdiff_t;

/// Row-major matrix that somebody else owns. `ld` >= cols is the distance between rows, in elements.
/// An empty view (data == nullptr) stands for "not given" where an operation allows that.
template <class T>
struct MatrixView {
  T* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index ld = 0;

  MatrixView() = default;
  MatrixView(T* data_in, Index rows_in, Index cols_in, Index ld_in)
      : data(data_in), rows(rows_in), cols(cols_in), ld(ld_in) {}
  MatrixView(T* data_in, Index rows_in, Index cols_in) : MatrixView(data_in, rows_in, cols_in, cols_in) {}

  /// A view of mutable elements is also a view of constant ones.
  template <class U>
  requires std::is_same_v<T, const U> MatrixView(const MatrixView<U>& other)
      : MatrixView(other.data, other.rows, other.cols, other.ld) {}

  explicit operator bool() const { return data != nullptr; }
  T* row(Index i) const { return data + i * ld; }
  T& operator()(Index i, Index j) const { return data[i * ld + j]; }
  MatrixView rows_from(Index first, Index count) const { return {data + first * ld, count, cols, ld}; }
};

/// Row-major matrix that owns its elements, without padding.
template <class T>
class Matrix {
 public:
  Matrix() = default;
  /// std::length_error, as vectors have it: more elements than can be addressed.
  Matrix(Index rows, Index cols, T fill = T(0)) : rows_(rows), cols_(cols), data_(count(rows, cols), fill) {}
  // What was moved from has no rows any more, as it has no elements.
  Matrix(Matrix&& other) noexcept
      : rows_(std::exchange(other.rows_, 0)),
        cols_(std::exchange(other.cols_, 0)),
        data_(std::exchange(other.data_, {})) {}
  Matrix& operator=(Matrix&& other) noexcept {
    if (this == &other) return *this;
    rows_ = std::exchange(other.rows_, 0);
    cols_ = std::exchange(other.cols_, 0);
    data_ = std::exchange(other.data_, {});
    return *this;
  }
  Matrix(const Matrix&) = default;
  Matrix& operator=(const Matrix&) = default;
  ~Matrix() = default;

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  bool empty() const { return data_.empty(); }
  T* data() { return data_.data(); }
  const T* data() const { return data_.data(); }
  T* row(Index i) { return data_.data() + i * cols_; }
  const T* row(Index i) const { return data_.data() + i * cols_; }
  T& operator()(Index i, Index j) { return data_[static_cast<std::size_t>(i * cols_ + j)]; }
  const T& operator()(Index i, Index j) const { return data_[static_cast<std::size_t>(i * cols_ + j)]; }
  std::vector<T>& elements() { return data_; }
  const std::vector<T>& elements() const { return data_; }

  MatrixView<T> view() { return {data_.data(), rows_, cols_}; }
  MatrixView<const T> view() const { return {data_.data(), rows_, cols_}; }
  operator MatrixView<T>() { return view(); }
  operator MatrixView<const T>() const { return view(); }

 private:
  /// rows * cols; a product that overflows would be a matrix without its elements.
  static std::size_t count(Index rows, Index cols) {
    if (rows < 0 || cols < 0 || (cols > 0 && rows > std::numeric_limits<Index>::max() / cols))
      throw std::length_error("a matrix of " + std::to_string(rows) + " x " + std::to_string(cols) +
                              " elements: more than can be addressed");
    return static_cast<std::size_t>(rows * cols);
  }

  Index rows_ = 0;
  Index cols_ = 0;
  std::vector<T> data_;
};

/// The same matrix in another floating-point type.
template <class To, class From>
Matrix<To> cast(const Matrix<From>& from) {
  Matrix<To> to(from.rows(), from.cols());
  for (std::size_t i = 0; i < from.elements().size(); ++i)
    to.elements()[i] = static_cast<To>(from.elements()[i]);
  return to;
}

/// A matrix in the memory of a CUDA device, which a host program owns: element (i, j) lies i * row_stride + j * col_stride
/// elements behind `data`. Address: const void to read from, void to write to.
template <class Address>
struct DeviceArray {
  enum class Type { float64, float32 };
  Address* data = nullptr;
  Type type = Type::float64;
  Index rows = 0, cols = 0;
  Index row_stride = 0, col_stride = 0;

  DeviceArray() = default;
  template <class T>
  requires(std::is_same_v<std::remove_const_t<T>, float> || std::is_same_v<std::remove_const_t<T>, double>)
      DeviceArray(T* data_in, Index rows_in, Index cols_in, Index row_stride_in, Index col_stride_in)
      : data(data_in),
        type(std::is_same_v<std::remove_const_t<T>, float> ? Type::float32 : Type::float64),
        rows(rows_in),
        cols(cols_in),
        row_stride(row_stride_in),
        col_stride(col_stride_in) {}
  /// Row-major, without gaps.
  template <class T>
  DeviceArray(T* data_in, Index rows_in, Index cols_in)
      : DeviceArray(data_in, rows_in, cols_in, cols_in, 1) {}

  explicit operator bool() const { return data != nullptr; }
};

/// Particles of a host program on a CUDA device: positions (N, d) and log-densities (N, 1), or none. `stream`, a cudaStream_t,
/// is where the program works with them, null CUDA's default stream: what it was given before is waited for, and what it is
/// given later waits.
template <class Address>
struct DeviceParticles {
  DeviceArray<Address> x;
  DeviceArray<Address> log_density{};
  void* stream = nullptr;
};
using DeviceCloud = DeviceParticles<const void>;
using DeviceResults = DeviceParticles<void>;

}  // namespace brenier
