// SPDX-License-Identifier: MIT
// The paper's comparison in high dimension (Alvarez-Melis, Schiff and Mroueh, appendix D, figure 3):
// Fokker-Planck with V(x) = (x - mu)^T A (x - mu) in R^20. The JKO flow's clouds and those of gradient
// descent on the particles are compared with the Unadjusted Langevin Algorithm by MMD at every step, beside
// ULA with another seed (what two clouds of the same law show) and the exact solution, which is Gaussian
// here. Prints a table and, last, one JSON line.
//
//   ula     X <- X - eta grad V(X) + sqrt(2 eta/beta) xi, many small steps for each JKO step
//   gd      X <- X - eta grad V(X): the same without the entropy
//   exact   samples of the exact solution
#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <vector>

#include "bench/flows/draws.hpp"
#include "bench/flows/flow_arguments.hpp"
#include "bench/run_program.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"

namespace {

using namespace brenier;

struct Options : bench::FlowArguments {
  int dim = 20;
  Index samples = 2000;
  int steps = 40;
  int repeats = 4;     // clouds of each kind
  int substeps = 100;  // of ULA for each JKO step
  double variance = 4;
  double beta = 1;

  Options() {
    tau = 0.02;
    hidden = {100, 20};
    iterations = 400;
  }
  void add_to(CLI::App& app) {
    bench::FlowArguments::add_to(app);
    app.add_option("--dim", dim)->check(CLI::PositiveNumber);
    app.add_option("--samples", samples, "points of each cloud that is compared")->check(CLI::PositiveNumber);
    app.add_option("--steps", steps)->check(CLI::PositiveNumber);
    app.add_option("--repeats", repeats, "clouds of each kind, whose MMDs are averaged")
        ->check(CLI::PositiveNumber);
    app.add_option("--substeps", substeps, "ULA steps for each JKO step")->check(CLI::PositiveNumber);
    app.add_option("--beta", beta, "inverse temperature: F = V + entropy/beta")->check(CLI::PositiveNumber);
    app.add_option("--variance", variance, "of the initial cloud")->check(CLI::PositiveNumber);
  }
};

struct Problem {
  Eigen::MatrixXd a;  // positive definite
  Eigen::VectorXd mu;

  Matrix<double> stiffness() const {  // V = 1/2 (x - mu)^T 2A (x - mu)
    Matrix<double> out(a.rows(), a.cols());
    for (Index i = 0; i < a.rows(); ++i)
      for (Index j = 0; j < a.cols(); ++j) out(i, j) = a(i, j) + a(j, i);
    return out;
  }
  std::vector<double> centre() const { return {mu.data(), mu.data() + mu.size()}; }
};

/// A with eigenvalues uniform on [0.5, 2] and random axes, mu normal.
Problem problem_of(const Options& o) {
  bench::Draws draws(o.seed, o.dim, 0);
  Eigen::MatrixXd g(o.dim, o.dim);
  for (int i = 0; i < o.dim; ++i)
    for (int j = 0; j < o.dim; ++j) g(i, j) = draws.normal();
  const Eigen::MatrixXd q = Eigen::HouseholderQR<Eigen::MatrixXd>(g).householderQ();
  Problem out;
  Eigen::VectorXd spectrum(o.dim);
  for (int k = 0; k < o.dim; ++k) spectrum(k) = 0.5 + 1.5 * draws.uniform();
  out.a = q * spectrum.asDiagonal() * q.transpose();
  out.mu.resize(o.dim);
  for (int k = 0; k < o.dim; ++k) out.mu(k) = draws.normal();
  return out;
}

/// One kind of cloud at one time: the distances of its repeats.
struct Spread {
  std::vector<double> values;

