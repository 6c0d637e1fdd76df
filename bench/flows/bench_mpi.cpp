// SPDX-License-Identifier: MIT
// What processes cost: CPU seconds of each and bytes through MPI, for evaluations of a step's objective and for whole steps,
// of the entropy with a potential. mpirun -n P brenier_bench_mpi --each N: weak scaling. One JSON line.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <limits>
#include <thread>

#include "bench/flows/flow_arguments.hpp"
#include "bench/timing.hpp"
#include "brenier/brenier.hpp"
#include "brenier/mpi.hpp"
#include "kernels/base/ranks.hpp"
#include "kernels/operations.hpp"

using namespace brenier;

namespace {

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// MPI, with the CPU seconds that calls of it take: most of them are spent waiting for others.
class Timed final : public Communicator {
 public:
  /// `latency`: seconds added to each call, as a slower network would.
  Timed(std::shared_ptr<mpi::Communicator> inner, double latency)
      : inner_(std::move(inner)), latency_(latency) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void sum(std::span<double> values) override {
    time([&] { inner_->sum(values); });
  }
  void gather(std::span<std::byte> data, std::span<const std::size_t> offsets) override {
    time([&] { inner_->gather(data, offsets); });
  }
  void exchange(std::span<const std::byte> send, std::span<const std::size_t> send_offsets,
                std::span<std::byte> receive, std::span<const std::size_t> receive_offsets) override {
    time([&] { inner_->exchange(send, send_offsets, receive, receive_offsets); });
  }
  void broadcast(std::span<std::byte> data, int root) override {
    time([&] { inner_->broadcast(data, root); });
  }
  double seconds = 0;
  mpi::Traffic traffic() const { return inner_->traffic(); }

 private:
  void time(const auto& call) {
    const double begin = cpu_seconds();
    call();
    if (latency_ > 0) std::this_thread::sleep_for(std::chrono::duration<double>(latency_));
    seconds += cpu_seconds() - begin;
  }
  std::shared_ptr<mpi::Communicator> inner_;
  double latency_;
};

/// What one part of the work took here.
struct Cost {
  double work = 0, waiting = 0, calls = 0, bytes = 0, wall = 0;

  template <class Action>
  static Cost of(Timed& ranks, double count, const Action& action) {
    const double begin = cpu_seconds(), waited = ranks.seconds;
    const mpi::Traffic before = ranks.traffic();
    const double start = bench::now();
    action();
    const double wall = bench::now() - start;
    const double waiting = ranks.seconds - waited;
    const mpi::Traffic after = ranks.traffic();
    return {(cpu_seconds() - begin - waiting) / count, waiting / count,
            static_cast<double>(after.calls - before.calls) / count,
            static_cast<double>(after.bytes - before.bytes) / count, wall / count};
  }
};

void print(const char* name, const Cost& cost, Timed& ranks) {
  std::vector<Cost> all(static_cast<std::size_t>(ranks.size()));
  std::vector<std::size_t> offsets(all.size() + 1);
  for (std::size_t r = 0; r < all.size(); ++r) offsets[r + 1] = (r + 1) * sizeof(Cost);
  all[static_cast<std::size_t>(ranks.rank())] = cost;
  ranks.gather(std::as_writable_bytes(std::span(all)), offsets);
  const auto most = [&](double Cost::*member) {
    double value = 0;
    for (const Cost& one : all) value = std::max(value, one.*member);
    return value;
  };
  if (ranks.rank() == 0)
    std::printf(",\"%s\":{\"cpu_seconds\":%.6g,\"waiting\":%.6g,\"wall\":%.6g,\"calls\":%.4g,\"bytes\":%.6g}",
                name, most(&Cost::work), most(&Cost::waiting), most(&Cost::wall), most(&Cost::calls),
                most(&Cost::bytes));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"CPU seconds and bytes of flows over processes"};
  Index each = 4096, dim = 2;
  double latency = 0;
  int repetitions = 40, steps = 3, threads = 1;
  std::vector<int> hidden{100, 20};
  app.add_option("--each", each, "particles for each process")->check(CLI::PositiveNumber);
  app.add_option("--dim", dim)->check(CLI::PositiveNumber);
  app.add_option("--hidden", hidden)->delimiter(',');
  app.add_option("--repetitions", repetitions, "evaluations")->check(CLI::PositiveNumber);
  app.add_option("--steps", steps)->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "of each process")->check(CLI::PositiveNumber);
  app.add_option("--latency", latency, "microseconds added to each call of MPI");
  CLI11_PARSE(app, argc, argv);
  const mpi::Session session;
  const auto ranks = std::make_shared<Timed>(session.world(), 1e-6 * latency);
  const Index n = each * ranks->size();
  const Functional energy = potential("0.5*sum(x^2)", static_cast<int>(dim)) + entropy();
  const Cloud cloud = Density::gaussian(dim, 1.0, 0.5).sample(n, Sampling::random, 1);
  FlowOptions options;
  options.tau = 0.05;
  options.network.hidden = hidden;
  options.network.quadratic_rank = 1;
  options.threads = threads;

  Architecture architecture = options.network;
  architecture.dim = static_cast<int>(dim);
  const Icnn net(architecture);
  const std::vector<double> first = initial_parameters(net, Initialisation::identity, 0, 0, 1.0);
  const std::vector<float> theta(first.begin(), first.end());
  const Objective objective = energy.at(0).objective(1);
  Matrix<float> x(n, dim);
  std::copy(cloud.x.elements().begin(), cloud.x.elements().end(), x.elements().begin());
  InnerProblem<float> problem;
  problem.net = &net;
  problem.x = x;
  problem.log_density = cloud.log_density.data();
  problem.shift.assign(static_cast<std::size_t>(dim), 0.0);
  problem.tau = options.tau;
  problem.objective = &objective;
  Team team(threads);
  Ranks processes(*ranks);
  if (ranks->size() > 1) team.set_ranks(&processes);
  const auto step = cpu::operations<float>().step_objective(problem, team);
  std::vector<double> gradient(first.size());
  step->evaluate(theta.data(), 0, gradient.data());
  const Cost evaluation = Cost::of(*ranks, repetitions, [&] {
    for (int k = 0; k < repetitions; ++k) step->evaluate(theta.data(), 0, gradient.data());
  });
  team.set_ranks(nullptr);

  options.communicator = ranks;
  int evaluations = 0;
  Flow<float> flow(energy, cloud, options);
  const Cost whole = Cost::of(*ranks, steps, [&] {
    for (int k = 0; k < steps; ++k) evaluations += flow.step().value().iterations;
  });
  if (ranks->rank() == 0)
    std::printf("{\"processes\":%d,\"threads\":%d,\"particles\":%td,\"dim\":%td,\"parameters\":%td",
                ranks->size(), threads, n, dim, net.parameters());
  print("evaluation", evaluation, *ranks);
  print("step", whole, *ranks);
  if (ranks->rank() == 0)
    std::printf(",\"evaluations_a_step\":%.3g}\n", static_cast<double>(evaluations) / steps);
}
