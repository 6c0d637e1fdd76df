// SPDX-License-Identifier: MIT
#include "tools/runs/report.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <variant>

#include "brenier/oracles.hpp"
#include "brenier/version.hpp"
#include "brenier/wasserstein.hpp"
#include "kernels/base/show.hpp"

namespace brenier::app {
namespace {

/// What the fields of other columns say already: written, not read.
struct Sum {
  double value;
};
using Field = std::variant<double*, int*, Index*, bool*, LogDetOptions::Method*, Sum>;

struct Column {
  const char* name;
  Field (*field)(HistoryRow&);
};

/// Where the members lead, one from the other.
template <auto... members>
Field at(HistoryRow& row) {
  return &(row.*....*members);
}

constexpr Column kColumns[] = {
    {"step", at<&HistoryRow::step>},
    {"time", at<&HistoryRow::time>},
    {"tau", at<&HistoryRow::tau>},
    {"order", at<&HistoryRow::order>},
    {"F", [](HistoryRow& row) -> Field { return Sum{row.functional.total()}; }},
    {"potential", at<&HistoryRow::functional, &ObjectiveValue::potential>},
    {"interaction", at<&HistoryRow::functional, &ObjectiveValue::interaction>},
    {"internal", at<&HistoryRow::functional, &ObjectiveValue::internal>},
    {"divergence", at<&HistoryRow::functional, &ObjectiveValue::divergence>},
    {"F_heldout", at<&HistoryRow::held_out>},
    {"F_exact", at<&HistoryRow::exact>},
    {"F_scheme", at<&HistoryRow::scheme>},
    {"std", at<&HistoryRow::std>},
    {"std_exact", at<&HistoryRow::std_exact>},
    {"std_scheme", at<&HistoryRow::std_scheme>},
    {"transport", at<&HistoryRow::transport>},
    {"decrease", at<&HistoryRow::decrease>},
    {"time_error", at<&HistoryRow::time_error>},
    {"rejected", at<&HistoryRow::rejected>},
    {"residual", at<&HistoryRow::residual>},
    {"iterations", at<&HistoryRow::iterations>},
    {"min_log_det", at<&HistoryRow::min_log_det>},
    {"solved", at<&HistoryRow::solved>},
    {"fitted", at<&HistoryRow::fitted>},
    {"floor", at<&HistoryRow::floor>},
    {"missed_share", at<&HistoryRow::missed_share>},
    {"missed_share_heldout", at<&HistoryRow::missed_share_held_out>},
    {"displacement_error", at<&HistoryRow::displacement_error>},
    {"particle_decrease", at<&HistoryRow::particle_decrease>},
    {"coincident", at<&HistoryRow::coincident>},
    {"min_eigenvalue", at<&HistoryRow::min_eigenvalue>},
    {"round_trip", at<&HistoryRow::round_trip>},
    {"rate", at<&HistoryRow::rate>},
    {"retries", at<&HistoryRow::retries>},
    {"log_det_cg", at<&HistoryRow::log_det_method>},
    {"log_det_error", at<&HistoryRow::log_det_error>},
    {"log_det_deviation", at<&HistoryRow::log_det_deviation>},
    {"cg_residual", at<&HistoryRow::cg, &CgReport::worst_residual>},
    {"cg_unconverged", at<&HistoryRow::cg, &CgReport::unconverged>},
    {"cg_indefinite", at<&HistoryRow::cg, &CgReport::indefinite>},
    {"sinkhorn_error", at<&HistoryRow::sinkhorn, &SinkhornReport::marginal_error>},
    {"sinkhorn_unconverged", at<&HistoryRow::sinkhorn, &SinkhornReport::unconverged>},
    {"sinkhorn_solves", at<&HistoryRow::sinkhorn, &SinkhornReport::solves>},
    {"seconds", at<&HistoryRow::seconds>},
    {"inner_seconds", at<&HistoryRow::inner_seconds>},
    {"cloud_seconds", at<&HistoryRow::cloud_seconds>},
    {"certificate_seconds", at<&HistoryRow::certificate_seconds>},
};

struct Write {
  template <class Number>
  double operator()(const Number* value) const {
    return static_cast<double>(*value);
  }
  double operator()(const LogDetOptions::Method* value) const { return *value == LogDetOptions::Method::cg; }
  double operator()(const Sum& sum) const { return sum.value; }
};

/// False where it is no such value.
struct Read {
  double value;

