// SPDX-License-Identifier: MIT
// A host with OpenMP, each of whose threads has flows of its own: they have the bits that each has alone, and errors of C
// belong to the thread that met them. What the threads find is handed over by atomics and read after the join, so that the
// thread sanitizer, which does not know the barriers of OpenMP, has something to say of the library alone.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "brenier/brenier.h"
#include "brenier/checksum.hpp"
#include "brenier/density.hpp"
#include "brenier/flow.hpp"

namespace {

using namespace brenier;

/// A number of all that two steps give; another flow for each `number`.
std::uint64_t flow_of(int number, int threads) {
  const Density start = Density::gaussian(2, 0.25 * number, 1);
  FlowOptions options{.tau = 0.05, .network = {.hidden = {8, 4}, .quadratic_rank = 1}, .threads = threads};
  options.inner.iterations = 15;
  Functional functional = number % 2 == 0 ? entropy() + potential("0.5*sum(x^2)", 2)
                                          : interaction("0.5*r^2 - log(r + 1)", 2) + porous_medium(2);
  Flow<float> flow(std::move(functional), start.sample(300, Sampling::random, 7), options);
  flow.set_initial_density(start);
  Checksum sum;
  for (int k = 0; k < 2; ++k) {
    const double value = flow.step().value().functional.total();
    sum.update(std::as_bytes(std::span(&value, 1)));
  }
  sum.update(std::as_bytes(std::span(flow.trajectory().x().elements())));
  sum.update(std::as_bytes(std::span(flow.trajectory().log_density())));
  return std::stoull(sum.text(), nullptr, 16);
}

constexpr const char* kSettings =
    "[[functional]]\nterm = \"potential\"\nexpression = \"x[0]^2\"\n[flow]\ntau = 0.1\n";

}  // namespace

TEST_CASE("flows in the threads of a host have the bits that each has alone") {
  constexpr int count = 4;
  std::array<std::uint64_t, count> alone{};
  for (int k = 0; k < count; ++k) alone[k] = flow_of(k, 1);
  CHECK(alone[0] != alone[2]);
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    std::array<std::atomic<std::uint64_t>, count> found{};
#pragma omp parallel for num_threads(2) schedule(static, 1)
    for (int k = 0; k < count; ++k) found[k] = flow_of(k, threads);
    for (int k = 0; k < count; ++k) CHECK(found[k].load() == alone[k]);
  }
}

TEST_CASE("the last error of C is that of the thread that met it") {
  std::array<std::atomic<int>, 2> good{};
#pragma omp parallel for num_threads(2) schedule(static, 1)
  for (int k = 0; k < 2; ++k) {
    bool all = true;
    for (int i = 0; i < 50; ++i) {
      brenier_settings* settings = nullptr;
      brenier_flow* flow = nullptr;
      const std::string key = k == 0 ? "flow.tua=1" : "flow.stesp=1";
      all &= brenier_settings_create(&settings, kSettings, nullptr) == BRENIER_OK;
      all &= brenier_settings_set(settings, key.c_str()) == BRENIER_OK;
      const double x[2] = {0, 1};
      all &= brenier_flow_create(&flow, settings, 2, 1, BRENIER_DOUBLE, x, 1, 1, nullptr) != BRENIER_OK;
      all &= std::string(brenier_last_error()).find(k == 0 ? "tua" : "stesp") != std::string::npos;
      brenier_settings_destroy(settings);
    }
    good[k] = all;
  }
  CHECK(good[0].load() == 1);
  CHECK(good[1].load() == 1);
}
