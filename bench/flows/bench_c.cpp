// SPDX-License-Identifier: MIT
// What a step costs more through C than through C++: the same flow, steps taken in turn, one JSON line. Each pair of
// steps starts from the same cloud and network, and both move it to the same place.
#include <brenier/brenier.h>

#include <algorithm>
#include <ctime>

#include "bench/flows/flow_arguments.hpp"
#include "brenier/brenier.hpp"

using namespace brenier;

namespace {

/// Of the processor, which other programs do not change as they change the wall clock: the flows have one thread.
double seconds_of(const auto& action) {
  const std::clock_t begin = std::clock();
  action();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

void check(int status) {
  if (status != BRENIER_OK) throw Error(brenier_last_error());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"a step through C beside the same through C++"};
  int steps = 41;
  Index particles = 1000;
  app.add_option("--steps", steps, "of each")->check(CLI::PositiveNumber);
  app.add_option("--particles", particles)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  const Density law = Density::gaussian(2, 1.0, 0.5);
  const Cloud cloud = law.sample(particles, Sampling::stratified);
  FlowOptions options;
  options.tau = 0.02;
  options.threads = 1;
  options.keep_maps = false;
  Flow<float> flow(potential("0.5*sum(x^2)", 2) + entropy(), cloud, options);
  brenier_settings* settings = nullptr;
  check(brenier_settings_create(
      &settings,
      "threads = 1\n[[functional]]\nterm = \"potential\"\nexpression = \"0.5*sum(x^2)\"\n"
      "[[functional]]\nterm = \"entropy\"\n[flow]\ntau = 0.02\nkeep_maps = false\n",
      nullptr));
  brenier_flow* c = nullptr;
  check(brenier_flow_create(&c, settings, particles, 2, BRENIER_DOUBLE, cloud.x.data(), 2, 1,
                            cloud.log_density.data()));
  // What a host does with a step: take it, and look at the particles and at F.
  std::vector<double> x(cloud.x.elements().size()), in_c, in_cpp, ratio;
  for (int k = 0; k < steps; ++k) {
    const auto by_c = [&] {
      double f = 0;
      check(brenier_flow_step(c));
      check(brenier_flow_get_cloud(c, BRENIER_DOUBLE, x.data(), 2, 1, nullptr));
      check(brenier_flow_value(c, "functional", &f));
    };
    const auto by_cpp = [&] {
      flow.step();
      std::copy(flow.trajectory().x().elements().begin(), flow.trajectory().x().elements().end(), x.begin());
      static_cast<void>(flow.functional());
    };
    if (k % 2 == 0) in_c.push_back(seconds_of(by_c));
    in_cpp.push_back(seconds_of(by_cpp));
    if (k % 2 != 0) in_c.push_back(seconds_of(by_c));
    ratio.push_back(in_c.back() / in_cpp.back());
  }
  check(brenier_flow_get_cloud(c, BRENIER_DOUBLE, x.data(), 2, 1, nullptr));
  const bool same = x == flow.trajectory().x().elements();
  std::printf(
      "{\"particles\":%td,\"c_seconds\":%.6g,\"cpp_seconds\":%.6g,\"median_ratio\":%.4f,\"same_bits\":%s}\n",
      particles, median(in_c), median(in_cpp), median(ratio), same ? "true" : "false");
  brenier_flow_destroy(c);
  brenier_settings_destroy(settings);
  return same ? 0 : 1;
}
