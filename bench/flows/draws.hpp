// SPDX-License-Identifier: MIT
// Random numbers of random targets.
#pragma once

#include <cstdint>

#include "brenier/base/philox.hpp"

namespace brenier::bench {

/// Numbers of one target, one after another; they depend on the seed, the dimension and the target's number
/// only.
class Draws {
 public:
  Draws(std::uint64_t seed, int dim, int target)
      : random_(seed, RandomStream::cloud),
        dim_(static_cast<std::uint32_t>(dim)),
        target_(static_cast<std::uint32_t>(target)) {}
  double uniform() { return random_.uniform(dim_, target_, count_++, kSlot); }
  double normal() { return random_.normals(dim_, target_, count_++, kSlot)[0]; }

 private:
  static constexpr std::uint32_t kSlot = 7;
  Random random_;
  std::uint32_t dim_, target_;
  std::uint64_t count_ = 0;
};

}  // namespace brenier::bench
