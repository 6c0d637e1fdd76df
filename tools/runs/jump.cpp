// SPDX-License-Identifier: MIT
#include "tools/runs/jump.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>
#include <vector>

namespace brenier::app {
namespace {

constexpr Index kSegments = 64;
constexpr int kHalvings = 60;      // beyond the spacing of doubles
constexpr double kWorthIt = 1e-3;  // of what V varies by between the particles

struct Jump {
  double size = 0;
  std::vector<double> at;
};

/// The change of V that is left on the segment from a to b, and where.
Jump last_change(const Expression& v, std::vector<double> a, std::vector<double> b) {
  double at_a = v.value(a), at_b = v.value(b);
  std::vector<double> middle(a.size());
  for (int k = 0; k < kHalvings; ++k) {
    for (std::size_t c = 0; c < a.size(); ++c) middle[c] = a[c] + (b[c] - a[c]) / 2;
    if (middle == a || middle == b) break;
    const double at_middle = v.value(middle);
    if (!std::isfinite(at_middle)) return {};
    const bool first = std::abs(at_middle - at_a) >= std::abs(at_b - at_middle);
    (first ? b : a) = middle;
    (first ? at_b : at_a) = at_middle;
  }
  return {std::abs(at_b - at_a), std::move(a)};
}

}  // namespace

std::string jump_between(const Functional& functional, MatrixView<const double> x, double time) {
  if (x.rows < 2) return "";
  const Functional now = functional.depends_on_time() ? functional.at(time) : functional;
  const Index step = std::max<Index>(1, x.rows / kSegments);
  const auto row = [&](Index i) { return std::vector<double>(x.row(i), x.row(i) + x.cols); };
  for (const Functional::Term& term : now.terms_of<Functional::Potential>()) {
    const Expression& v = std::get<Functional::Potential>(term.kind).v;
    double least = v.value(row(0)), most = least;
    for (Index i = 0; i < x.rows; i += step) {
      const double value = v.value(row(i));
      least = std::min(least, value);
      most = std::max(most, value);
    }
    Jump largest;
    for (Index i = 0; i + step < x.rows; i += step) {
      // Some far, some near.
      for (const Index j : {i + step, (i + x.rows / 2) % x.rows}) {
        Jump found = last_change(v, row(i), row(j));
        if (found.size > largest.size) largest = std::move(found);
      }
    }
    if (!(largest.size > kWorthIt * (most - least))) continue;
    std::string out = "V jumps by ";
    char part[64];
    std::snprintf(part, sizeof part, "%.4g at x = (", largest.size);
    out += part;
    for (std::size_t c = 0; c < largest.at.size() && c < 8; ++c) {
      std::snprintf(part, sizeof part, "%s%.4g", c > 0 ? ", " : "", largest.at[c]);
      out += part;
    }
    out += largest.at.size() > 8 ? ", ...)" : ")";
    return out +
           ", and no gradient says so: the flow does not see the jump; let V be continuous there, e.g. by "
           "tanh of a short "
           "length, in \"" +
           v.text() + "\"";
  }
  return "";
}

}  // namespace brenier::app
