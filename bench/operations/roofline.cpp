// SPDX-License-Identifier: MIT
#include "bench/operations/roofline.hpp"

#include <algorithm>
#include <vector>

#include "bench/timing.hpp"
#if defined(BRENIER_BENCH_CUDA)
#include "bench/operations/device_ceilings.hpp"
#endif

namespace brenier::bench {
namespace {

constexpr int kChains = 12;  // independent: more than latency times throughput needs, fewer than registers
constexpr int kRounds = 1000;

// One function per instruction set. x <- 0.5 x + 1 stays in range.
#define BRENIER_FMA_LOOP(NAME, ATTRIBUTE, BYTES)                                                   \
  template <class T>                                                                               \
  ATTRIBUTE __attribute__((noinline)) double NAME(int count) {                                     \
    typedef T Vector __attribute__((vector_size(BYTES)));                                          \
    constexpr int width = BYTES / static_cast<int>(sizeof(T));                                     \
    Vector chain[kChains];                                                                         \
    for (int c = 0; c < kChains; ++c) chain[c] = static_cast<T>(c) - Vector{};                     \
    const Vector half = T(0.5) - Vector{};                                                         \
    const Vector one = T(1) - Vector{};                                                            \
    for (int i = 0; i < count * kRounds; ++i) {                                                    \
      _Pragma("GCC unroll 12") for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * half + one; \
    }                                                                                              \
    Vector sum = {};                                                                               \
    for (int c = 0; c < kChains; ++c) sum += chain[c];                                             \
    double total = 0;                                                                              \
    for (int i = 0; i < width; ++i) total += static_cast<double>(sum[i]);                          \
    return total;                                                                                  \
  }

#if defined(__x86_64__)
BRENIER_FMA_LOOP(fma_avx512, __attribute__((target("avx512f,fma"))), 64)
BRENIER_FMA_LOOP(fma_avx2, __attribute__((target("avx2,fma"))), 32)
#endif
BRENIER_FMA_LOOP(fma_baseline, , 16)

#undef BRENIER_FMA_LOOP

}  // namespace

template <class T>
double peak_flops(const std::string& variant, Team& team, double seconds) {
#if defined(BRENIER_BENCH_CUDA)
  if (variant == "cuda") return device_peak_flops<T>(seconds);
#endif
  double (*loop)(int) = fma_baseline<T>;
  int bytes = 16;
#if defined(__x86_64__)
  if (variant == "avx512") {
    loop = fma_avx512<T>;
    bytes = 64;
  } else if (variant == "avx2") {
    loop = fma_avx2<T>;
    bytes = 32;
  }
#endif
  std::vector<double> sink(static_cast<std::size_t>(team.size()) * 8);  // a cache line each
  const Timing timing =
      measure([&](int count) { team.run([&](int rank) { sink[rank * 8] = loop(count); }); }, seconds);
  const double width = bytes / static_cast<double>(sizeof(T));
  return 2.0 * kChains * kRounds * width * team.size() / timing.least;
}

double memory_bandwidth(const std::string& variant, Team& team, std::ptrdiff_t elements, double seconds) {
#if defined(BRENIER_BENCH_CUDA)
  if (variant == "cuda") return device_copy_rates(std::size_t{1} << 30, seconds).kernel;
#else
  static_cast<void>(variant);
#endif
  std::vector<double> a(elements, 0.0), b(elements, 1.0), c(elements, 2.0);
  const auto triad = [&](int rank) {
    const auto [first, last] = team.share(elements, rank);
    for (Index i = first; i < last; ++i) a[i] = b[i] + 3.0 * c[i];
  };
  const Timing timing = measure(
      [&](int count) {
        for (int k = 0; k < count; ++k) team.run(triad);
      },
      seconds);
  return 24.0 * static_cast<double>(elements) / timing.least;
}

template double peak_flops<float>(const std::string&, Team&, double);
template double peak_flops<double>(const std::string&, Team&, double);

}  // namespace brenier::bench
