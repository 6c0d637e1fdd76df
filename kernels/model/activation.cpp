// SPDX-License-Identifier: MIT
#include "brenier/model/activation.hpp"

#include <charconv>

#include "brenier/base/error.hpp"
#include "kernels/base/nearest_name.hpp"

namespace brenier {
namespace {

/// The shortest text that reads back as the same number.
std::string exact(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

const ActivationRow* row_of(const std::string& name) {
  for (const ActivationRow& row : kActivations) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

}  // namespace

std::string text_of(const Activation& activation) {
  for (const ActivationRow& row : kActivations) {
    if (row.kind != activation.kind) continue;
    return row.parameter ? row.name + ("(" + exact(activation.parameter)) + ")" : row.name;
  }
  throw ValueError("an activation that has no row in kActivations");
}

std::vector<std::string> activation_forms() {
  std::vector<std::string> out;
  for (const ActivationRow& row : kActivations) {
    out.push_back(row.parameter ? std::string(row.name) + "(" + row.parameter + ")" : row.name);
  }
  return out;
}

Activation parse_activation(const std::string& text) {
  const std::size_t bracket = text.find('(');
  const std::string name = text.substr(0, bracket);
  const ActivationRow* row = row_of(name);
  if (!row || (bracket != std::string::npos && !row->parameter)) {
    std::vector<std::string> names;
    std::string allowed;
    for (const ActivationRow& one : kActivations) names.emplace_back(one.name);
    for (const std::string& form : activation_forms())
      allowed += (allowed.empty() ? "\"" : ", \"") + form + "\"";
    throw ValueError("\"" + text + "\" is unknown; did you mean \"" + nearest_name(name, names) +
                     "\"? It must be one of " + allowed);
  }
  if (bracket == std::string::npos) return row->kind;
  double value = 0;
  const char* const last = text.data() + text.size() - 1;
  const auto end = std::from_chars(text.data() + bracket + 1, last, value);
  if (*last != ')' || end.ec != std::errc() || end.ptr != last ||
      !(value >= row->least && value < row->below)) {
    throw ValueError("\"" + text + "\" is not allowed: the " + row->parameter +
                     " in brackets is a number, at least " + exact(row->least) + " and below " +
                     exact(row->below));
  }
  return {row->kind, value};
}

}  // namespace brenier
