// SPDX-License-Identifier: MIT
#include "kernels/base/keys.hpp"

#include <cmath>

#include "brenier/base/error.hpp"
#include "kernels/base/show.hpp"

namespace brenier {
namespace {

std::string outside(double value, const Range& range) {
  if ((std::isfinite(value) || range.infinite) && range.contains(value)) return "";
  return " = " + exact_text(value) + "; it must be " + range.words();
}

/// A visitor with a case for each type: one without a case does not compile.
struct Trouble {
  const Range& range;

  std::string operator()(const double* value) const { return outside(*value, range); }
  std::string operator()(const int* value) const { return outside(*value, range); }
  std::string operator()(const Index* value) const { return outside(static_cast<double>(*value), range); }
  std::string operator()(const std::uint64_t* value) const {
    return outside(static_cast<double>(*value), range);
  }
  std::string operator()(const std::vector<int>* values) const {
    for (const int value : *values) {
      if (std::string text = outside(value, range); !text.empty()) return text;
    }
    return "";
  }
  std::string operator()(const std::optional<double>* value) const {
    return *value ? outside(**value, range) : "";
  }
  std::string operator()(const Choice& choice) const {
    if (choice.get().empty()) return " has no name; it must be one of those declared";
    try {
      choice.set(choice.get());
    } catch (const ValueError& error) {
      return std::string(" = ") + error.what();
    }
    return "";
  }
  std::string operator()(const bool*) const { return ""; }
  std::string operator()(const std::string*) const { return ""; }
  std::string operator()(const std::filesystem::path*) const { return ""; }
  std::string operator()(const Special&) const { return ""; }
};

struct Text {
  std::string operator()(const double* value) const { return exact_text(*value); }
  std::string operator()(const int* value) const { return std::to_string(*value); }
  std::string operator()(const Index* value) const { return std::to_string(*value); }
  std::string operator()(const std::uint64_t* value) const { return std::to_string(*value); }
  std::string operator()(const bool* value) const { return *value ? "true" : "false"; }
  std::string operator()(const std::string* value) const { return *value; }
  std::string operator()(const std::vector<int>* values) const {
    std::string out;
    for (const int value : *values) out += std::to_string(value) + " ";
    return out;
  }
  std::string operator()(const std::optional<double>* value) const {
    return *value ? exact_text(**value) : "none";
  }
  std::string operator()(const std::filesystem::path* value) const { return value->string(); }
  std::string operator()(const Choice& choice) const { return choice.get(); }
  std::string operator()(const Special&) const { return ""; }
};

}  // namespace

bool Range::contains(double value) const {
  if (std::isnan(value)) return false;
  return (low_excluded ? value > low : value >= low) && (high_excluded ? value < high : value <= high);
}

std::string Range::words() const {
  std::string out;
  if (std::isfinite(low)) out = (low_excluded ? "above " : "at least ") + exact_text(low);
  if (std::isfinite(high)) {
    out += out.empty() ? "" : " and ";
    out += (high_excluded ? "below " : "at most ") + exact_text(high);
  }
  return out.empty() ? "a finite number" : out;
}

std::string trouble(const Slot& slot, const Range& range) {
  return std::visit(Trouble{range}, slot);
}

std::string text_of(const Slot& slot) {
  return std::visit(Text{}, slot);
}

void bad_option(const std::string& name, const std::string& trouble) {
  throw ValueError(name + trouble);
}

}  // namespace brenier
