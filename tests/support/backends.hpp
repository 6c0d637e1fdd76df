// SPDX-License-Identifier: MIT
// The backends that one test body runs over, matrices with gaps and guards, and what rounding may do.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/operations.hpp"
#if defined(BRENIER_TEST_EMULATED)
#include "kernels/device/emulator/emulator.hpp"
#endif
#include "tests/support/near.hpp"

namespace brenier::test {

/// The emulated device takes thousands of times as long: fewer particles, probes and steps there.
#if defined(BRENIER_TEST_EMULATED)
inline constexpr bool kEmulated = true;
#else
inline constexpr bool kEmulated = false;
#endif
/// With a sanitizer over it still fewer: what has been seen once is not seen again in larger sizes.
#if defined(BRENIER_TEST_REDUCED)
inline constexpr bool kReduced = true;
#else
inline constexpr bool kReduced = false;
#endif

/// A (rows, cols) matrix whose rows are further apart than they are long, with guards in the gaps.
template <class T>
class Padded {
 public:
  Padded(Index rows, Index cols)
      : view_(nullptr, rows, cols, cols + 3), data_((rows + 1) * (cols + 3), kGuard) {
    view_.data = data_.data() + 2;
  }
  explicit Padded(const Matrix<T>& from) : Padded(from.rows(), from.cols()) {
    for (Index i = 0; i < from.rows(); ++i) {
      for (Index c = 0; c < from.cols(); ++c) view_(i, c) = from(i, c);
    }
  }
  operator MatrixView<T>() { return view_; }
  operator MatrixView<const T>() const { return view_; }
  std::vector<T> elements() const {
    std::vector<T> out;
    for (Index i = 0; i < view_.rows; ++i) out.insert(out.end(), view_.row(i), view_.row(i) + view_.cols);
    return out;
  }
  bool guards_intact() const {
    Index changed = 0;
    for (const T value : data_) changed += value != kGuard;
    return changed <= view_.rows * view_.cols;
  }

 private:
  static constexpr T kGuard = T(-12345.5);
  MatrixView<T> view_;
  std::vector<T> data_;
};

/// A table of operations, and the threads it is to run on.
template <class T>
struct Backend {
  const Operations<T>* ops;
  int threads;
};

/// The backends that are compared with the reference.
template <class T>
std::vector<Backend<T>> backends() {
  std::vector<Backend<T>> list;
  for (const char* variant : cpu::variants()) list.push_back({&cpu::operations<T>(variant), 2});
  list.push_back({&cpu::operations<T>(), 3});
#if defined(BRENIER_TEST_CUDA)
  list.clear();  // the cuda backend alone, on a GPU or on the emulated device
  for (const char* variant : cuda::variants<T>()) {
    // Under a sanitizer each tensor product costs 32 switches of threads; "fma" has the same accesses to
    // memory, and these do not depend on T. The products themselves: tests/cuda/test_operations.cpp.
    const bool sanitized = variant == std::string(sizeof(T) == 8 ? "fma" : "cublas");
    if (kReduced && !sanitized) continue;
#if defined(BRENIER_TEST_EMULATED)
    // Both orders of the threads: forward the one that the sanitizers run, on their few sizes, is left to them, and
    // the layered form need not run backwards in both types.
    const bool reverse = device::emulator::options().threads == device::emulator::Order::reverse;
    if (reverse ? sizeof(T) == 8 && variant == std::string("cublas") : sanitized && !kReduced) continue;
#endif
    list.push_back({&cuda::operations<T>(variant), 1});
  }
#endif
  return list;
}

/// The same with the reference, for what holds of every backend by itself.
template <class T>
std::vector<Backend<T>> all_backends() {
  std::vector<Backend<T>> list = backends<T>();
  list.push_back({&ref::operations<T>(), 1});
  return list;
}

/// Rounding error of sums over a network: grows with the number of terms that a result adds up.
template <class T>
double net_tolerance(const Icnn& net, Index n) {
  double widest = 1;
  for (const Layer& layer : net.layers()) widest = std::max(widest, static_cast<double>(layer.width));
  return tol<T>(8 * std::sqrt(widest) * std::sqrt(static_cast<double>(std::max<Index>(n, 16))));
}

}  // namespace brenier::test
