// SPDX-License-Identifier: MIT
// Options as data. One row says the name of an option in a configuration, where it lives, what it may be, its
// meaning; its default is the value that a default options object has. The rows are what files are read by,
// what options are checked by, and what the reference of keys is written from, so that a range is written once.
//
//     {"tau", at<&FlowOptions::tau>, above(0), "length of a step"}
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "brenier/base/view.hpp"

namespace brenier {

/// Values a number may have; either end may be excluded.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_excluded = false;
  bool high_excluded = false;
  bool infinite = false;  // in C++, infinity may stand for no bound; never in a file

  bool contains(double value) const;
  std::string words() const;
};
inline Range above(double low) {
  return {.low = low, .low_excluded = true};
}
inline Range at_least(double low) {
  return {.low = low};
}
inline Range between(double low, double high) {
  return {.low = low, .high = high};
}
inline Range any_number() {
  return {};
}

/// A value that has one of some names.
class Choice {
 public:
  template <class Value>
  Choice(Value& value, const std::vector<std::pair<std::string, Value>>& values) {
    for (const auto& [name, one] : values) names.push_back(name);
    get = [&value, values] {
      for (const auto& [name, one] : values) {
        if (one == value) return name;
      }
      return std::string();
    };
    set = [&value, values](const std::string& wanted) {
      for (const auto& [name, one] : values) {
        if (name == wanted) value = one;
      }
    };
  }

  /// Texts of a form that others know: `write` throws ValueError, which says what they may be.
  Choice(std::vector<std::string> forms, std::function<std::string()> read,
         std::function<void(const std::string&)> write)
      : names(std::move(forms)), get(std::move(read)), set(std::move(write)), checks(true) {}

  std::vector<std::string> names;
  std::function<std::string()> get;  // empty where the value has no name
  std::function<void(const std::string&)> set;
  bool checks = false;  // set() does
};

/// A value with a reader of its own: the row has its name and its meaning, `values` says what it may be.
struct Special {
  std::string values;
};

/// Where an option lives, and with that its type. Paths and optional numbers have no default.
using Slot = std::variant<double*, int*, Index*, std::uint64_t*, bool*, std::string*, std::vector<int>*,
                          std::optional<double>*, std::filesystem::path*, Choice, Special>;

/// The slot of a plain member, or of a member of a member.
template <auto... members, class Options>
Slot at(Options& options) {
  return &(options.*....*members);
}

/// What few rows need.
struct KeyMore {
  bool required = false;
  std::vector<std::string> only = {};  // kinds of the section that have the key; empty: all
  std::string fallback = "";           // the default in words, where it follows from other keys
  std::string member = "";             // the option's name in C++, where that is not the key's
};

/// One row.
template <class Options>
struct Key {
  std::string name;
  Slot (*slot)(Options&);
  Range range;
  std::string help;
  KeyMore more = {};

  bool applies(const std::string& kind) const {
    if (more.only.empty() || kind.empty()) return true;
    for (const std::string& one : more.only) {
      if (one == kind) return true;
    }
    return false;
  }
};

template <class Options>
using Keys = std::vector<Key<Options>>;

/// What the number or the numbers in a slot break: "= 0; it must be above 0". Empty where all is well.
std::string trouble(const Slot& slot, const Range& range);

/// ValueError for the first option outside its range: `where`, its name, its value, what it may be. `kind`:
/// of the section; rows of other kinds are not looked at.
template <class Options>
void check_options(const Keys<Options>& keys, Options options, const std::string& where,
                   const std::string& kind = "");

/// The value in a slot, all its digits; empty for what has a reader of its own.
std::string text_of(const Slot& slot);

/// All options: what two programs compare to know whether they have the same.
template <class Options>
std::string texts_of(const Keys<Options>& keys, Options options) {
  std::string out;
  for (const Key<Options>& key : keys) out += key.name + " = " + text_of(key.slot(options)) + "\n";
  return out;
}

[[noreturn]] void bad_option(const std::string& name, const std::string& trouble);

template <class Options>
void check_options(const Keys<Options>& keys, Options options, const std::string& where,
                   const std::string& kind) {
  for (const Key<Options>& key : keys) {
    if (!key.applies(kind)) continue;
    const std::string what = trouble(key.slot(options), key.range);
    if (!what.empty()) bad_option(where + (key.more.member.empty() ? key.name : key.more.member), what);
  }
}

}  // namespace brenier
