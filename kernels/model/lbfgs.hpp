// SPDX-License-Identifier: MIT
// Projected L-BFGS with a diagonal metric (Nocedal, Math. Comp. 35, 1980; the projection of Bertsekas, SIAM J.
// Control Optim. 20, 1982) as a machine that is given one evaluation after another. Its decisions stand here once:
// the host runs it over arrays (solvers/lbfgs.hpp), a device as the block of a kernel
// (kernels/cuda/step/search_kernel.hpp). They differ in the order of their sums alone.
#pragma once

#include <atomic>
#include <cmath>
#include <limits>
#include <string>

#include "brenier/base/error.hpp"
#include "brenier/base/portable.hpp"
#include "brenier/base/view.hpp"

namespace brenier {

struct LbfgsOptions {
  int memory = 10;        // pairs kept, 1 to kMostPairs
  int evaluations = 100;  // most, >= 1
  /// Stops where `window` iterations, 1 to kMostWindow, together lower f by less than `tolerance` of (reference -
  /// f). An f above the reference does not stop it. NaN: the reference is the first value.
  double tolerance = 0;
  int window = 3;
  double reference = std::numeric_limits<double>::quiet_NaN();
  /// f at the start, where it is known: what the function adds to it does not count. NaN: what it says.
  double start = std::numeric_limits<double>::quiet_NaN();
  /// Deviation of values by rounding. Decreases below it stop the search as well, and so does a search along the
  /// gradient whose best decrease is a hundredth of it.
  double noise = 0;
  double negligible = 0;  // stops where a window lowers f by less, if f is at most this above the reference
  double gradient =
      0;  // stops where the gradient's 2-norm, without components that a bound holds, is at most this
  double first_step = 0.01;  // of the first search: no parameter moves further, in units of its metric's root
  const std::atomic<bool>* interrupt = nullptr;
};

inline constexpr int kMostPairs = 20;
inline constexpr int kMostWindow = 15;

/// ValueError where there is no room for what is asked.
inline void validate(const LbfgsOptions& options) {
  const auto check = [](const char* what, int value, int most) {
    if (value < 1 || value > most)
      throw ValueError("L-BFGS: " + std::string(what) + " = " + std::to_string(value) + "; it must be 1 to " +
                       std::to_string(most));
  };
  check("memory", options.memory, kMostPairs);
  check("window", options.window, kMostWindow);
}

struct LbfgsReport {
  enum class End { tolerance, gradient, evaluations, no_decrease, not_finite, interrupted };
  End end = End::evaluations;
  int evaluations = 0;
  int iterations = 0;         // accepted points
  int resets = 0;             // searches that began anew along the gradient
  double first = 0;           // values: at the start,
  double value = 0;           // and at the point returned, the lowest that was accepted
  double first_gradient = 0;  // norms as above
  double last_gradient = 0;   // at the last point, not always the one returned
};

/// The vectors of a search over theta (n), theta_k >= lower_k. T is the type that f sees its argument in.
template <class T>
struct LbfgsVectors {
  Index n = 0;
  const T* lower = nullptr;                            // -inf: no bound
  const double* metric = nullptr;                      // see BoundedProblem
  const double* gradient = nullptr;                    // at `trial`; written by whoever evaluates
  T *trial = nullptr, *at = nullptr, *best = nullptr;  // at first the start, all of them
  double *at_gradient = nullptr, *direction = nullptr;
  double *free = nullptr,
         *free_before = nullptr;      // 1 where a parameter may move, else 0; of the direction before
  double *s = nullptr, *y = nullptr;  // (memory + 1, n): steps and changes of gradient
};

/// What a search keeps beside them.
struct LbfgsState {
  LbfgsReport report;
  double f = 0, offset = 0, reference = 0;
  // The search along the direction.
  int trials = 0;
  double length = 1, slope = 0;
  bool has_direction = false;
  bool same_free = false;  // as at the direction before
  // Pairs: of memory + 1 places in a ring, `pairs` from `oldest` on.
  int oldest = 0, pairs = 0;
  double inverse[kMostPairs + 1] = {};  // 1/(s.y) over free parameters; 0 where they show no curvature
  double yhy[kMostPairs + 1] = {};      // y.metric.y likewise
  bool known[kMostPairs + 1] = {};      // whether these two are
  double values[kMostWindow + 1] = {};  // the last that were accepted, in a ring
};

/// Several sums in one pass.
template <int kSums>
struct LbfgsSums {
  double of[kSums];
};

/// `Space` tells which elements the caller has, and sums over all: each(f) calls f(k) for the caller's k, sums<N>(f)
/// adds the N numbers of f(k) over all k, largest(f) finds the largest f(k). All callers come to the same decisions;
/// f may write elements k.
template <class T, class Space>
class LbfgsMachine {
 public:
  BRENIER_HOST_DEVICE LbfgsMachine(const LbfgsOptions& options, const LbfgsVectors<T>& vectors,
                                   const Space& space, LbfgsState& state)
      : options_(options), v_(vectors), space_(space), state_(state) {}

