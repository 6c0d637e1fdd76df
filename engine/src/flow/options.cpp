// SPDX-License-Identifier: MIT
// What the options of a flow may be.
#include "engine/src/flow/options.hpp"

#include <cmath>
#include <limits>
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
      {"seed", at<&O::seed>, at_least(0), "of all random numbers"},
      {"device", at<&O::device>, {}, "auto, cpu, cpu:VARIANT, ref, cuda or cuda:K"},
      {"threads", at<&O::threads>, between(0, 4096), "0: all processors; results do not depend on it"},
  };
  return keys;
}

const Keys<FlowOptions>& flow_keys() {
  static const Keys<O> keys = {
      {"start_time",
       at<&O::start_time>,
       any_number(),
       "time of the initial cloud",
       {.fallback = "0, or the time of a Barenblatt profile"}},
      {"method",
       [](O& o) -> Slot {
         return Choice(o.method, {{"network", O::Method::network}, {"particles", O::Method::particles}});
       },
       {},
       "network: every step is a map; particles: the particles alone are moved, where F has no internal "
       "energy, at order 1: no map and no density"},
      {"tau",
       at<&O::tau>,
       above(0),
       "length of a step in the time unit of the PDE; \"auto\": the flow chooses lengths itself",
       {.required = true, .only = {"number"}}},
      {"order",
       at<&O::order>,
       between(1, 2),
       "1: JKO; 2: BDF2 along trajectories, which tau = \"auto\" needs",
       {.fallback = "1; 2 where tau = \"auto\""}},
      {"end_time",
       at<&O::adaptive, &AdaptiveOptions::end_time>,
       Range{.infinite = true},
       "where the last step ends",
       {.required = true, .only = {"auto"}, .member = "adaptive.end_time"}},
      {"end_time",
       [](O&) -> Slot { return Special{"number, a whole number of tau after start_time"}; },
       {},
       "where the last step ends, in place of `steps`",
       {.only = {"number"}}},
      {"tolerance",
       at<&O::adaptive, &AdaptiveOptions::tolerance>,
       above(0),
       "of a step's estimated error, relative to the cloud's deviation",
       {.only = {"auto"}, .fallback = "0.002", .member = "adaptive.tolerance"}},
      {"first_tau",
       at<&O::tau>,
       above(0),
       "length of the first step",
       {.only = {"auto"}, .fallback = "a thousandth of the duration", .member = "tau"}},
      {"max_tau",
       at<&O::adaptive, &AdaptiveOptions::longest>,
       at_least(0),
       "longest step, for an F that changes with time: pulses that are shorter are stepped over; 0: no limit",
       {.only = {"auto"}, .member = "adaptive.longest"}},
      {"certificates", at<&O::certificates>, {}, "smallest eigenvalue and round trip of every map"},
      {"keep_maps",
       at<&O::keep_maps>,
       {},
       "false: a program that embeds a flow drops each map after its step; runs write them all"},
  };
  return keys;
}

