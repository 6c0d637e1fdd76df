// SPDX-License-Identifier: MIT
#include "tools/runs/report.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>

#include "brenier/oracles.hpp"
#include "brenier/version.hpp"
#include "brenier/wasserstein.hpp"
#include "kernels/base/show.hpp"

namespace brenier::app {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

struct Column {
  const char* name;
  double HistoryRow::*field;
};

constexpr Column kColumns[] = {
    {"step", &HistoryRow::step},
    {"time", &HistoryRow::time},
    {"tau", &HistoryRow::tau},
    {"order", &HistoryRow::order},
    {"F", &HistoryRow::functional},
    {"potential", &HistoryRow::potential},
    {"interaction", &HistoryRow::interaction},
    {"internal", &HistoryRow::internal},
    {"divergence", &HistoryRow::divergence},
    {"F_heldout", &HistoryRow::held_out},
    {"F_exact", &HistoryRow::exact},
    {"F_scheme", &HistoryRow::scheme},
    {"std", &HistoryRow::std},
    {"std_exact", &HistoryRow::std_exact},
    {"std_scheme", &HistoryRow::std_scheme},
    {"transport", &HistoryRow::transport},
    {"decrease", &HistoryRow::decrease},
    {"time_error", &HistoryRow::time_error},
    {"rejected", &HistoryRow::rejected},
    {"residual", &HistoryRow::residual},
    {"iterations", &HistoryRow::iterations},
    {"min_log_det", &HistoryRow::min_log_det},
    {"solved", &HistoryRow::solved},
    {"missed_share", &HistoryRow::missed_share},
    {"missed_share_heldout", &HistoryRow::missed_share_held_out},
    {"displacement_error", &HistoryRow::displacement_error},
    {"particle_decrease", &HistoryRow::particle_decrease},
    {"min_eigenvalue", &HistoryRow::min_eigenvalue},
    {"round_trip", &HistoryRow::round_trip},
    {"rate", &HistoryRow::rate},
    {"retries", &HistoryRow::retries},
    {"log_det_cg", &HistoryRow::log_det_cg},
    {"log_det_error", &HistoryRow::log_det_error},
    {"log_det_deviation", &HistoryRow::log_det_deviation},
    {"cg_residual", &HistoryRow::cg_residual},
    {"cg_unconverged", &HistoryRow::cg_unconverged},
    {"cg_indefinite", &HistoryRow::cg_indefinite},
    {"sinkhorn_error", &HistoryRow::sinkhorn_error},
    {"sinkhorn_unconverged", &HistoryRow::sinkhorn_unconverged},
    {"sinkhorn_solves", &HistoryRow::sinkhorn_solves},
    {"seconds", &HistoryRow::seconds},
    {"inner_seconds", &HistoryRow::inner_seconds},
    {"cloud_seconds", &HistoryRow::cloud_seconds},
    {"certificate_seconds", &HistoryRow::certificate_seconds},
};

std::string header() {
  std::string out;
  for (const Column& column : kColumns) out += (out.empty() ? "" : ",") + std::string(column.name);
  return out;
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

double parse_field(std::string_view field, const std::string& name, std::size_t line) {
  if (field.empty()) return kUnknown;
  double value = 0;
  const auto result = std::from_chars(field.data(), field.data() + field.size(), value);
  if (result.ec != std::errc() || result.ptr != field.data() + field.size()) {
    throw IoError("'" + name + "': line " + std::to_string(line) + " has the field '" + std::string(field) +
                  "', which is not a number");
  }
  return value;
}

}  // namespace

std::string history_text(const std::vector<HistoryRow>& rows) {
  std::string out = header() + "\n";
  for (const HistoryRow& row : rows) {
    bool first = true;
    for (const Column& column : kColumns) {
      const double value = row.*column.field;
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
        throw IoError("'" + name + "' has another header than this version of brenier writes");
      continue;
    }
    HistoryRow row;
    std::size_t at = 0;
    for (const Column& column : kColumns) {
      if (at > content.size())
        throw IoError("'" + name + "': line " + std::to_string(line) + " is too short");
      const std::size_t comma = std::min(content.find(',', at), content.size());
      row.*column.field = parse_field(content.substr(at, comma - at), name, line);
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
  const double scale = std::abs(out.infimum) + std::abs(history.front().functional - out.infimum);
  out.by = std::max(0.0, out.infimum - judged);
  out.flag = out.by > error * scale;
  return out;
}

std::vector<std::string> overfitting(const Config& config, const std::vector<HistoryRow>& history,
                                     double functional, double held_out) {
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
  const double gap = (held_out - functional) - (start.held_out - start.functional);
  const double decrease = std::abs(start.held_out - held_out);
  if (gap > 0.01 * decrease + 1e-3 * (std::abs(start.functional) + std::abs(functional))) {
    out.push_back("F on the held-out particles, " + number(held_out) + ", is " + number(gap) +
                  " above F on the particles, " + number(functional) + ", and has changed by " +
                  number(decrease) + " since the start" + remedy);
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
    out += (runs > 1 ? ", " : "") + std::to_string(static_cast<int>(history[first].step));
    if (k > first) out += " to " + std::to_string(static_cast<int>(history[k].step));
  }
  if (runs > 6) out += ", ... (" + std::to_string(count) + " in all)";
  return count == 0 ? "" : (count == 1 ? "step " : "steps ") + out;
}

}  // namespace

std::vector<std::string> troubled_steps(const std::vector<HistoryRow>& history) {
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
    if (row.solved == 0 && (!worst || share(row) > share(*worst))) worst = &row;
  }
  if (worst) {
    std::string what = " not solved: step " + std::to_string(static_cast<int>(worst->step)) + " misses " +
                       percent(share(*worst)) + " of its possible decrease";
    if (!std::isnan(worst->particle_decrease) && worst->particle_decrease > 0) {
      what += ", the network reaches " + percent(worst->decrease / worst->particle_decrease) +
              " of what particles without a network reach";
    }
    if (std::isfinite(worst->displacement_error))
      what += ", and ends " + percent(worst->displacement_error) + " of the way from its optimum";
    add(steps_where(history, [](const HistoryRow& row) { return row.solved == 0; }),
        what +
            "; the flow is not to be trusted there: use more inner.iterations, a larger or sharper network "
            "(network.hidden, network.sharpness), network.quadratic_rank, or a smaller flow.tau");
  }
  add(steps_where(history,
                  [&](const HistoryRow& row) { return row.step > 0 && row.decrease < -1e-3 * largest; }),
      " raised F + W^2/(2 tau), which a step that is solved cannot do");
  add(steps_where(history,
                  [](const HistoryRow& row) {
                    return row.sinkhorn_solves > 0 && row.sinkhorn_unconverged > 0.1 * row.sinkhorn_solves;
                  }),
      ": more than a tenth of the transport solves ended above their tolerance; use more warm_iterations or "
      "iterations in the term, or a larger epsilon");
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
  if (row.sinkhorn_error > 0.05) {
    std::snprintf(
        text, sizeof text,
        "step %.0f: the marginals of a transport plan were off by %.1e; use more warm_iterations or "
        "iterations in the term, or a larger epsilon",
        row.step, row.sinkhorn_error);
    return text;
  }
  if (!(row.cg_unconverged > 0 || row.cg_indefinite > 0)) return "";
  std::snprintf(
      text, sizeof text,
      "step %.0f: log det H: %.0f solves ended above inner.cg_tolerance, %.0f met curvature that is "
      "not positive (worst residual %.1e); use more inner.cg_iterations, or inner.logdet = \"exact\"",
      row.step, row.cg_unconverged, row.cg_indefinite, row.cg_residual);
  return text;
}

std::string summary_text(const SummaryInput& input) {
  const Config& config = *input.config;
  double rejected = 0;
  for (const HistoryRow& row : *input.history) rejected += row.rejected;
  Json out;
  out["status"] = input.status;
  if (!input.reason.empty()) out["reason"] = input.reason;
  out["warnings"] = input.warnings;
  out["seed"] = config.flow.seed;
  out["dim"] = config.cloud.dim;
  out["particles"] = config.cloud.particles;
  out["steps"] = input.steps;
  if (!config.adaptive()) out["steps_planned"] = config.steps;
  if (config.adaptive()) {
    out["tau"] = "auto";
    out["tolerance"] = config.flow.adaptive.tolerance;
    out["end_time"] = config.flow.adaptive.end_time;
    out["rejected_total"] = static_cast<long long>(rejected);
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
  double iterations = 0, retries = 0, residual = 0, eigenvalue = kUnknown, round_trip = kUnknown;
  double stochastic = 0, worst_residual = 0, unconverged = 0, indefinite = 0;
  double error = kUnknown, deviation = kUnknown;
  double missed = kUnknown, missed_held_out = kUnknown, displacement = kUnknown, unsolved = 0;
  bool certified = false;
  std::vector<double> seconds;
  double total = 0, inner = 0, clouds = 0, certifying = 0;
  for (const HistoryRow& row : *input.history) {
    if (row.iterations == 0) continue;
    iterations += row.iterations;
    retries += row.retries;
    residual = row.residual;
    missed = std::fmax(missed, row.missed_share);
    missed_held_out = std::fmax(missed_held_out, row.missed_share_held_out);
    displacement = std::fmax(displacement, row.displacement_error);
    unsolved += row.solved == 0;
    certified = certified || !std::isnan(row.missed_share);
    eigenvalue = std::fmin(eigenvalue, row.min_eigenvalue);  // NaN where not computed
    round_trip = std::fmax(round_trip, row.round_trip);
    stochastic += row.log_det_cg;
    worst_residual = std::max(worst_residual, row.cg_residual);
    unconverged += row.cg_unconverged;
    indefinite += row.cg_indefinite;
    error = row.log_det_error;
    deviation = row.log_det_deviation;
    seconds.push_back(row.seconds / row.iterations);
    total += row.seconds;
    inner += row.inner_seconds;
    clouds += row.cloud_seconds;
    certifying += row.certificate_seconds;
  }
  out["inner"] = {{"iterations_total", static_cast<long long>(iterations)},
                  {"seconds_median", median(seconds)},
                  {"residual", residual},
                  {"retries_total", static_cast<long long>(retries)}};
  Json certificates = Json::object();
  put(certificates, "missed_share", missed);
  put(certificates, "missed_share_heldout", missed_held_out);
  put(certificates, "displacement_error", displacement);
  if (certified) certificates["unsolved_steps"] = static_cast<long long>(unsolved);
  put(certificates, "min_eigenvalue", eigenvalue);
  put(certificates, "round_trip", round_trip);
  if (!certificates.empty()) out["certificates"] = certificates;
  if (config.functional.needs_density()) {
    Json& log_det = out["inner"]["log_det"];
    log_det["method"] = stochastic > 0 ? "cg" : "exact";
    put(log_det, "error", error);
    put(log_det, "deviation", deviation);
    if (stochastic > 0) {
      log_det["worst_residual"] = worst_residual;
      log_det["unconverged_total"] = static_cast<long long>(unconverged);
      log_det["indefinite_total"] = static_cast<long long>(indefinite);
    }
  }
  if (!distances.empty()) {
    double marginal_error = 0, open = 0;
    for (const HistoryRow& row : *input.history) {
      marginal_error = std::max(marginal_error, row.sinkhorn_error);
      open += row.sinkhorn_unconverged;
    }
    out["inner"]["sinkhorn"] = {{"worst_marginal_error", marginal_error},
                                {"unconverged_total", static_cast<long long>(open)}};
  }
  out["seconds_total"] = input.seconds;
  if (total > 0) {
    out["seconds_share"] = {
        {"inner", inner / total}, {"clouds", clouds / total}, {"certificates", certifying / total}};
  }
  out["backend"] = input.backend;
  out["device"] = input.device;
  out["precision"] = config.precision;
  out["threads"] = input.threads;
  out["version"] = BRENIER_VERSION;
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace brenier::app