  bool operator()(double* out) const { return *out = value, true; }
  bool operator()(int* out) const { return whole(out, std::numeric_limits<int>::max()); }
  bool operator()(Index* out) const { return whole(out, 1LL << 53); }
  bool operator()(bool* out) const { return whole(out, 1); }
  bool operator()(LogDetOptions::Method* out) const {
    bool cg = false;
    const bool is = whole(&cg, 1);
    *out = cg ? LogDetOptions::Method::cg : LogDetOptions::Method::exact;
    return is;
  }
  bool operator()(const Sum&) const { return true; }

 private:
  template <class Whole>
  bool whole(Whole* out, double most) const {
    if (!(value >= 0 && value <= most) || value != std::floor(value)) return false;
    *out = static_cast<Whole>(value);
    return true;
  }
};

const std::string& header() {
  static const std::string text = [] {
    std::string out;
    for (const Column& column : kColumns) (out += out.empty() ? "" : ",") += column.name;
    return out;
  }();
  return text;
}

using Json = nlohmann::ordered_json;

/// Adds a number where it is known.
void put(Json& object, const char* key, double value) {
  if (std::isfinite(value)) object[key] = value;
}

/// Errors of the flow against one set of closed-form values. `w2` is NaN where not known.
Json errors(const SummaryInput& input, double functional, const Known& known, double w2) {
  Json out = Json::object();
  put(out, "functional_abs", std::abs(functional - known.functional));
  put(out, "functional_rel", std::abs(functional - known.functional) / std::abs(known.functional));
  put(out, "std_rel", std::abs(input.std - known.deviation) / known.deviation);
  put(out, "w2", w2);
  return out;
}

double distance(const SummaryInput& input, const std::vector<double>& quantiles) {
  return quantiles.empty() ? kUnknown : wasserstein_1d(input.judged->elements(), quantiles);
}

void add_reference(Json& summary, const SummaryInput& input) {
  if (!input.reference || !input.judged) return;
  const Index n = input.judged->rows();
  const bool line = input.judged->cols() == 1;
  const double functional = std::isnan(input.held_out) ? input.functional.total() : input.held_out;
  const double elapsed = input.time - input.config->flow.start_time;
  const auto add = [&](const char* name, const Known& known, const std::vector<double>& quantiles) {
    Json values = Json::object();
    put(values, "functional", known.functional);
    put(values, "std", known.deviation);
    const Json error = errors(input, functional, known, line ? distance(input, quantiles) : kUnknown);
    return std::tuple(std::string(name), values, error);
  };
  const auto [name, exact, error] =
      add("exact", input.reference->exact(elapsed),
          line ? input.reference->exact_quantiles(elapsed, n) : std::vector<double>());
  if (exact.empty() && error.empty()) return;
  summary[name] = exact;
  summary[name]["source"] = input.reference->name();
  const bool equal = input.steps <= input.config->equal_steps();
  const auto [scheme_name, scheme, scheme_error] =
      add("scheme", equal ? input.reference->scheme(input.steps) : Known{},
          line && equal ? input.reference->scheme_quantiles(input.steps, n) : std::vector<double>());
  if (!scheme.empty()) summary[scheme_name] = scheme;
  summary["error"] = error;
  if (!scheme_error.empty()) summary["error"]["scheme"] = scheme_error;
  if (input.config->exact.functional) {
    // Below a known infimum there is no density: the network has fitted the sample.
    const double infimum = *input.config->exact.functional;
    summary["error"]["below_infimum"] = std::max(0.0, infimum - functional);
  }
}

IoError no_field(std::string_view field, const std::string& name, std::size_t line, const std::string& what) {
  return IoError("'" + name + "': line " + std::to_string(line) + " has the field '" + std::string(field) +
                 "', which is " + what);
}

double parse_field(std::string_view field, const std::string& name, std::size_t line) {
  if (field.empty()) return kUnknown;
  double value = 0;
  const auto result = std::from_chars(field.data(), field.data() + field.size(), value);
  if (result.ec != std::errc() || result.ptr != field.data() + field.size())
    throw no_field(field, name, line, "not a number");
  return value;
}

}  // namespace

std::string history_text(const std::vector<HistoryRow>& rows) {
  std::string out = header() + "\n";
  for (HistoryRow row : rows) {
    bool first = true;
    for (const Column& column : kColumns) {
      const double value = std::visit(Write{}, column.field(row));
      if (!first) out += ',';
      if (!std::isnan(value)) out += exact_text(value);
      first = false;
    }
    out += '\n';
  }
  return out;
}

std::vector<HistoryRow> parse_history(const std::string& text, const std::string& name) {
  std::vector<HistoryRow> rows;
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view content = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (++line == 1) {
      if (content != header())
        throw IoError("'" + name +
                      "' has another header than this version of brenier writes; go on with the "
                      "version that began the run, or run its config.toml again");
      continue;
    }
    HistoryRow row;
    std::size_t at = 0;
    for (const Column& column : kColumns) {
      if (at > content.size())
        throw IoError("'" + name + "': line " + std::to_string(line) + " is too short");
      const std::size_t comma = std::min(content.find(',', at), content.size());
      const std::string_view field = content.substr(at, comma - at);
      if (!std::visit(Read{parse_field(field, name, line)}, column.field(row)))
        throw no_field(field, name, line, std::string("no value of ") + column.name);
      at = comma + 1;
    }
    rows.push_back(row);
  }
  return rows;
}

