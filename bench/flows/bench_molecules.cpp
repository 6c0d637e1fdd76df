// SPDX-License-Identifier: MIT
// The molecule experiment of the paper's section 6, beside its tables, in latent space: direct optimisation
// of the points over the whole grid of optimisers, rates and weights (tables 2, 6, 7), and the time that the
// maps of a run take on new points against optimising these (table 8). SD is the entropic optimal transport
// cost between the initial and the final cloud, epsilon = 0.0025, not debiased; it is epsilon ln N where
// nothing has moved. Needs the two files of the authors' release that bench/paper/molecules.toml names.
// Prints tables and, last, one JSON line.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "bench/flows/draws.hpp"
#include "bench/run_program.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"
#include "brenier/entropic_transport.hpp"
#include "kernels/operations.hpp"

namespace {

using namespace brenier;
using Json = nlohmann::ordered_json;
using Method = DescentOptions::Method;

struct Options {
  std::string cloud, potential, maps, out, others;
  std::vector<double> weights = {0, 1, 10, 100, 1000, 10000};
  std::vector<double> rates = {0.5, 0.1, 0.01, 0.001, 0.0001};
  std::vector<std::string> methods = {"sgd", "adam"};
  std::vector<Index> points = {1000, 2000, 3000, 4000, 5000};
  int steps = 100;
  int threads = 0;
  double seconds = 1;  // of each timing

