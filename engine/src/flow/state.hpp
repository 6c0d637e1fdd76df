// SPDX-License-Identifier: MIT
// What a flow keeps, and the parts of a step: the inner problem (engine/src/flow/inner.cpp) and the steps
// that are made of it (engine/src/flow/flow.cpp). For .cpp files only.
#pragma once

#include "brenier/device.hpp"
#include "brenier/flow.hpp"
#include "engine/src/flow/cloud/cloud_view.hpp"
#include "engine/src/flow/cloud_objective.hpp"
#include "engine/src/flow/solve/metric.hpp"
#include "engine/src/flow/solve/missed.hpp"
#include "kernels/base/ranks.hpp"
#include "kernels/base/wall_clock.hpp"
#include "kernels/operations.hpp"
#include "kernels/resident_cloud.hpp"
#include "solvers/lbfgs.hpp"

namespace brenier {

/// One inner problem: from which points (with the ratio of BrenierMap), how long, and the number that its
/// draws are keyed with.
struct InnerTask {
  const Trajectory::Base& base;
  MapBase kind;
  double ratio;
  double tau;
  std::uint32_t number;
  double noise = 0;  // deviation of F by rounding
  CloudView cloud{base};
};

/// A trajectory moved through one map, and what the inner problem says of it.
struct Trial {
  Trajectory cloud;
  ObjectiveValue functional;
  double transport;
  double value() const { return functional.total() + transport; }
};

/// Seconds of a step, by what they were spent on.
class Laps {
 public:
  /// Adds what has passed since the last one, or since this was made.
  void add_to(double& seconds) {
    const double end = now();
    seconds += end - mark_;
    mark_ = end;
  }

 private:
  double mark_ = now();
};

/// Interactions of larger clouds are reported from this many particles.
constexpr Index kPairLimit = 8192;

template <class T>
struct Flow<T>::State {
  Functional functional;
  FlowOptions options;
  Icnn net;
  Objective objective;
  const Operations<T>& ops;
  const Operations<double>& exact;  // of the same device: maps, densities and F
  mutable Team team;
  std::unique_ptr<Ranks> ranks;  // null: this process alone
  Trajectory cloud;
  std::vector<Trajectory> tracked;
  std::vector<BrenierMap> maps;
  std::vector<T> theta;  // of the last inner problem, normalised coordinates
  // Of a step whose cloud lies on a device: the parameters that are there, and the map that the step took.
  std::unique_ptr<ResidentParameters<T>> known_parameters;
  std::shared_ptr<const ResidentMap> taken_map;
  double gradient_scale = 0;
  JudgedParticles judged;
  std::optional<Density> law,
      first_law;  // of the cloud as it was given, and of the one that the flow was made with
  std::uint32_t draws = 0;
  int steps = 0;
  int first_step = 0;          // steps when the cloud was given
  std::uint32_t problems = 0;  // JKO problems so far
  double clock = 0;            // of adaptive steps: the time, and the length of the last one
  double last_length = 0;
  bool far_checked = false;
  bool replaced = false;  // the cloud, by set_cloud()
  double next_tau = 0;    // of adaptive steps
  mutable CloudObjective evaluation;
  std::optional<ObjectiveValue> known;  // F after the last map, on at most kPairLimit particles
  std::function<Cloud(std::uint32_t)> source;
  struct Drawn {
    Trajectory cloud{};
    std::size_t maps = 0;  // that it went through
  };
  std::vector<Drawn> pool;  // with inner.pool, as far as drawn
  std::atomic<bool> interrupted{false};

  struct Start {
    std::vector<T> theta;
    const char* name = "";
    double value = 0;  // F + transport
  };
  struct Solution {
    std::vector<T> theta;
    std::vector<double> physical;
    std::shared_ptr<const ResidentMap> there;  // the same on the device of the cloud, or null
    InnerReport inner;                         // of the last of its segments
    int iterations = 0;                        // of all
  };
  /// A solution, seen from the cloud.
  struct Candidate {
    Solution solution;
    BrenierMap map;
    Trial moved{};
    Missed missed{};
    JudgedParticles judged{};
    InnerOptions::Solver solver = InnerOptions::Solver::adam;
    bool solved = false;
  };
  /// The solving of one inner problem, and the best that was found.
  struct Search {
    const InnerTask& task;
    const Trajectory& from;
    const BrenierMap& like;  // all of the map but its network
    double before;           // F
    StepReport& report;
    Laps laps{};
    Start first{};
    std::optional<Candidate> best{};
    std::string reason{};  // why there is none
  };

