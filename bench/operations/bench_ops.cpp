// SPDX-License-Identifier: MIT
// Times every operation of kernels/operations.hpp (divergences: bench_sinkhorn.cpp): operations a second,
// share of what the machine can do at best in the same run, and accuracy against the reference in double. A
// table for people, and JSON lines with --json.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/operations/flops.hpp"
#include "bench/operations/roofline.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"
#include "kernels/operations.hpp"

namespace {

using namespace brenier;
using brenier::bench::Flops;
using brenier::bench::Subject;

constexpr int kCgSteps = 10;  // as in the method's paper
constexpr int kLanczosSteps = 15;

struct Options {
  std::vector<Index> n = {1000, 16000};
  std::vector<Index> pairs = {10000, 100000};
  std::vector<std::string> shapes = {"1:100,20", "2:100,20", "20:100,20", "8:100,100", "128:100,100"};
  std::string dtype = "both";
  std::string device = "auto";
  std::string filter;
  std::string json;
  int threads = 2;
  double seconds = 0.2;
  double max_gflop = 120;

  void add_to(CLI::App& app) {
    app.add_option("--n", n, "particles, e.g. 1000,16000")->delimiter(',')->check(CLI::PositiveNumber);
    app.add_option("--pairs", pairs, "particles of the interactions without a network, dimensions 1 and 2")
        ->delimiter(',')
        ->check(CLI::PositiveNumber);
    app.add_option("--shape", shapes, "networks DIM:WIDTHS, e.g. 2:100,20; may be repeated");
    app.add_option("--dtype", dtype)->check(CLI::IsMember({"float", "double", "both"}));
    app.add_option(
        "--device", device,
        "auto, cpu, cpu:VARIANT, ref, cuda or cuda:K, where copies from and to the host are timed too");
    app.add_option("--threads", threads, "0: all processors")->check(CLI::NonNegativeNumber);
    app.add_option("--seconds", seconds, "time spent on each case")->check(CLI::PositiveNumber);
    app.add_option("--filter", filter, "only operations whose name contains this");
    app.add_option("--max-gflop", max_gflop, "leave out cases above this work")->check(CLI::PositiveNumber);
    app.add_option("--json", json, "file for JSON lines");
  }
};

struct Shape {
  int dim = 0;
  std::vector<int> hidden;
  std::string text;

  explicit Shape(const std::string& from) {
    const std::size_t colon = from.find(':');
    std::size_t at = 0;
    try {
      dim = std::stoi(from.substr(0, colon), &at);
      if (colon == std::string::npos || at != colon || dim < 1) throw std::invalid_argument(from);
      text = from.substr(colon + 1);
      for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        hidden.push_back(std::stoi(text.substr(begin, end - begin), &at));
        if (at != end - begin) throw std::invalid_argument(from);
        begin = end + 1;
      }
    } catch (const std::logic_error&) {
      throw ValueError("--shape \"" + from +
                       "\"; write the dimension, a colon and the widths, e.g. 2:100,20");
    }
  }
};

/// Inputs of all operations, rounded to T, and room for their outputs.
template <class T>
struct Data {
  Index n, d;
  std::vector<T> theta, values;
  std::vector<T> steep;  // theta of a map far from the identity: solves have work to do
  Matrix<T> x, v, q, p, metric, out, hessian_vector, signs;
  std::vector<double> log_det, gradient;
  std::vector<double> energy = {0};

  Data(const Icnn& net, Index n_in)
      : n(n_in),
        d(net.dim()),
        values(n),
        x(n, d),
        v(n, d),
        q(n, d),
        p(n, d),
        metric(n, d * d),
        out(n, d),
        hessian_vector(n, d),
        signs(n, d),
        log_det(n),
        gradient(net.parameters()) {
    for (const double t : initial_parameters(net, Initialisation::identity, 3))
      theta.push_back(static_cast<T>(t));
    steep = theta;
    for (Index j = 0; j < net.layers().back().width; ++j) steep[net.output_weight() + j] *= T(2000);
    steep[net.alpha()] = T(0.1);
    const Random random(7, RandomStream::cloud);
    std::uint32_t stream = 0;
    for (Matrix<T>* matrix : {&x, &v, &q, &p}) {
      std::uint64_t next = 0;
      for (T& element : matrix->elements()) {
        element = static_cast<T>(2 * random.uniform(stream, 0, next++) - 1);
      }
      ++stream;
    }
    for (std::size_t k = 0; k < signs.elements().size(); ++k) {
      signs.elements()[k] = p.elements()[k] < 0 ? T(-1) : T(1);
    }
    for (Index i = 0; i < n; ++i) {
      for (Index a = 0; a < d; ++a) {
        for (Index b = 0; b < d; ++b) metric(i, a * d + b) = q(i, a) * q(i, b) + (a == b ? T(1) : T(0));
      }
    }
  }