double median(std::vector<double> values) {
  if (values.empty()) return kUnknown;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  const double upper = *middle;
  if (values.size() % 2 == 1) return upper;
  return 0.5 * (upper + *std::max_element(values.begin(), middle));
}

BelowInfimum below_infimum(const Config& config, const std::vector<HistoryRow>& history, double functional,
                           double held_out) {
  BelowInfimum out{known_infimum(config)};
  if (!std::isfinite(out.infimum) || history.empty()) return out;
  const bool separate = !std::isnan(held_out);
  const double judged = separate ? held_out : functional;
  const Sampling sampling = separate ? config.held_out.sampling : config.cloud.sampling;
  const Index particles = separate ? config.held_out.particles : config.cloud.particles;
  const bool random = sampling == Sampling::random || !config.cloud.density;
  const double error = 1e-3 + (random ? 3 / std::sqrt(static_cast<double>(particles)) : 0);
  const double scale = std::abs(out.infimum) + std::abs(history.front().functional.total() - out.infimum);
  out.by = std::max(0.0, out.infimum - judged);
  out.flag = out.by > error * scale;
  return out;
}

std::vector<std::string> overfitting(const Config& config, const std::vector<HistoryRow>& history,
                                     double functional, double held_out, double sampling_error) {
  const std::string remedy =
      ": the network has fitted the sample, and the flow is not to be trusted; use more particles, "
      "inner.refresh, a smaller network.hidden or fewer inner.iterations";
  const auto number = [](double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", value);
    return std::string(text);
  };
  std::vector<std::string> out;
  const bool separate = !std::isnan(held_out);
  const BelowInfimum below = below_infimum(config, history, functional, held_out);
  if (below.flag) {
    out.push_back((separate ? "F on the held-out particles, " : "F on the particles, ") +
                  number(separate ? held_out : functional) + ", is below its infimum " +
                  number(below.infimum) + remedy);
  }
  if (!separate || history.empty() || std::isnan(history.front().held_out)) return out;
  const HistoryRow& start = history.front();
  const double before = start.functional.total();
  // A contracting flow shrinks the difference of two samples: what the start had below 0 was never the network's doing.
  const double now = held_out - functional, gap = now - std::max(0.0, start.held_out - before);
  const double decrease = std::abs(start.held_out - held_out);
  if (gap > 0.01 * decrease + 1e-3 * (std::abs(before) + std::abs(functional)) + 3 * sampling_error) {
    out.push_back("F on the held-out particles, " + number(held_out) + ", is " + number(now) +
                  " above F on the particles, " + number(functional) + ", " + number(gap) +
                  " more than sampling explains, and has changed by " + number(decrease) +
                  " since the start" + remedy);
  }
  return out;
}

