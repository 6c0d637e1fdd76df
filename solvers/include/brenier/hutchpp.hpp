// SPDX-License-Identifier: MIT
// log det of Hessians with less variance than plain probes have.
#pragma once

#include <cstdint>

#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "brenier/export.h"
#include "brenier/model/icnn.hpp"

namespace BRENIER_API brenier {

template <class T>
struct Operations;  // of a backend: see backend()

struct HutchppOptions {
  int sketch = 4;          // k: dimension of the subspace that is taken exactly, in [0, d]
  int probes = 4;          // of the rest, >= 1
  int steps = 15;          // of Lanczos, >= 1; d of them are exact
  std::uint64_t seed = 0;  // of the probes
};

/// log det H(x_i) = tr log H by Hutch++ (Meyer, Musco, Musco and Woodruff, SOSA 2021): the trace over the
/// range of (H - I) S, S random signs (d, k), exactly, and that over its complement from probes. H - I has
/// the range where log H is large: near the identity both agree to first order, and a map that differs from
/// it in k directions leaves the probes nothing. Costs k products with H and (k + probes) solves of `steps`
/// products a point, where plain probes need a number that grows with the square of the accuracy. x (N, d);
/// estimate (N); variance (N), or null, of the estimate, NaN for one probe. ShapeError: x. ValueError:
/// options.
template <class T>
void log_det_hutchpp(const Operations<T>& ops, const Icnn& net, const T* theta, MatrixView<const T> x,
                     const HutchppOptions& options, double* estimate, double* variance, Team& team);

}  // namespace brenier
