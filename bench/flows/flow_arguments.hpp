// SPDX-License-Identifier: MIT
// What benchmarks of whole flows have in common: their arguments, and where their time goes.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "brenier/flow.hpp"

namespace brenier::bench {

/// Settings of a flow that takes a minibatch of a large cloud in each iteration.
struct FlowArguments {
  double tau = 0.05;
  int order = 1;
  Index particles = 65536;
  Index minibatch = 1024;
  std::vector<int> hidden = {16};
  int rank = -1;  // of the quadratic skip; -1: the dimension
  double sharpness = 1;
  int iterations = 500, refresh = 0, pool = 0;
  double rate = 5e-3;
  std::string solver = "auto";
  std::string device = "auto";
  int threads = 0;
  std::uint64_t seed = 0;

  void add_to(CLI::App& app) {
    app.add_option("--tau", tau, "step length")->check(CLI::PositiveNumber);
    app.add_option("--order", order)->check(CLI::Range(1, 2));
    app.add_option("--particles", particles)->check(CLI::PositiveNumber);
    app.add_option("--minibatch", minibatch, "particles of an iteration; 0: all")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--hidden", hidden, "widths, e.g. 100,20")->delimiter(',')->check(CLI::PositiveNumber);
    app.add_option("--rank", rank, "of the quadratic skip (the dimension)")->check(CLI::NonNegativeNumber);
    app.add_option("--sharpness", sharpness, "of the network's bends")->check(CLI::PositiveNumber);
    app.add_option("--iterations", iterations, "gradients of a step")->check(CLI::PositiveNumber);
    app.add_option("--solver", solver, "auto, lbfgs or adam")
        ->check(CLI::IsMember({"auto", "lbfgs", "adam"}));
    app.add_option("--rate", rate, "of Adam")->check(CLI::PositiveNumber);
    app.add_option("--refresh", refresh, "iterations between new clouds; 0: never")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--pool", pool, "clouds that --refresh takes in turn; 0: each is new")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--device", device, "auto, cpu, cpu:VARIANT, ref, cuda or cuda:K");
    app.add_option("--threads", threads, "0: all processors")->check(CLI::NonNegativeNumber);
    app.add_option("--seed", seed);
  }

  /// For dimension `dim`; `number` tells the targets of one seed apart.
  FlowOptions options(int dim, int number = 0) const {
    FlowOptions out;
    out.tau = tau;
    out.order = order;
    out.network.hidden = hidden;
    out.network.quadratic_rank = rank < 0 ? dim : rank;
    out.network.sharpness = sharpness;
    out.inner.iterations = iterations;
    out.inner.solver = solver == "lbfgs"  ? InnerOptions::Solver::lbfgs
                       : solver == "adam" ? InnerOptions::Solver::adam
                                          : InnerOptions::Solver::automatic;
    out.inner.adam.rate = rate;
    out.inner.minibatch = minibatch;
    out.inner.refresh = refresh;
    out.inner.pool = pool;
    out.device = device;
    out.threads = threads;
    out.seed = seed + static_cast<std::uint64_t>(number);
    return out;
  }

  nlohmann::ordered_json json() const {
    return {{"tau", tau},
            {"order", order},
            {"particles", particles},
            {"minibatch", minibatch},
            {"hidden", hidden},
            {"sharpness", sharpness},
            {"iterations", iterations},
            {"rate", rate},
            {"solver", solver},
            {"refresh", refresh},
            {"pool", pool},
            {"device", device},
            {"seed", seed}};
  }
};

/// Where the wall time of a flow's steps goes.
struct Profile {
  double seconds = 0, inner = 0, clouds = 0, certificates = 0;

  void add(const StepReport& step) {
    seconds += step.seconds;
    inner += step.inner_seconds;
    clouds += step.cloud_seconds;
    certificates += step.certificate_seconds;
  }
  void add(const Profile& other) {
    seconds += other.seconds;
    inner += other.inner;
    clouds += other.clouds;
    certificates += other.certificates;
  }
  /// Shares of the whole.
  nlohmann::ordered_json json() const {
    return {
        {"inner", inner / seconds}, {"clouds", clouds / seconds}, {"certificates", certificates / seconds}};
  }
};

}  // namespace brenier::bench