namespace {

/// "step 3", "steps 3, 5 to 9", of those rows that `pick` takes; empty where it takes none.
template <class Pick>
std::string steps_where(const std::vector<HistoryRow>& history, const Pick& pick) {
  std::string out;
  int runs = 0, count = 0;
  for (std::size_t k = 0; k < history.size(); ++k) {
    if (!pick(history[k])) continue;
    const std::size_t first = k;
    while (k + 1 < history.size() && pick(history[k + 1])) ++k;
    count += static_cast<int>(k - first) + 1;
    if (++runs > 6) continue;
    out += (runs > 1 ? ", " : "") + std::to_string(history[first].step);
    if (k > first) out += " to " + std::to_string(history[k].step);
  }
  if (runs > 6) out += ", ... (" + std::to_string(count) + " in all)";
  return count == 0 ? "" : (count == 1 ? "step " : "steps ") + out;
}

}  // namespace

std::vector<std::string> troubled_steps(const Config& config, const std::vector<HistoryRow>& history,
                                        double size) {
  std::vector<std::string> out;
  const auto add = [&](const std::string& which, const std::string& what) {
    if (!which.empty()) out.push_back(which + what);
  };
  const auto percent = [](double share) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g %%", 100 * share);
    return std::string(text);
  };
  const HistoryRow* worst = nullptr;
  double largest = 0;
  const auto share = [](const HistoryRow& row) {
    return std::fmax(row.missed_share, row.missed_share_held_out);
  };
  for (const HistoryRow& row : history) {
    largest = std::fmax(largest, row.decrease);
    if (!row.solved && (!worst || share(row) > share(*worst))) worst = &row;
  }
  if (worst) {
    std::string what = " not solved: ";
    what += std::isnan(share(*worst))
                ? "nothing is known of what step " + std::to_string(worst->step) + " misses"
                : "step " + std::to_string(worst->step) + " misses " + percent(share(*worst)) +
                      " of its possible decrease";
    const bool particles = config.flow.method == FlowOptions::Method::particles;
    if (!particles && !std::isnan(worst->particle_decrease) && worst->particle_decrease > 0) {
      what += ", the network reaches " + percent(worst->decrease / worst->particle_decrease) +
              " of what particles without a network reach";
    }
    if (std::isfinite(worst->displacement_error))
      what += ", and ends " + percent(worst->displacement_error) +
              " of the way from its optimum, as a whole or in one axis of the cloud";
    std::string remedy =
        particles ? "use more inner.iterations, or a smaller flow.tau"
        : worst->fitted
            ? "the cloud itself has nothing left to gain, more particles have, or a smaller network.hidden"
            : "use more inner.iterations, a larger or sharper network (network.hidden, "
              "network.sharpness), "
              "network.quadratic_rank, or a smaller flow.tau";
    // Coordinates that are large beside their differences have few digits in float.
    if (config.precision == "float") remedy += ", or precision = \"double\"";
    add(steps_where(history, [](const HistoryRow& row) { return !row.solved; }),
        what + "; the flow is not to be trusted there: " + remedy);
  }
  // Of F, and of coordinates, in W^2: a cloud at rest moves by as much.
  const auto rounding = [&](const HistoryRow& row) {
    const double unit = 64 * (config.precision == "float" ? double{std::numeric_limits<float>::epsilon()}
                                                          : std::numeric_limits<double>::epsilon());
    const double moved = unit * std::fmax(size, row.std);
    const double transport = row.tau > 0 ? config.cloud.dim * moved * moved / (2 * row.tau) : 0;
    return transport + unit * std::abs(row.functional.total());
  };
  add(steps_where(history,
                  [&](const HistoryRow& row) {
                    return row.step > 0 && row.decrease < -1e-3 * largest && -row.decrease > rounding(row);
                  }),
      " raised F + W^2/(2 tau), which a step that is solved cannot do");
  add(steps_where(history,
                  [](const HistoryRow& row) {
                    return row.sinkhorn.solves > 0 && static_cast<double>(row.sinkhorn.unconverged) >
                                                          0.1 * static_cast<double>(row.sinkhorn.solves);
                  }),
      ": more than a tenth of the transport solves ended above their tolerance; use more warm_iterations or "
      "iterations in the term, or a larger epsilon");
  Index together = 0;
  for (const HistoryRow& row : history) together = std::max(together, row.coincident);
  add(steps_where(history, [](const HistoryRow& row) { return row.coincident > 0; }),
      ": " + std::to_string(together) +
          " particles lie where another one does, while W is singular at 0: F leaves their pairs out, and no "
          "step parts "
          "them; give every point once, or a W that is finite at 0");
  return out;
}

