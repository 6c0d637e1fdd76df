// SPDX-License-Identifier: MIT
// Vectors and transcendental functions of the cpu backend.
//
// The backend is compiled once per instruction set, each time into a namespace of its own: the including
// source defines BRENIER_ISA (a namespace name) and BRENIER_VECTOR_BYTES (16, 32 or 64). Nothing here may be
// used from code that is compiled without those definitions.
//
// Layout: 64 particles side by side, "in lanes". A quantity of a tile of particles is a row of kLanes
// elements, that is kParts vectors; a layer of width h is h such rows.
#pragma once

#if !defined(BRENIER_ISA) || !defined(BRENIER_VECTOR_BYTES)
#error "define BRENIER_ISA and BRENIER_VECTOR_BYTES before including the cpu kernels"
#endif

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "brenier/base/view.hpp"

namespace brenier::cpu::BRENIER_ISA {

inline constexpr int kLanes = 64;

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(BRENIER_VECTOR_BYTES)));
  typedef std::int32_t mask __attribute__((vector_size(BRENIER_VECTOR_BYTES)));
  typedef std::uint32_t bits __attribute__((vector_size(BRENIER_VECTOR_BYTES)));
  using Int = std::int32_t;
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(BRENIER_VECTOR_BYTES)));
  typedef std::int64_t mask __attribute__((vector_size(BRENIER_VECTOR_BYTES)));
  typedef std::uint64_t bits __attribute__((vector_size(BRENIER_VECTOR_BYTES)));
  using Int = std::int64_t;
};

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
using VecInt = typename VectorOf<T>::mask;

/// Elements of one vector, and vectors of one row of a tile.
template <class T>
inline constexpr int kWidth = BRENIER_VECTOR_BYTES / static_cast<int>(sizeof(T));
template <class T>
inline constexpr int kParts = kLanes / kWidth<T>;

template <class T>
inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // value - 0 is value, also for -0
}

template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
inline void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}

/// v with its elements moved by Half places, around the end.
template <class T, int Half, int... I>
inline Vec<T> rotate(Vec<T> v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, ((I + Half) % kWidth<T>)...);
}

/// Sum of the elements, halves first: a fixed order.
template <class T>
inline T sum_of(Vec<T> v) {
  constexpr auto lanes = std::make_integer_sequence<int, kWidth<T>>{};
  if constexpr (kWidth<T> >= 16) v += rotate<T, 8>(v, lanes);
  if constexpr (kWidth<T> >= 8) v += rotate<T, 4>(v, lanes);
  if constexpr (kWidth<T> >= 4) v += rotate<T, 2>(v, lanes);
  v += rotate<T, 1>(v, lanes);
  return v[0];
}

template <class T>
inline VecInt<T> bits_of(Vec<T> v) {
  return reinterpret_cast<VecInt<T>>(v);
}
template <class T>
inline Vec<T> from_bits(VecInt<T> v) {
  return reinterpret_cast<Vec<T>>(v);
}

template <class T>
inline Vec<T> abs(Vec<T> x) {
  return from_bits<T>(bits_of<T>(x) & std::numeric_limits<typename VectorOf<T>::Int>::max());
}

template <class T>
inline Vec<T> max(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}
template <class T>
inline Vec<T> min(Vec<T> a, Vec<T> b) {
  return a < b ? a : b;
}

/// Lane by lane; compilers turn the loop into one vector instruction (with -fno-math-errno).
template <class T>
inline Vec<T> sqrt(Vec<T> x) {
  for (int i = 0; i < kWidth<T>; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      x[i] = __builtin_sqrtf(x[i]);
    } else {
      x[i] = __builtin_sqrt(x[i]);
    }
  }
  return x;
}

/// c_0 + x (c_1 + x (c_2 + ...)).
template <class T, std::size_t N>
inline Vec<T> polynomial(Vec<T> x, const T (&coefficients)[N]) {
  Vec<T> y = broadcast(coefficients[N - 1]);
  for (int i = static_cast<int>(N) - 2; i >= 0; --i) y = y * x + coefficients[i];
  return y;
}

template <class T>
struct FloatFormat;
template <>
struct FloatFormat<float> {
  static constexpr int mantissa_bits = 23;
  static constexpr int bias = 127;
  static constexpr float round_magic = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  static constexpr float ln2_high = 0x1.62e4p-1f;  // 15 bits: n ln2_high is exact
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_underflow = -87.33f;  // below: 0
  static constexpr float exp_overflow = 88.72284f;
};
template <>
struct FloatFormat<double> {
  static constexpr int mantissa_bits = 52;
  static constexpr int bias = 1023;
  static constexpr double round_magic = 0x1.8p52;
  static constexpr double ln2_high = 0x1.62e42fee00000p-1;
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double exp_underflow = -708.39;
  static constexpr double exp_overflow = 709.782712893384;
};

