// SPDX-License-Identifier: MIT
// What the options of a flow may be.
#include <cmath>
#include <string>

#include "brenier/base/error.hpp"
#include "brenier/flow.hpp"
#include "kernels/base/show.hpp"

namespace brenier {
namespace {

[[noreturn]] void bad_option(const std::string& name, const std::string& value, const std::string& range) {
  throw ValueError("flow: " + name + " = " + value + "; it must be " + range);
}

}  // namespace

void FlowOptions::validate() const {
  if (!(tau > 0) || !std::isfinite(tau)) bad_option("tau", show(tau), "above 0");
  if (order != 1 && order != 2) bad_option("order", std::to_string(order), "1 or 2");
  if (!(adaptive.tolerance >= 0) || !std::isfinite(adaptive.tolerance))
    bad_option("adaptive.tolerance", show(adaptive.tolerance), "at least 0 (0: equal steps)");
  if (adaptive.tolerance > 0 && order != 2)
    bad_option("order", std::to_string(order), "2 where steps are adaptive: both orders give the error");
  if (adaptive.tolerance > 0 && !(adaptive.end_time > start_time))
    bad_option("adaptive.end_time", show(adaptive.end_time), "above start_time");
  if (!std::isfinite(start_time)) bad_option("start_time", show(start_time), "finite");
  if (!(mass > 0) || !std::isfinite(mass)) bad_option("mass", show(mass), "above 0");
  if (threads < 0) bad_option("threads", std::to_string(threads), "at least 1, or 0 for all processors");
  if (inner.iterations < 1) bad_option("inner.iterations", std::to_string(inner.iterations), "at least 1");
  if (!(inner.adam.rate > 0) || !std::isfinite(inner.adam.rate)) {
    bad_option("inner.adam.rate", show(inner.adam.rate), "above 0");
  }
  if (!(inner.adam.final_fraction >= 0 && inner.adam.final_fraction <= 1)) {
    bad_option("inner.adam.final_fraction", show(inner.adam.final_fraction), "in [0, 1]");
  }
  if (!(inner.adam.beta1 >= 0 && inner.adam.beta1 < 1)) {
    bad_option("inner.adam.beta1", show(inner.adam.beta1), "in [0, 1)");
  }
  if (!(inner.adam.beta2 >= 0 && inner.adam.beta2 < 1)) {
    bad_option("inner.adam.beta2", show(inner.adam.beta2), "in [0, 1)");
  }
  if (!(inner.adam.epsilon > 0)) bad_option("inner.adam.epsilon", show(inner.adam.epsilon), "above 0");
  if (!(inner.alpha >= 0)) bad_option("inner.alpha", show(inner.alpha), "at least 0");
  if (inner.minibatch < 0)
    bad_option("inner.minibatch", std::to_string(inner.minibatch), "at least 0 (0: all)");
  if (inner.refresh < 0) bad_option("inner.refresh", std::to_string(inner.refresh), "at least 0 (0: never)");
  if (!(inner.tolerance >= 0)) bad_option("inner.tolerance", show(inner.tolerance), "at least 0 (0: never)");
  const LogDetChoice& log_det = inner.log_det;
  if (log_det.probes < 1 || log_det.probes > 1000)
    bad_option("inner.log_det.probes", std::to_string(log_det.probes), "in [1, 1000]");
  if (log_det.iterations < 1 || log_det.iterations > 1000)
    bad_option("inner.log_det.iterations", std::to_string(log_det.iterations), "in [1, 1000]");
  if (!(log_det.tolerance >= 0 && log_det.tolerance < 1))
    bad_option("inner.log_det.tolerance", show(log_det.tolerance), "in [0, 1) (0: all steps)");
  if (inner.retries < 0) bad_option("inner.retries", std::to_string(inner.retries), "at least 0");
}

}  // namespace brenier