  void add(double value) { values.push_back(value); }
  double mean() const {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  }
  std::vector<double> range() const {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    return {*low, *high};
  }
};

int run(const Options& o) {
  const Problem problem = problem_of(o);
  const Density start = Density::gaussian(o.dim, 0, o.variance);
  const auto cloud = [&](std::uint64_t seed) {
    return start.sample(o.samples, Sampling::random, seed, RandomStream::held_out);
  };
  Matrix<double> a(o.dim, o.dim);
  for (int i = 0; i < o.dim; ++i)
    for (int j = 0; j < o.dim; ++j) a(i, j) = problem.a(i, j);
  const Functional v = potential("dot(x - mu, A*(x - mu))", o.dim,
                                 {{"A", Parameter::matrix(a)}, {"mu", Parameter::vector(problem.centre())}});
  const Functional f = (1 / o.beta) * entropy() + v;
  std::vector<Descent> ula, other, descent;
  for (int r = 0; r < o.repeats; ++r) {
    const std::uint64_t seed = o.seed + 10 * static_cast<std::uint64_t>(r);
    const auto moved = [&](std::vector<Descent>& to, const Functional& by, std::uint64_t number) {
      to.emplace_back(by, cloud(seed + number).x,
                      DescentOptions{.method = DescentOptions::Method::langevin,
                                     .rate = o.tau / o.substeps,
                                     .seed = seed + number,
                                     .threads = o.threads});
    };
    moved(ula, f, 1);
    moved(other, f, 2);
    moved(descent, v, 3);
  }

  const FlowOptions options = o.options(o.dim);
  Flow<float> flow(f, start.sample(o.particles, Sampling::whitened, o.seed), options);
  for (int r = 0; r < o.repeats; ++r) {
    Cloud judged = cloud(o.seed + 10 * static_cast<std::uint64_t>(r) + 4);
    judged.log_density.clear();
    flow.track(std::move(judged));
  }
  const GaussianFlow exact(problem.stiffness(), problem.centre(), 1 / o.beta);
  GaussianState initial{std::vector<double>(o.dim, 0.0), Matrix<double>(o.dim, o.dim)};
  for (int c = 0; c < o.dim; ++c) initial.covariance(c, c) = o.variance;

  std::printf(
      "V = (x - mu)^T A (x - mu) in R^%d, tau = %g, %d clouds of %td points, kernel: median distance\n",
      o.dim, o.tau, o.repeats, o.samples);
  std::printf("MMD of the empirical measures to ULA; ULA: its run with another seed\n");
  std::printf("%6s %10s %10s %10s %10s %12s\n", "t", "brenier", "ULA", "exact", "descent", "KL moments");
  double seconds = 0, worst = 0, worst_exact = 0;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (int k = 1; k <= o.steps; ++k) {
    seconds += flow.step().value().seconds;
    for (std::vector<Descent>* clouds : {&ula, &other, &descent}) {
      for (Descent& particles : *clouds) {
        for (int substep = 0; substep < o.substeps; ++substep) particles.step();
      }
    }
    const double t = k * o.tau;
    const GaussianState state = exact.exact(initial, t);
    const Density truth = Density::gaussian(state.mean, state.covariance);
    const double bandwidth = median_distance(ula[0].x(), other[0].x());
    Spread ours, again, exact_samples, gd;
    for (int r = 0; r < o.repeats; ++r) {
      const auto mmd = [&](const Matrix<double>& x) {
        return mmd_empirical(x, ula[r].x(), bandwidth, flow.team());
      };
      ours.add(mmd(flow.tracked(r).x()));
      again.add(mmd(other[r].x()));
      gd.add(mmd(descent[r].x()));
      exact_samples.add(
          mmd(truth.sample(o.samples, Sampling::random, o.seed + 10 * static_cast<std::uint64_t>(r) + 5).x));
    }
    worst = std::max(worst, ours.mean() / again.mean());
    worst_exact = std::max(worst_exact, exact_samples.mean() / again.mean());
    const double moments = symmetric_kl(gaussian_fit(flow.trajectory().x()), state);
    std::printf("%6.3f %10.5f %10.5f %10.5f %10.5f %12.2e\n", t, ours.mean(), again.mean(),
                exact_samples.mean(), gd.mean(), moments);
    std::fflush(stdout);
    rows.push_back({{"t", t},
                    {"brenier", ours.mean()},
                    {"brenier_range", ours.range()},
                    {"ula", again.mean()},
                    {"ula_range", again.range()},
                    {"exact", exact_samples.mean()},
                    {"descent", gd.mean()},
                    {"descent_range", gd.range()},
                    {"symmetric_kl_of_moments", moments}});
  }
  std::printf("largest ratio to ULA with another seed: %.3f; of samples of the exact solution: %.3f\n", worst,
              worst_exact);
  std::printf("the flow took %.1f s\n", seconds);
  nlohmann::ordered_json all = o.json();
  all["dim"] = o.dim;
  all["samples"] = o.samples;
  all["beta"] = o.beta;
  all["seconds"] = seconds;
  all["worst_ratio"] = worst;
  all["worst_ratio_exact"] = worst_exact;
  all["rows"] = rows;
  return bench::print(all);
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_program(
      argc, argv, "The JKO flow beside the Unadjusted Langevin Algorithm in high dimension.", Options(), run);
}
