// SPDX-License-Identifier: MIT
#include "engine/src/flow/time_stepping.hpp"

#include <algorithm>
#include <cmath>

namespace brenier {

double ThreeTimes::acceleration() const {
  double squares = 0, spread = 0;
  for (Index c = 0; c < x1.cols; ++c) {
    double mean = 0;
    for (Index i = 0; i < x1.rows; ++i) mean += x1(i, c) / static_cast<double>(x1.rows);
    for (Index i = 0; i < x1.rows; ++i) {
      const double change = (x2(i, c) - x1(i, c)) / second - (x1(i, c) - x0(i, c)) / first;
      squares += change * change;
      spread += (x1(i, c) - mean) * (x1(i, c) - mean);
    }
  }
  const double rounded =
      2 * rounding * (1 / first + 1 / second) * std::sqrt(static_cast<double>(x1.rows * x1.cols));
  const double rms = 2 / (first + second) * std::max(0.0, std::sqrt(squares) - rounded);
  return rms > 0 ? rms / std::sqrt(spread) : 0;  // infinite for particles in one place, which meets nothing
}

double next_length(double tau, double error, double tolerance) {
  constexpr double safety = 0.9;  // against rejections, each of which costs a step
  return tau * std::clamp(safety * std::sqrt(tolerance / std::max(error, 1e-300)), 0.2, 2.0);
}

double fitted_length(double tau, double time, double end_time) {
  const double left = end_time - time;
  if (left <= tau * (1 + 1e-9)) return left;
  return left < 2 * tau ? left / 2 : tau;
}

}  // namespace brenier