  /// After an evaluation at `trial`. Whether there is another point to evaluate; else report.end says why not.
  BRENIER_HOST_DEVICE bool take(double value, bool interrupted) {
    LbfgsReport& report = state_.report;
    bool anew = true;  // a direction
    if (report.evaluations++ == 0) {
      if (!start(value)) return end(End::not_finite);
    } else {
      value += state_.offset;
      const Verdict verdict = judge(value);
      if (verdict == Verdict::settled) return end(End::tolerance);
      anew = verdict == Verdict::accepted;
      if (anew && accept(value)) return end(End::tolerance);
    }
    for (;; anew = true) {
      if (anew) {
        if (report.last_gradient <= options_.gradient) return end(End::gradient);
        aim();
      }
      if (state_.trials < kTrials && report.evaluations < options_.evaluations && !interrupted && propose())
        return true;
      if (interrupted) return end(End::interrupted);
      if (report.evaluations >= options_.evaluations) return end(End::evaluations);
      if (state_.pairs == 0) return end(End::no_decrease);
      state_.pairs = 0;
      ++report.resets;
    }
  }

 private:
  using End = LbfgsReport::End;
  enum class Verdict { accepted, refused, settled };
  static constexpr int kTrials = 12;  // of a search: down to 1e-12 of it at worst
  static constexpr double kArmijo = 1e-4, kSlope = 0.9, kSettled = 1e-2;

  BRENIER_HOST_DEVICE bool end(End why) {
    state_.report.end = why;
    return false;
  }
  BRENIER_HOST_DEVICE double step(Index k) const {
    return static_cast<double>(v_.trial[k]) - static_cast<double>(v_.at[k]);
  }
  /// Where pair `p` lies, the oldest first.
  BRENIER_HOST_DEVICE int place(int p) const { return (state_.oldest + p) % (options_.memory + 1); }

  /// False where the start is not finite.
  BRENIER_HOST_DEVICE bool start(double value) {
    LbfgsReport& report = state_.report;
    state_.offset = std::isnan(options_.start) ? 0.0 : options_.start - value;
    value += state_.offset;
    state_.f = report.first = report.value = state_.values[0] = value;
    state_.reference = std::isnan(options_.reference) ? value : options_.reference;
    space_.each([&](Index k) { v_.at_gradient[k] = v_.gradient[k]; });
    report.first_gradient = report.last_gradient = free_gradient();
    return std::isfinite(value) && std::isfinite(report.first_gradient);
  }

  template <class F>
  BRENIER_HOST_DEVICE double sum(const F& f) const {
    return space_.template sums<1>([&](Index k) { return LbfgsSums<1>{{f(k)}}; }).of[0];
  }