  void add_to(CLI::App& app) {
    app.add_option("--cloud", cloud, "the initial points, .npy (N, d)")->required()->check(CLI::ExistingFile);
    app.add_option("--potential", potential, "V, .safetensors")->required()->check(CLI::ExistingFile);
    app.add_option("--maps", maps, "maps folder of a run: times them on new points (table 8)")
        ->check(CLI::ExistingDirectory);
    app.add_option("--new", others, "new points for --maps, .npy (M, d), the first of them (a Gaussian law)")
        ->check(CLI::ExistingFile);
    app.add_option("--out", out, "folder for the final clouds of direct optimisation")
        ->check(CLI::ExistingDirectory);
    app.add_option("--weights", weights, "lambda_2")->delimiter(',')->check(CLI::NonNegativeNumber);
    app.add_option("--rates", rates)->delimiter(',')->check(CLI::PositiveNumber);
    app.add_option("--methods", methods)->delimiter(',')->check(CLI::IsMember({"sgd", "adam"}));
    app.add_option("--steps", steps)->check(CLI::PositiveNumber);
    app.add_option("--points", points, "new points for --maps")->delimiter(',')->check(CLI::PositiveNumber);
    app.add_option("--seconds", seconds, "of each timing")->check(CLI::PositiveNumber);
    bench::add_threads(app, threads);
  }
};

/// Final SD of tables 6 and 7, mean and standard deviation of five runs: method, weight, rate.
struct Published {
  double value, deviation;
};
const std::map<std::tuple<std::string, double, double>, Published> kPublished = {
    {{"sgd", 0, .5}, {9792.929, 76.913}},
    {{"sgd", 0, .1}, {4.584, 1.182}},
    {{"sgd", 0, .01}, {.022, 0}},
    {{"sgd", 0, .001}, {.017, 0}},
    {{"sgd", 0, .0001}, {.017, 0}},
    {{"sgd", 1, .5}, {8881.378, 69.736}},
    {{"sgd", 1, .1}, {4.496, 1.156}},
    {{"sgd", 1, .01}, {.022, 0}},
    {{"sgd", 1, .001}, {.017, 0}},
    {{"sgd", 1, .0001}, {.017, 0}},
    {{"sgd", 10, .5}, {3696.657, 28.212}},
    {{"sgd", 10, .1}, {3.832, .917}},
    {{"sgd", 10, .01}, {.021, 0}},
    {{"sgd", 10, .001}, {.017, 0}},
    {{"sgd", 10, .0001}, {.017, 0}},
    {{"sgd", 100, .5}, {547.310, 36.557}},
    {{"sgd", 100, .1}, {.822, .125}},
    {{"sgd", 100, .01}, {.021, 0}},
    {{"sgd", 100, .001}, {.017, 0}},
    {{"sgd", 100, .0001}, {.017, 0}},
    {{"sgd", 1000, .5}, {2515.075, 49.870}},
    {{"sgd", 1000, .1}, {1.833, .611}},
    {{"sgd", 1000, .01}, {.019, 0}},
    {{"sgd", 1000, .001}, {.017, 0}},
    {{"sgd", 1000, .0001}, {.017, 0}},
    {{"sgd", 10000, .1}, {296.809, 9.344}},
    {{"sgd", 10000, .01}, {.017, 0}},
    {{"sgd", 10000, .001}, {.017, 0}},
    {{"sgd", 10000, .0001}, {.017, 0}},
    {{"adam", 0, .5}, {444.779, 1.168}},
    {{"adam", 0, .1}, {18.261, .134}},
    {{"adam", 0, .01}, {1.650, .006}},
    {{"adam", 0, .001}, {.073, 0}},
    {{"adam", 0, .0001}, {.018, 0}},
    {{"adam", 1, .5}, {394.993, 1.093}},
    {{"adam", 1, .1}, {17.170, .097}},
    {{"adam", 1, .01}, {1.551, .009}},
    {{"adam", 1, .001}, {.072, 0}},
    {{"adam", 1, .0001}, {.018, 0}},
    {{"adam", 10, .5}, {241.505, 1.616}},
    {{"adam", 10, .1}, {13.360, .030}},
    {{"adam", 10, .01}, {1.253, .005}},
    {{"adam", 10, .001}, {.068, 0}},
    {{"adam", 10, .0001}, {.018, 0}},
    {{"adam", 100, .5}, {18.000, .605}},
    {{"adam", 100, .1}, {4.528, .068}},
    {{"adam", 100, .01}, {.246, 0}},
    {{"adam", 100, .001}, {.054, 0}},
    {{"adam", 100, .0001}, {.018, 0}},
    {{"adam", 1000, .5}, {12.146, .547}},
    {{"adam", 1000, .1}, {.077, .003}},
    {{"adam", 1000, .01}, {.023, 0}},
    {{"adam", 1000, .001}, {.021, 0}},
    {{"adam", 1000, .0001}, {.018, 0}},
    {{"adam", 10000, .5}, {2.646, .062}},
    {{"adam", 10000, .1}, {.240, .019}},
    {{"adam", 10000, .01}, {.018, 0}},
    {{"adam", 10000, .001}, {.017, 0}},
    {{"adam", 10000, .0001}, {.017, 0}}};
/// Table 8: seconds on a V100 for 1000 to 5000 points, of direct optimisation (Adam, 0.1, weight 1) and of
/// the maps.
struct PublishedSeconds {
  double direct, maps;
};
const std::map<Index, PublishedSeconds> kAmortisation = {{1000, {1.416, .086}},
                                                         {2000, {1.550, .086}},
                                                         {3000, {2.300, .086}},
                                                         {4000, {3.433, .086}},
                                                         {5000, {4.696, .088}}};

Functional functional_of(const LearnedPotential& potential, const Matrix<double>& reference, double weight) {
  Functional out = learned_potential(potential, "V");
  if (weight > 0) out = out + weight * sinkhorn(reference, {.epsilon = 0.0025});
  return out;
}

double mean_potential(const LearnedPotential& potential, const Matrix<double>& x, Team& team) {
  std::vector<double> v(x.rows());
  potential.evaluate(x, v.data(), {}, team);
  double sum = 0;
  for (const double one : v) sum += one / static_cast<double>(x.rows());
  return sum;
}

/// One row of the grid; a run that diverges says after how many steps.
Json descend(const Options& o, const LearnedPotential& potential, const Matrix<double>& start,
             const std::string& method, double weight, double rate, Team& team) {
  const double begin = bench::now();
  Descent descent(
      functional_of(potential, start, weight), start,
      {.method = method == "sgd" ? Method::sgd : Method::adam, .rate = rate, .threads = o.threads});
  Json row = {{"method", method}, {"weight", weight}, {"rate", rate}};
  const auto known = kPublished.find({method, weight, rate});
  std::printf("%5s %8g %8g ", method.c_str(), weight, rate);
  try {
    for (int k = 0; k < o.steps; ++k) descent.step();
    const EntropicTransport sd =
        entropic_transport(descent.x(), start, {.epsilon = 0.0025, .iterations = 1000}, team);
    const double v = mean_potential(potential, descent.x(), team);
    row["sd"] = sd.value;
    row["marginal_error"] = sd.report.marginal_error;
    row["unconverged"] = descent.sinkhorn().unconverged;
    row["potential"] = v;
    if (!o.out.empty()) {
      const std::string name = method + "_" + Json(weight).dump() + "_" + Json(rate).dump() + ".npy";
      write_npy(std::filesystem::path(o.out) / name, descent.x());
      row["cloud"] = name;
    }
    std::printf("%11.5g ", sd.value);
    if (known != kPublished.end()) {
      row["published_sd"] = known->second.value;
      row["published_deviation"] = known->second.deviation;
      std::printf("%9.4g +- %-7.3g ", known->second.value, known->second.deviation);
    } else {
      std::printf("%20s ", "nan");
    }
    std::printf("%11.5g ", v);
  } catch (const NumericalError&) {
    row["diverged_after"] = descent.steps();
    std::printf("diverged after %d steps%20s", descent.steps(), "");
  } catch (const ValueError& error) {  // points so far away that no cost can be formed
    row["diverged_after"] = descent.steps();
    std::printf("diverged: %s", error.what());
  }
  row["seconds"] = bench::now() - begin;
  std::printf("%8.2f\n", bench::now() - begin);
  std::fflush(stdout);
  return row;
}

Json grid(const Options& o, const LearnedPotential& potential, const Matrix<double>& start) {
  Team team(o.threads);
  std::printf("direct optimisation, %d steps; SD beside tables 6 and 7 (mean and deviation of five runs)\n",
              o.steps);
  std::printf("%5s %8s %8s %11s %20s %11s %8s\n", "", "lambda_2", "rate", "SD", "published", "E[V]",
              "seconds");
  Json rows = Json::array();
  for (const std::string& method : o.methods) {
    for (const double weight : o.weights) {
      for (const double rate : o.rates)
        rows.push_back(descend(o, potential, start, method, weight, rate, team));
    }
  }
  return rows;
}

/// n points of the Gaussian law with the moments of the cloud, in the directions that the cloud has.
Matrix<double> new_points(const Matrix<double>& cloud, Index n) {
  const GaussianState moments = gaussian_fit(cloud);
  Matrix<double> covariance = moments.covariance;
  for (Index c = 0; c < cloud.cols(); ++c) covariance(c, c) += 1e-12;
  return Density::gaussian(moments.mean, covariance).sample(n, Sampling::random, 7).x;
}

/// The first n of points that were given.
Matrix<double> first_rows(const Matrix<double>& points, Index n) {
  if (n > points.rows()) {
    throw ShapeError(std::to_string(n) + " new points are asked for, the file has " +
                     std::to_string(points.rows()));
  }
  Matrix<double> out(n, points.cols());
  std::copy_n(points.elements().begin(), out.elements().size(), out.elements().begin());
  return out;
}

/// The maps of a run, in single precision.
class FloatMaps {
 public:
  explicit FloatMaps(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const std::filesystem::path& file : files) {
      maps_.push_back(read_map(file));
      if (maps_.back().base != MapBase::current)
        throw ValueError(file.string() + " is of a run at order 2; only order 1 is timed");
      theta_.emplace_back(maps_.back().theta.begin(), maps_.back().theta.end());
    }
    if (maps_.empty()) throw ValueError(folder.string() + " has no maps");
  }
  std::size_t size() const { return maps_.size(); }
  int dim() const { return maps_.front().net.dim(); }
  void push(Matrix<float>& x, Matrix<float>& displacement, Team& team) const {
    for (std::size_t m = 0; m < maps_.size(); ++m) {
      MapOutputs<float> out;
      out.displacement = displacement;
      cpu::operations<float>().evaluate(maps_[m].net, theta_[m].data(), x, out, team);
      team.run([&](int rank) {
        const auto [first, last] = team.share(x.rows() * x.cols(), rank);
        for (Index k = first; k < last; ++k) x.elements()[k] += displacement.elements()[k];
      });
    }
  }

