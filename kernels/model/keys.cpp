// SPDX-License-Identifier: MIT
#include "kernels/model/keys.hpp"

namespace brenier {

const Keys<Architecture>& architecture_keys() {
  using O = Architecture;
  static const Keys<O> keys = {
      {"hidden", [](O& o) -> Slot { return &o.hidden; }, between(1, 1e6),
       "widths of the layers, or of the blocks"},
      {"activation",
       [](O& o) -> Slot {
         Activation& sigma = o.activation;
         return Choice(
             activation_forms(), [&sigma] { return text_of(sigma); },
             [&sigma](const std::string& text) { sigma = parse_activation(text); });
       },
       {},
       "convex, smooth, non-decreasing"},
      {"residual",
       [](O& o) -> Slot { return &o.residual; },
       {},
       "blocks of two layers with skips; all widths equal"},
      {"quadratic_rank", [](O& o) -> Slot { return &o.quadratic_rank; }, between(0, 100'000),
       "rows of B in the quadratic part (alpha I + B^T B)/2; the dimension makes maps between Gaussians "
       "exact"},
      {"learn_alpha", [](O& o) -> Slot { return &o.learn_alpha; }, {}, "false: alpha keeps its first value"},
      {"alpha_min", [](O& o) -> Slot { return &o.alpha_min; }, at_least(0), "lower bound of a learned alpha"},
      {"floor", [](O& o) -> Slot { return &o.floor; }, at_least(0),
       "lower bound of the weights that convexity wants positive"},
      {"sharpness", [](O& o) -> Slot { return &o.sharpness; },
       Range{.low = 0, .high = 1e6, .low_excluded = true},
       "bends so many times as sharp from the start, for targets with distant modes"},
  };
  return keys;
}

const Keys<SinkhornOptions>& sinkhorn_keys() {
  using O = SinkhornOptions;
  const KeyMore only{.only = {"sinkhorn"}};
  static const Keys<O> keys = {
      {"epsilon", [](O& o) -> Slot { return &o.epsilon; }, above(0),
       "entropy's weight, in the unit of the cost", only},
      {"scaling", [](O& o) -> Slot { return &o.scaling; },
       Range{.low = 0, .high = 1, .low_excluded = true, .high_excluded = true},
       "factor by which the root of epsilon falls, from the largest cost on", only},
      {"iterations", [](O& o) -> Slot { return &o.iterations; }, between(1, 1e9),
       "most steps at the last epsilon", only},
      {"warm_iterations", [](O& o) -> Slot { return &o.warm_iterations; }, between(1, 1e9),
       "the same where there are potentials of the iteration before", only},
      {"tolerance", [](O& o) -> Slot { return &o.tolerance; }, at_least(0),
       "ends the steps where the marginals are met to this, in total variation; 0: all steps", only},
      {"debiased", [](O& o) -> Slot { return &o.debiased; }, {}, "the Sinkhorn divergence", only},
  };
  return keys;
}

}  // namespace brenier