  /// Marks what may move, and sees whether that is new; the norm of the gradient there.
  BRENIER_HOST_DEVICE double free_gradient() {
    const bool any_before = state_.has_direction;
    const LbfgsSums<2> found = space_.template sums<2>([&](Index k) {
      const double g = v_.at_gradient[k];
      const bool held = v_.metric[k] == 0 || (v_.at[k] <= v_.lower[k] && g > 0);
      v_.free[k] = held ? 0.0 : 1.0;
      const bool changed = !any_before || v_.free[k] != v_.free_before[k];
      return LbfgsSums<2>{{v_.free[k] * g * g, changed ? 1.0 : 0.0}};
    });
    state_.same_free = found.of[1] == 0;
    return std::sqrt(found.of[0]);
  }

  /// A new direction, and its search from the whole of it on.
  BRENIER_HOST_DEVICE void aim() {
    find_direction(state_.same_free);
    space_.each([&](Index k) { v_.free_before[k] = v_.free[k]; });
    state_.has_direction = state_.same_free = true;
    const double slope = sum([&](Index k) { return v_.at_gradient[k] * v_.direction[k]; });
    if (!(slope < 0) || !std::isfinite(slope)) {
      state_.pairs = 0;
      ++state_.report.resets;
      find_direction(false);
    }
    state_.trials = 0;
    state_.length = 1;
  }

  /// direction = -H g by the two-loop recursion over the free parameters. Without pairs it is the gradient in the
  /// metric, its largest element first_step of the metric's root.
  BRENIER_HOST_DEVICE void find_direction(bool same_free) {
    double* const d = v_.direction;
    double share[kMostPairs + 1];
    space_.each([&](Index k) { d[k] = v_.free[k] * v_.at_gradient[k]; });
    double gamma = 0;
    for (int p = state_.pairs; p-- > 0;) {
      const int at = place(p);
      if (!same_free || !state_.known[at]) measure(at);
      if (state_.inverse[at] == 0) continue;
      if (gamma == 0) gamma = 1 / (state_.inverse[at] * state_.yhy[at]);
      const double *s = v_.s + at * v_.n, *y = v_.y + at * v_.n;
      share[p] = state_.inverse[at] * sum([&](Index k) { return s[k] * d[k]; });
      space_.each([&](Index k) { d[k] += -share[p] * v_.free[k] * y[k]; });
    }
    if (gamma == 0) {
      const double largest =
          space_.largest([&](Index k) { return std::abs(d[k]) * std::sqrt(v_.metric[k]); });
      const double least = std::numeric_limits<double>::min();
      gamma = options_.first_step / (largest > least ? largest : least);
    }
    space_.each([&](Index k) { d[k] *= gamma * v_.metric[k]; });
    for (int p = 0; p < state_.pairs; ++p) {
      const int at = place(p);
      if (state_.inverse[at] == 0) continue;
      const double *s = v_.s + at * v_.n, *y = v_.y + at * v_.n;
      const double back = state_.inverse[at] * sum([&](Index k) { return y[k] * d[k]; });
      space_.each([&](Index k) { d[k] += (share[p] - back) * v_.free[k] * s[k]; });
    }
    space_.each([&](Index k) { d[k] = -d[k]; });
  }

  BRENIER_HOST_DEVICE void measure(int at) {
    const double *s = v_.s + at * v_.n, *y = v_.y + at * v_.n;
    const LbfgsSums<4> sums = space_.template sums<4>([&](Index k) {
      const double f = v_.free[k];
      return LbfgsSums<4>{
          {f * s[k] * y[k], f * s[k] * s[k], f * y[k] * y[k], f * (y[k] * v_.metric[k]) * y[k]}};
    });
    const double sy = sums.of[0], size = std::sqrt(sums.of[1] * sums.of[2]), yhy = sums.of[3];
    state_.yhy[at] = yhy;
    state_.inverse[at] = sy > 1e-12 * size && yhy > 0 ? 1 / sy : 0;
    state_.known[at] = true;
  }

  /// The next trial along the direction. False where it is too short to move, and so would be all after it.
  BRENIER_HOST_DEVICE bool propose() {
    state_.slope = sum([&](Index k) {
      const T moved = static_cast<T>(static_cast<double>(v_.at[k]) + state_.length * v_.direction[k]);
      v_.trial[k] = moved > v_.lower[k] ? moved : v_.lower[k];
      return v_.at_gradient[k] * step(k);
    });
    return state_.slope != 0;
  }