  /// The same numbers in double, first `count` particles.
  Data<double> exact(const Icnn& net, Index count) const {
    Data<double> other(net, count);
    other.theta.assign(theta.begin(), theta.end());
    other.steep.assign(steep.begin(), steep.end());
    const auto copy = [&](Matrix<double>& to, const Matrix<T>& from) {
      std::copy_n(from.elements().begin(), to.elements().size(), to.elements().begin());
    };
    copy(other.x, x);
    copy(other.v, v);
    copy(other.q, q);
    copy(other.p, p);
    copy(other.metric, metric);
    copy(other.signs, signs);
    return other;
  }
};

/// One operation: its work a particle, and how to call it in any precision; call() returns all results as
/// numbers.
struct Operation {
  std::string name;
  double flops = 0;    // a particle
  double values = 0;   // numbers read and written a particle
  bool pairs = false;  // the flops are for a pair, and there are N (N - 1)
  Program program{};
  PairKernel kernel{};
};

template <class T>
void call(const Operation& op, const Operations<T>& ops, const Icnn& net, Data<T>& data, Team& team) {
  const T* theta = data.theta.data();
  JetSeeds<T> seeds;
  seeds.v = data.v;
  MapOutputs<T> outputs;
  outputs.displacement = data.out;
  if (op.name == "map") {
    ops.evaluate(net, theta, data.x, outputs, team);
  } else if (op.name == "map_log_det") {
    outputs.log_det = data.log_det.data();
    ops.evaluate(net, theta, data.x, outputs, team);
  } else if (op.name == "hessian_vector") {
    ops.hessian_vector(net, theta, data.x, data.p, data.out, team);
  } else if (op.name == "solve_hessian") {
    ops.solve_hessian(net, data.steep.data(), data.x, data.signs, data.out, {.iterations = kCgSteps}, team);
  } else if (op.name == "log_det_lanczos") {
    ops.log_det_lanczos(net, data.steep.data(), data.x, data.signs, kLanczosSteps, data.log_det.data(),
                        nullptr, team);
  } else if (op.name.rfind("program", 0) == 0) {
    ops.evaluate_program(op.program, data.x, data.values.data(), data.out, team);
  } else if (op.name == "interaction_log_energy") {
    ops.interaction(op.kernel, data.x, data.energy.data(), {}, team);
  } else if (op.name.rfind("interaction", 0) == 0) {
    ops.interaction(op.kernel, data.x, nullptr, data.out, team);
  } else {
    if (op.name == "jet_metric") seeds.metric = data.metric;
    if (op.name == "jet_single" || op.name == "jet_pairs") {
      seeds.directions = 1;
      seeds.q = data.q;
    }
    if (op.name == "jet_pairs") seeds.p = data.p;
    ops.jet_gradient(net, theta, data.x, seeds, data.gradient.data(), team);
  }
}

std::vector<Operation> operations(const Icnn& net) {
  const Flops flops(net);
  const int d = net.dim();
  const double size = d;
  std::vector<Operation> list = {
      {"map", flops.map(), 2 * size},
      {"map_log_det", flops.map_log_det(), 2 * size + 2},
      {"hessian_vector", flops.hessian_vector(), 3 * size},
      // Exact after d steps: solves end there, or a step later.
      {"solve_hessian", flops.solve(std::min(kCgSteps, d)), 3 * size},
      {"log_det_lanczos", flops.lanczos(std::min(kLanczosSteps, d)), 2 * size + 2},
      {"jet_v", flops.jet(), 2 * size},
      {"jet_metric", flops.jet_metric(), 2 * size + size * size},
      {"jet_single", flops.jet_directions(1), 3 * size},
      {"jet_pairs", flops.jet_directions(2), 4 * size},
  };
  Operation program{"program", 0, 2 * size + 1};
  program.program = Expression::potential("sum(x^2) + 0.1*sum(exp(x))", d).program();
  program.flops = bench::program_flops(program.program);
  list.push_back(program);
  Operation log{"interaction_log", 0, 2 * size, true};
  log.kernel = {.quadratic = 0.5, .log_coefficient = -1};
  Operation radial{"interaction_radial", 0, 2 * size, true};
  radial.kernel = {.form = PairKernel::Form::radial,
                   .program = Expression::interaction("exp(-r)", d).program()};
  for (Operation* pair : {&log, &radial}) {
    pair->flops = bench::pair_flops(pair->kernel, d);
    list.push_back(*pair);
  }
  Operation energy = log;
  energy.name = "interaction_log_energy";
  energy.flops = bench::pair_energy_flops(d);
  list.push_back(energy);
  return list;
}