std::string unbounded(const Config& config) {
  const auto form = config.functional.gaussian(config.cloud.dim);
  if (!form || form->potential.hessian.empty()) return "";
  const double curvature = smallest_eigenvalue(form->potential.hessian);
  if (!(curvature < 0)) return "";
  char text[200];
  std::snprintf(text, sizeof text,
                "V curves down by %.4g in some direction: F has no minimum, and the flow runs away along it; "
                "its matrix should be positive semidefinite",
                curvature);
  return text;
}

std::string trouble_of_solves(const HistoryRow& row) {
  char text[240];
  if (row.sinkhorn.marginal_error > 0.05) {
    std::snprintf(text, sizeof text,
                  "step %d: the marginals of a transport plan were off by %.1e; use more warm_iterations or "
                  "iterations in the term, or a larger epsilon",
                  row.step, row.sinkhorn.marginal_error);
    return text;
  }
  if (row.cg.unconverged == 0 && row.cg.indefinite == 0) return "";
  std::snprintf(
      text, sizeof text,
      "step %d: log det H: %td solves ended above inner.cg_tolerance, %td met curvature that is "
      "not positive (worst residual %.1e); use more inner.cg_iterations, or inner.logdet = \"exact\"",
      row.step, row.cg.unconverged, row.cg.indefinite, row.cg.worst_residual);
  return text;
}

namespace {

/// Numbers of the reports of all steps together; the start of a run is none.
class Steps {
 public:
  explicit Steps(const std::vector<HistoryRow>& history) {
    for (const HistoryRow& row : history) {
      if (row.iterations > 0) steps_.push_back(&row);
    }
  }
  template <class Number>
  double sum(const Number& number) const {
    double out = 0;
    for (const HistoryRow* row : steps_) out += static_cast<double>(std::invoke(number, *row));
    return out;
  }
  /// Of those that are known; NaN where none is.
  template <class Number>
  double largest(const Number& number) const {
    double out = kUnknown;
    for (const HistoryRow* row : steps_) out = std::fmax(out, std::invoke(number, *row));
    return out;
  }
  template <class Number>
  double least(const Number& number) const {
    return -largest([&](const HistoryRow& row) { return -std::invoke(number, row); });
  }
  /// Of the last step; NaN where there is none.
  double last(double StepReport::*number) const { return steps_.empty() ? kUnknown : steps_.back()->*number; }
  double seconds_per_iteration() const {
    std::vector<double> out;
    for (const HistoryRow* row : steps_) out.push_back(row->seconds / row->iterations);
    return median(out);
  }

 private:
  std::vector<const HistoryRow*> steps_;
};

long long whole(double count) {
  return static_cast<long long>(count);
}

}  // namespace

