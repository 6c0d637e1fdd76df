// SPDX-License-Identifier: MIT
// Flows over several processes, which are threads here: the same bits for any number of them, and one error for all.
#include <doctest/doctest.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/communicator.hpp"
#include "brenier/density.hpp"
#include "brenier/flow.hpp"
#include "kernels/base/ranks.hpp"
#include "tests/support/rank_problems.hpp"

namespace {

using namespace brenier;
using namespace brenier::test;

/// What the ranks of one group share.
struct Meeting {
  explicit Meeting(int size_in)
      : size(size_in), places(static_cast<std::size_t>(size_in)), barrier(size_in) {}
  int size;
  std::vector<void*> places;
  std::barrier<> barrier;
};

class ThreadRank final : public Communicator {
 public:
  ThreadRank(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_.size; }
  void sum(std::span<double> values) override {
    std::vector<double> all(values.size());
    meet(values.data(), [&](int, const void* from) {
      for (std::size_t k = 0; k < all.size(); ++k) all[k] += static_cast<const double*>(from)[k];
    });
    std::copy(all.begin(), all.end(), values.begin());
  }
  void gather(std::span<std::byte> data, std::span<const std::size_t> offsets) override {
    if (offsets.back() > data.size()) throw std::logic_error("parts beyond the array");
    meet(data.data(), [&](int r, const void* from) {
      const std::size_t begin = offsets[static_cast<std::size_t>(r)],
                        end = offsets[static_cast<std::size_t>(r) + 1];
      if (r != rank_ && end > begin)
        std::copy_n(static_cast<const std::byte*>(from) + begin, end - begin,
                    data.begin() + static_cast<std::ptrdiff_t>(begin));
    });
  }
  void broadcast(std::span<std::byte> data, int root) override {
    meet(data.data(), [&](int r, const void* from) {
      if (r == root && rank_ != root)
        std::copy_n(static_cast<const std::byte*>(from), data.size(), data.begin());
    });
  }

