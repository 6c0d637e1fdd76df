// SPDX-License-Identifier: MIT
#include "kernels/model/keys.hpp"

namespace brenier {

Choice choice(Activation& sigma) {
  return {activation_forms(), [&sigma] { return text_of(sigma); },
          [&sigma](const std::string& text) { sigma = parse_activation(text); }};
}

const Keys<Architecture>& architecture_keys() {
  using O = Architecture;
  static const Keys<O> keys = {
      {"hidden", at<&O::hidden>, between(1, 1e6), "widths of the layers, or of the blocks"},
      {"activation",
       [](O& o) -> Slot { return choice(o.activation); },
       {},
       "convex, non-decreasing; leaky_relu has no log-determinants: for F without internal energy"},
      {"first_layer",
       [](O& o) -> Slot {
         return Choice(o.first_layer, {{"plain", FirstLayer::plain}, {"squared", FirstLayer::squared}});
       },
       {},
       "squared: the first layer's values are squared, with leaky_relu only"},
      {"output_activation",
       at<&O::output_activation>,
       {},
       "the potential itself goes through the activation"},
      {"residual", at<&O::residual>, {}, "blocks of two layers with skips; all widths equal"},
      {"quadratic_rank", at<&O::quadratic_rank>, between(0, 100'000),
       "rows of B in the quadratic part (alpha I + B^T B)/2; the dimension makes maps between Gaussians "
       "exact"},
      {"learn_alpha", at<&O::learn_alpha>, {}, "false: alpha keeps its first value"},
      {"alpha_min", at<&O::alpha_min>, at_least(0), "lower bound of a learned alpha"},
      {"floor", at<&O::floor>, at_least(0), "lower bound of the weights that convexity wants positive"},
      {"sharpness", at<&O::sharpness>, Range{.low = 0, .high = 1e6, .low_excluded = true},
       "bends so many times as sharp from the start, for targets with distant modes"},
  };
  return keys;
}

const Keys<SinkhornOptions>& sinkhorn_keys() {
  using O = SinkhornOptions;
  const KeyMore only{.only = {"sinkhorn"}};
  static const Keys<O> keys = {
      {"epsilon", at<&O::epsilon>, above(0), "entropy's weight, in the unit of the cost", only},
      {"scaling", at<&O::scaling>, Range{.low = 0, .high = 1, .low_excluded = true, .high_excluded = true},
       "factor by which the root of epsilon falls, from the largest cost on", only},
      {"iterations", at<&O::iterations>, between(1, 1e9), "most steps at the last epsilon", only},
      {"warm_iterations", at<&O::warm_iterations>, between(1, 1e9),
       "the same where there are potentials of the iteration before", only},
      {"tolerance", at<&O::tolerance>, at_least(0),
       "ends the steps where the marginals are met to this, in total variation; 0: all steps", only},
      {"debiased", at<&O::debiased>, {}, "the Sinkhorn divergence", only},
  };
  return keys;
}

}  // namespace brenier
