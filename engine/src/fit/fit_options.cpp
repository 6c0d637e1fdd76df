// SPDX-License-Identifier: MIT
// What the options of a training may be.
#include "engine/src/fit/fit_options.hpp"

#include "kernels/base/show.hpp"
#include "kernels/model/keys.hpp"

namespace brenier {

const Keys<FitOptions>& fit_keys() {
  using O = FitOptions;
  constexpr double most = 2'000'000'000;
  static const Keys<O> keys = {
      {"loss",
       [](O& o) -> Slot {
         return Choice(o.loss, {{"binary", O::Loss::binary}, {"squared", O::Loss::squared}});
       },
       {},
       "cross-entropy of labels 0 and 1, or mean squared error"},
      {"scaling",
       [](O& o) -> Slot {
         using Scaling = O::Scaling;
         return Choice(o.scaling, {{"coordinates", Scaling::coordinates}, {"common", Scaling::common}});
       },
       {},
       "each coordinate by its deviation, or all alike: quiet ones stay quiet"},
      {"hidden", at<&O::hidden>, between(1, 1e6), "widths of the layers"},
      {"activation", [](O& o) -> Slot { return choice(o.activation); }, {}, "convex, smooth, non-decreasing"},
      {"residual", at<&O::residual>, {}, "blocks of two layers with skips; all widths equal"},
      {"quadratic_rank", at<&O::quadratic_rank>, between(0, 100'000), "rank of a learned quadratic term"},
      {"solver",
       [](O& o) -> Slot {
         using Solver = O::Solver;
         return Choice(o.solver,
                       {{"auto", Solver::automatic}, {"lbfgs", Solver::lbfgs}, {"adam", Solver::adam}});
       },
       {},
       "all points at once, or minibatches; auto: lbfgs for up to 16,384 points"},
      {"epochs", at<&O::epochs>, between(1, most), "most passes over the points"},
      {"batch", at<&O::batch>, at_least(1), "points of a minibatch"},
      {"rate", at<&O::rate>, above(0), "of Adam"},
      {"rate_factor", at<&O::rate_factor>, Range{.low = 0, .high = 1, .low_excluded = true},
       "of the rate where it falls"},
      {"patience", at<&O::patience>, between(1, most),
       "epochs without a lower validation loss until the rate falls"},
      {"stop", at<&O::stop>, between(0, most), "such epochs until the end; 0: never"},
      {"keep_best", at<&O::keep_best>, {}, "the parameters of the best epoch, not those of the last one"},
      {"validation", at<&O::validation>,
       Range{.low = 0, .high = 1, .low_excluded = true, .high_excluded = true}, "share of the points"},
      {"test", at<&O::test>, Range{.low = 0, .high = 1, .high_excluded = true},
       "share of the points, only looked at in the end"},
      {"seed", at<&O::seed>, at_least(0), "of all random numbers"},
      {"device", at<&O::device>, {}, "auto, cpu, cpu:VARIANT, ref, cuda or cuda:K"},
      {"threads", at<&O::threads>, between(0, 4096), "0: all processors; results do not depend on it"},
  };
  return keys;
}

void FitOptions::validate() const {
  check_options(fit_keys(), *this, "fit: ");
  if (!(validation + test < 1)) {
    bad_option("fit: validation + test",
               " = " + show(validation + test) + "; it must be below 1: the rest is trained on");
  }
}

}  // namespace brenier