/// Taylor coefficients of exp on |r| <= ln(2)/2.
template <class T>
struct ExpCoefficients;
template <>
struct ExpCoefficients<float> {
  float value[8] = {1, 1, 1.f / 2, 1.f / 6, 1.f / 24, 1.f / 120, 1.f / 720, 1.f / 5040};
};
template <>
struct ExpCoefficients<double> {
  double value[14] = {
      1,         1,          1. / 2,      1. / 6,       1. / 24,       1. / 120,       1. / 720,
      1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
};
template <class T>
inline constexpr ExpCoefficients<T> exp_coefficients{};

/// exp(x) as 2^n exp(r), |r| <= ln(2)/2: returns exp(r) and leaves n in `exponent`.
template <class T>
inline Vec<T> exp_reduced(Vec<T> x, VecInt<T>& exponent) {
  using F = FloatFormat<T>;
  const Vec<T> magic = broadcast(F::round_magic);
  const Vec<T> shifted = x * T(1.4426950408889634074) + magic;
  exponent = bits_of<T>(shifted) - bits_of<T>(magic);
  const Vec<T> n = shifted - magic;
  const Vec<T> r = (x - n * F::ln2_high) - n * F::ln2_low;
  return polynomial<T>(r, exp_coefficients<T>.value);
}

/// 2^n for exponents of normal numbers.
template <class T>
inline Vec<T> power_of_two(VecInt<T> n) {
  return from_bits<T>((n + FloatFormat<T>::bias) << FloatFormat<T>::mantissa_bits);
}

/// exp of an argument <= 0; 0 where the result would not be a normal number.
template <class T>
inline Vec<T> exp_nonpositive(Vec<T> x) {
  const Vec<T> floor = broadcast(FloatFormat<T>::exp_underflow);
  VecInt<T> n;
  const Vec<T> y = exp_reduced<T>(x < floor ? floor : x, n) * power_of_two<T>(n);
  return x < floor ? Vec<T>{} : y;
}

/// exp, about one unit in the last place; 0 below the normal numbers, infinity above, NaN for NaN.
template <class T>
inline Vec<T> exp(Vec<T> x) {
  using F = FloatFormat<T>;
  const Vec<T> low = broadcast(F::exp_underflow);
  const Vec<T> high = broadcast(F::exp_overflow);
  VecInt<T> n;
  const Vec<T> y = exp_reduced<T>(min<T>(max<T>(x, low), high), n);
  const VecInt<T> half = n >> 1;  // 2^n itself may overflow where 2^n y does not
  Vec<T> z = y * power_of_two<T>(half) * power_of_two<T>(n - half);
  z = x < low ? Vec<T>{} : z;
  z = x > high ? broadcast(std::numeric_limits<T>::infinity()) : z;
  return x == x ? z : x;
}

/// 2 atanh(u) / u as a series in w = u^2 <= 1/9.
template <class T>
struct AtanhCoefficients;
template <>
struct AtanhCoefficients<float> {
  float value[7] = {2.f, 2.f / 3, 2.f / 5, 2.f / 7, 2.f / 9, 2.f / 11, 2.f / 13};
};
template <>
struct AtanhCoefficients<double> {
  double value[17] = {2.,      2. / 3,  2. / 5,  2. / 7,  2. / 9,  2. / 11, 2. / 13, 2. / 15, 2. / 17,
                      2. / 19, 2. / 21, 2. / 23, 2. / 25, 2. / 27, 2. / 29, 2. / 31, 2. / 33};
};
template <class T>
inline constexpr AtanhCoefficients<T> atanh_coefficients{};

template <class T>
inline Vec<T> atanh_series(Vec<T> w) {
  return polynomial<T>(w, atanh_coefficients<T>.value);
}

/// log, about one unit in the last place; -inf at 0, NaN below, infinity at infinity.
template <class T>
inline Vec<T> log(Vec<T> x) {
  using F = FloatFormat<T>;
  constexpr T tiny = std::numeric_limits<T>::min();
  constexpr T rescue = T(std::int64_t{1} << (F::mantissa_bits + 1));
  const Vec<T> zero = {};
  const Vec<T> normal = x < tiny ? x * rescue : x;  // denormals
  // Split into 2^e m with sqrt(1/2) <= m < sqrt(2).
  const VecInt<T> offset = bits_of<T>(broadcast(T(0.70710678118654752440)));
  const VecInt<T> e = (bits_of<T>(normal) - offset) >> F::mantissa_bits;
  const Vec<T> m = from_bits<T>(bits_of<T>(normal) - (e << F::mantissa_bits));
  Vec<T> exponent = __builtin_convertvector(e, Vec<T>);
  exponent = x < tiny ? exponent - T(F::mantissa_bits + 1) : exponent;
  const Vec<T> f = m - T(1);
  const Vec<T> u = f / (f + T(2));
  const Vec<T> log_m = u * atanh_series<T>(u * u);
  Vec<T> y = exponent * F::ln2_high + (log_m + exponent * F::ln2_low);
  y = x == zero ? broadcast(-std::numeric_limits<T>::infinity()) : y;
  y = x < zero ? broadcast(std::numeric_limits<T>::quiet_NaN()) : y;
  return ((x == x) & (x < std::numeric_limits<T>::infinity())) ? y : (x < zero ? y : x);
}

/// A sum of logarithms of positive numbers, as the logarithm of the product of their mantissas and the sum of their
/// exponents: a tenth of the work of a logarithm each, and fewer roundings. fold() at least once in kMost numbers.
template <class T>
class LogSum {
 public:
  static constexpr int kMost = 64;

