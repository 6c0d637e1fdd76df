// SPDX-License-Identifier: MIT
// How far a run is: one line that is redrawn on a terminal, about twenty plain lines in a log.
#pragma once

#include <chrono>
#include <iosfwd>
#include <string>

#include "tools/runs/report.hpp"

namespace brenier::app {

class Progress {
 public:
  /// Where a flow is and where it ends; `steps` in all, 0 where that is not known.
  struct Course {
    double time = 0, end_time = 0;
    int steps = 0;
  };
  /// `out` may be nullptr: says nothing.
  Progress(std::ostream* out, bool terminal, const Course& course);

  /// `below_infimum` flags the line; the first such step is told in any case.
  void step(const HistoryRow& row, bool below_infimum = false);
  /// A line of its own, below or instead of the redrawn one.
  void line(const std::string& text);

 private:
  std::ostream* out_;
  bool terminal_;
  bool drawn_ = false;
  bool told_ = false;  // that F is below its infimum
  Course course_;
  int lines_ = 0;  // twentieths of the way that are told
  std::chrono::steady_clock::time_point start_;
};

/// A duration for people: "0.8 s", "12 s", "3 min 05 s", "2 h 10 min".
std::string duration_text(double seconds);

}  // namespace brenier::app
