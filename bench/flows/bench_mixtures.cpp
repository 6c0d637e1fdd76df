// SPDX-License-Identifier: MIT
// Fokker-Planck flows from N(0, 16 I) to random Gaussian mixtures: the stationary benchmark of Mokrov et al.
// (NeurIPS 2021), on its own targets, to its time and with its metrics, beside the published rows. A target
// is the equal mixture of unit Gaussians around points that are uniform on [-5, 5]^d. The energy distance is
// 2 E|X - Y| - E|X - X'| - E|Y - Y'|; KL(t|m) inverts the flow at samples of the target. The flow itself has
// not settled by then: modes keep the masses of their basins. The floors are the KL divergences of these
// masses, from Langevin dynamics. Prints a table and, last, one JSON line.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "bench/flows/flow_arguments.hpp"
#include "bench/run_program.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"

namespace {

using namespace brenier;

/// A row of Mokrov et al.: the key and the number of components that make its targets; our iterations of a
/// step; results, with seconds of training on a GTX 1080 Ti; the symmetric KL divergence of each of its five
/// targets, from the release of its authors.
struct Published {
  const char* key;
  int components, iterations;
  double kl_model, kl_target, symmetric_kl, energy_distance, seconds;
  std::vector<double> each;
};
const std::map<int, Published> kPublished = {
    {2, {"venus", 5, 500, .0301, .0314, .0615, .0655, 973, {.1028, .0144, .1193, .0558, .0152}}},
    {4, {"earth", 6, 500, .0858, .0897, .1755, .128, 1674, {.0979, .2459, .1445, .3021, .0871}}},
    {6, {"mars", 7, 500, .1505, .1507, .3012, .236, 2125, {.3620, .3424, .1709, .2225, .4082}}},
    {8, {"saturn", 8, 500, .2011, .1951, .3962, .186, 3370, {.4058, .3852, .4157, .4357, .3387}}},
    {10, {"jupiter", 9, 1000, .1842, .1448, .3290, .0894, 4034, {.2967, .3522, .4104, .2885, .2971}}},
    {12, {"uran", 10, 1000, .3025, .2061, .5086, .1005, 7175, {.5881, .4525, .4886, .5986, .4151}}}};

struct Options : bench::FlowArguments {
  std::vector<int> dims;
  int targets = 5, first = 0;
  double time = 4;
  Index samples = 8192;

  Options() {
    tau = 0.1;
    hidden = {60, 60, 60, 60};
    sharpness = 4;
    particles = 131072;
    refresh = 200;   // points outside of one cloud for good are carried away in the end
    pool = 8;        // two steps of fresh clouds
    iterations = 0;  // those of the row
  }
  int iterations_of(int d) const { return iterations > 0 ? iterations : kPublished.at(d).iterations; }
  void add_to(CLI::App& app) {
    bench::FlowArguments::add_to(app);
    app.add_option("--dims", dims, "dimensions, e.g. 2,4 (all of the table)")
        ->delimiter(',')
        ->check(CLI::IsMember({2, 4, 6, 8, 10, 12}));
    app.add_option("--targets", targets, "of each dimension; the first five are the published ones")
        ->check(CLI::PositiveNumber);
    app.add_option("--first", first, "number of the first target")->check(CLI::NonNegativeNumber);
    app.add_option("--time", time, "at the end")->check(CLI::PositiveNumber);
    app.add_option("--samples", samples, "that judge, of each density")->check(CLI::PositiveNumber);
  }
};

std::uint32_t crc32(const std::string& text) {
  std::uint32_t crc = ~0u;
  for (const char c : text) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0u);
  }
  return ~crc;
}

/// Centres (components, d) of target `number`: 0 to 4 are the published ones, bit by bit, and the others
/// follow the same rule. The published program seeds a Mersenne twister with a checksum of names and numbers,
/// and takes the low 24 bits of each of its words.
Matrix<double> centres_of(int d, int number) {
  const Published& row = kPublished.at(d);
  std::mt19937 words(
      crc32(std::string(row.key) + "@" + std::to_string(d) + "@" + std::to_string(number) + "pytorch"));
  Matrix<double> centres(row.components, d);
  for (double& c : centres.elements()) {
    c = static_cast<float>(words() & 0xFFFFFFu) * 0x1p-24f * 10 - 5;
  }
  return centres;
}