/// Largest difference from the reference in double over its largest result, on the first particles. Both
/// clouds start with the same particles as `data`, whatever their size.
template <class T>
double error_of(const Operation& op, const Operations<T>& ops, const Icnn& net, const Data<T>& data,
                Team& team) {
  const Index count = std::min<Index>(data.n, net.dim() > 32 ? 8 : 100);
  Data<double> expected = data.exact(net, count);
  Data<T> actual(net, count);
  call(op, ops, net, actual, team);
  call(op, ref::operations<double>(), net, expected, team);
  double worst = 0, scale = 0;
  const auto compare = [&](const auto& a, const auto& b) {
    for (std::size_t i = 0; i < b.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
      scale = std::max(scale, std::abs(static_cast<double>(b[i])));
    }
  };
  if (op.name == "log_det_lanczos") {
    scale = static_cast<double>(net.dim());  // |p|^2, which the quadrature multiplies
    compare(actual.log_det, expected.log_det);
  } else if (op.name == "map_log_det") {
    // The error of a logarithm is the relative error of the determinant, however close to 1 that is.
    scale = 1;
    compare(actual.log_det, expected.log_det);
  } else if (op.name.rfind("jet", 0) == 0) {
    compare(actual.gradient, expected.gradient);
  } else if (op.name == "interaction_log_energy") {
    compare(actual.energy, expected.energy);
  } else {
    compare(actual.out.elements(), expected.out.elements());
  }
  return worst / scale;
}

/// Largest |p - H z| / |p| of the solves on the first particles, in double: what is left after the steps.
template <class T>
double residual_of(const Operation& op, const Operations<T>& ops, const Icnn& net, const Data<T>& data,
                   Team& team) {
  const Index count = std::min<Index>(data.n, 100);
  Data<double> exact = data.exact(net, count);
  Data<T> actual(net, count);
  call(op, ops, net, actual, team);
  const Matrix<double> z = cast<double>(actual.out);
  ref::operations<double>().hessian_vector(net, exact.steep.data(), exact.x, z, exact.out, team);
  double worst = 0;
  for (Index i = 0; i < count; ++i) {
    double left = 0;
    for (Index c = 0; c < data.d; ++c) left += std::pow(exact.signs(i, c) - exact.out(i, c), 2);
    worst = std::max(worst, std::sqrt(left / static_cast<double>(data.d)));
  }
  return worst;
}

/// What all cases are measured with.
struct Context {
  const Options& options;
  double bandwidth;
  Team& team;
  std::ofstream& json;
};