 private:
  template <class Take>
  void meet(void* place, Take&& take) {
    meeting_.places[static_cast<std::size_t>(rank_)] = place;
    meeting_.barrier.arrive_and_wait();
    for (int r = 0; r < meeting_.size; ++r) take(r, meeting_.places[static_cast<std::size_t>(r)]);
    meeting_.barrier.arrive_and_wait();
  }
  Meeting& meeting_;
  int rank_;
};

/// Calls body(communicator) on that many ranks at once; what each of them threw, empty where nothing.
std::vector<std::string> on_ranks(int size, const std::function<void(std::shared_ptr<Communicator>)>& body) {
  Meeting meeting(size);
  std::vector<std::string> errors(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        body(std::make_shared<ThreadRank>(meeting, r));
      } catch (const RankError& error) {
        errors[static_cast<std::size_t>(r)] = std::string("RankError: ") + error.what();
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(r)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

}  // namespace

TEST_CASE("flows have the same bits for any number of ranks and threads") {
  const std::vector<Problem> all = problems();
  for (std::size_t k = 0; k < all.size(); ++k) {
    const Problem& problem = all[k];
    CAPTURE(problem.name);
    const std::vector<double> alone = numbers_of<float>(problem, 1, nullptr);
    // All numbers of ranks and threads in turn, some for each problem: mpi_command has them all.
    for (const std::pair<int, int>& both : {std::pair{2 + static_cast<int>(k % 2), 1},
                                            std::pair{k % 4 == 0 ? 7 : 4, 1 + static_cast<int>(k % 2)}}) {
      const int size = both.first, threads = both.second;
      CAPTURE(size);
      CAPTURE(threads);
      std::vector<int> same(static_cast<std::size_t>(size), 0);
      const std::vector<std::string> errors = on_ranks(size, [&](std::shared_ptr<Communicator> ranks) {
        const std::size_t r = static_cast<std::size_t>(ranks->rank());
        same[r] = same_bits(numbers_of<float>(problem, threads, std::move(ranks)), alone);
      });
      for (const std::string& error : errors) CHECK(error == "");
      CHECK(std::accumulate(same.begin(), same.end(), 0) == size);
    }
  }
}

TEST_CASE("a rank that fails ends the step on all, with its message, and the flow goes on as before it") {
  const Problem problem = problems().back();
  const Cloud cloud = problem.cloud;
  const std::vector<std::string> errors = on_ranks(3, [&](std::shared_ptr<Communicator> all) {
    bool broken = false;
    const bool mine = all->rank() == 1;
    const Functional force =
        entropy() + potential(2, [&](MatrixView<const double> x, double* v, MatrixView<double> gradient) {
          if (broken && mine) throw std::runtime_error("the force field has no licence");
          for (Index i = 0; i < x.rows; ++i) {
            if (v) v[i] = 0.5 * (x(i, 0) * x(i, 0) + x(i, 1) * x(i, 1));
            for (Index c = 0; gradient && c < 2; ++c) gradient(i, c) = x(i, c);
          }
        });
    FlowOptions options = problem.options;
    options.threads = 1;
    options.communicator = all;
    Flow<float> flow(force, cloud, options);
    flow.step();
    const std::vector<double> before = flow.trajectory().x().elements();
    broken = true;
    std::string what;
    try {
      flow.step();
    } catch (const RankError& error) {
      what = error.what();
    }
    if (what != "rank 1 has failed: the force field has no licence")
      throw std::runtime_error("said: " + what);
    if (flow.steps() != 1 || flow.trajectory().x().elements() != before)
      throw std::runtime_error("the flow is not as before the step");
    broken = false;
    if (!flow.step() || flow.steps() != 2) throw std::runtime_error("the flow does not go on");
  });
  for (const std::string& error : errors) CHECK(error == "");
}

TEST_CASE("what all ranks meet is the error itself; what they were given must be the same") {
  const Cloud cloud{normal_points(1, 100, 0, 1), {}};
  for (const std::string& error : on_ranks(2, [&](std::shared_ptr<Communicator> all) {
         Flow<float>(entropy(), cloud, {.threads = 1, .communicator = std::move(all)});
       }))
    CHECK(error.find("log-density of every initial particle") != std::string::npos);
  for (const std::string& error : on_ranks(2, [&](std::shared_ptr<Communicator> all) {
         const std::uint64_t seed = static_cast<std::uint64_t>(all->rank());
         Flow<float>(potential("x[0]^2", 1), cloud,
                     {.seed = seed, .threads = 1, .communicator = std::move(all)});
       }))
    CHECK(error.find("the ranks were given different flows") != std::string::npos);
  // Another number of iterations would be another number of calls.
  for (const std::string& error : on_ranks(2, [&](std::shared_ptr<Communicator> all) {
         const int iterations = 100 + all->rank();
         Flow<float>(potential("x[0]^2", 1), cloud,
                     {.inner = {.iterations = iterations}, .threads = 1, .communicator = std::move(all)});
       }))
    CHECK(error.find("the ranks were given different flows") != std::string::npos);
  const std::vector<std::string> errors = on_ranks(2, [&](std::shared_ptr<Communicator> all) {
    const double tau = all->rank() == 1 ? -1 : 1e-3;
    Flow<float>(potential("x[0]^2", 1), cloud, {.tau = tau, .threads = 1, .communicator = std::move(all)});
  });
  for (const std::string& error : errors) CHECK(error.starts_with("RankError: rank 1 has failed: "));
}

TEST_CASE("what one rank is given wrongly between two steps ends the call on all") {
  const Problem problem = problems().front();
  const std::vector<std::string> errors = on_ranks(3, [&](std::shared_ptr<Communicator> all) {
    const bool mine = all->rank() == 2;
    FlowOptions options = problem.options;
    options.threads = 1;
    options.communicator = all;
    Flow<float> flow(problem.functional, problem.cloud, options);
    const Cloud plane{normal_points(2, 30, 0, 1), {}};
    const Cloud line{normal_points(1, 30, 0, 1), std::vector<double>(30, 0.0)};
    const auto said = [&](auto&& call) {
      std::string what;
      try {
        call();
      } catch (const RankError& error) {
        what = error.what();
      }
      if (what.find("rank 2 has failed: ") != 0 || what.find("dimension") == std::string::npos)
        throw std::runtime_error("said: " + what);
    };
    said([&] { flow.track(mine ? plane : line); });
    said([&] { flow.functional_of(Trajectory(mine ? plane : line, false)); });
    said([&] { flow.restore(Trajectory(mine ? plane : line, false), {}, {}); });
    if (!flow.step()) throw std::runtime_error("the flow does not go on");
  });
  for (const std::string& error : errors) CHECK(error == "");
}

TEST_CASE("ranks that make different calls, or hold different clouds, are told so by the next call") {
  const Problem problem = problems().front();
  enum class Different { held_out, size, place, refused, functional, call, checkpoint };
  for (const Different what : {Different::held_out, Different::size, Different::place, Different::refused,
                               Different::functional, Different::call, Different::checkpoint}) {
    CAPTURE(static_cast<int>(what));
    const std::vector<std::string> errors = on_ranks(3, [&](std::shared_ptr<Communicator> all) {
      const bool mine = all->rank() == 1;
      FlowOptions options = problem.options;
      options.threads = 1;
      options.communicator = all;
      Flow<float> flow(problem.functional, problem.cloud, options);
      const Index d = problem.cloud.x.cols(), n = problem.cloud.x.rows();
      const Density law = Density::gaussian(d, 0, 1);
      const std::vector<std::byte> saved = flow.save();
      if (!flow.step()) throw std::runtime_error("no step");
      switch (what) {
        case Different::held_out:
          flow.track(law.sample(mine ? 40 : 50));
          break;
        case Different::size:
          flow.set_cloud(law.sample(mine ? n : n + 1));
          break;
        case Different::place:
          flow.set_cloud(law.sample(n, Sampling::random, mine ? 1 : 2));
          break;
        case Different::refused: {
          Cloud other = law.sample(n);
          if (mine) other.x(0, 0) = std::nan("");
          try {
            flow.set_cloud(other);
          } catch (const ValueError&) {
            if (!mine) throw;
          }
          break;
        }
        case Different::functional:
          flow.set_functional((mine ? 2.0 : 1.0) * problem.functional);
          break;
        case Different::call:
          if (mine) flow.functional();
          break;
        case Different::checkpoint:
          if (mine) flow.load(saved);
          break;
      }
      flow.step();
    });
    for (const std::string& error : errors) {
      CHECK(error.starts_with("RankError: flow: the ranks "));
      CHECK(error.find("arguments") != std::string::npos);
    }
  }
}

TEST_CASE("what is no exception of the standard library is told too, and a RankError is not told twice") {
  const std::vector<std::string> errors = on_ranks(2, [](std::shared_ptr<Communicator> all) {
    const bool mine = all->rank() == 1;
    try {
      if (mine) throw 7;
      Ranks(*all).agree();
    } catch (...) {
      Ranks::tell(all.get());
    }
  });
  CHECK(errors[0] == "");
  CHECK(errors[1] == "RankError: rank 1 has failed: what it threw is no std::exception");
}

TEST_CASE("an interrupt on one rank ends the step on all") {
  const Problem problem = problems().front();
  const std::vector<std::string> errors = on_ranks(3, [&](std::shared_ptr<Communicator> all) {
    FlowOptions options = problem.options;
    options.threads = 1;
    options.communicator = all;
    Flow<float> flow(problem.functional, problem.cloud, options);
    if (all->rank() == 2) flow.interrupt();
    if (flow.step() || flow.steps() != 0) throw std::runtime_error("the step was taken");
    if (!flow.step()) throw std::runtime_error("the interrupt is not forgotten");
  });
  for (const std::string& error : errors) CHECK(error == "");
}

TEST_CASE("sums over blocks are taken in their order, and parts of arrays arrive") {
  for (const int size : {1, 2, 5}) {
    for (const Index blocks : {Index{1}, Index{3}, Index{16}}) {
      const Index length = 11;
      std::vector<double> partial(static_cast<std::size_t>(blocks * length)),
          extra(static_cast<std::size_t>(blocks));
      for (std::size_t k = 0; k < partial.size(); ++k)
        partial[k] = std::sin(static_cast<double>(k)) * std::pow(10, k % 7);
      for (std::size_t k = 0; k < extra.size(); ++k) extra[k] = std::cos(static_cast<double>(k));
      std::vector<double> expected(static_cast<std::size_t>(length) + 1, 0.0);
      for (Index b = 0; b < blocks; ++b) {
        for (Index k = 0; k < length; ++k) expected[k] += partial[b * length + k];
        expected[length] += extra[b];
      }
      const std::vector<std::string> errors = on_ranks(size, [&](std::shared_ptr<Communicator> all) {
        Ranks ranks(*all);
        const auto [first, last] = ranks.share(blocks);
        std::vector<double> mine(partial.size(), 1e300), more(extra.size(), 1e300), out(expected.size(), -1);
        for (Index b = first; b < last; ++b) {
          std::copy_n(partial.begin() + b * length, length, mine.begin() + b * length);
          more[b] = extra[b];
        }
        ranks.sum_blocks(mine.data(), more.data(), blocks, length, out.data());
        if (!same_bits(out, expected)) throw std::runtime_error("another sum");
        // Rows with a gap between them, in tiles of 4 of which the last is short: the gaps stay.
        constexpr Index rows = 10, columns = 2, ld = 3;
        std::vector<double> matrix(rows * ld, -7);
        const auto [from, to] = ranks.share((rows + 3) / 4);
        for (Index i = 4 * from; i < std::min(rows, 4 * to); ++i) {
          for (Index c = 0; c < columns; ++c) matrix[i * ld + c] = static_cast<double>(10 * i + c);
        }
        const RankPart part = RankPart::tiles(matrix.data(), columns * 8, ld * 8, rows, 4);
        ranks.gather(&part, 1);
        for (Index i = 0; i < rows; ++i) {
          for (Index c = 0; c < ld; ++c) {
            if (matrix[i * ld + c] != (c < columns ? static_cast<double>(10 * i + c) : -7.0))
              throw std::runtime_error("another matrix");
          }
        }
      });
      for (const std::string& error : errors) CHECK(error == "");
    }
  }
}