Density mixture_of(const Matrix<double>& centres) {
  Matrix<double> identity(centres.cols(), centres.cols());
  for (Index c = 0; c < centres.cols(); ++c) identity(c, c) = 1;
  std::vector<Density> parts;
  for (Index k = 0; k < centres.rows(); ++k) {
    parts.push_back(Density::gaussian({centres.row(k), centres.row(k) + centres.cols()}, identity));
  }
  return Density::mixture(std::vector<double>(parts.size(), 1.0), parts);
}

/// -log of the mixture, up to a constant: |x|^2/2 - log sum exp(c_k . x - |c_k|^2/2).
Functional potential_of(const Matrix<double>& centres) {
  std::vector<double> half(centres.rows());
  for (Index k = 0; k < centres.rows(); ++k) {
    for (Index c = 0; c < centres.cols(); ++c) half[k] += 0.5 * centres(k, c) * centres(k, c);
  }
  return potential("0.5*sum(x^2) - logsumexp(C*x - h)", static_cast<int>(centres.cols()),
                   {{"C", Parameter::matrix(centres)}, {"h", Parameter::vector(half)}});
}

/// Shares of the modes' components in the mixture at a point x, which become x's mean over them.
class Shares {
 public:
  explicit Shares(const Matrix<double>& centres) : centres_(centres), share_(centres.rows()) {}
  const std::vector<double>& at(const double* x) {
    double largest = -1e300, sum = 0;
    for (Index k = 0; k < centres_.rows(); ++k) {
      share_[k] = 0;
      for (Index c = 0; c < centres_.cols(); ++c) share_[k] -= 0.5 * std::pow(x[c] - centres_(k, c), 2);
      largest = std::max(largest, share_[k]);
    }
    for (double& s : share_) sum += s = std::exp(s - largest);
    for (double& s : share_) s /= sum;
    return share_;
  }

 private:
  const Matrix<double>& centres_;
  std::vector<double> share_;
};

/// KL divergences between the masses of the modes in a cloud and equal ones.
struct Floors {
  double kl_model = 0, kl_target = 0;
  double sum() const { return kl_model + kl_target; }
};

Floors of_masses(const Matrix<double>& centres, const Matrix<double>& x) {
  Shares shares(centres);
  std::vector<double> mass(centres.rows());
  for (Index i = 0; i < x.rows(); ++i) {
    const std::vector<double>& share = shares.at(x.row(i));
    for (std::size_t k = 0; k < mass.size(); ++k) mass[k] += share[k] / static_cast<double>(x.rows());
  }
  Floors out;
  const double m = static_cast<double>(mass.size());
  for (const double p : mass) {
    out.kl_model += p > 0 ? p * std::log(p * m) : 0;
    out.kl_target -= std::log(p * m) / m;
  }
  return out;
}

/// What the diffusion itself leaves: the masses that it has brought to the modes.
Floors floors_of(const Matrix<double>& centres, const Density& start, double time, Index samples,
                 std::uint64_t seed) {
  const Index d = centres.cols(), modes = centres.rows();
  const int steps = static_cast<int>(std::ceil(time / 0.01));
  const double eta = time / steps, spread = std::sqrt(2 * eta);
  Matrix<double> x = start.sample(samples, Sampling::random, seed, RandomStream::fresh).x;
  Shares shares(centres);
  const Random random(seed, RandomStream::fresh);
  for (Index i = 0; i < samples; ++i) {
    for (int step = 1; step <= steps; ++step) {
      const std::vector<double>& share = shares.at(x.row(i));
      for (Index a = 0; a < d; a += 2) {
        const auto noise = random.normals(static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(a),
                                          static_cast<std::uint64_t>(i));
        for (Index c = a; c < std::min(a + 2, d); ++c) {
          double mean = 0;
          for (Index k = 0; k < modes; ++k) mean += share[k] * centres(k, c);
          x(i, c) += eta * (mean - x(i, c)) + spread * noise[c - a];
        }
      }
    }
  }
  return of_masses(centres, x);
}

struct Score {
  Estimate kl_model, kl_target, energy;
  Floors floors, masses;
  double seconds = 0;
  bench::Profile profile;
  double symmetric_kl() const { return kl_model.value + kl_target.value; }
};

