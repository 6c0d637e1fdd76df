// SPDX-License-Identifier: MIT
// What somebody may have meant who has misspelt a name.
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace brenier {

/// Levenshtein's edit distance: letters to insert, to delete or to change.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The name nearest to `name`, the first of several; empty where none is within `limit`. A name that was cut
/// short, or with something after it, is nearer than one with two letters changed.
std::string nearest_name(std::string_view name, const std::vector<std::string>& names,
                         std::size_t limit = std::numeric_limits<std::size_t>::max());

}  // namespace brenier
