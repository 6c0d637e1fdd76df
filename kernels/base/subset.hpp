// SPDX-License-Identifier: MIT
// Some particles that stand for all.
#pragma once

#include <algorithm>
#include <vector>

#include "brenier/base/philox.hpp"
#include "brenier/base/portable.hpp"
#include "brenier/base/view.hpp"

namespace brenier {

/// Number i of spread(n, count <= n, seed); `random` of that seed and RandomStream::pairs.
BRENIER_HOST_DEVICE inline Index spread_place(Index n, Index count, Index i, const Random& random) {
  const Index first = i * n / count;
  const Index run = (i + 1) * n / count - first;
  return first + random.below(static_cast<std::uint32_t>(run), 0, 0, static_cast<std::uint64_t>(i));
}

/// Ascending numbers of min(count, n) out of n particles: one of each of that many runs, at random. A fixed
/// stride would pick out a sub-lattice of a low-discrepancy cloud, which fills a part of space only.
inline std::vector<Index> spread(Index n, Index count, std::uint64_t seed) {
  count = std::min(count, n);
  const Random random(seed, RandomStream::pairs);
  std::vector<Index> out(static_cast<std::size_t>(count));
  for (Index i = 0; i < count; ++i) out[i] = spread_place(n, count, i, random);
  return out;
}

/// Those rows of x.
inline Matrix<double> subset(const Matrix<double>& x, Index count, std::uint64_t seed) {
  const std::vector<Index> rows = spread(x.rows(), count, seed);
  Matrix<double> out(static_cast<Index>(rows.size()), x.cols());
  for (Index i = 0; i < out.rows(); ++i) std::copy_n(x.row(rows[i]), x.cols(), out.row(i));
  return out;
}

}  // namespace brenier