Score run(const Options& o, int d, int number) {
  const Matrix<double> centres = centres_of(d, number);
  const Density target = mixture_of(centres);
  FlowOptions options = o.options(d, number);
  options.inner.iterations = o.iterations_of(d);
  const Density start = Density::gaussian(d, 0, 16);
  const double begin = bench::now();
  Flow<float> flow(entropy() + potential_of(centres),
                   start.sample(o.particles, Sampling::stratified, options.seed), options);
  flow.set_source([&](std::uint32_t draw) {
    return start.sample(o.particles, Sampling::random, options.seed + draw, RandomStream::fresh);
  });
  const int steps = static_cast<int>(std::round(o.time / o.tau));
  const std::size_t held_out =
      flow.track(start.sample(o.samples, Sampling::random, options.seed, RandomStream::held_out));
  Score score;
  for (int k = 0; k < steps; ++k) score.profile.add(flow.step().value());
  score.seconds = bench::now() - begin;
  const Trajectory& model = flow.tracked(held_out);
  const Cloud truth = target.sample(o.samples, Sampling::random, options.seed, RandomStream::fresh);
  score.kl_model = kl_divergence(model.log_density(), target.log_density(model.x()));
  const FlowDensity density(flow.maps(), start, {.threads = o.threads});
  score.kl_target = kl_divergence(truth.log_density, density.log_density(truth.x).values);
  score.energy = energy_distance(model.x(), truth.x, flow.team());
  score.masses = of_masses(centres, model.x());
  score.floors = floors_of(centres, start, o.time, o.samples, options.seed);
  return score;
}

void print_target(int d, int number, const Score& score) {
  const std::vector<double>& published = kPublished.at(d).each;
  std::fprintf(stderr, "d = %d, target %d: symmetric %.4f, of masses %.4f, floor %.4f, published ", d, number,
               score.symmetric_kl(), score.masses.sum(), score.floors.sum());
  if (number < static_cast<int>(published.size())) {
    std::fprintf(stderr, "%.4f", published[number]);
  } else {
    std::fprintf(stderr, "none");
  }
  std::fprintf(stderr, ", %.1f s\n", score.seconds);
}

int run_table(const Options& o) {
  std::vector<int> dims = o.dims;
  if (dims.empty()) {
    for (const auto& [d, row] : kPublished) dims.push_back(d);
  }
  std::printf("mixtures at t = %g, means of %d targets (published: the first 5)\n", o.time, o.targets);
  std::printf("%4s %9s %9s %9s %9s %9s %9s %9s %9s %9s %9s %9s %9s %9s\n", "d", "KL(m|t)", "floor",
              "published", "KL(t|m)", "floor", "published", "symmetric", "floor", "published", "energy",
              "published", "seconds", "published");
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const int d : dims) {
    Score mean;
    nlohmann::ordered_json each = nlohmann::ordered_json::array();
    for (int number = o.first; number < o.first + o.targets; ++number) {
      const Score score = run(o, d, number);
      const double share = 1.0 / o.targets;
      mean.kl_model.value += share * score.kl_model.value;
      mean.kl_target.value += share * score.kl_target.value;
      mean.energy.value += share * score.energy.value;
      mean.floors.kl_model += share * score.floors.kl_model;
      mean.floors.kl_target += share * score.floors.kl_target;
      mean.seconds += share * score.seconds;
      each.push_back({{"symmetric_kl", score.symmetric_kl()},
                      {"masses", score.masses.sum()},
                      {"floor", score.floors.sum()},
                      {"profile", score.profile.json()}});
      print_target(d, number, score);
    }
    const Published& known = kPublished.at(d);
    const double symmetric = mean.symmetric_kl(), floor = mean.floors.sum();
    std::printf("%4d %9.4f %9.4f %9.4f %9.4f %9.4f %9.4f %9.4f %9.4f %9.4f %9.4f %9.4f %9.1f %9.0f\n", d,
                mean.kl_model.value, mean.floors.kl_model, known.kl_model, mean.kl_target.value,
                mean.floors.kl_target, known.kl_target, symmetric, floor, known.symmetric_kl,
                mean.energy.value, known.energy_distance, mean.seconds, known.seconds);
    std::fflush(stdout);
    rows.push_back({{"d", d},
                    {"iterations", o.iterations_of(d)},
                    {"kl_model", mean.kl_model.value},
                    {"kl_target", mean.kl_target.value},
                    {"symmetric_kl", symmetric},
                    {"symmetric_kl_floor", floor},
                    {"energy_distance", mean.energy.value},
                    {"seconds", mean.seconds},
                    {"targets", each},
                    {"published_symmetric_kl", known.symmetric_kl},
                    {"published_seconds", known.seconds}});
  }
  nlohmann::ordered_json all = o.json();
  all.erase("iterations");  // of each row
  all["time"] = o.time;
  all["rows"] = rows;
  return bench::print(all);
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_program(argc, argv, "Random Gaussian mixtures beside the published table.", Options(),
                            run_table);
}
