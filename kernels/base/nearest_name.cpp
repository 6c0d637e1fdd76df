// SPDX-License-Identifier: MIT
#include "kernels/base/nearest_name.hpp"

#include <algorithm>
#include <numeric>

namespace brenier {
namespace {

/// Whether one of two names starts with the other one. One or two letters at the start of a long word are
/// chance.
bool cut(std::string_view name, std::string_view other) {
  return !name.empty() && (other.starts_with(name) || (other.size() > 2 && name.starts_with(other)));
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t change = diagonal + (a[i] != b[j] ? 1 : 0);
      diagonal = row[j + 1];
      row[j + 1] = std::min({change, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& names, std::size_t limit) {
  std::string nearest;
  std::size_t best = 0;
  for (const std::string& other : names) {
    const std::size_t distance = cut(name, other) ? std::size_t{other != name} : edit_distance(name, other);
    if (distance > limit || (!nearest.empty() && distance >= best)) continue;
    best = distance;
    nearest = other;
  }
  return nearest;
}

}  // namespace brenier
