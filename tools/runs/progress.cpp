// SPDX-License-Identifier: MIT
#include "tools/runs/progress.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ostream>

namespace brenier::app {

std::string duration_text(double seconds) {
  char text[64];
  if (seconds < 9.95) {
    std::snprintf(text, sizeof text, "%.1f s", seconds);
    return text;
  }
  const long long whole = std::llround(seconds);
  if (whole < 60) {
    std::snprintf(text, sizeof text, "%lld s", whole);
  } else if (whole < 3600) {
    std::snprintf(text, sizeof text, "%lld min %02lld s", whole / 60, whole % 60);
  } else {
    std::snprintf(text, sizeof text, "%lld h %02lld min", whole / 3600, whole % 3600 / 60);
  }
  return text;
}

Progress::Progress(std::ostream* out, bool terminal, const Course& course)
    : out_(out), terminal_(terminal), course_(course), start_(std::chrono::steady_clock::now()) {}

void Progress::step(const HistoryRow& row, bool below_infimum) {
  if (!out_) return;
  const double share = (row.time - course_.time) / (course_.end_time - course_.time);
  const bool end = share > 1 - 1e-9;
  if (!terminal_) {
    const int twentieths = static_cast<int>(20 * share + 1e-9);
    const bool first = below_infimum && !told_;
    if (twentieths == lines_ && !end && !first) return;
    lines_ = twentieths;
  }
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double left = elapsed / share * (1 - share);
  const std::string all = course_.steps > 0 ? "/" + std::to_string(course_.steps) : "";
  char text[200];
  int length = std::snprintf(text, sizeof text, "step %d%s  t = %.5g  F = %.7g", row.step, all.c_str(),
                             row.time, row.functional.total());
  const auto append = [&](const char* format, double value) {
    if (!std::isnan(value)) {
      length += std::snprintf(text + length, sizeof text - static_cast<std::size_t>(length), format, value);
    }
  };
  append("  held-out %.7g", row.held_out);
  append("  exact %.7g", row.exact);
  append("  residual %.1e", row.residual);
  told_ = told_ || below_infimum;
  const std::string flag = below_infimum ? "  BELOW THE INFIMUM OF F" : "";
  const std::string tail = flag + (!end ? "  " + duration_text(left) + " left" : "");
  if (terminal_) {
    *out_ << "\r\x1b[K" << text << tail << std::flush;
    drawn_ = true;
  } else {
    *out_ << text << tail << std::endl;
  }
}

void Progress::line(const std::string& text) {
  if (!out_) return;
  if (drawn_) *out_ << '\n';
  drawn_ = false;
  *out_ << text << std::endl;
}

}  // namespace brenier::app
