// SPDX-License-Identifier: MIT
// Times every operation of kernels/operations.hpp (divergences: bench_sinkhorn.cpp): operations a second,
// share of what the machine can do at best in the same run, and accuracy against the reference in double. A
// table for people, and JSON lines with --json.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/operations/cases.hpp"
#include "bench/operations/roofline.hpp"
#include "bench/run_program.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"
#include "kernels/operations.hpp"

namespace {

using namespace brenier;
using brenier::bench::OperationCase;
using brenier::bench::OperationData;
using brenier::bench::Subject;

struct Options {
  std::vector<Index> n = {1000, 16000};
  std::vector<Index> pairs = {10000, 100000};
  std::vector<std::string> shapes = {"1:100,20", "2:100,20", "20:100,20", "8:100,100", "128:100,100"};
  std::string dtype = "both";
  std::string device = "auto";
  std::string filter;
  std::string json;
  bool list = false;
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
    app.add_flag("--list", list, "only the names of all operations");
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

/// What all cases are measured with.
struct Context {
  const Options& options;
  double bandwidth;
  Team& team;
  std::ofstream& json;
};

/// One line of the table.
template <class T>
void run_operation(const Context& context, const OperationCase& op, const Icnn& net,
                   const std::string& hidden, OperationData<T>& data) {
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
        for (int k = 0; k < count; ++k) op.call(ops, data, context.team);
      },
      o.seconds);
  // The least time that arithmetic or memory allows.
  const double bound =
      std::max(flops / peak, op.values * particles * static_cast<double>(sizeof(T)) / context.bandwidth);
  const OperationCase::Accuracy accuracy = op.accuracy(ops, data, net.dim() > 32 ? 8 : 100, context.team);
  std::printf("%-19s %4d %8s %7td %-6s %12.2f %12.2f %8.1f %6.1f%% %6.1f%% %9.1e", op.name.c_str(), net.dim(),
              hidden.c_str(), data.n, dtype, timing.median * 1e6, timing.least * 1e6,
              flops / timing.median * 1e-9, 100 * flops / timing.median / peak, 100 * bound / timing.median,
              accuracy.error);
  if (op.pairs) std::printf(" %9.2e", pairs / timing.median);
  if (op.solve) std::printf("  residual %.1e", accuracy.residual);
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
                                 {"error", accuracy.error},
                                 {"tolerance", op.tolerance<T>()},
                                 {"threads", context.team.size()},
                                 {"backend", ops.name},
                                 {"version", BRENIER_VERSION}};
  if (op.pairs) line["pairs_per_second"] = pairs / timing.median;
  if (op.solve) line["residual"] = accuracy.residual;
  context.json << line.dump() << "\n" << std::flush;
  if (!context.json) throw IoError("cannot write " + o.json);
}

template <class T>
void run_shape(const Context& context, const Shape& shape, Index n) {
  const Icnn net({.dim = shape.dim, .hidden = shape.hidden});
  OperationData<T> data(net, n);
  for (const OperationCase& op : bench::operation_cases(net))
    run_operation(context, op, net, shape.text, data);
}

/// The interaction alone: more particles than networks are timed with.
template <class T>
void run_pairs(const Context& context, int dim, Index n) {
  const Icnn net({.dim = dim, .hidden = {1}});  // not used
  OperationData<T> data(net, n);
  for (const OperationCase& op : bench::operation_cases(net)) {
    if (op.many) run_operation(context, op, net, "-", data);
  }
}

/// The names of all operations, a line each, with what is special of them.
void list() {
  for (const OperationCase& op : bench::operation_cases(Icnn({.dim = 1, .hidden = {1}}))) {
    std::printf("%s%s%s\n", op.name.c_str(), op.pairs ? " pairs" : "", op.many ? " many" : "");
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
  return bench::run_on_device(argc, argv,
                              "Times every operation of a backend. GFLOP/s count the work of the formulas in "
                              "bench/operations/flops.hpp;\n"
                              "\"of bnd\" is the share of the least time that arithmetic and memory allow.",
                              Options(), [](const Options& o) { o.list ? list() : run(o); });
}
