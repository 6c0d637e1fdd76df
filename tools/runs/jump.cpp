// SPDX-License-Identifier: MIT
#include "tools/runs/jump.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <span>
#include <vector>

namespace brenier::app {
namespace {

constexpr Index kSegments = 64;
constexpr int kHalvings = 60;      // beyond the spacing of doubles
constexpr double kWorthIt = 1e-3;  // of what V varies by between and near the particles
constexpr double kRounding = 256;  // units in the last place of V, whose parts may be larger
constexpr double kNear = 1e-4;     // of the coordinates

struct Jump {
  double size = 0;
  std::vector<double> at, along;  // the segment's direction
};

/// What V takes.
struct Range {
  double least = std::numeric_limits<double>::infinity(), most = -least;

  void add(double value) {
    if (!std::isfinite(value)) return;
    least = std::min(least, value);
    most = std::max(most, value);
  }
  /// The smallest jump that is no rounding and no slope over the spacing of doubles.
  double floor() const {
    const double size = std::max(std::abs(least), std::abs(most));
    return std::max(kWorthIt * (most - least), kRounding * std::numeric_limits<double>::epsilon() * size);
  }
};

/// The change of V that is left on the segment from a to b, and where. Adds the values on the way to `range`.
Jump last_change(const Expression& v, std::vector<double> a, std::vector<double> b, Range& range) {
  std::vector<double> along(a.size());
  for (std::size_t c = 0; c < a.size(); ++c) along[c] = b[c] - a[c];
  double at_a = v.value(a), at_b = v.value(b);
  std::vector<double> middle(a.size());
  for (int k = 0; k < kHalvings; ++k) {
    for (std::size_t c = 0; c < a.size(); ++c) middle[c] = a[c] + (b[c] - a[c]) / 2;
    if (middle == a || middle == b) break;
    const double at_middle = v.value(middle);
    if (!std::isfinite(at_middle)) return {};
    range.add(at_middle);
    const bool first = std::abs(at_middle - at_a) >= std::abs(at_b - at_middle);
    (first ? b : a) = middle;
    (first ? at_b : at_a) = at_middle;
  }
  return {std::abs(at_b - at_a), std::move(a), std::move(along)};
}

/// Values of V on both sides of a jump. Particles that all sit in one minimum see no more of V than its rounding.
void look_around(const Expression& v, const Jump& jump, Range& range) {
  double size = 0, length = 0;
  for (std::size_t c = 0; c < jump.at.size(); ++c) {
    size = std::max(size, std::abs(jump.at[c]));
    length = std::max(length, std::abs(jump.along[c]));
  }
  if (!(length > 0)) return;
  for (const double side : {-kNear, kNear}) {
    std::vector<double> x = jump.at;
    for (std::size_t c = 0; c < x.size(); ++c) x[c] += side * size * (jump.along[c] / length);
    range.add(v.value(x));
  }
}

}  // namespace

std::string jump_between(const Functional& functional, MatrixView<const double> x, double time) {
  if (x.rows < 2) return "";
  const Functional now = functional.depends_on_time() ? functional.at(time) : functional;
  const Index step = std::max<Index>(1, x.rows / kSegments);
  const auto row = [&](Index i) { return std::vector<double>(x.row(i), x.row(i) + x.cols); };
  for (const Functional::Term& term : now.terms_of<Functional::Potential>()) {
    const Expression& v = std::get<Functional::Potential>(term.kind).v;
    Range range;
    for (Index i = 0; i < x.rows; i += step) range.add(v.value(row(i)));
    Jump largest;
    for (Index i = 0; i + step < x.rows; i += step) {
      // Some far, some near.
      for (const Index j : {i + step, (i + x.rows / 2) % x.rows}) {
        Jump found = last_change(v, row(i), row(j), range);
        if (found.size > largest.size) largest = std::move(found);
      }
    }
    if (!(largest.size > 0)) continue;
    look_around(v, largest, range);
    if (!(largest.size > range.floor())) continue;
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