  void add(Vec<T> x) {
    using F = FloatFormat<T>;
    constexpr T tiny = std::numeric_limits<T>::min();
    constexpr T rescue = T(std::int64_t{1} << (F::mantissa_bits + 1));
    const VecInt<T> small = x < tiny;  // denormals
    const auto bits = reinterpret_cast<typename VectorOf<T>::bits>(small ? x * rescue : x);
    exponents_ += reinterpret_cast<VecInt<T>>(bits >> F::mantissa_bits) - (small & (F::mantissa_bits + 1));
    constexpr typename VectorOf<T>::Int mantissa = (typename VectorOf<T>::Int{1} << F::mantissa_bits) - 1;
    product_ *= from_bits<T>((reinterpret_cast<VecInt<T>>(bits) & mantissa) | bits_of<T>(broadcast(T(1))));
    ++count_;
  }
  void fold() {
    logs_ += log<T>(product_);
    product_ = broadcast(T(1));
  }
  /// After fold().
  Vec<T> sum() const {
    using F = FloatFormat<T>;
    const VecInt<T> powers = exponents_ - count_ * F::bias;
    return logs_ + __builtin_convertvector(powers, Vec<T>) * T(0.69314718055994530942);
  }

 private:
  Vec<T> product_ = broadcast(T(1)), logs_ = {};
  VecInt<T> exponents_ = {};
  typename VectorOf<T>::Int count_ = 0;
};

/// y_n = c_0 + x_n (c_1 + x_n (c_2 + ...)) for several vectors side by side.
template <class T, std::size_t N, std::size_t C>
inline void polynomials(const Vec<T> (&x)[N], const T (&coefficients)[C], Vec<T> (&y)[N]) {
#pragma GCC unroll 8
  for (std::size_t n = 0; n < N; ++n) y[n] = broadcast(coefficients[C - 1]);
#pragma GCC unroll 32
  for (int i = static_cast<int>(C) - 2; i >= 0; --i) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < N; ++n) y[n] = y[n] * x[n] + coefficients[i];
  }
}

/// Softplus log(1 + e^s) and its derivative, the logistic function, from one exponential and one division:
/// with t = e^{-|s|}, sigmoid(|s|) = 1/(1+t) and log(1+t) = 2 atanh(t/(2+t)). Several vectors side by side:
/// the chain of dependent operations is an order of magnitude longer than their number.
template <class T, std::size_t N>
inline void softplus_sigmoid(const Vec<T> (&s)[N], Vec<T> (&softplus)[N], Vec<T> (&sigmoid)[N]) {
  using F = FloatFormat<T>;
  const Vec<T> zero = {};
  const Vec<T> magic = broadcast(F::round_magic);
  Vec<T> t[N], r[N], y[N], scale[N];
#pragma GCC unroll 8
  for (std::size_t n = 0; n < N; ++n) {
    const Vec<T> x = max<T>(-abs<T>(s[n]), broadcast(F::exp_underflow));  // e^x is 0 beside 1 far before that
    const Vec<T> shifted = x * T(1.4426950408889634074) + magic;
    scale[n] = power_of_two<T>(bits_of<T>(shifted) - bits_of<T>(magic));
    const Vec<T> k = shifted - magic;
    r[n] = (x - k * F::ln2_high) - k * F::ln2_low;
  }
  polynomials<T>(r, exp_coefficients<T>.value, y);
#pragma GCC unroll 8
  for (std::size_t n = 0; n < N; ++n) {
    t[n] = y[n] * scale[n];
    const Vec<T> a = t[n] + T(1);
    const Vec<T> b = t[n] + T(2);
    const Vec<T> reciprocal = T(1) / (a * b);
    const Vec<T> p = b * reciprocal;
    sigmoid[n] = s[n] < zero ? t[n] * p : p;
    t[n] = t[n] * a * reciprocal;  // t/(2+t)
    r[n] = t[n] * t[n];
  }
  polynomials<T>(r, atanh_coefficients<T>.value, y);
#pragma GCC unroll 8
  for (std::size_t n = 0; n < N; ++n) softplus[n] = max<T>(s[n], zero) + t[n] * y[n];
}

