// SPDX-License-Identifier: MIT
// `brenier distance`: how far two clouds are from each other.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iomanip>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "brenier/base/error.hpp"
#include "brenier/entropic_transport.hpp"
#include "brenier/metrics.hpp"
#include "brenier/npy.hpp"
#include "brenier/oracles.hpp"
#include "brenier/wasserstein.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/subset.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/report.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

/// Points of an exact W2 in more than one dimension, and of entropic transport: a second or two.
constexpr Index kAssigned = 2000;

/// A result by name; `about` says what it was computed from, or why there is none.
struct Line {
  std::string name;
  Estimate estimate;
  bool has_error;
  std::string about;
  bool defined = true;
};

/// The file itself, or of a run folder its last cloud.
std::filesystem::path cloud_file(const std::filesystem::path& given) {
  if (!RunFolder::is_run(given)) return given;
  const RunFolder folder = RunFolder::open(given);
  const std::vector<HistoryRow> history =
      parse_history(read_text(folder.history()), folder.history().string());
  std::error_code code;
  for (auto row = history.rbegin(); row != history.rend(); ++row)
    if (std::filesystem::exists(folder.cloud(row->step), code)) return folder.cloud(row->step);
  throw IoError("'" + given.string() + "': this run has no clouds yet");
}

void check_finite(const std::filesystem::path& file, const Matrix<double>& x) {
  for (Index i = 0; i < x.rows(); ++i) {
    for (Index c = 0; c < x.cols(); ++c) {
      if (!std::isfinite(x(i, c)))
        throw ValueError("'" + file.string() + "': point " + std::to_string(i) + " has the coordinate " +
                         show(x(i, c)) + "; all must be finite");
    }
  }
}

Line wasserstein(const Matrix<double>& a, const Matrix<double>& b) {
  if (a.cols() == 1) return {"w2", {wasserstein_1d(a.elements(), b.elements()), 0}, false, "exact"};
  const Matrix<double> x = subset(a, kAssigned, 0), y = subset(b, kAssigned, 0);
  std::string about = "exact";
  if (x.rows() < a.rows() || y.rows() < b.rows()) {
    about += " between " + std::to_string(x.rows()) +
             (x.rows() == y.rows() ? " points of each" : " and " + std::to_string(y.rows()) + " points") +
             ", drawn at random";
  }
  return {"w2", {wasserstein_transport(x, y), 0}, false, about};
}

/// Entropic transport, plain or as a Sinkhorn divergence.
Line sinkhorn_line(const Matrix<double>& a, const Matrix<double>& b, double epsilon, bool debiased,
                   Team& team) {
  const auto some = [](const Matrix<double>& x) { return subset(x, kAssigned, 0); };
  const SinkhornOptions options{.epsilon = epsilon, .iterations = 1000, .debiased = debiased};
  const EntropicTransport t = entropic_transport(some(a), some(b), options, team);
  std::ostringstream about;
  about.exceptions(std::ios::badbit);
  about << "cost |x - y|^2/2, epsilon " << epsilon;
  if (std::max(a.rows(), b.rows()) > kAssigned)
    about << ", at most " << kAssigned << " points of each, drawn at random";
  about << (t.report.unconverged > 0 ? ", NOT converged (--epsilon larger converges sooner): " : ", ")
        << "marginals to " << std::setprecision(2) << t.report.marginal_error << " in " << t.report.iterations
        << " iterations";
  return {debiased ? "sinkhorn_divergence" : "sinkhorn", {t.value, 0}, false, about.str()};
}

/// Between the Gaussians of the same moments. ValueError: a cloud in a subspace.
std::vector<Line> gaussian_lines(const Matrix<double>& a, const Matrix<double>& b) {
  constexpr const char* remedy =
      "gaussian: a cloud that lies in a subspace has no such density; it takes more points than dimensions, "
      "and no constant coordinate";
  if (std::min(a.rows(), b.rows()) <= a.cols()) throw ValueError(remedy);
  const GaussianState p = gaussian_fit(a), q = gaussian_fit(b);
  try {
    return {{"gaussian_symmetric_kl", {symmetric_kl(p, q), 0}, false, "of mean and covariance"},
            {"gaussian_w2", {wasserstein_2(p, q), 0}, false, "of mean and covariance"}};
  } catch (const ValueError&) {
    throw ValueError(remedy);
  }
}

Line mmd_line(const DistanceOptions& options, const Matrix<double>& a, const Matrix<double>& b, Team& team) {
  const double bandwidth = options.bandwidth > 0 ? options.bandwidth : median_distance(a, b);
  std::ostringstream about;
  about.exceptions(std::ios::badbit);
  about << "squared, unbiased, Gaussian kernel of bandwidth " << bandwidth
        << (options.bandwidth > 0 ? "" : " (the median distance)");
  return {"mmd", mmd_squared(a, b, bandwidth, team), true, about.str()};
}

