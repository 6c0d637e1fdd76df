// SPDX-License-Identifier: MIT
// Fokker-Planck flows to random Gaussian targets, from N(0, I): the accuracy benchmarks of Mokrov et al.
// (NeurIPS 2021) and Fan et al. (ICML 2022), with their distributions of targets, their times and their
// metrics, beside their published rows. The exact solution is an Ornstein-Uhlenbeck process, the exact JKO
// iterates are Gaussian: their distance from the solution is the floor of any solver at that step length.
// Prints a table and, last, one JSON line.
//
//   mokrov   symmetric KL from samples of both densities, mean over targets; d = 1 to 12, t = 0.5 and 0.9
//   fan      symmetric KL of the Gaussian with the moments of a large cloud, mean of its log10; d = 2 to 64,
//   t = 0.9
#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "bench/flows/draws.hpp"
#include "bench/flows/flow_arguments.hpp"
#include "bench/run_program.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"

namespace {

using namespace brenier;

struct Options : bench::FlowArguments {
  std::string table = "mokrov";
  std::vector<int> dims;
  int targets = 15;
  Index samples = 0;  // 0: as published

  Options() { iterations = 4000; }
  bool fan() const { return table == "fan"; }
  void add_to(CLI::App& app) {
    bench::FlowArguments::add_to(app);
    app.add_option("--table", table)->check(CLI::IsMember({"mokrov", "fan"}));
    app.add_option("--dims", dims, "dimensions, e.g. 2,4 (all of the table)")
        ->delimiter(',')
        ->check(CLI::PositiveNumber);
    app.add_option("--targets", targets, "random targets of each dimension")->check(CLI::PositiveNumber);
    app.add_option("--samples", samples, "that judge (8192 for mokrov, 512000 for fan)")
        ->check(CLI::PositiveNumber);
  }
};

Eigen::MatrixXd matrix(bench::Draws& draws, int d, bool normals) {
  Eigen::MatrixXd out(d, d);
  for (int i = 0; i < d; ++i)
    for (int j = 0; j < d; ++j) out(i, j) = normals ? draws.normal() : draws.uniform();
  return out;
}

Matrix<double> symmetric(const Eigen::MatrixXd& a) {
  Matrix<double> out(a.rows(), a.cols());
  for (Index i = 0; i < a.rows(); ++i)
    for (Index j = 0; j < a.cols(); ++j) out(i, j) = 0.5 * (a(i, j) + a(j, i));
  return out;
}

/// N(b, S), b normal. mokrov: S = U (1 1^T + diag(u)) U^T, u uniform on [0, 1), U the singular vectors of A^T
/// A for a uniform A (scikit-learn's make_spd_matrix). fan: eigenvalues uniform on [0.5, 1], a random
/// rotation.
GaussianState target_of(const Options& o, int d, int number) {
  bench::Draws draws(o.seed, d, number);
  Eigen::MatrixXd s;
  if (o.fan()) {
    const Eigen::MatrixXd q = Eigen::HouseholderQR<Eigen::MatrixXd>(matrix(draws, d, true)).householderQ();
    Eigen::VectorXd spectrum(d);
    for (int k = 0; k < d; ++k) spectrum(k) = 0.5 + 0.5 * draws.uniform();
    s = q * spectrum.asDiagonal() * q.transpose();
  } else {
    const Eigen::MatrixXd a = matrix(draws, d, false);
    const Eigen::MatrixXd u =
        Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(a.transpose() * a).eigenvectors();
    Eigen::MatrixXd middle = Eigen::MatrixXd::Ones(d, d);
    for (int k = 0; k < d; ++k) middle(k, k) += draws.uniform();
    s = u * middle * u.transpose();
  }
  GaussianState out{std::vector<double>(d), symmetric(s)};
  for (double& b : out.mean) b = draws.normal();
  return out;
}

Matrix<double> inverse(const Matrix<double>& a) {
  Eigen::MatrixXd m(a.rows(), a.cols());
  for (Index i = 0; i < a.rows(); ++i)
    for (Index j = 0; j < a.cols(); ++j) m(i, j) = a(i, j);
  return symmetric(m.inverse());
}

/// One time of one target.
struct Score {
  double value = 0;  // symmetric KL between the flow and the exact solution
  double floor = 0;  // of the exact JKO iterate
};

struct Run {
  std::vector<Score> scores;  // a time each
  double seconds = 0;         // of the flow
  bench::Profile profile;
};

Score judge(const Options& o, const Flow<float>& flow, std::size_t held_out, const GaussianState& exact,
            const GaussianState& iterate) {
  Score score;
  score.floor = symmetric_kl(iterate, exact);
  const Trajectory& cloud = flow.tracked(held_out);
  if (o.fan()) {
    score.value = symmetric_kl(gaussian_fit(cloud.x()), exact);
    return score;
  }
  const Density truth = Density::gaussian(exact.mean, exact.covariance);
  const Estimate forward = kl_divergence(cloud.log_density(), truth.log_density(cloud.x()));
  const Cloud samples = truth.sample(o.samples, Sampling::random, flow.options().seed, RandomStream::fresh);
  const FlowDensity density(flow.maps(), Density::gaussian(cloud.x().cols(), 0, 1), {.threads = o.threads});
  const Estimate backward = kl_divergence(samples.log_density, density.log_density(samples.x).values);
  score.value = forward.value + backward.value;
  return score;
}

Run run(const Options& o, int d, int number, const std::vector<double>& times) {
  const GaussianState target = target_of(o, d, number);
  const Matrix<double> stiffness = inverse(target.covariance);
  const Parameters parameters = {{"A", Parameter::matrix(stiffness)}, {"b", Parameter::vector(target.mean)}};
  const FlowOptions options = o.options(d, number);
  const Density start = Density::gaussian(d, 0, 1);
  const double begin = bench::now();
  Flow<float> flow(entropy() + potential("dot(x - b, A*(x - b))/2", d, parameters),
                   start.sample(o.particles, Sampling::whitened, options.seed), options);
  const int steps = static_cast<int>(std::round(times.back() / o.tau));
  const GaussianFlow exact(stiffness, target.mean);
  GaussianState initial{std::vector<double>(d, 0.0), Matrix<double>(d, d)};
  for (int c = 0; c < d; ++c) initial.covariance(c, c) = 1;
  const std::vector<GaussianState> iterates = exact.iterates(initial, o.tau, steps, o.order);
  Run out;
  out.seconds = bench::now() - begin;
  Cloud judges = start.sample(o.samples, o.fan() ? Sampling::whitened : Sampling::random, options.seed + 1000,
                              RandomStream::held_out);
  if (o.fan()) judges.log_density.clear();  // moments only
  const std::size_t held_out = flow.track(std::move(judges));
  std::size_t next = 0;
  for (int k = 1; k <= steps; ++k) {
    const StepReport step = flow.step().value();
    out.seconds += step.seconds;
    out.profile.add(step);
    if (std::abs(k * o.tau - times[next]) > 1e-9) continue;
    out.scores.push_back(judge(o, flow, held_out, exact.exact(initial, times[next]), iterates[k]));
    ++next;
  }
  return out;
}

struct Published {
  std::vector<double> values;  // a time each
  double seconds = 0;
};

/// Mokrov et al.: symmetric KL at t = 0.5 and 0.9, means over 15 targets, and seconds of training on a GTX
/// 1080 Ti for 20 steps. Fan et al.: log10 of the symmetric KL at t = 0.9, means over 15 seeds.
const std::map<int, Published>& published(const Options& o) {
  static const std::map<int, Published> mokrov = {
      {1, {{.00105, .00068}, 333}}, {2, {{.0035, .0038}, 526}}, {3, {{.0056, .0046}, 0}},
      {4, {{.0086, .0075}, 0}},     {5, {{.0118, .0086}, 0}},   {6, {{.0185, .0133}, 664}},
      {7, {{.0149, .0092}, 0}},     {8, {{.0189, .0136}, 0}},   {9, {{.0244, .0134}, 0}},
      {10, {{.0180, .0144}, 0}},    {11, {{.0229, .0178}, 0}},  {12, {{.0265, .0182}, 821}}};
  static const std::map<int, Published> fan = {{2, {{-3.344}, 0}},  {6, {{-2.993}, 0}},  {12, {{-2.537}, 0}},
                                               {16, {{-2.361}, 0}}, {32, {{-2.058}, 0}}, {64, {{-1.367}, 0}}};
  return o.fan() ? fan : mokrov;
}

/// Mean over the targets of a number of one time.
template <class F>
double mean(const std::vector<Run>& runs, const F& f) {
  double sum = 0;
  for (const Run& run : runs) sum += f(run) / static_cast<double>(runs.size());
  return sum;
}

void report(const Options& o, int d, const std::vector<double>& times, const std::vector<Run>& runs,
            nlohmann::ordered_json& rows) {
  const auto found = published(o).find(d);
  const Published known = found == published(o).end() ? Published{{}, 0} : found->second;
  for (std::size_t t = 0; t < times.size(); ++t) {
    const auto scale = [&](double value) { return o.fan() ? std::log10(value) : value; };
    const double ours = mean(runs, [&](const Run& run) { return scale(run.scores[t].value); });
    const double floor = mean(runs, [&](const Run& run) { return scale(run.scores[t].floor); });
    double error = 0;  // of the mean: targets differ, and each is known with an error
    for (const Run& run : runs) error += std::pow(scale(run.scores[t].value) - ours, 2);
    const double n = static_cast<double>(runs.size());
    error = n > 1 ? std::sqrt(error / (n * (n - 1))) : 0;
    const double seconds = mean(runs, [](const Run& run) { return run.seconds; });
    nlohmann::ordered_json row = {{"d", d},         {"t", times[t]},  {"value", ours},
                                  {"error", error}, {"floor", floor}, {"seconds", seconds}};
    std::printf("%4d %5.2f %12.3e %10.1e %12.3e ", d, times[t], ours, error, floor);
    if (t < known.values.size()) {
      std::printf("%12.3e", known.values[t]);
      row["published"] = known.values[t];
    } else {
      std::printf("%12s", "-");
    }
    std::printf(" %9.2f", seconds);
    if (known.seconds > 0) {
      std::printf(" %9.0f", known.seconds);
      row["published_seconds"] = known.seconds;
    }
    std::printf("\n");
    bench::Profile profile;
    for (const Run& run : runs) profile.add(run.profile);
    row["profile"] = profile.json();
    rows.push_back(row);
  }
  std::fflush(stdout);
}

int run_table(Options o) {
  if (o.dims.empty()) {
    for (const auto& [d, row] : published(o)) o.dims.push_back(d);
  }
  if (o.samples == 0) o.samples = o.fan() ? 512'000 : 8192;
  const std::vector<double> times = o.fan() ? std::vector<double>{0.9} : std::vector<double>{0.5, 0.9};
  if (std::abs(0.1 / o.tau - std::round(0.1 / o.tau)) > 1e-9) {
    throw ValueError("--tau " + std::to_string(o.tau) + " does not divide 0.1; take 0.05, 0.025, ...");
  }
  std::printf("%s: %s, tau = %g, order %d, means of %d targets\n", o.table.c_str(),
              o.fan() ? "log10 of the symmetric KL of moments" : "symmetric KL from samples", o.tau, o.order,
              o.targets);
  std::printf("%4s %5s %12s %10s %12s %12s %9s %9s\n", "d", "t", "brenier", "+-", "floor", "published",
              "seconds", "published");
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const int d : o.dims) {
    std::vector<Run> runs;
    for (int number = 0; number < o.targets; ++number) runs.push_back(run(o, d, number, times));
    report(o, d, times, runs, rows);
  }
  nlohmann::ordered_json all = o.json();
  all["table"] = o.table;
  all["targets"] = o.targets;
  all["samples"] = o.samples;
  all["rows"] = rows;
  return bench::print(all);
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_program(argc, argv, "Random Gaussian targets beside the published tables.", Options(),
                            run_table);
}