  /// Of the trial; where it is refused, the length of the next one.
  BRENIER_HOST_DEVICE Verdict judge(double value) {
    const double f = state_.f, slope = state_.slope;
    const double end_slope = sum([&](Index k) { return v_.gradient[k] * step(k); });
    // Where values are rounding, slopes decide alone (Hager and Zhang, SIAM J. Optim. 16, 2005).
    const double rounding = 8 * options_.noise + 4 * std::numeric_limits<double>::epsilon() * std::abs(f);
    const bool lower = value <= f + kArmijo * slope || value <= f + rounding;
    if (slope < 0 && std::isfinite(value) && lower && end_slope <= kSlope * std::abs(slope))
      return Verdict::accepted;
    // The parabola of a search along the gradient: its least value is rounding where the start was solved already.
    if (state_.pairs == 0 && slope < 0 && end_slope > 0 &&
        slope * slope < 2 * (end_slope - slope) * kSettled * options_.noise)
      return Verdict::settled;
    // Nothing is known of the length of a first search: its parabola alone says how much too long it was.
    state_.length *= shorter(slope, lower ? -1 : value - f, end_slope, state_.pairs == 0 ? 1e-6 : 0.1);
    ++state_.trials;
    return Verdict::refused;
  }

  /// How far along the step that was refused the next trial lies: the minimum of the parabola through what is
  /// known, at least `least`.
  BRENIER_HOST_DEVICE static double shorter(double slope, double rise, double end_slope, double least) {
    double q = least;
    if (std::isfinite(rise) && rise > 0) {
      q = -slope / (2 * (rise - slope));
    } else if (std::isfinite(end_slope)) {
      q = slope / (slope - end_slope);
    } else {
      return 0.1;
    }
    return q > least ? (q < 0.5 ? q : 0.5) : least;
  }

  /// Makes the trial the point of the search. Whether that is good enough.
  BRENIER_HOST_DEVICE bool accept(double value) {
    LbfgsReport& report = state_.report;
    keep_pair();
    space_.each([&](Index k) {
      v_.at_gradient[k] = v_.gradient[k];
      v_.at[k] = v_.trial[k];
    });
    state_.f = value;
    ++report.iterations;
    report.last_gradient = free_gradient();
    if (value <= report.value + 4 * std::numeric_limits<double>::epsilon() * std::abs(value)) {
      report.value = value < report.value ? value : report.value;
      space_.each([&](Index k) { v_.best[k] = v_.at[k]; });
    }
    const auto value_of = [&](int iteration) -> double& {
      return state_.values[iteration % (kMostWindow + 1)];
    };
    value_of(report.iterations) = value;
    const double gained = state_.reference - value;
    if (report.iterations < options_.window || !(gained >= -options_.negligible)) return false;
    double enough = options_.tolerance * gained;
    if (enough < options_.noise) enough = options_.noise;
    if (enough < options_.negligible) enough = options_.negligible;
    return value_of(report.iterations - options_.window) - value < enough;
  }

  /// A pair is kept where it shows curvature: s.y of at least 1e-10 of what it could be.
  BRENIER_HOST_DEVICE void keep_pair() {
    const int at = place(state_.pairs);
    double *const s = v_.s + at * v_.n, *const y = v_.y + at * v_.n;
    const LbfgsSums<3> sums = space_.template sums<3>([&](Index k) {
      s[k] = step(k);
      y[k] = v_.gradient[k] - v_.at_gradient[k];
      return LbfgsSums<3>{{s[k] * y[k], s[k] * s[k], y[k] * y[k]}};
    });
    if (!(sums.of[0] > 1e-10 * std::sqrt(sums.of[1] * sums.of[2]))) return;
    state_.known[at] = false;
    if (state_.pairs < options_.memory) {
      ++state_.pairs;
    } else {
      state_.oldest = place(1);
    }
  }

  const LbfgsOptions& options_;
  const LbfgsVectors<T>& v_;
  const Space& space_;
  LbfgsState& state_;
};

}  // namespace brenier
