// SPDX-License-Identifier: MIT
// Matrices, and teams of threads in what a host has set.
#include <doctest/doctest.h>
#include <fenv.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "kernels/base/floating_point.hpp"

using namespace brenier;

TEST_CASE("a matrix that was moved from has no rows, as it has no elements") {
  static_assert(std::is_nothrow_move_constructible_v<Matrix<double>>);
  Matrix<double> a(3, 2, 1.5);
  Matrix<double> b = std::move(a);
  CHECK(a.rows() == 0);
  CHECK(a.cols() == 0);
  CHECK(a.empty());
  CHECK(b.rows() == 3);
  CHECK(b(2, 1) == 1.5);
  a = std::move(b);
  CHECK(b.rows() == 0);
  CHECK(b.empty());
  CHECK(a.rows() == 3);
  CHECK(a.elements().size() == 6);
  b = a;
  CHECK(b.rows() == 3);
  CHECK(b.elements() == a.elements());
}

TEST_CASE("a matrix with more elements than can be addressed is an error") {
  constexpr Index huge = Index{1} << 61;
  const std::pair<Index, Index> sizes[] = {{huge, 8}, {8, huge}, {huge, huge}, {-1, 2}, {2, -1}};
  for (const auto& [rows, cols] : sizes) CHECK_THROWS_AS(Matrix<double>(rows, cols), std::length_error);
  CHECK(Matrix<double>(0, 5).empty());
  CHECK(Matrix<double>(huge, 0).rows() == huge);
}

TEST_CASE("teams have at least one thread and at most what settings allow") {
  CHECK_THROWS_AS(Team(-1), ValueError);
  CHECK_THROWS_AS(Team(4097), ValueError);
}

TEST_CASE("threads compute alike whatever the host rounds to") {
  Team team(3);
  const auto rounding = [&] {
    std::vector<int> out(3);
    team.run([&](int rank) { out[static_cast<std::size_t>(rank)] = fegetround(); });
    return out;
  };
  std::vector<int> of_hosts_function;
  fesetround(FE_DOWNWARD);
  const std::vector<int> inside = rounding();
  {
    const PlainFloatingPoint plain;
    of_hosts_function.push_back(fegetround());
    {
      const HostFloatingPoint host;
      of_hosts_function.push_back(fegetround());
      fesetround(FE_UPWARD);  // stays the host's own
      const PlainFloatingPoint again;
      of_hosts_function.push_back(fegetround());
    }
    of_hosts_function.push_back(fegetround());
  }
  of_hosts_function.push_back(fegetround());
  fesetround(FE_TONEAREST);
  CHECK(inside == std::vector<int>(3, FE_TONEAREST));
  CHECK(of_hosts_function ==
        std::vector<int>{FE_TONEAREST, FE_DOWNWARD, FE_TONEAREST, FE_TONEAREST, FE_UPWARD});
}

// Thread sanitizers do not follow a child of a process with threads.
#if !defined(__SANITIZE_THREAD__)
TEST_CASE("a team starts its threads anew in a child process") {
  Team team(3);
  const auto sum = [&] {
    std::vector<int> out(3);
    team.run([&](int rank) {
      team.barrier();
      out[static_cast<std::size_t>(rank)] = rank + 1;
    });
    return out[0] + out[1] + out[2];
  };
  REQUIRE(sum() == 6);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    { const Team other(2); }
    _exit(sum() == 6 && sum() == 6 ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(sum() == 6);
}
#endif