std::vector<Line> sinkhorn_lines(const DistanceOptions& options, const Matrix<double>& a,
                                 const Matrix<double>& b, Team& team) {
  double epsilon = options.epsilon;
  if (!(epsilon > 0)) {
    const double blur = median_distance(a, b) / 20;
    epsilon = blur * blur;
  }
  return {sinkhorn_line(a, b, epsilon, false, team), sinkhorn_line(a, b, epsilon, true, team)};
}

std::vector<Line> measure(const DistanceOptions& options, const Matrix<double>& a, const Matrix<double>& b) {
  Team team(options.threads);
  std::vector<Line> lines;
  // What a metric is not defined for is its own matter, unless it was asked for: the others are there to say.
  const auto add = [&](const char* metric, const auto& compute) {
    const bool named =
        std::find(options.metrics.begin(), options.metrics.end(), metric) != options.metrics.end();
    if (!named && !options.metrics.empty()) return;
    try {
      for (Line& line : compute()) lines.push_back(std::move(line));
    } catch (const ValueError& error) {
      if (named) throw;
      lines.push_back({metric, {}, false, error.what(), false});
    } catch (const ShapeError& error) {
      if (named) throw;
      lines.push_back({metric, {}, false, error.what(), false});
    }
  };
  using Lines = std::vector<Line>;
  add("w2", [&] { return Lines{wasserstein(a, b)}; });
  add("energy", [&] { return Lines{{"energy_distance", energy_distance(a, b, team), true, "unbiased"}}; });
  add("mmd", [&] { return Lines{mmd_line(options, a, b, team)}; });
  add("sinkhorn", [&] { return sinkhorn_lines(options, a, b, team); });
  add("gaussian", [&] { return gaussian_lines(a, b); });
  return lines;
}

}  // namespace

void distance(const DistanceOptions& given, std::ostream& out) {
  DistanceOptions options = given;
  for (std::filesystem::path* file : {&options.a, &options.b}) {
    const std::filesystem::path cloud = cloud_file(*file);
    if (cloud != *file && !options.json) out << file->string() << ": " << cloud.string() << "\n";
    *file = cloud;
  }
  const Matrix<double> a = read_npy(options.a), b = read_npy(options.b);
  for (const auto& [file, cloud] : {std::pair(&options.a, &a), std::pair(&options.b, &b)}) {
    if (cloud->rows() == 0)
      throw ValueError("'" + file->string() + "' has no points; a distance takes at least one");
  }
  if (a.cols() != b.cols()) {
    throw ShapeError("'" + options.a.string() + "' has points in dimension " + std::to_string(a.cols()) +
                     ", '" + options.b.string() + "' in dimension " + std::to_string(b.cols()));
  }
  check_finite(options.a, a);
  check_finite(options.b, b);
  const std::vector<Line> lines = measure(options, a, b);
  if (options.json) {
    nlohmann::ordered_json object = nlohmann::ordered_json::object();
    object["points"] = {a.rows(), b.rows()};
    object["dim"] = a.cols();
    for (const Line& line : lines) {
      if (!line.defined) {
        object["undefined"][line.name] = line.about;
        continue;
      }
      nlohmann::ordered_json& entry = object[line.name] = nlohmann::ordered_json::object();
      entry["value"] = line.estimate.value;
      if (line.has_error) entry["standard_error"] = line.estimate.error;
      entry["about"] = line.about;
    }
    out << object.dump(2) << "\n";
    return;
  }
  out << a.rows() << " and " << b.rows() << " points in dimension " << a.cols() << "\n";
  for (const Line& line : lines) {
    out << std::left << std::setw(23) << line.name << std::right << std::setw(12);
    if (!line.defined) {
      out << "-" << std::string(16, ' ') << line.about << "\n";
      continue;
    }
    out << std::setprecision(5) << line.estimate.value;
    if (line.has_error)
      out << " +- " << std::left << std::setw(11) << std::setprecision(2) << line.estimate.error;
    out << (line.has_error ? " " : std::string(16, ' ')) << line.about << "\n";
  }
}

Command add_distance(CLI::App& app) {
  CLI::App* command = app.add_subcommand("distance", "how far two clouds are from each other");
  const auto options = std::make_shared<DistanceOptions>();
  command
      ->add_option("A", options->a,
                   ".npy, .npz or .csv file of points, (N, d), or a run folder: its last cloud")
      ->required();
  command->add_option("B", options->b, "the same, (M, d)")->required();
  command
      ->add_option("--metric", options->metrics, "w2, energy, mmd, gaussian, sinkhorn (all); may be repeated")
      ->check(CLI::IsMember({"w2", "energy", "mmd", "gaussian", "sinkhorn"}))
      ->allow_extra_args(false);
  command->add_option("--bandwidth", options->bandwidth, "of mmd (the median distance)")
      ->check(check_positive);
  command
      ->add_option("--epsilon", options->epsilon,
                   "of sinkhorn, in the unit of the cost |x - y|^2 / 2 (the square of a twentieth of the "
                   "median distance)")
      ->check(check_positive);
  command->add_flag("--json", options->json, "one JSON object");
  add_threads_option(*command, options->threads);
  return {command, [options](const Console& console) {
            distance(*options, console.out);
            return ExitCode::ok;
          }};
}

}  // namespace brenier::app
