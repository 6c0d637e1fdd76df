// SPDX-License-Identifier: MIT
// Flows over several processes with an emulated device each: the bits of one process, for any number of them.
#include <doctest/doctest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/rank_problems.hpp"

namespace {

using namespace brenier;
using namespace brenier::test;

/// Memory that a process and its children share.
template <class T>
class Common {
 public:
  explicit Common(std::size_t count) : bytes_(count * sizeof(T)) {
    void* memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    data_ = static_cast<T*>(memory);
  }
  ~Common() { ::munmap(data_, bytes_); }
  Common(const Common&) = delete;
  Common& operator=(const Common&) = delete;
  T& operator[](std::size_t i) const { return data_[i]; }

 private:
  std::size_t bytes_;
  T* data_;
};

constexpr std::size_t kMost = std::size_t{1} << 22;  // bytes that a process brings to a meeting

/// Where processes meet: a barrier, and a place for each.
class Meeting {
 public:
  explicit Meeting(int size) : size_(size), barrier_(1), places_(static_cast<std::size_t>(size) * kMost) {
    pthread_barrierattr_t shared;
    ::pthread_barrierattr_init(&shared);
    ::pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    ::pthread_barrier_init(&barrier_[0], &shared, static_cast<unsigned>(size));
    ::pthread_barrierattr_destroy(&shared);
  }
  int size() const { return size_; }
  void wait() const { ::pthread_barrier_wait(&barrier_[0]); }
  std::byte* place(int rank) const { return &places_[static_cast<std::size_t>(rank) * kMost]; }

 private:
  int size_;
  Common<pthread_barrier_t> barrier_;
  Common<std::byte> places_;
};

class ProcessRank final : public Communicator {
 public:
  ProcessRank(const Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_.size(); }
  void sum(std::span<double> values) override {
    std::vector<double> all(values.size());
    meet(std::as_bytes(values), [&](int, const std::byte* from) {
      for (std::size_t k = 0; k < all.size(); ++k) {
        double value;
        std::memcpy(&value, from + k * sizeof value, sizeof value);
        all[k] += value;
      }
    });
    std::copy(all.begin(), all.end(), values.begin());
  }
  void gather(std::span<std::byte> data, std::span<const std::size_t> offsets) override {
    const auto at = [&](int r) { return offsets[static_cast<std::size_t>(r)]; };
    meet(data.subspan(at(rank_), at(rank_ + 1) - at(rank_)), [&](int r, const std::byte* from) {
      std::copy_n(from, at(r + 1) - at(r), data.begin() + static_cast<std::ptrdiff_t>(at(r)));
    });
  }
  void broadcast(std::span<std::byte> data, int root) override {
    meet(data, [&](int r, const std::byte* from) {
      if (r == root) std::copy_n(from, data.size(), data.begin());
    });
  }

 private:
  template <class Take>
  void meet(std::span<const std::byte> mine, const Take& take) {
    if (mine.size() > kMost) throw std::length_error("more than a place holds");
    std::copy(mine.begin(), mine.end(), meeting_.place(rank_));
    meeting_.wait();
    for (int r = 0; r < meeting_.size(); ++r) take(r, meeting_.place(r));
    meeting_.wait();
  }
  const Meeting& meeting_;
  int rank_;
};

/// How many of so many processes, each with a communicator, say that all is well. One that ends in another way takes the
/// others with it, which wait for it no longer than a minute.
int agreeing(int size, const std::function<bool(std::shared_ptr<Communicator>)>& body) {
  const Meeting meeting(size);
  std::vector<pid_t> children;
  std::fflush(nullptr);
  for (int r = 0; r < size; ++r) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child > 0) {
      children.push_back(child);
      continue;
    }
    ::alarm(600);
    int status = 1;
    try {
      status = body(std::make_shared<ProcessRank>(meeting, r)) ? 0 : 2;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %d of %d: %s\n", r, size, error.what());
    }
    std::fflush(nullptr);
    ::_exit(status);
  }
  int well = 0;
  bool ended = false;
  for (std::size_t k = 0; k < children.size(); ++k) {
    int status = 0;
    const pid_t child = ::wait(&status);
    well += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    *std::find(children.begin(), children.end(), child) = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) != 1) continue;
    for (const pid_t other : children)
      if (!ended && other > 0) ::kill(other, SIGALRM);
    ended = true;
  }
  return well;
}

/// The problems of the CPU, with as few particles as an emulator can bear, that differ on a device.
std::vector<Problem> on_device() {
  std::vector<Problem> out;
  for (Problem& problem : problems()) {
    const std::string name = problem.name;
    if (name == "black box" || name == "MMD on particles" || name == "Sinkhorn divergence") continue;
    constexpr Index kFew = 90;  // 12 tiles of 8, the last one short
    Matrix<double> x(kFew, problem.cloud.x.cols());
    std::copy_n(problem.cloud.x.elements().begin(), x.elements().size(), x.elements().begin());
    problem.cloud.x = std::move(x);
    if (!problem.cloud.log_density.empty()) problem.cloud.log_density.resize(kFew);
    problem.held_out = 0;
    problem.steps = 1;
    FlowOptions& options = problem.options;
    options.device = "cuda";
    options.order = 1;
    if (options.inner.minibatch > 0) options.inner.minibatch = 83;
    // By L-BFGS are one with log-determinants, and one with the images of all.
    std::optional<Problem> search;
    if (name == "porous medium") {
      search = problem;
      search->name = "porous medium by a search";
      search->options.inner.solver = InnerOptions::Solver::lbfgs;
    }
    options.inner.solver = name == "interaction" ? InnerOptions::Solver::lbfgs : InnerOptions::Solver::adam;
    if (name == "porous medium" || name == "minibatches")
      options.inner.iterations = 18;  // a graph of 16, and two
    out.push_back(std::move(problem));
    if (!search) continue;
    out.push_back(*search);
    search->name = "more tiles than blocks";  // of which there are at most 264
    search->cloud = search->law->sample(2200, Sampling::stratified, 1);
    search->options.inner.iterations = 3;
    out.push_back(std::move(*search));
  }
  return out;
}

}  // namespace

TEST_CASE("flows on devices have the same bits for any number of processes") {
  for (const Problem& problem : on_device()) {
    CAPTURE(problem.name);
    const std::vector<double> alone = numbers_of<float>(problem, 1, nullptr);
    CHECK(std::isfinite(alone[0]));  // F
    const bool porous = std::string(problem.name).starts_with("porous");
    for (const int size : {porous ? 13 : 2, 3}) {  // of 13 processes one has no tile
      CAPTURE(size);
      CHECK(agreeing(size, [&](std::shared_ptr<Communicator> ranks) {
              return same_bits(numbers_of<float>(problem, 1, std::move(ranks)), alone);
            }) == size);
    }
  }
}

TEST_CASE("an interrupt on one of them ends the step on all") {
  const std::vector<Problem> some = on_device();
  for (const Problem& problem : {some[0], some[1]}) {  // by Adam and by a search
    CAPTURE(problem.name);
    CHECK(agreeing(3, [&](std::shared_ptr<Communicator> ranks) {
            const bool mine = ranks->rank() == 2;
            FlowOptions options = problem.options;
            options.threads = 1;
            options.communicator = std::move(ranks);
            Flow<float> flow(problem.functional, problem.cloud, options);
            if (mine) flow.interrupt();
            return !flow.step() && flow.steps() == 0 && flow.step();
          }) == 3);
  }
}
