// SPDX-License-Identifier: MIT
// What the options of a flow may be.
#include "engine/src/flow/options.hpp"

#include <cmath>
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/base/show.hpp"

namespace brenier {
namespace {

using O = FlowOptions;
constexpr double kMost = 2'000'000'000;

}  // namespace

const Keys<FlowOptions>& run_keys() {
  static const Keys<O> keys = {
      {"seed", [](O& o) -> Slot { return &o.seed; }, at_least(0), "of all random numbers"},
      {"device", [](O& o) -> Slot { return &o.device; }, {}, "auto, cpu, cpu:VARIANT, ref, cuda or cuda:K"},
      {"threads", [](O& o) -> Slot { return &o.threads; }, between(0, 4096),
       "0: all processors; results do not depend on it"},
  };
  return keys;
}

const Keys<FlowOptions>& flow_keys() {
  static const Keys<O> keys = {
      {"start_time",
       [](O& o) -> Slot { return &o.start_time; },
       any_number(),
       "time of the initial cloud",
       {.fallback = "0, or the time of a Barenblatt profile"}},
      {"tau",
       [](O& o) -> Slot { return &o.tau; },
       above(0),
       "length of a step in the time unit of the PDE; \"auto\": the flow chooses lengths itself",
       {.required = true, .only = {"number"}}},
      {"order",
       [](O& o) -> Slot { return &o.order; },
       between(1, 2),
       "1: JKO; 2: BDF2 along trajectories, which tau = \"auto\" needs",
       {.fallback = "1; 2 where tau = \"auto\""}},
      {"end_time",
       [](O& o) -> Slot { return &o.adaptive.end_time; },
       Range{.infinite = true},
       "where the last step ends",
       {.required = true, .only = {"auto"}, .member = "adaptive.end_time"}},
      {"tolerance",
       [](O& o) -> Slot { return &o.adaptive.tolerance; },
       above(0),
       "of a step's estimated error, relative to the cloud's deviation",
       {.only = {"auto"}, .fallback = "0.002", .member = "adaptive.tolerance"}},
      {"first_tau",
       [](O& o) -> Slot { return &o.tau; },
       above(0),
       "length of the first step",
       {.only = {"auto"}, .fallback = "a thousandth of the duration", .member = "tau"}},
      {"certificates",
       [](O& o) -> Slot { return &o.certificates; },
       {},
       "smallest eigenvalue and round trip of every map"},
      {"keep_maps",
       [](O& o) -> Slot { return &o.keep_maps; },
       {},
       "false: a program that embeds a flow drops each map after its step; runs write them all"},
  };
  return keys;
}

const Keys<FlowOptions>& network_keys() {
  static const Keys<O> keys = {
      {"alpha",
       [](O& o) -> Slot { return &o.inner.alpha; },
       at_least(0),
       "quadratic skip at the start: 1 makes the first map the identity",
       {.member = "inner.alpha"}},
      {"normalise",
       [](O& o) -> Slot { return &o.normalise; },
       {},
       "the network sees (x - mean)/deviation of the cloud"},
  };
  return keys;
}

const Keys<FlowOptions>& inner_keys() {
  const Range decay{.low = 0, .high = 1, .high_excluded = true};
  static const Keys<O> keys = {
      {"solver",
       [](O& o) -> Slot {
         using Solver = InnerOptions::Solver;
         return Choice(o.inner.solver,
                       {{"auto", Solver::automatic}, {"lbfgs", Solver::lbfgs}, {"adam", Solver::adam}});
       },
       {},
       "auto: lbfgs on cpu and ref without minibatch, refresh and cg, with adam where it does not solve a "
       "step"},
      {"iterations", [](O& o) -> Slot { return &o.inner.iterations; }, between(1, kMost),
       "most gradients of a step"},
      {"accept", [](O& o) -> Slot { return &o.inner.accept; },
       Range{.low = 0, .high = 1, .low_excluded = true},
       "a step is solved where it misses at most this share of its possible decrease"},
      {"on_unsolved",
       [](O& o) -> Slot {
         using What = InnerOptions::OnUnsolved;
         return Choice(o.inner.on_unsolved, {{"warn", What::warn}, {"stop", What::stop}});
       },
       {},
       "take a step that is not solved, and say so, or end there"},
      {"rate", [](O& o) -> Slot { return &o.inner.adam.rate; }, above(0), "of Adam", {.member = "adam.rate"}},
      {"final_fraction",
       [](O& o) -> Slot { return &o.inner.adam.final_fraction; },
       between(0, 1),
       "of the rate, at the last iteration",
       {.member = "adam.final_fraction"}},
      {"beta1",
       [](O& o) -> Slot { return &o.inner.adam.beta1; },
       decay,
       "of Adam: decay of the mean",
       {.member = "adam.beta1"}},
      {"beta2",
       [](O& o) -> Slot { return &o.inner.adam.beta2; },
       decay,
       "of Adam: decay of the squares",
       {.member = "adam.beta2"}},
      {"epsilon",
       [](O& o) -> Slot { return &o.inner.adam.epsilon; },
       above(0),
       "of Adam, relative to the first gradient of the flow",
       {.member = "adam.epsilon"}},
      {"warm_start",
       [](O& o) -> Slot { return &o.inner.warm_start; },
       {},
       "start from the map of the step before"},
      {"initialisation",
       [](O& o) -> Slot {
         return Choice(o.inner.initialisation,
                       {{"identity", Initialisation::identity}, {"paper", Initialisation::paper}});
       },
       {},
       "a map near the identity, or the paper's random weights"},
      {"minibatch", [](O& o) -> Slot { return &o.inner.minibatch; }, between(0, kMost),
       "particles of an iteration; 0: all"},
      {"refresh", [](O& o) -> Slot { return &o.inner.refresh; }, between(0, kMost),
       "iterations between new clouds drawn from the initial density; 0: never"},
      {"tolerance", [](O& o) -> Slot { return &o.inner.tolerance; }, at_least(0),
       "ends at this gradient, relative to the first of the flow; 0: never"},
      {"retries", [](O& o) -> Slot { return &o.inner.retries; }, between(0, 100),
       "after a divergence, each at a quarter of the rate"},
      {"logdet",
       [](O& o) -> Slot {
         using Method = LogDetOptions::Method;
         return Choice(o.inner.log_det.method,
                       {{"auto", Method::automatic}, {"exact", Method::exact}, {"cg", Method::cg}});
       },
       {},
       "gradient of log det H: exact, by conjugate gradients (noisy); auto: exact below 24 dimensions, with "
       "lbfgs up to 128"},
      {"probes",
       [](O& o) -> Slot { return &o.inner.log_det.probes; },
       between(1, 1000),
       "of cg, for each particle and iteration",
       {.member = "log_det.probes"}},
      {"cg_iterations",
       [](O& o) -> Slot { return &o.inner.log_det.iterations; },
       between(1, 1000),
       "of cg: most steps of a solve",
       {.member = "log_det.iterations"}},
      {"cg_tolerance",
       [](O& o) -> Slot { return &o.inner.log_det.tolerance; },
       decay,
       "of cg: ends a solve at this relative residual; 0: all steps",
       {.member = "log_det.tolerance"}},
  };
  return keys;
}

void FlowOptions::validate() const {
  const bool adapts = adaptive.tolerance != 0;
  check_options(run_keys(), *this, "flow: ");
  check_options(flow_keys(), *this, "flow: ", adapts ? "auto" : "number");
  check_options(network_keys(), *this, "flow: ");
  check_options(inner_keys(), *this, "flow: inner.");
  if (!(mass > 0) || !std::isfinite(mass))
    bad_option("flow: mass", " = " + show(mass) + "; it must be above 0");
  if (inner.solver == InnerOptions::Solver::lbfgs && inner.refresh > 0) {
    bad_option("flow: inner.refresh",
               " = " + std::to_string(inner.refresh) +
                   "; it must be 0 where inner.solver is lbfgs, whose function must not change");
  }
  if (inner.solver == InnerOptions::Solver::lbfgs && inner.log_det.method == LogDetOptions::Method::cg) {
    bad_option(
        "flow: inner.log_det.method",
        " = cg; it must be exact where inner.solver is lbfgs: random probes give no gradient of a function");
  }
  if (!keep_maps && inner.refresh > 0) {
    bad_option("flow: keep_maps",
               " = false; it must be true where inner.refresh is above 0: clouds that are drawn "
               "again go through all maps");
  }
  if (adapts && order != 2) {
    bad_option("flow: order", " = " + std::to_string(order) +
                                  "; it must be 2 where steps are adaptive: both orders give the error");
  }
  if (adapts && !(adaptive.end_time > start_time)) {
    bad_option("flow: adaptive.end_time", " = " + show(adaptive.end_time) + "; it must be above start_time");
  }
}

}  // namespace brenier