  State(Functional f, Cloud initial, FlowOptions o);
  void check_alike() const;
  void check_together(const Trajectory& next) const;
  void check_same_call(const char* call) const;
  void check_same_cloud(const Trajectory& given) const;
  /// Whether to end: on all processes at the same iteration.
  const std::atomic<bool>& stop() const { return ranks ? ranks->interrupted() : interrupted; }
  /// What a device knows of a step that is over goes.
  void forget_parameters() {
    known_parameters.reset();
    taken_map.reset();
  }
  void forget_interrupt() {
    interrupted = false;
    if (ranks) ranks->forget_interrupt();
  }
  /// Runs a body on this flow's device that all processes run; what one of them throws ends it on all. `call`: its name, which
  /// must be that of the call on the others, as the state of the flow must be theirs; null: the body compares all there is.
  template <class Body>
  auto together(const char* call, Body&& body) const {
    const DeviceScope scope(options.device);  // what the host program's own is, is current again afterwards
    if (!ranks || team.ranks()) return body();
    struct Joined {
      Team& team;
      ~Joined() { team.set_ranks(nullptr); }
    } joined{team};
    team.set_ranks(ranks.get());
    try {
      if (call) check_same_call(call);
      auto result = body();
      ranks->agree();
      return result;
    } catch (...) {
      ranks->tell();
      throw;  // all of them do
    }
  }
  /// Within together(), before something changes: throws where another process has failed.
  void agree() const {
    if (ranks) ranks->agree();
  }
  bool carries_density() const { return net.smooth() || options.method != FlowOptions::Method::network; }
  Cloud carried(Cloud given) const;
  void check_replaced(Index dim) const;
  void replace(Trajectory given);
  void check_functional() const;
  void check_cloud(const Trajectory& given) const;
  void check_curvature() const;
  void set_time(double time);
  void check_far(const InnerTask& task) const;
  static Architecture architecture(const FlowOptions& options, const Cloud& cloud);
  bool adaptive() const { return options.adaptive.tolerance > 0; }
  double time() const;
  ObjectiveValue value(const CloudView& cloud, Index pair_limit) const;
  InnerProblem<T> problem(const InnerTask& task, double rate) const;
  std::vector<T> identity(std::uint32_t number) const;
  Start start(const InnerTask& task, const BrenierMap& like, const Trajectory& from, double before) const;
  bool uses_lbfgs() const;
  bool entropies_alone() const;
  Trajectory drawn(std::uint32_t number) const;
  Trajectory::Base fresh_base(MapBase kind, double ratio);
  std::size_t memory_with_minibatch(InnerProblem<T> problem, Index n) const;
  InnerReport iterate(const InnerProblem<T>& problem, InnerState<T>& state, int until) const;
  Solution adam(const InnerTask& task, const Start& start, double rate, int iterations, StepReport& report);
  void make_physical(Solution& solution, const InnerProblem<T>& inner) const;
  LbfgsReport search_from(const InnerProblem<T>& inner, const ParameterMetric<T>& parameters,
                          const LbfgsOptions& search, Solution& solution) const;
  Solution lbfgs(const InnerTask& task, const Start& start, int evaluations, double before, double noise,
                 StepReport& report);
  Candidate judge(const InnerTask& task, const Trajectory& from, const BrenierMap& like, Solution solution,
                  double before) const;
  void consider(Search& search, Solution solution, InnerOptions::Solver solver) const;
  bool search_lbfgs(Search& search);
  bool search_adam(Search& search, double limit);
  void keep(Search& search, Trajectory& next);
  void describe(const InnerTask& task, const Candidate& taken, double before, StepReport& report);
  std::optional<Solution> stay(const InnerTask& task, const Candidate& other) const;
  double first_gradient(const InnerTask& task) const;
  void check_finite(const Trajectory::Base& base, const ObjectiveValue& value) const;
  std::shared_ptr<const ResidentMap> resident_map(const std::vector<T>& parameters,
                                                  const InnerProblem<T>& inner) const;
  Trial trial(const Trajectory& from, const Trajectory::Base& base, const BrenierMap& map,
              const ResidentMap* there) const;
  void check(const InnerTask& task, const std::vector<T>& theta, StepReport& report) const;
  bool take(Trajectory& next, const Trajectory::Base& base, const BrenierMap& like, StepReport& report);
  bool start_up(Trajectory& next, StepReport& report);
  bool advance(Trajectory& next, StepReport& report);
  void check_particles() const;
  bool move_particles(Trajectory& next, StepReport& report);
};

}  // namespace brenier