template <class T>
inline void softplus_sigmoid(Vec<T> s, Vec<T>& softplus, Vec<T>& sigmoid) {
  const Vec<T> in[1] = {s};
  Vec<T> value[1], slope[1];
  softplus_sigmoid<T, 1>(in, value, slope);
  softplus = value[0];
  sigmoid = slope[0];
}

/// The logistic function alone.
template <class T>
inline Vec<T> sigmoid(Vec<T> s) {
  const Vec<T> t = exp_nonpositive<T>(-abs<T>(s));
  const Vec<T> p = T(1) / (t + T(1));
  return s < Vec<T>{} ? t * p : p;
}

template <class T>
inline Vec<T> tanh(Vec<T> x) {
  // (1 - t)/(1 + t) with t = e^{-2|x|} loses digits near 0: there the odd series is exact enough.
  const Vec<T> a = abs<T>(x);
  const Vec<T> t = exp_nonpositive<T>(a * T(-2));
  const Vec<T> large = (T(1) - t) / (T(1) + t);
  const Vec<T> w = a * a;
  const Vec<T> small =
      a * (T(1) + w * (T(-1.0 / 3) + w * (T(2.0 / 15) + w * (T(-17.0 / 315) + w * T(62.0 / 2835)))));
  const T switch_at = std::is_same_v<T, float> ? T(0.08) : T(0.01);
  const Vec<T> y = a < switch_at ? small : large;
  return x < Vec<T>{} ? -y : y;
}

/// Rows a and b, elements alternating: the first (Half = 0) or the second half of the result.
template <class T, int Half, int... I>
inline Vec<T> interleave(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
  constexpr int w = kWidth<T>;
  return __builtin_shufflevector(a, b, ((I % 2) * w + Half * w / 2 + I / 2)...);
}

/// dst[lane][row] = src[row][lane] for `rows` rows of a tile; dst has rows of `ld` elements, ld a multiple of
/// the vector width and >= rows; the padding becomes 0.
template <class T>
inline void transpose(const T* src, int rows, T* dst, Index ld) {
  constexpr int w = kWidth<T>;
  constexpr auto lanes = std::make_integer_sequence<int, w>{};
  for (int r0 = 0; r0 < ld; r0 += w) {
    for (int l0 = 0; l0 < kLanes; l0 += w) {
      Vec<T> a[w];
      Vec<T> b[w];
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) a[i] = r0 + i < rows ? load(src + (r0 + i) * kLanes + l0) : Vec<T>{};
        // log2(w) perfect shuffles of the rows.
#pragma GCC unroll 4
      for (int stage = 1; stage < w; stage *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < w / 2; ++i) {
          b[2 * i] = interleave<T, 0>(a[i], a[i + w / 2], lanes);
          b[2 * i + 1] = interleave<T, 1>(a[i], a[i + w / 2], lanes);
        }
#pragma GCC unroll 16
        for (int i = 0; i < w; ++i) a[i] = b[i];
      }
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) store(dst + (l0 + i) * ld + r0, a[i]);
    }
  }
}

/// For formulas that stand once for numbers and vectors: see kernels/model/number_math.hpp.
template <class T>
struct VectorMath {
  Vec<T> exp(Vec<T> x) const { return cpu::BRENIER_ISA::exp<T>(x); }
  Vec<T> exp_nonpositive(Vec<T> x) const { return cpu::BRENIER_ISA::exp_nonpositive<T>(x); }
  Vec<T> sqrt(Vec<T> x) const { return cpu::BRENIER_ISA::sqrt<T>(x); }
};

}  // namespace brenier::cpu::BRENIER_ISA