/// One line of the table.
template <class T>
void run_operation(const Context& context, const Operation& op, const Icnn& net, const std::string& hidden,
                   Data<T>& data) {
  const Options& o = context.options;
  if (op.name.find(o.filter) == std::string::npos) return;
  const Operations<T>& ops = backend<T>(o.device);
  const char* dtype = sizeof(T) == 4 ? "float" : "double";
  const double particles = static_cast<double>(data.n);
  const double pairs = op.pairs ? particles * (particles - 1) : 0;
  const double flops = op.flops * (op.pairs ? pairs : particles);
  if (flops > o.max_gflop * 1e9) return;
  const double peak = bench::peak_flops<T>(ops.name, context.team, 0.02);
  const bench::Timing timing = bench::measure(
      [&](int count) {
        for (int k = 0; k < count; ++k) call(op, ops, net, data, context.team);
      },
      o.seconds);
  // The least time that arithmetic or memory allows.
  const double bound =
      std::max(flops / peak, op.values * particles * static_cast<double>(sizeof(T)) / context.bandwidth);
  const double error = error_of(op, ops, net, data, context.team);
  std::printf("%-19s %4d %8s %7td %-6s %12.2f %12.2f %8.1f %6.1f%% %6.1f%% %9.1e", op.name.c_str(), net.dim(),
              hidden.c_str(), data.n, dtype, timing.median * 1e6, timing.least * 1e6,
              flops / timing.median * 1e-9, 100 * flops / timing.median / peak, 100 * bound / timing.median,
              error);
  const bool solve = op.name == "solve_hessian";
  const double residual = solve ? residual_of(op, ops, net, data, context.team) : 0;
  if (op.pairs) std::printf(" %9.2e", pairs / timing.median);
  if (solve) std::printf("  residual %.1e", residual);
  std::printf("\n");
  std::fflush(stdout);
  if (!context.json.is_open()) return;
  nlohmann::ordered_json line = {{"op", op.name},
                                 {"dim", net.dim()},
                                 {"hidden", hidden},
                                 {"n", data.n},
                                 {"dtype", dtype},
                                 {"seconds_median", timing.median},
                                 {"seconds_min", timing.least},
                                 {"gflops", flops / timing.median * 1e-9},
                                 {"peak_gflops", peak * 1e-9},
                                 {"share", flops / timing.median / peak},
                                 {"bandwidth_gbs", context.bandwidth * 1e-9},
                                 {"bound_share", bound / timing.median},
                                 {"error", error},
                                 {"threads", context.team.size()},
                                 {"backend", ops.name},
                                 {"version", BRENIER_VERSION}};
  if (op.pairs) line["pairs_per_second"] = pairs / timing.median;
  if (solve) line["residual"] = residual;
  context.json << line.dump() << "\n" << std::flush;
  if (!context.json) throw IoError("cannot write " + o.json);
}

template <class T>
void run_shape(const Context& context, const Shape& shape, Index n) {
  const Icnn net({.dim = shape.dim, .hidden = shape.hidden});
  Data<T> data(net, n);
  for (const Operation& op : operations(net)) run_operation(context, op, net, shape.text, data);
}

/// The interaction alone: more particles than networks are timed with.
template <class T>
void run_pairs(const Context& context, int dim, Index n) {
  const Icnn net({.dim = dim, .hidden = {1}});  // not used
  Data<T> data(net, n);
  for (const Operation& op : operations(net)) {
    if (op.name.rfind("interaction_log", 0) == 0) run_operation(context, op, net, "-", data);
  }
}

void run(const Options& o) {
  std::vector<Shape> shapes;
  for (const std::string& text : o.shapes) shapes.emplace_back(text);
  Team team(o.threads);
  std::ofstream json;
  if (!o.json.empty()) {
    json.open(o.json);
    if (!json) throw IoError("cannot write " + o.json);
  }
  const char* variant = backend<float>(o.device).name;
  const double bandwidth = bench::memory_bandwidth(variant, team);
  std::printf("backend %s, %d threads; peak %.0f GFLOP/s float, %.0f double; memory %.1f GB/s\n", variant,
              team.size(), bench::peak_flops<float>(variant, team) * 1e-9,
              bench::peak_flops<double>(variant, team) * 1e-9, bandwidth * 1e-9);
  std::printf("%-19s %4s %8s %7s %-6s %12s %12s %8s %7s %7s %9s %9s\n", "operation", "d", "hidden", "N",
              "type", "median us", "least us", "GFLOP/s", "of peak", "of bnd", "error", "pairs/s");
  const Context context{o, bandwidth, team, json};
  for (const Shape& shape : shapes) {
    for (const Index n : o.n) {
      if (o.dtype != "double") run_shape<float>(context, shape, n);
      if (o.dtype != "float") run_shape<double>(context, shape, n);
    }
  }
  for (const int dim : {1, 2}) {
    for (const Index n : o.pairs) {
      if (o.dtype != "double") run_pairs<float>(context, dim, n);
      if (o.dtype != "float") run_pairs<double>(context, dim, n);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Times every operation of a backend. GFLOP/s count the work of the formulas in "
      "bench/operations/flops.hpp;\n"
      "\"of bnd\" is the share of the least time that arithmetic and memory allow.",
      "brenier_bench_ops");
  Options options;
  options.add_to(app);
  CLI11_PARSE(app, argc, argv);
  try {
    const DeviceScope device(options.device);
    run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "brenier_bench_ops: %s\n", error.what());
    return 2;
  }
  return 0;
}
