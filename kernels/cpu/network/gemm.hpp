// SPDX-License-Identifier: MIT
// Matrix product of the cpu backend: C (+)= A B, where a row of B and C is contiguous and a multiple of the
// vector width, and A is read element by element and broadcast. Shared weights times particles in lanes has
// this form (A = weights, B = 64 lanes), and so has the gradient of the weights (A = adjoints in lanes, B =
// layer inputs transposed). Sizes in Brenier are tens to hundreds, so there is no packing and no cache
// blocking beyond the tile of particles.
#pragma once

#include "kernels/cpu/simd.hpp"

namespace brenier::cpu::BRENIER_ISA {

// Register tile: rows x vectors accumulators, one row of B, one broadcast.
#if BRENIER_VECTOR_BYTES == 64
inline constexpr int kTileRows = 5;
inline constexpr int kTileVectors = 4;
#elif BRENIER_VECTOR_BYTES == 32
inline constexpr int kTileRows = 5;
inline constexpr int kTileVectors = 2;
#else
inline constexpr int kTileRows = 4;
inline constexpr int kTileVectors = 2;
#endif

/// Read access to A(i, k) = data[i * row_stride + k * col_stride].
template <class T>
struct Operand {
  const T* data;
  Index row_stride;
  Index col_stride;
};

template <class T>
inline Operand<T> as_is(const T* data, Index ld) {
  return {data, ld, 1};
}
template <class T>
inline Operand<T> transposed(const T* data, Index ld) {
  return {data, 1, ld};
}

/// One register tile. kUnit says which stride of A is 1: 0 the rows', 1 the columns'.
template <class T, int Rows, int Vectors, int kUnit>
inline void gemm_tile(Index depth, const T* a, Index a_stride, const T* b, Index ldb, T* c, Index ldc,
                      bool accumulate) {
  constexpr int w = kWidth<T>;
  Vec<T> sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) sum[i][j] = accumulate ? load(c + i * ldc + j * w) : Vec<T>{};
  }
  for (Index k = 0; k < depth; ++k) {
    Vec<T> row[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) row[j] = load(b + k * ldb + j * w);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const Vec<T> factor = broadcast(kUnit == 1 ? a[i * a_stride + k] : a[i + k * a_stride]);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sum[i][j] += factor * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) store(c + i * ldc + j * w, sum[i][j]);
  }
}

/// Nothing to be done with finished rows.
struct NoEpilogue {
  void operator()(Index, Index) const {}
};

template <class T, int Vectors, int kUnit, class Epilogue>
inline void gemm_columns(Index rows, Index depth, const T* a, Index a_stride, const T* b, Index ldb, T* c,
                         Index ldc, bool accumulate, const Epilogue& epilogue) {
  const Index step = kUnit == 1 ? a_stride : 1;  // from one row of A to the next
  Index i = 0;
  for (; i + kTileRows <= rows; i += kTileRows) {
    gemm_tile<T, kTileRows, Vectors, kUnit>(depth, a + i * step, a_stride, b, ldb, c + i * ldc, ldc,
                                            accumulate);
    epilogue(i, kTileRows);
  }
  const T* rest = a + i * step;
  T* out = c + i * ldc;
  switch (rows - i) {
    case 0:
      return;
    case 1:
      gemm_tile<T, 1, Vectors, kUnit>(depth, rest, a_stride, b, ldb, out, ldc, accumulate);
      break;
    case 2:
      gemm_tile<T, 2, Vectors, kUnit>(depth, rest, a_stride, b, ldb, out, ldc, accumulate);
      break;
    case 3:
      gemm_tile<T, 3, Vectors, kUnit>(depth, rest, a_stride, b, ldb, out, ldc, accumulate);
      break;
    default:
      gemm_tile<T, 4, Vectors, kUnit>(depth, rest, a_stride, b, ldb, out, ldc, accumulate);
      break;
  }
  epilogue(i, rows - i);
}

template <class T, int kUnit, class Epilogue>
inline void gemm_strided(Index rows, Index cols, Index depth, const T* a, Index a_stride, const T* b,
                         Index ldb, T* c, Index ldc, bool accumulate, const Epilogue& epilogue) {
  constexpr int w = kWidth<T>;
  constexpr NoEpilogue none;
  const auto part = [&]<int kVectors>(Index j, const auto& then) {
    gemm_columns<T, kVectors, kUnit>(rows, depth, a, a_stride, b + j, ldb, c + j, ldc, accumulate, then);
  };
  Index j = 0;
  for (; j + kTileVectors * w < cols; j += kTileVectors * w) part.template operator()<kTileVectors>(j, none);
  switch ((cols - j) / w) {  // the last columns finish the rows
    case 1:
      return part.template operator()<1>(j, epilogue);
    case 2:
      return part.template operator()<2>(j, epilogue);
#if BRENIER_VECTOR_BYTES == 64
    case 3:
      return part.template operator()<3>(j, epilogue);
    case 4:
      return part.template operator()<4>(j, epilogue);
#endif
    default:
      return;
  }
}

/// C(rows, cols) = A(rows, depth) B(depth, cols), added to C where `accumulate`. `cols` must be a multiple of
/// the vector width, and one stride of A must be 1. epilogue(i, n) is called when rows i .. i + n of C are
/// finished, in order, while they are still in the nearest cache.
template <class T, class Epilogue = NoEpilogue>
inline void gemm(Index rows, Index cols, Index depth, Operand<T> a, const T* b, Index ldb, T* c, Index ldc,
                 bool accumulate = false, const Epilogue& epilogue = {}) {
  if (a.col_stride == 1) {
    gemm_strided<T, 1>(rows, cols, depth, a.data, a.row_stride, b, ldb, c, ldc, accumulate, epilogue);
  } else {
    gemm_strided<T, 0>(rows, cols, depth, a.data, a.col_stride, b, ldb, c, ldc, accumulate, epilogue);
  }
}

}  // namespace brenier::cpu::BRENIER_ISA
