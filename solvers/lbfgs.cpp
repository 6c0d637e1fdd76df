// SPDX-License-Identifier: MIT
#include "solvers/lbfgs.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace brenier {
namespace {

using Vector = std::vector<double>;

constexpr int kLanes = 8;  // partial sums of a dot product, which compilers keep in vectors

double sum_of(const double* lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

/// sum_k a_k b_k.
double dot(const Vector& a, const Vector& b) {
  const std::size_t n = a.size(), whole = n / kLanes * kLanes;
  double lanes[kLanes] = {};
  for (std::size_t k = 0; k < whole; k += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += a[k + i] * b[k + i];
  }
  double sum = sum_of(lanes);
  for (std::size_t k = whole; k < n; ++k) sum += a[k] * b[k];
  return sum;
}

/// sum_k w_k a_k b_k.
double dot(const Vector& w, const Vector& a, const Vector& b) {
  const std::size_t n = a.size(), whole = n / kLanes * kLanes;
  double lanes[kLanes] = {};
  for (std::size_t k = 0; k < whole; k += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += w[k + i] * a[k + i] * b[k + i];
  }
  double sum = sum_of(lanes);
  for (std::size_t k = whole; k < n; ++k) sum += w[k] * a[k] * b[k];
  return sum;
}

/// y += factor * w * x, elementwise.
void add(Vector& y, double factor, const Vector& w, const Vector& x) {
  for (std::size_t k = 0; k < y.size(); ++k) y[k] += factor * w[k] * x[k];
}

/// The last steps and changes of gradient, as an approximate inverse Hessian on the free parameters.
class Memory {
 public:
  Memory(int most, const Vector& metric) : most_(static_cast<std::size_t>(most)), metric_(metric) {}

  bool empty() const { return pairs_.empty(); }
  void clear() { pairs_.clear(); }

  /// A pair is kept where it shows curvature: s.y of at least 1e-10 of what it could be.
  void add_pair(Vector s, Vector y) {
    const double sy = dot(s, y);
    if (!(sy > 1e-10 * std::sqrt(dot(s, s) * dot(y, y)))) return;
    if (pairs_.size() == most_) {
      Pair oldest = std::move(pairs_.front());
      pairs_.erase(pairs_.begin());
      pairs_.push_back(std::move(oldest));
    } else {
      pairs_.emplace_back();
    }
    Pair& pair = pairs_.back();
    pair.s = std::move(s);
    pair.y = std::move(y);
    pair.known = false;
  }

  /// d = -H g by the two-loop recursion, `free` 1 where a parameter may move and 0 elsewhere. Without pairs d is
  /// the gradient in the metric, its largest element first_step of the metric's root.
  void direction(const Vector& g, const Vector& free, bool same_free, double first_step, Vector& d) {
    for (std::size_t k = 0; k < d.size(); ++k) d[k] = free[k] * g[k];
    double gamma = 0;
    for (std::size_t p = pairs_.size(); p-- > 0;) {
      Pair& pair = pairs_[p];
      if (!same_free || !pair.known) measure(pair, free);
      if (pair.inverse == 0) continue;
      if (gamma == 0) gamma = 1 / (pair.inverse * pair.yhy);
      pair.share = pair.inverse * dot(pair.s, d);
      add(d, -pair.share, free, pair.y);
    }
    if (gamma == 0) {
      double largest = 0;
      for (std::size_t k = 0; k < d.size(); ++k)
        largest = std::max(largest, std::abs(d[k]) * std::sqrt(metric_[k]));
      gamma = first_step / std::max(largest, std::numeric_limits<double>::min());
    }
    for (std::size_t k = 0; k < d.size(); ++k) d[k] *= gamma * metric_[k];
    for (Pair& pair : pairs_) {
      if (pair.inverse == 0) continue;
      const double back = pair.inverse * dot(pair.y, d);
      add(d, pair.share - back, free, pair.s);
    }
    for (double& value : d) value = -value;
  }

 private:
  struct Pair {
    Vector s, y;
    double inverse = 0;  // 1/(s.y) over free parameters; 0 where they show no curvature
    double yhy = 0;      // y.metric.y likewise
    double share = 0;    // of the recursion
    bool known = false;
  };

  void measure(Pair& pair, const Vector& free) {
    const double sy = dot(free, pair.s, pair.y);
    const double size = std::sqrt(dot(free, pair.s, pair.s) * dot(free, pair.y, pair.y));
    Vector weighted = pair.y;
    for (std::size_t k = 0; k < weighted.size(); ++k) weighted[k] *= metric_[k];
    pair.yhy = dot(free, weighted, pair.y);
    pair.inverse = sy > 1e-12 * size && pair.yhy > 0 ? 1 / sy : 0;
    pair.known = true;
  }

  std::size_t most_;
  const Vector& metric_;
  std::vector<Pair> pairs_;  // oldest first
};

/// How far along the step that was refused the next trial lies: the minimum of the parabola through what is known, at
/// least `least`.
double shorter(double slope, double rise, double end_slope, double least) {
  double q = least;
  if (std::isfinite(rise) && rise > 0) {
    q = -slope / (2 * (rise - slope));
  } else if (std::isfinite(end_slope)) {
    q = slope / (slope - end_slope);
  } else {
    return 0.1;
  }
  return q > least ? std::min(q, 0.5) : least;
}

}  // namespace

template <class T>
LbfgsReport minimise(const BoundedProblem<T>& problem, const LbfgsOptions& options, std::vector<T>& theta) {
  constexpr int kTrials = 12;  // of a search: down to 1e-12 of it at worst
  constexpr double kArmijo = 1e-4, kSlope = 0.9, kSettled = 1e-2;
  using End = LbfgsReport::End;
  const std::size_t n = theta.size();
  const Vector metric(problem.metric.begin(), problem.metric.end());
  Memory memory(options.memory, metric);
  Vector g(n), trial_gradient(n), d(n), free(n), s(n), y(n), before_free;
  std::vector<T> at = theta, trial(n);
  LbfgsReport report;

  double f = problem.evaluate(at.data(), g.data());
  report.evaluations = 1;
  report.first = report.value = f;
  const auto interrupted = [&] {
    return options.interrupt && options.interrupt->load(std::memory_order_relaxed);
  };
  /// Marks what may move; the norm of the gradient there.
  const auto free_gradient = [&] {
    for (std::size_t k = 0; k < n; ++k) {
      free[k] = metric[k] == 0 || (at[k] <= problem.lower[k] && g[k] > 0) ? 0.0 : 1.0;
    }
    return std::sqrt(dot(free, g, g));
  };
  report.first_gradient = report.last_gradient = free_gradient();
  if (!std::isfinite(f) || !std::isfinite(report.first_gradient)) {
    report.end = End::not_finite;
    return report;
  }
  const double reference = std::isnan(options.reference) ? f : options.reference;
  std::vector<double> values{f};
  for (;;) {
    if (report.last_gradient <= options.gradient) {
      report.end = End::gradient;
      break;
    }
    memory.direction(g, free, free == before_free, options.first_step, d);
    before_free = free;
    double slope = dot(g, d);
    if (!(slope < 0) || !std::isfinite(slope)) {
      memory.clear();
      ++report.resets;
      memory.direction(g, free, false, options.first_step, d);
    }
    bool accepted = false, settled = false;
    double length = 1, value = 0;
    for (int k = 0; k < kTrials && report.evaluations < options.evaluations && !interrupted(); ++k) {
      for (std::size_t i = 0; i < n; ++i) {
        const T moved = static_cast<T>(static_cast<double>(at[i]) + length * d[i]);
        trial[i] = moved > problem.lower[i] ? moved : problem.lower[i];
        s[i] = static_cast<double>(trial[i]) - static_cast<double>(at[i]);
      }
      slope = dot(g, s);
      if (slope == 0) break;  // too short to move, and so would be all after it
      value = problem.evaluate(trial.data(), trial_gradient.data());
      ++report.evaluations;
      const double end_slope = dot(trial_gradient, s);
      // Where values are rounding, slopes decide alone (Hager and Zhang, SIAM J. Optim. 16, 2005).
      const double rounding = 8 * options.noise + 4 * std::numeric_limits<double>::epsilon() * std::abs(f);
      const bool lower = value <= f + kArmijo * slope || value <= f + rounding;
      accepted = slope < 0 && std::isfinite(value) && lower && end_slope <= kSlope * std::abs(slope);
      if (accepted) break;
      // The parabola of a search along the gradient: its least value is rounding where the start was solved already.
      settled = memory.empty() && slope < 0 && end_slope > 0 &&
                slope * slope < 2 * (end_slope - slope) * kSettled * options.noise;
      if (settled) break;
      // Nothing is known of the length of a first search: its parabola alone says how much too long it was.
      length *= shorter(slope, lower ? -1 : value - f, end_slope, memory.empty() ? 1e-6 : 0.1);
    }
    if (settled) {
      report.end = End::tolerance;
      break;
    }
    if (!accepted) {
      if (interrupted()) {
        report.end = End::interrupted;
        break;
      }
      if (report.evaluations >= options.evaluations) {
        report.end = End::evaluations;
        break;
      }
      if (memory.empty()) {
        report.end = End::no_decrease;
        break;
      }
      memory.clear();
      ++report.resets;
      continue;
    }
    for (std::size_t k = 0; k < n; ++k) y[k] = trial_gradient[k] - g[k];
    memory.add_pair(s, y);
    std::swap(g, trial_gradient);
    std::swap(at, trial);
    f = value;
    ++report.iterations;
    report.last_gradient = free_gradient();
    values.push_back(f);
    if (f <= report.value + 4 * std::numeric_limits<double>::epsilon() * std::abs(f)) {
      report.value = std::min(f, report.value);
      theta = at;
    }
    const std::size_t last = values.size() - 1, window = static_cast<std::size_t>(options.window);
    const double gained = reference - f;
    if (last >= window && gained >= -options.negligible &&
        values[last - window] - f <
            std::max({options.tolerance * gained, options.noise, options.negligible})) {
      report.end = End::tolerance;
      break;
    }
  }
  return report;
}

template LbfgsReport minimise(const BoundedProblem<float>&, const LbfgsOptions&, std::vector<float>&);
template LbfgsReport minimise(const BoundedProblem<double>&, const LbfgsOptions&, std::vector<double>&);

}  // namespace brenier
