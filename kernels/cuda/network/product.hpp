// SPDX-License-Identifier: MIT
// Small matrix products of a warp, the arithmetic of all tile kernels.
//
//   computes   blocks of 16 rows by 8 kBlocks columns of C = sum over segments of A B, the operands given as
//              functions of their indices
//   layout     lane 4 g + t holds rows g, g + 8 and columns 8 n + 2 t, 8 n + 2 t + 1 of a block, as the
//              matrix instruction returns them (kernels/device/matrix.hpp), under either policy
//   policies   Fma: one fused multiply-add after the other, in order of k, in T
//              Tf32x3: tensor cores on x = hi + lo, hi rounded to TF32, lo exact and cut to TF32 by the tensor
//              core: hi hi + hi lo + lo hi, relative error below 2^-21 a product. Three instructions split an
//              operand. Tensor cores truncate their sums: the long sum over k of hi hi is kept outside of
//              them, in float, only the small corrections add up inside (Ootomo and Yokota, IJHPCA 2022)
//   warps      blocks are dealt to the warps of the block in turn; every lane of a warp takes part in each
#pragma once

#include "kernels/device/device.hpp"

namespace brenier::cuda {

using namespace brenier::device;

struct Fma {};
struct Tf32x3 {};

/// A 16 x 8 kBlocks block of a product. `a(i)` gives the row i of A as a function of k, `b(c)` the column c
/// of B; indices beyond the last row or column are clamped to it: their results are there, and not wanted.
template <class Policy, class T, int kBlocks>
class ProductBlock {
 public:
  BRENIER_DEVICE ProductBlock(int first_row, int rows, int first_column, int columns)
      : row_(first_row), rows_(rows), column_(first_column), columns_(columns) {}

  /// += A B over k < depth.
  template <class A, class B>
  BRENIER_DEVICE void multiply(int depth, const A& a, const B& b, Where where = Where::current()) {
    if constexpr (std::is_same_v<Policy, Fma>) {
      multiply_fma(depth, a, b);
    } else {
      multiply_tf32(depth, a, b, where);
    }
  }

  /// f(i, c, value, slot) for the elements of this lane; slot < 4 kBlocks numbers them.
  template <class F>
  BRENIER_DEVICE void for_elements(const F& f) const {
    BRENIER_UNROLL
    for (int n = 0; n < kBlocks; ++n) {
      BRENIER_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int i = row_ + lane() / 4 + e / 2 * 8;
        const int c = column_ + n * 8 + lane() % 4 * 2 + e % 2;
        if (i < rows_ && c < columns_) f(i, c, value_[n][e], 4 * n + e);
      }
    }
  }

 private:
  /// One narrow block has little to do while it waits for its operands: it looks ahead.
  static constexpr int kUnroll = kBlocks == 1 ? 4 : 1;

  BRENIER_DEVICE int row(int i) const { return row_ + i < rows_ ? row_ + i : rows_ - 1; }
  BRENIER_DEVICE int column(int c) const { return column_ + c < columns_ ? column_ + c : columns_ - 1; }

  template <class A, class B>
  BRENIER_DEVICE void multiply_fma(int depth, const A& a, const B& b) {
    const int g = lane() / 4;
    const int t = lane() % 4;
    const auto above = a(row(g)), below = a(row(g + 8));
    BRENIER_UNROLL_BY(kUnroll)
    for (int k = 0; k < depth; ++k) {
      const T top = above(k), bottom = below(k);
      BRENIER_UNROLL
      for (int n = 0; n < kBlocks; ++n) {
        BRENIER_UNROLL
        for (int j = 0; j < 2; ++j) {
          const T x = b(column(8 * n + 2 * t + j))(k);
          value_[n][j] = fma(top, x, value_[n][j]);
          value_[n][2 + j] = fma(bottom, x, value_[n][2 + j]);
        }
      }
    }
  }

  struct Split {
    float hi, lo;
    BRENIER_DEVICE void set(float x) {
      hi = round_tf32(x);
      lo = x - hi;
    }
  };

  template <class A, class B>
  BRENIER_DEVICE void multiply_tf32(int depth, const A& a, const B& b, Where where) {
    float correction[kBlocks][4] = {};
    int k = 0;
    BRENIER_UNROLL_BY(kUnroll)
    for (; k + 8 <= depth; k += 8) step<false>(k, depth, a, b, correction, where);
    if (k < depth) step<true>(k, depth, a, b, correction, where);
    BRENIER_UNROLL
    for (int n = 0; n < kBlocks; ++n) {
      BRENIER_UNROLL
      for (int e = 0; e < 4; ++e) value_[n][e] += correction[n][e];
    }
  }

  /// Terms k .. k + 7; kTail: those from `depth` on are 0.
  template <bool kTail, class A, class B>
  BRENIER_DEVICE void step(int k, int depth, const A& a, const B& b, float (&correction)[kBlocks][4],
                           Where where) {
    const int g = lane() / 4;
    const int t = lane() % 4;
    const auto above = a(row(g)), below = a(row(g + 8));
    float a_hi[4], a_lo[4];
    BRENIER_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int at = k + t + e / 2 * 4;
      Split split;
      split.set(kTail && at >= depth ? 0.0f : e % 2 == 0 ? above(at) : below(at));
      a_hi[e] = split.hi;
      a_lo[e] = split.lo;
    }
    BRENIER_UNROLL
    for (int n = 0; n < kBlocks; ++n) {
      const auto x = b(column(8 * n + g));
      float b_hi[2], b_lo[2];
      BRENIER_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int at = k + t + e * 4;
        Split split;
        split.set(kTail && at >= depth ? 0.0f : x(at));
        b_hi[e] = split.hi;
        b_lo[e] = split.lo;
      }
      float main[4] = {};
      multiply_add_tf32(main, a_hi, b_hi, where);
      multiply_add_tf32(correction[n], a_hi, b_lo, where);
      multiply_add_tf32(correction[n], a_lo, b_hi, where);
      BRENIER_UNROLL
      for (int e = 0; e < 4; ++e) value_[n][e] += main[e];
    }
  }

  int row_, rows_, column_, columns_;
  T value_[kBlocks][4] = {};
};

}  // namespace brenier::cuda