std::string summary_text(const SummaryInput& input) {
  const Config& config = *input.config;
  const Steps steps(*input.history);
  Json out = Json::object();  // where memory is out, null that becomes one is left without its elements
  out["status"] = input.status;
  if (!input.reason.empty()) out["reason"] = input.reason;
  out["warnings"] = input.warnings;
  out["seed"] = config.flow.seed;
  out["dim"] = config.cloud.dim;
  out["particles"] = config.cloud.particles;
  if (!config.cloud.estimate.empty()) out["initial_density"] = config.cloud.estimate;
  out["steps"] = input.steps;
  if (!config.adaptive()) out["steps_planned"] = config.steps;
  if (config.adaptive()) {
    out["tau"] = "auto";
    out["tolerance"] = config.flow.adaptive.tolerance;
    out["end_time"] = config.flow.adaptive.end_time;
    out["rejected_total"] = whole(steps.sum(&StepReport::rejected));
  } else {
    out["tau"] = config.flow.tau;
  }
  out["order"] = config.flow.order;
  out["time"] = input.time;
  out["mass"] = config.flow.mass;
  out["functional"] = {
      {"total", input.functional.total()},           {"potential", input.functional.potential},
      {"interaction", input.functional.interaction}, {"internal", input.functional.internal},
      {"divergence", input.functional.divergence},   {"text", config.functional.describe()}};
  const std::vector<Functional::Term> distances = config.functional.terms_of<Functional::Divergence>();
  if (!input.functional.distances.empty()) out["distances"] = Json::array();
  for (std::size_t k = 0; k < input.functional.distances.size(); ++k) {
    out["distances"].push_back({{"text", distances[k].text},
                                {"weight", distances[k].weight},
                                {"value", input.functional.distances[k]}});
  }
  out["std"] = input.std;
  if (!std::isnan(input.held_out)) {
    out["heldout_functional"] = input.held_out;
    out["heldout_particles"] = config.held_out.particles;
  }
  const BelowInfimum below = below_infimum(config, *input.history, input.functional.total(), input.held_out);
  if (std::isfinite(below.infimum)) {
    out["infimum"] = {{"functional", below.infimum}, {"below_by", below.by}, {"below", below.flag}};
  }
  add_reference(out, input);
  const double residual = steps.last(&StepReport::residual);
  out["inner"] = {{"iterations_total", whole(steps.sum(&StepReport::iterations))},
                  {"seconds_median", steps.seconds_per_iteration()},
                  {"residual", std::isnan(residual) ? 0 : residual},
                  {"retries_total", whole(steps.sum(&StepReport::retries))}};
  Json certificates = Json::object();
  put(certificates, "missed_share", steps.largest(&StepReport::missed_share));
  put(certificates, "missed_share_heldout", steps.largest(&StepReport::missed_share_held_out));
  put(certificates, "displacement_error", steps.largest(&StepReport::displacement_error));
  if (!std::isnan(steps.largest(&StepReport::missed_share)))
    certificates["unsolved_steps"] = whole(steps.sum([](const StepReport& step) { return !step.solved; }));
  put(certificates, "min_eigenvalue", steps.least(&StepReport::min_eigenvalue));
  put(certificates, "round_trip", steps.largest(&StepReport::round_trip));
  if (!certificates.empty()) out["certificates"] = certificates;
  if (config.functional.needs_density()) {
    const bool stochastic = steps.sum([](const StepReport& step) {
      return step.log_det_method == LogDetOptions::Method::cg;
    }) > 0;
    Json& log_det = out["inner"]["log_det"] = Json::object();
    log_det["method"] = stochastic ? "cg" : "exact";
    put(log_det, "error", steps.last(&StepReport::log_det_error));
    put(log_det, "deviation", steps.last(&StepReport::log_det_deviation));
    if (stochastic) {
      log_det["worst_residual"] =
          steps.largest([](const StepReport& step) { return step.cg.worst_residual; });
      log_det["unconverged_total"] =
          whole(steps.sum([](const StepReport& step) { return step.cg.unconverged; }));
      log_det["indefinite_total"] =
          whole(steps.sum([](const StepReport& step) { return step.cg.indefinite; }));
    }
  }
  if (!distances.empty()) {
    const double error = steps.largest([](const StepReport& step) { return step.sinkhorn.marginal_error; });
    out["inner"]["sinkhorn"] = {
        {"worst_marginal_error", std::isnan(error) ? 0 : error},
        {"unconverged_total",
         whole(steps.sum([](const StepReport& step) { return step.sinkhorn.unconverged; }))}};
  }
  out["seconds_total"] = input.seconds;
  if (const double total = steps.sum(&StepReport::seconds); total > 0) {
    out["seconds_share"] = {{"inner", steps.sum(&StepReport::inner_seconds) / total},
                            {"clouds", steps.sum(&StepReport::cloud_seconds) / total},
                            {"certificates", steps.sum(&StepReport::certificate_seconds) / total}};
  }
  out["backend"] = input.backend;
  out["device"] = input.device;
  out["precision"] = config.precision;
  out["threads"] = input.threads;
  out["version"] = BRENIER_VERSION;
  out["format"] = "brenier summary 1";
  const BuildRecord build = build_record();
  out["build"] = {{"git", build.git},   {"compiler", build.compiler}, {"flags", build.flags},
                  {"type", build.type}, {"mpi", build.mpi},           {"cuda", build.cuda}};
  out["runs"] = Json::array();
  for (const ProcessRecord& one : input.processes) {
    Json record = {{"command", one.command},
                   {"started", one.started},
                   {"host", one.host},
                   {"folder", one.folder},
                   {"process", one.process}};
    if (!one.job.empty()) record["job"] = one.job;
    out["runs"].push_back(record);
  }
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace brenier::app
