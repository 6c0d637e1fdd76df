// SPDX-License-Identifier: MIT
// How long something takes. Samples are blocks of repetitions, long against the clock; several subjects are
// sampled in turn, so that a machine that slows down slows all of them down; medians are reported, with the
// least.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

namespace brenier::bench {

/// Seconds since some moment.
inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Seconds for one repetition.
struct Timing {
  double median = 0;
  double least = 0;
  std::size_t samples = 0;
  int repetitions = 1;  // of a block
};

/// Something to be timed: body(count) does `count` repetitions.
class Subject {
 public:
  explicit Subject(std::function<void(int)> body) : body_(std::move(body)) {}

  /// Warms up, and chooses the repetitions of a block so that it takes about `block_seconds`. What a block
  /// costs once (a graph to record, copies to a device) would hide in a short trial: it grows until it tells.
  void prepare(double block_seconds = 0.02) {
    body_(1);
    for (count_ = 1;;) {
      const double start = now();
      body_(count_);
      const double once = std::max(now() - start, 1e-9) / count_;
      const int wanted = static_cast<int>(std::clamp(std::round(block_seconds / once), 1.0, 1e6));
      const bool settled = wanted <= 2 * count_;
      count_ = wanted;
      if (settled) return;
    }
  }

  /// Times one block.
  void sample() {
    const double start = now();
    body_(count_);
    samples_.push_back((now() - start) / count_);
  }

  double spent() const {
    double sum = 0;
    for (const double s : samples_) sum += s * count_;
    return sum;
  }

  /// Of all samples so far; at least one is needed.
  Timing timing() const {
    std::vector<double> sorted = samples_;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t n = sorted.size();
    return {n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2, sorted.front(), n, count_};
  }

 private:
  std::function<void(int)> body_;
  std::vector<double> samples_;
  int count_ = 1;
};

/// Samples all subjects in turn, in blocks of about `block` seconds, until each has had about `seconds`; at
/// least one sample each.
inline void interleave(std::vector<Subject>& subjects, double seconds, double block = 0.02) {
  for (Subject& subject : subjects) subject.prepare(std::min(block, seconds));
  bool open = true;
  for (bool first = true; open; first = false) {
    open = false;
    for (Subject& subject : subjects) {
      if (!first && subject.spent() >= seconds) continue;
      subject.sample();
      open = true;
    }
  }
}

/// One subject alone.
inline Timing measure(std::function<void(int)> body, double seconds, double block = 0.02) {
  std::vector<Subject> subjects{Subject(std::move(body))};
  interleave(subjects, seconds, block);
  return subjects.front().timing();
}

}  // namespace brenier::bench