 private:
  std::vector<BrenierMap> maps_;
  std::vector<std::vector<float>> theta_;
};

Json amortisation(const Options& o, const LearnedPotential& potential, const Matrix<double>& cloud) {
  const FloatMaps maps(o.maps);
  if (maps.dim() != cloud.cols()) throw ShapeError("the maps and the cloud differ in dimension");
  Team team(o.threads);
  std::printf("\n%zu maps on new points, and %d steps of direct optimisation (Adam, 0.1, lambda_2 = 1)\n",
              maps.size(), o.steps);
  std::printf("%6s %10s %10s %8s %14s %14s %10s %10s\n", "points", "maps", "direct", "ratio",
              "published maps", "published dir.", "SD maps", "E[V] maps");
  Json rows = Json::array();
  Matrix<double> others;
  if (!o.others.empty()) others = read_npy(o.others);
  for (const Index n : o.points) {
    const Matrix<double> start = o.others.empty() ? new_points(cloud, n) : first_rows(others, n);
    Matrix<float> x(n, cloud.cols()), displacement(n, cloud.cols());
    std::vector<double> times;
    for (const double begin = bench::now(); times.size() < 3 || bench::now() - begin < o.seconds;) {
      std::copy(start.elements().begin(), start.elements().end(), x.elements().begin());
      const double from = bench::now();
      maps.push(x, displacement, team);
      times.push_back(bench::now() - from);
    }
    std::sort(times.begin(), times.end());
    const double of_maps = times[times.size() / 2];
    const double begin = bench::now();
    Descent descent(functional_of(potential, start, 1), start, {.rate = 0.1, .threads = o.threads});
    for (int k = 0; k < o.steps; ++k) descent.step();
    const double direct = bench::now() - begin;
    Matrix<double> moved(n, cloud.cols());
    std::copy(x.elements().begin(), x.elements().end(), moved.elements().begin());
    const double sd = entropic_transport(moved, start, {.epsilon = 0.0025}, team).value;
    const double v = mean_potential(potential, moved, team);
    const EntropicTransport sd_direct =
        entropic_transport(descent.x(), start, {.epsilon = 0.0025, .iterations = 1000}, team);
    Json row = {{"points", n},
                {"maps", maps.size()},
                {"seconds_maps", of_maps},
                {"seconds_direct", direct},
                {"sd_maps", sd},
                {"sd_direct", sd_direct.value},
                {"potential_maps", v},
                {"potential_direct", mean_potential(potential, descent.x(), team)}};
    std::printf("%6td %10.4f %10.3f %8.0f ", n, of_maps, direct, direct / of_maps);
    const auto known = kAmortisation.find(n);
    if (known != kAmortisation.end()) {
      row["published_seconds_maps"] = known->second.maps;
      row["published_seconds_direct"] = known->second.direct;
      std::printf("%14.3f %14.3f ", known->second.maps, known->second.direct);
    } else {
      std::printf("%14s %14s ", "", "");
    }
    std::printf("%10.4f %10.3f\n", sd, v);
    std::fflush(stdout);
    rows.push_back(row);
  }
  return rows;
}

int run(const Options& o) {
  const Matrix<double> cloud = read_npy(o.cloud);
  const LearnedPotential potential = read_potential(o.potential);
  if (potential.net.dim() != cloud.cols()) {
    throw ShapeError("the cloud has dimension " + std::to_string(cloud.cols()) + ", the potential " +
                     std::to_string(potential.net.dim()));
  }
  Json all;
  if (o.maps.empty()) {
    all["direct"] = grid(o, potential, cloud);
  } else {
    all["amortisation"] = amortisation(o, potential, cloud);
  }
  return bench::print(all);
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_program(
      argc, argv, "Direct optimisation of molecules in latent space, beside the paper's tables 6, 7 and 8.",
      Options(), run);
}
