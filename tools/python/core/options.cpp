// SPDX-License-Identifier: MIT
#include "tools/python/core/options.hpp"

#include <functional>
#include <limits>

#include "engine/src/fit/fit_options.hpp"
#include "engine/src/flow/options.hpp"
#include "kernels/base/nearest_name.hpp"
#include "kernels/base/show.hpp"
#include "kernels/model/keys.hpp"

namespace brenier::python {
namespace {

std::string text(nb::handle value) {
  return nb::cast<std::string>(nb::repr(value));
}

/// Puts a value of Python into the slot of an option.
struct Put {
  const std::string& name;
  nb::handle value;

  [[noreturn]] void refuse(const std::string& wanted) const {
    throw nb::type_error((name + " = " + text(value) + "; it must be " + wanted).c_str());
  }
  template <class T>
  void put(T& slot, const char* wanted) const {
    if (PyBool_Check(value.ptr()) || !nb::try_cast(value, slot)) refuse(wanted);
  }
  /// A whole number that the slot cannot hold is told by its range.
  template <class T>
  void put_whole(T& slot, const char* wanted) const {
    const bool whole = !PyBool_Check(value.ptr()) && PyIndex_Check(value.ptr());
    if (whole && !nb::try_cast(value, slot)) {
      const bool above = PyObject_RichCompareBool(value.ptr(), nb::int_(0).ptr(), Py_GT) == 1;
      throw ValueError(name + " = " + text(value) + "; it must be " +
                       (above ? "at most " + std::to_string(std::numeric_limits<T>::max())
                              : "at least " + std::to_string(std::numeric_limits<T>::min())));
    }
    put(slot, wanted);
  }
  void operator()(double* slot) const { put(*slot, "a number"); }
  void operator()(std::optional<double>* slot) const { put(slot->emplace(), "a number"); }
  void operator()(int* slot) const { put_whole(*slot, "a whole number"); }
  void operator()(Index* slot) const { put_whole(*slot, "a whole number"); }
  void operator()(std::uint64_t* slot) const { put_whole(*slot, "a whole number, at least 0"); }
  void operator()(std::vector<int>* slot) const { put(*slot, "a list of whole numbers"); }
  void operator()(std::string* slot) const { put(*slot, "a text"); }
  void operator()(std::filesystem::path* slot) const { put(*slot, "a path"); }
  void operator()(bool* slot) const {
    const std::string type = Py_TYPE(value.ptr())->tp_name;
    if (type != "bool" && type != "numpy.bool" && type != "numpy.bool_") refuse("True or False");
    *slot = PyObject_IsTrue(value.ptr()) == 1;
  }
  void operator()(const Choice& choice) const {
    std::string wanted, names;
    for (const std::string& one : choice.names) names += (names.empty() ? "\"" : ", \"") + one + "\"";
    if (!nb::try_cast(value, wanted)) refuse("one of " + names);
    if (!choice.checks && std::find(choice.names.begin(), choice.names.end(), wanted) == choice.names.end())
      throw ValueError(name + " = " + text(value) + "; it must be one of " + names);
    choice.set(wanted);
  }
  void operator()(const Special&) const { refuse("left out"); }
};

/// What a slot may hold, in words.
struct Words {
  std::string operator()(const double*) const { return "number"; }
  std::string operator()(const std::optional<double>*) const { return "number"; }
  std::string operator()(const int*) const { return "whole number"; }
  std::string operator()(const Index*) const { return "whole number"; }
  std::string operator()(const std::uint64_t*) const { return "whole number"; }
  std::string operator()(const std::vector<int>*) const { return "list of whole numbers"; }
  std::string operator()(const std::string*) const { return "text"; }
  std::string operator()(const std::filesystem::path*) const { return "path"; }
  std::string operator()(const bool*) const { return "bool"; }
  std::string operator()(const Choice& choice) const {
    std::string out;
    for (const std::string& one : choice.names) out += (out.empty() ? "\"" : " or \"") + one + "\"";
    return out;
  }
  std::string operator()(const Special& special) const { return special.values; }
};

/// The value in a slot as Python writes it.
std::string written(const Slot& slot) {
  if (const auto* flag = std::get_if<bool*>(&slot)) return **flag ? "True" : "False";
  if (const auto* list = std::get_if<std::vector<int>*>(&slot)) return text(nb::cast(**list));
  if (const auto* choice = std::get_if<Choice>(&slot)) return "\"" + choice->get() + "\"";
  if (const auto* word = std::get_if<std::string*>(&slot)) return "\"" + **word + "\"";
  return text_of(slot);
}

/// An option of some Options, under its name in Python.
template <class Options>
struct Row {
  std::string name, values, fallback, help;
  std::vector<std::string> only;
  std::function<void(Options&, nb::handle)> set;
};

/// The rows of a part of the options.
template <class Options, class Of, class Part>
void add(std::vector<Row<Options>>& rows, const Keys<Of>& keys, const Part& part) {
  for (const Key<Of>& key : keys) {
    // The one name of two tables.
    const bool taken =
        std::any_of(rows.begin(), rows.end(), [&](const Row<Options>& row) { return row.name == key.name; });
    const std::string name = (taken ? "inner_" : "") + key.name;
    Options defaults;
    const Slot slot = key.slot(part(defaults));
    if (std::holds_alternative<Special>(slot)) continue;  // of files alone: the flow has no such option
    const std::string fallback = key.more.fallback.empty() ? written(slot) : key.more.fallback;
    const bool of_auto = key.more.only == std::vector<std::string>{"auto"};
    rows.push_back({name, std::visit(Words{}, slot), fallback,
                    (of_auto ? "with tau = \"auto\": " : "") + key.help, key.more.only,
                    [&key, part, name](Options& options, nb::handle value) {
                      const Slot to = key.slot(part(options));
                      std::visit(Put{name, value}, to);
                      if (const std::string what = trouble(to, key.range); !what.empty())
                        bad_option(name, what);
                    }});
  }
}

const std::vector<Row<FlowOptions>>& flow_rows() {
  static const std::vector<Row<FlowOptions>> rows = [] {
    std::vector<Row<FlowOptions>> out;
    const auto all = [](FlowOptions& o) -> FlowOptions& { return o; };
    add(out, flow_keys(), all);
    add(out, architecture_keys(), [](FlowOptions& o) -> Architecture& { return o.network; });
    add(out, network_keys(), all);
    add(out, inner_keys(), all);
    add(out, run_keys(), all);
    std::erase_if(out, [](const Row<FlowOptions>& row) { return row.name == "tau"; });
    for (Row<FlowOptions>& row : out) {
      if (row.name == "order") row.fallback = "2; 1 with method = \"particles\"";
    }
    return out;
  }();
  return rows;
}

const std::vector<Row<FitOptions>>& fit_rows() {
  static const std::vector<Row<FitOptions>> rows = [] {
    std::vector<Row<FitOptions>> out;
    add(out, fit_keys(), [](FitOptions& o) -> FitOptions& { return o; });
    return out;
  }();
  return rows;
}

template <class Options>
const Row<Options>& find(const std::vector<Row<Options>>& rows, const std::string& name) {
  std::vector<std::string> names;
  for (const Row<Options>& row : rows) {
    if (row.name == name) return row;
    names.push_back(row.name);
  }
  const std::string nearest = nearest_name(name, names, 3);
  std::string message = "there is no option '" + name + "'";
  if (!nearest.empty()) {
    message += "; did you mean '" + nearest + "'?";
  } else {
    message += "; they are";
    for (const std::string& one : names) message += (&one == &names.front() ? ": " : ", ") + one;
  }
  throw nb::type_error(message.c_str());
}

template <class Options>
nb::list listed(const std::vector<Row<Options>>& rows) {
  nb::list out;
  for (const Row<Options>& row : rows)
    out.append(nb::make_tuple(row.name, row.values, row.fallback, row.help));
  return out;
}

}  // namespace

FlowOptions flow_options(nb::handle tau, const nb::dict& given, double start_time, double mass) {
  FlowOptions options;
  options.order = 2;
  options.start_time = start_time;
  options.mass = mass;
  const bool adapts = PyUnicode_Check(tau.ptr());
  if (adapts && nb::cast<std::string>(tau) != "auto")
    throw ValueError("tau = " + text(tau) + "; it must be a number above 0, or \"auto\"");
  if (!adapts) Put{"tau", tau}(&options.tau);
  const auto set = [&](const std::string& name, nb::handle value) {
    const Row<FlowOptions>& row = find(flow_rows(), name);
    if (!row.only.empty() && !adapts)
      throw ValueError(name + " = " + text(value) + " goes with tau = \"auto\"");
    row.set(options, value);
  };
  if (given.contains("method") && !given.contains("order")) {
    set("method", given["method"]);
    if (options.method == FlowOptions::Method::particles) options.order = 1;  // the only one it has
  }
  if (adapts) {
    if (!given.contains("end_time")) throw ValueError("end_time is missing: tau = \"auto\" needs it");
    set("end_time", given["end_time"]);
    if (given.contains("start_time")) set("start_time", given["start_time"]);
    if (!(options.adaptive.end_time > options.start_time))
      throw ValueError("end_time = " + text(given["end_time"]) + "; it must be above " +
                       exact_text(options.start_time) + ", where the flow starts");
    options.adaptive.tolerance = 2e-3;
    options.tau = 1e-3 * (options.adaptive.end_time - options.start_time);
  }
  for (const auto& [key, value] : given) set(nb::cast<std::string>(key), value);
  return options;
}

FitOptions fit_options(const nb::dict& given) {
  FitOptions options;
  for (const auto& [key, value] : given) find(fit_rows(), nb::cast<std::string>(key)).set(options, value);
  return options;
}

void bind_options(nb::module_& m) {
  nb::class_<FlowOptions>(m, "FlowOptions")
      .def_ro("order", &FlowOptions::order)
      .def_ro("tau", &FlowOptions::tau)
      .def_ro("seed", &FlowOptions::seed)
      .def_ro("threads", &FlowOptions::threads)
      .def_prop_ro("end_time", [](const FlowOptions& o) { return o.adaptive.end_time; });
  m.def("flow_options", &flow_options, "tau"_a, "given"_a, "start_time"_a, "mass"_a);
  m.def(
      "flow_option_rows", [] { return listed(flow_rows()); }, "(name, values, default, meaning) of each");
  m.def(
      "fit_option_rows", [] { return listed(fit_rows()); }, "(name, values, default, meaning) of each");
}

}  // namespace brenier::python
