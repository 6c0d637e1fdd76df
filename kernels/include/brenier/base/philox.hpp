// SPDX-License-Identifier: MIT
// Philox 4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw ("Parallel random numbers:
// as easy as 1, 2, 3", SC 2011). A draw is a pure function of (seed, stream, step, iteration, particle,
// slot), so every backend and every partition into threads sees the same numbers, bit for bit.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "brenier/base/portable.hpp"
#include "brenier/base/portable_math.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// What a draw is for; keeps the draws of different purposes independent.
enum class RandomStream : std::uint32_t {
  cloud = 1,
  parameters = 2,
  minibatch = 3,
  held_out = 4,
  probes = 5,
  fresh = 6,
  pairs = 7,
  log_det = 8
};

/// Ten rounds of Philox 4x32 on one counter block.
BRENIER_HOST_DEVICE inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                               std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * counter[0];
    const std::uint64_t p1 = 0xCD9E8D57ull * counter[2];
    counter = {static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(p1),
               static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// Random numbers of one purpose, addressed by (step, iteration, particle, slot).
class Random {
 public:
  BRENIER_HOST_DEVICE Random(std::uint64_t seed, RandomStream stream)
      : seed_(seed), stream_(static_cast<std::uint32_t>(stream)) {}

  /// Four independent 32-bit words. `slot` numbers the blocks one particle may need (below 65,536).
  BRENIER_HOST_DEVICE std::array<std::uint32_t, 4> words(std::uint32_t step, std::uint32_t iteration,
                                                         std::uint64_t particle,
                                                         std::uint32_t slot = 0) const {
    const std::array<std::uint32_t, 4> counter = {
        static_cast<std::uint32_t>(particle),
        (static_cast<std::uint32_t>(particle >> 32) & 0xFFFFu) | (slot << 16), iteration, step};
    // The stream enters through the key: one more Philox key per purpose.
    return philox(counter, {static_cast<std::uint32_t>(seed_),
                            static_cast<std::uint32_t>(seed_ >> 32) ^ (stream_ * 0x9E3779B1u)});
  }

  /// Uniform in the open interval (0, 1), 52 bits.
  BRENIER_HOST_DEVICE double uniform(std::uint32_t step, std::uint32_t iteration, std::uint64_t particle,
                                     std::uint32_t slot = 0) const {
    const auto w = words(step, iteration, particle, slot);
    return to_unit(w[0], w[1]);
  }

  /// Two independent standard normal deviates (Box-Muller).
  BRENIER_HOST_DEVICE std::array<double, 2> normals(std::uint32_t step, std::uint32_t iteration,
                                                    std::uint64_t particle, std::uint32_t slot = 0) const {
    const auto w = words(step, iteration, particle, slot);
    const double radius = std::sqrt(-2.0 * portable_log(to_unit(w[0], w[1])));
    double sine = 0, cosine = 0;
    portable_sincos(to_unit(w[2], w[3]), sine, cosine);
    return {radius * cosine, radius * sine};
  }

  /// Uniform integer in [0, n), n < 2^32, by Lemire's multiplication (bias below 2^-32 n).
  BRENIER_HOST_DEVICE std::uint32_t below(std::uint32_t n, std::uint32_t step, std::uint32_t iteration,
                                          std::uint64_t particle, std::uint32_t slot = 0) const {
    return static_cast<std::uint32_t>((std::uint64_t{words(step, iteration, particle, slot)[0]} * n) >> 32);
  }

 private:
  BRENIER_HOST_DEVICE static double to_unit(std::uint32_t high, std::uint32_t low) {
    const std::uint64_t bits = ((std::uint64_t{high} << 32) | low) >> 12;
    return (static_cast<double>(bits) + 0.5) * 0x1.0p-52;  // 53 bits and a half would round to 1
  }

  std::uint64_t seed_;
  std::uint32_t stream_;
};

/// Rademacher probes of the stochastic log-determinant in one iteration: signs that depend on (seed, step,
/// iteration, place, probe, component) alone. `place` is that in the batch, not the number of the particle: a
/// particle that a minibatch draws twice has two independent probes.
class RademacherProbes {
 public:
  static constexpr int kBlock = 128;  // components that one draw has the signs of

  /// `dim` components a probe; probes * ceil(dim / kBlock) must be below 65,536.
  BRENIER_HOST_DEVICE RademacherProbes(std::uint64_t seed, std::uint32_t step, std::uint32_t iteration,
                                       int dim)
      : random_(seed, RandomStream::log_det),
        step_(step),
        iteration_(iteration),
        dim_(dim),
        blocks_((dim + kBlock - 1) / kBlock) {}

  /// Whether one component is -1; otherwise it is 1.
  BRENIER_HOST_DEVICE bool negative(std::uint64_t place, int probe, int component) const {
    return bit(block(place, probe, component / kBlock), component % kBlock);
  }
  /// put(component, negative) for the components of one probe: one draw for kBlock of them.
  template <class Put>
  BRENIER_HOST_DEVICE void for_components(std::uint64_t place, int probe, const Put& put) const {
    for (int b = 0; b < blocks_; ++b) {
      const std::array<std::uint32_t, 4> words = block(place, probe, b);
      const int end = dim_ - b * kBlock < kBlock ? dim_ - b * kBlock : kBlock;
      for (int c = 0; c < end; ++c) put(b * kBlock + c, bit(words, c));
    }
  }

 private:
  BRENIER_HOST_DEVICE std::array<std::uint32_t, 4> block(std::uint64_t place, int probe, int b) const {
    return random_.words(step_, iteration_, place, static_cast<std::uint32_t>(probe * blocks_ + b));
  }
  BRENIER_HOST_DEVICE static bool bit(const std::array<std::uint32_t, 4>& words, int c) {
    return ((words[static_cast<std::size_t>(c / 32)] >> (c % 32)) & 1u) != 0;
  }

  Random random_;
  std::uint32_t step_, iteration_;
  int dim_, blocks_;
};

}  // namespace brenier
