// SPDX-License-Identifier: MIT
// Times entropic transport with its forces: from nothing through the schedule of epsilons, and warm starts as
// an inner loop has them. Pairs a second count every pair of every update of f or g; the error is that of the
// value against the same steps in double. JSON lines; bench/peers/pytorch_sinkhorn.py prints the same.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "bench/run_program.hpp"
#include "bench/timing.hpp"
#include "brenier/base/error.hpp"
#include "brenier/brenier.hpp"
#include "brenier/device.hpp"
#include "brenier/npy.hpp"
#include "kernels/model/divergence.hpp"
#include "kernels/operations.hpp"

namespace {

using namespace brenier;

struct Options {
  Index n = 1000;
  int dim = 128;
  double epsilon = 0.0025;
  double noise = 0.05;
  int iterations = 10;
  int warm = 5;
  std::ptrdiff_t storage = SinkhornOptions{}.storage;
  std::string cloud, dtype = "float", device = "cpu";
  int threads = 2;
  double seconds = 1;

  void add_to(CLI::App& app) {
    app.add_option("--n", n, "points of both clouds")->check(CLI::PositiveNumber);
    app.add_option("--dim", dim)->check(CLI::PositiveNumber);
    app.add_option("--cloud", cloud, "the reference: a .npy file (N, d) in place of --n and --dim");
    app.add_option("--noise", noise, "deviation of the cloud from the reference, a coordinate")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--epsilon", epsilon)->check(CLI::PositiveNumber);
    app.add_option("--iterations", iterations, "steps at the last epsilon")->check(CLI::PositiveNumber);
    app.add_option("--warm", warm, "steps of a warm start")->check(CLI::PositiveNumber);
    app.add_option("--storage", storage, "bytes: more costs are formed anew in each step; 0: always")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--dtype", dtype)->check(CLI::IsMember({"float", "double"}));
    bench::add_device(app, device, threads);
    app.add_option("--seconds", seconds, "time spent on each case")->check(CLI::PositiveNumber);
  }
};

/// The reference: a file, or points with coordinates of variance 1 for the first 11 and 0.01 for the others,
/// as embeddings have them.
Matrix<double> reference_of(const Options& options) {
  if (!options.cloud.empty()) return read_npy(options.cloud);
  Matrix<double> y(options.n, options.dim);
  const Random random(7, RandomStream::cloud);
  for (Index i = 0; i < y.rows(); ++i) {
    for (Index c = 0; c < y.cols(); ++c) {
      const std::uint64_t place = static_cast<std::uint64_t>(i * y.cols() + c);
      y(i, c) = (c < 11 ? 1.0 : 0.1) * random.normals(0, 0, place)[0];
    }
  }
  return y;
}

/// Steps of the schedule from the bound of the largest cost down to epsilon.
int levels(const DivergenceTerm& term, const Matrix<double>& x) {
  const CentredReference y(term);
  DivergenceTerm own;
  own.reference = std::make_shared<const Matrix<double>>(x);
  const CentredReference centred(own);
  double bound = 0;
  for (const Matrix<double>* cloud : {&y.y, &centred.y}) {
    double most = 0;
    for (Index i = 0; i < cloud->rows(); ++i) {
      double square = 0;
      for (Index c = 0; c < cloud->cols(); ++c) square += (*cloud)(i, c) * (*cloud)(i, c);
      most = std::max(most, square / 2);
    }
    bound += 2 * most;
  }
  int count = 0;
  for (double e = first_epsilon(bound, term.sinkhorn); e > term.sinkhorn.epsilon;
       e = next_epsilon(e, term.sinkhorn))
    ++count;
  return count;
}

template <class T>
void run(const Options& options) {
  const Matrix<double> y = reference_of(options);
  Matrix<double> x = y;
  const Random random(8, RandomStream::cloud);
  for (std::size_t k = 0; k < x.elements().size(); ++k) {
    x.elements()[k] += options.noise * random.normals(0, 0, k)[0];
  }
  DivergenceTerm term;
  term.reference = std::make_shared<const Matrix<double>>(y);
  term.sinkhorn = {.epsilon = options.epsilon, .iterations = options.iterations};
  term.sinkhorn.warm_iterations = options.warm;
  term.sinkhorn.tolerance = 0;  // every step
  term.sinkhorn.storage = options.storage;
  check_divergence(term, "--cloud");
  check_cloud(x, {}, "--cloud");
  const Operations<T>& ops = backend<T>(options.device);
  Team team(options.threads);
  const Matrix<T> points = cast<T>(x);
  Matrix<T> force(x.rows(), x.cols());
  const double exact = [&] {
    double value = 0;
    cpu::operations<double>().divergence(term, {x}, &value, {}, nullptr, team);
    return value;
  }();
  const double pairs = static_cast<double>(x.rows()) * static_cast<double>(y.rows());
  const int schedule = levels(term, x);
  DivergenceState kept;
  for (const bool warm : {false, true}) {
    if (warm && std::string(ops.name) == "cuda") continue;  // keeps potentials within an inner loop only
    double value = 0;
    SinkhornReport report = ops.divergence(term, {points}, &value, force, &kept, team);
    const bench::Timing timing = bench::measure(
        [&](int count) {
          for (int k = 0; k < count; ++k) {
            DivergenceState none;
            report = ops.divergence(term, {points}, nullptr, force, warm ? &kept : &none, team);
          }
        },
        options.seconds);
    const int updates = warm ? 2 * options.warm + 1 : 2 * (schedule + options.iterations) + 1;
    nlohmann::ordered_json line;
    line["op"] = warm ? "sinkhorn_warm" : "sinkhorn";
    line["n"] = x.rows();
    line["m"] = y.rows();
    line["dim"] = x.cols();
    line["dtype"] = sizeof(T) == 4 ? "float" : "double";
    line["epsilon"] = options.epsilon;
    line["schedule"] = warm ? 0 : schedule;
    line["iterations"] = warm ? options.warm : options.iterations;
    line["seconds_median"] = timing.median;
    line["seconds_min"] = timing.least;
    line["pairs_per_second"] = pairs * updates / timing.median;
    line["storage"] = options.storage;
    line["value"] = value;
    if (!warm) line["error"] = std::abs(value - exact) / std::abs(exact);
    line["marginal_error"] = report.marginal_error;
    line["threads"] = team.size();
    line["backend"] = ops.name;
    std::printf("%s\n", line.dump().c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_on_device(argc, argv, "Times entropic optimal transport with its forces.", Options(),
                              [](const Options& o) { o.dtype == "float" ? run<float>(o) : run<double>(o); });
}
