// SPDX-License-Identifier: MIT
// The matrix instruction of the device dialect: C (16 x 8) += A (16 x 8) B (8 x 8), one warp, operands in
// TF32 (8 bits of exponent, 10 of mantissa), sums in float. Compute capability 8.0 and later (PTX ISA,
// mma.m16n8k8, .tf32).
//
// Of an operand it reads the 19 first bits: the 13 last need not be 0.
//
// Who holds what, lane = 4 g + t:
//   a[0] A(g, t)   a[1] A(g + 8, t)   a[2] A(g, t + 4)   a[3] A(g + 8, t + 4)
//   b[0] B(t, g)   b[1] B(t + 4, g)
//   c[0] C(g, 2t)  c[1] C(g, 2t + 1)  c[2] C(g + 8, 2t)  c[3] C(g + 8, 2t + 1)
//
// The emulator has the same layout. It forms products and sums of eight exactly and rounds each result
// towards zero once: tensor cores do not say how they round, only that they may truncate.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/device/dialect.hpp"

namespace brenier::device {
inline namespace BRENIER_DIALECT {

namespace detail {
#if BRENIER_CUDA
BRENIER_DEVICE inline std::uint32_t bits_of(float x) {
  return __float_as_uint(x);
}
BRENIER_DEVICE inline float float_of(std::uint32_t bits) {
  return __uint_as_float(bits);
}
#else
inline std::uint32_t bits_of(float x) {
  return std::bit_cast<std::uint32_t>(x);
}
inline float float_of(std::uint32_t bits) {
  return std::bit_cast<float>(bits);
}
#endif
}  // namespace detail

/// x rounded to TF32, to nearest, halves away from zero: a float whose 13 last bits are 0. Two instructions,
/// where cvt.rna.tf32 is four on compute capability 9.0, because of what is not finite: here infinity stays
/// so, but a NaN may become any number, and x - round_tf32(x) is NaN where x is not finite.
BRENIER_DEVICE inline float round_tf32(float x) {
  return detail::float_of((detail::bits_of(x) + 0x1000u) & 0xFFFFE000u);
}

#if BRENIER_CUDA

BRENIER_DEVICE inline void multiply_add_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2],
                                             Where = Where::current()) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(detail::bits_of(a[0])), "r"(detail::bits_of(a[1])), "r"(detail::bits_of(a[2])),
        "r"(detail::bits_of(a[3])), "r"(detail::bits_of(b[0])), "r"(detail::bits_of(b[1])));
}

#else

namespace detail {
inline double truncated_to_tf32(float x) {
  return static_cast<double>(float_of(bits_of(x) & 0xFFFFE000u));
}
inline float towards_zero(double x) {
  const float rounded = static_cast<float>(x);
  return std::abs(static_cast<double>(rounded)) > std::abs(x) ? std::nextafter(rounded, 0.0f) : rounded;
}
}  // namespace detail

inline void multiply_add_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2],
                              Where where = Where::current()) {
  const float mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned operation = emulator::give(mine, 6, where);
  const int g = (thread_index() % 32) / 4;
  const int t = thread_index() % 4;
  double sum[4] = {c[0], c[1], c[2], c[3]};
  for (int k = 0; k < 8; ++k) {
    const int row = 4 * g + k % 4;  // lane that holds A(g, k) and A(g + 8, k)
    const double above = detail::truncated_to_tf32(emulator::given(row, k < 4 ? 0 : 2, operation));
    const double below = detail::truncated_to_tf32(emulator::given(row, k < 4 ? 1 : 3, operation));
    for (int j = 0; j < 2; ++j) {  // lane 4 (2t + j) + k % 4 holds B(k, 2t + j)
      const int column = 4 * (2 * t + j) + k % 4;
      const double factor = detail::truncated_to_tf32(emulator::given(column, k < 4 ? 4 : 5, operation));
      sum[j] += above * factor;
      sum[2 + j] += below * factor;
    }
  }
  for (int e = 0; e < 4; ++e) c[e] = detail::towards_zero(sum[e]);
}

#endif

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device