const Keys<FlowOptions>& network_keys() {
  static const Keys<O> keys = {
      {"alpha",
       at<&O::inner, &InnerOptions::alpha>,
       at_least(0),
       "quadratic skip at the start: 1 makes the first map the identity",
       {.member = "inner.alpha"}},
      {"normalise", at<&O::normalise>, {}, "the network sees (x - mean)/deviation of the cloud"},
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
       "auto: lbfgs without minibatch, refresh and cg, with adam where it does not solve a step"},
      {"iterations", at<&O::inner, &InnerOptions::iterations>, between(1, kMost), "most gradients of a step"},
      {"accept", at<&O::inner, &InnerOptions::accept>, Range{.low = 0, .high = 1, .low_excluded = true},
       "a step is solved where it misses at most this share of its possible decrease, and ends within ten "
       "times "
       "this share of its way from its optimum"},
      {"on_unsolved",
       [](O& o) -> Slot {
         using What = InnerOptions::OnUnsolved;
         return Choice(o.inner.on_unsolved, {{"warn", What::warn}, {"stop", What::stop}});
       },
       {},
       "take a step that is not solved, and say so, or end there"},
      {"rate",
       at<&O::inner, &InnerOptions::adam, &AdamOptions::rate>,
       above(0),
       "of Adam",
       {.member = "adam.rate"}},
      {"final_fraction",
       at<&O::inner, &InnerOptions::adam, &AdamOptions::final_fraction>,
       between(0, 1),
       "of the rate, at the last iteration",
       {.member = "adam.final_fraction"}},
      {"beta1",
       at<&O::inner, &InnerOptions::adam, &AdamOptions::beta1>,
       decay,
       "of Adam: decay of the mean",
       {.member = "adam.beta1"}},
      {"beta2",
       at<&O::inner, &InnerOptions::adam, &AdamOptions::beta2>,
       decay,
       "of Adam: decay of the squares",
       {.member = "adam.beta2"}},
      {"epsilon",
       at<&O::inner, &InnerOptions::adam, &AdamOptions::epsilon>,
       above(0),
       "of Adam, relative to the first gradient of the flow",
       {.member = "adam.epsilon"}},
      {"warm_start", at<&O::inner, &InnerOptions::warm_start>, {}, "start from the map of the step before"},
      {"initialisation",
       [](O& o) -> Slot {
         return Choice(o.inner.initialisation,
                       {{"identity", Initialisation::identity}, {"paper", Initialisation::paper}});
       },
       {},
       "a map near the identity, or the paper's random weights"},
      {"minibatch", at<&O::inner, &InnerOptions::minibatch>, between(0, kMost),
       "particles of an iteration; 0: all"},
      {"refresh", at<&O::inner, &InnerOptions::refresh>, between(0, kMost),
       "iterations between new clouds drawn from the initial density; 0: never"},
      {"pool", at<&O::inner, &InnerOptions::pool>, between(0, 1000),
       "clouds that refresh takes in turn and carries along; 0: each is new, and goes through all maps"},
      {"tolerance", at<&O::inner, &InnerOptions::tolerance>, at_least(0),
       "ends at this gradient, relative to the first of the flow; 0: never"},
      {"retries", at<&O::inner, &InnerOptions::retries>, between(0, 100),
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
       at<&O::inner, &InnerOptions::log_det, &LogDetOptions::probes>,
       between(1, 1000),
       "of cg, for each particle and iteration",
       {.member = "log_det.probes"}},
      {"cg_iterations",
       at<&O::inner, &InnerOptions::log_det, &LogDetOptions::iterations>,
       between(1, 1000),
       "of cg: most steps of a solve",
       {.member = "log_det.iterations"}},
      {"cg_tolerance",
       at<&O::inner, &InnerOptions::log_det, &LogDetOptions::tolerance>,
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
  if (inner.solver == InnerOptions::Solver::lbfgs && !is_smooth(network.activation)) {
    bad_option("flow: inner.solver", " = lbfgs with activation = " + text_of(network.activation) +
                                         ", whose objective jumps; it must be adam or auto");
  }
  if (!keep_maps && inner.refresh > 0) {
    bad_option("flow: keep_maps",
               " = false; it must be true where inner.refresh is above 0: clouds that are drawn "
               "again go through all maps");
  }
  if (inner.pool > 0 && inner.refresh == 0) {
    bad_option("flow: inner.pool",
               " = " + std::to_string(inner.pool) +
                   " goes with inner.refresh above 0, the iterations after which its next cloud "
                   "is taken; it must be 0 here");
  }
  if (method == Method::particles && order == 2)
    bad_option("flow: order", " = 2 with method = particles; it must be 1, as extrapolations need maps");
  if (method == Method::particles && (inner.minibatch > 0 || inner.refresh > 0)) {
    bad_option("flow: inner.minibatch", " = " + std::to_string(inner.minibatch) +
                                            " and inner.refresh = " + std::to_string(inner.refresh) +
                                            "; both must be 0 with method = particles, which moves all");
  }
  if (adapts && order != 2) {
    bad_option("flow: order", " = " + std::to_string(order) +
                                  "; it must be 2 where steps are adaptive: both orders give the error");
  }
  if (adapts && !(adaptive.end_time > start_time)) {
    bad_option("flow: adaptive.end_time", " = " + show(adaptive.end_time) + "; it must be above start_time");
  }
  // Times are sums of a start and of steps; a thousandth of a step is the least that has to show in them.
  const double shown = 1000 * std::numeric_limits<double>::epsilon() * std::abs(start_time);
  if (const double step = adapts ? adaptive.end_time - start_time : tau; step < shown) {
    bad_option("flow: start_time",
               " = " + show(start_time) + "; it must be at most " +
                   show(step / (1000 * std::numeric_limits<double>::epsilon())) +
                   (adapts ? " from 0 for the end_time " + show(adaptive.end_time)
                           : " from 0 for tau = " + show(tau)) +
                   ", which is lost in its rounding: let the time begin at 0, or take another unit of it");
  }
}

}  // namespace brenier
