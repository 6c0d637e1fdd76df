// SPDX-License-Identifier: MIT
// What several tests require of every backend in the same way.
#pragma once

#include <doctest/doctest.h>

#include <vector>

#include "kernels/operations.hpp"
#include "tests/support/backends.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"

namespace brenier::test {

/// The networks of net_cases(); with a sanitizer over them those that together take every path.
inline std::vector<NetCase> chosen_nets() {
  std::vector<NetCase> list = net_cases();
  if (kReduced) {
    std::erase_if(list, [](const NetCase& net_case) {
      const Architecture& a = net_case.architecture;
      return a.hidden.size() == 4 || (a.dim == 1 && a.hidden.front() < 7) || a.quadratic_rank == 1;
    });
  }
  return list;
}

/// What one comparison is made with: n particles.
template <class T>
struct Case {
  const Operations<T>& ops;
  const Icnn& net;
  const std::vector<T>& theta;
  Index n;
  Team& team;
};

/// Calls body(Case) for every backend, network and number of particles.
template <class T, class Body>
void for_each_case(std::uint64_t seed, const std::vector<Index>& sizes, const Body& body) {
  for (const Backend<T>& backend : backends<T>()) {
    Team team(backend.threads);
    for (const NetCase& net_case : chosen_nets()) {
      const Icnn net(net_case.architecture);
      const std::vector<T> theta = generic_parameters<T>(net, seed);
      for (const Index n : sizes) {
        CAPTURE(backend.ops->name);
        CAPTURE(net_case.name);
        CAPTURE(n);
        body(Case<T>{*backend.ops, net, theta, n, team});
      }
    }
  }
}

/// check(actual, expected) for every backend: what run(operations, team) gives there, and on the reference.
template <class T, class Run, class Check>
void for_each_backend(const Run& run, const Check& check) {
  Team one(1);
  const auto expected = run(ref::operations<T>(), one);
  for (const Backend<T>& backend : backends<T>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    check(run(*backend.ops, team), expected);
  }
}

/// Requires of every backend that `iterations` of the inner loop give the parameters and the gradient of the reference
/// within `tolerance`, and the same bits for any number of threads. also(expected, found) requires more of two reports,
/// first of the reference's own for both; then(backend, theta) more of the backend.
template <class Step, class Also, class Then>
void check_inner_loop(const Step& step, int iterations, double tolerance, const Also& also,
                      const Then& then) {
  Team one(1);
  InnerState<double> expected = step.state();
  const InnerReport report = ref::operations<double>().inner_loop(step.problem, expected, iterations, one);
  CHECK(report.iterations == iterations);
  also(report, report);
  for (const Backend<double>& backend : backends<double>()) {
    CAPTURE(backend.ops->name);
    std::vector<double> first;
    for (const int threads : {1, 2, 4}) {
      if (kEmulated && threads > (kReduced ? 1 : 2)) continue;
      Team team(threads);
      InnerState<double> actual = step.state();
      const InnerReport found = backend.ops->inner_loop(step.problem, actual, iterations, team);
      CHECK(found.iterations == iterations);
      CHECK_REL(found.gradient, report.gradient, tolerance);
      CHECK_CLOSE(actual.theta, expected.theta, tolerance);
      also(report, found);
      if (first.empty()) first = actual.theta;
      CHECK(actual.theta == first);  // bit for bit
    }
    then(backend, first);
  }
}

}  // namespace brenier::test
