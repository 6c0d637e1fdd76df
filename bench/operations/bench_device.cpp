// SPDX-License-Identifier: MIT
// What a GPU can do at best: arithmetic, copies, graph nodes, launches. The numbers that times of kernels are
// judged by. A table and one JSON line.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>

#include "bench/operations/device_ceilings.hpp"
#include "brenier/brenier.hpp"
#include "brenier/version.hpp"
#include "kernels/operations.hpp"

namespace {

using namespace brenier;

constexpr int kSkipped = 77;

int run(bool check, double seconds) {
  // A build without CUDA checks the kernels on the emulated device, but has nothing to time.
  if (cuda::devices() == 0 && (cuda::compiled() || !check)) {
    std::printf("SKIPPED: this needs a GPU, and %s\n",
                cuda::compiled() ? "there is no CUDA device here"
                                 : "this build has no CUDA backend; configure with -DBRENIER_CUDA=ON");
    return kSkipped;
  }
  if (check) {
    bench::check_device_kernels();
    std::printf("the kernels of this benchmark are right on %s\n", bench::device_name().c_str());
    return 0;
  }
  bench::check_device_kernels();
  const std::string name = bench::device_name();
  const double peak = bench::device_peak_flops<float>(seconds);
  const double peak_double = bench::device_peak_flops<double>(seconds);
  const bench::CopyRates copy = bench::device_copy_rates(std::size_t{1} << 30, seconds);
  const bench::LaunchCosts cost = bench::device_launch_costs(6 * seconds);
  const bench::SumCosts sums = bench::device_sum_costs(4 * seconds);
  const auto row = [](const char* what, double value, const char* unit) {
    std::printf("%-64s %10.2f %s\n", what, value, unit);
  };
  std::printf("%s\n", name.c_str());
  row("fused multiply-adds in registers, float", peak * 1e-12, "TFLOP/s");
  row("the same, double", peak_double * 1e-12, "TFLOP/s");
  row("copy of 1 GiB by a kernel, read and written", copy.kernel * 1e-9, "GB/s");
  row("the same by the runtime", copy.runtime * 1e-9, "GB/s");
  row("graph of 2 empty kernels, replayed", cost.two_nodes * 1e6, "us");
  row("graph of 3 empty kernels, replayed", cost.three_nodes * 1e6, "us");
  row("one empty kernel of a long graph", cost.node * 1e6, "us");
  row("one sum of 132 partial gradients of 2361 floats, of a long graph", cost.reduction * 1e6, "us");
  row("sum of 1e6 doubles in double, of a long graph: sum_kernel", sums.own_sum * 1e6, "us");
  row("the same by CUB, DeviceReduce::Sum", sums.cub_sum * 1e6, "us");
  row("gradient out of 132 partial ones of 2361 floats: update_kernel", sums.own_columns * 1e6, "us");
  row("the same by CUB, DeviceSegmentedReduce::Sum, transposed", sums.cub_columns * 1e6, "us");
  row("host: launch of a graph of 2 kernels", cost.host_graph * 1e6, "us");
  row("host: launch of a kernel", cost.host_kernel * 1e6, "us");
  const nlohmann::ordered_json line = {{"device", name},
                                       {"fma_float_flops", peak},
                                       {"fma_double_flops", peak_double},
                                       {"copy_kernel_bytes", copy.kernel},
                                       {"copy_runtime_bytes", copy.runtime},
                                       {"graph2_seconds", cost.two_nodes},
                                       {"graph3_seconds", cost.three_nodes},
                                       {"node_seconds", cost.node},
                                       {"reduction_seconds", cost.reduction},
                                       {"reduction_floats", cost.reduced},
                                       {"sum_seconds", sums.own_sum},
                                       {"sum_cub_seconds", sums.cub_sum},
                                       {"columns_seconds", sums.own_columns},
                                       {"columns_cub_seconds", sums.cub_columns},
                                       {"host_graph_seconds", cost.host_graph},
                                       {"host_kernel_seconds", cost.host_kernel},
                                       {"version", BRENIER_VERSION}};
  std::printf("%s\n", line.dump().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Ceilings of a GPU: arithmetic, copies, graph nodes, launches. Exit status 77 without a GPU.",
               "brenier_bench_device");
  bool check = false;
  double seconds = 0.1;
  app.add_flag("--check", check, "only compare the kernels with the host; works on the emulated device too");
  app.add_option("--seconds", seconds, "time spent on each number")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    return run(check, seconds);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "brenier_bench_device: %s\n", error.what());
    return 2;
  }
}
