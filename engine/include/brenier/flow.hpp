// SPDX-License-Identifier: MIT
// The JKO flow: Algorithm 1 of Alvarez-Melis, Schiff and Mroueh (TMLR 2022), at first and second order in
// time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "brenier/communicator.hpp"
#include "brenier/density.hpp"
#include "brenier/export.h"
#include "brenier/functional.hpp"
#include "brenier/map.hpp"
#include "brenier/options.hpp"

namespace BRENIER_API brenier {

/// The inner problem of a JKO step and how it is solved.
struct InnerOptions {
  enum class Solver {
    automatic,  // lbfgs where the objective is a function: no minibatches, redrawn clouds, cg, Sinkhorn or leaky ReLU. Where that
                // does not solve the step, Adam from the start again, then lbfgs with what is left of
                // `iterations`; adam in all other cases
    lbfgs,      // projected L-BFGS; a minibatch is then a part of the cloud, another in each step
    adam,
  };
  enum class OnUnsolved {
    warn,  // take it, and say so: StepReport::solved
    stop,  // NumericalError
  };
  Solver solver = Solver::automatic;
  int iterations = 400;  // n_u >= 1: gradients that a JKO problem may take; L-BFGS takes far fewer
  double accept = 1e-2;  // in (0, 1]: a step is solved where the share that it misses is at most this
  OnUnsolved on_unsolved = OnUnsolved::warn;
  /// adam.epsilon is relative to the first gradient of the flow (2-norm): the same in every unit.
  AdamOptions adam{.rate = 1e-3, .final_fraction = 0.01};
  bool warm_start = true;  // start from the map of the step before
  Initialisation initialisation = Initialisation::identity;
  double alpha = 1;     // initial quadratic skip, >= 0
  Index minibatch = 0;  // particles per iteration, at most those of the cloud; 0: all
  int refresh = 0;      // iterations between new clouds drawn from rho_0; 0: never
  /// Clouds that refresh takes in turn, and that are carried through each map once; 0: each is drawn anew and goes through all
  /// maps so far. As many as refresh takes in two steps do as well (bench/results/2026-11-27-time-to-accuracy.md).
  int pool = 0;
  double tolerance = 0;  // stop at this gradient, relative to the first of the flow; 0: never
  LogDetOptions log_det{};
  int retries = 3;  // after a divergence, each at a quarter of the rate
};

/// Lengths of steps that the flow chooses itself, at order 2. A step's error is estimated by how far it ends
/// from where the first order would: tau^2/2 |d^2 x/dt^2| to leading order, from the velocities along
/// trajectories of this step and the one before, root mean square over the cloud, relative to its deviation.
/// The second order goes on (local extrapolation), so that the flow's own error is smaller.
struct AdaptiveOptions {
  double tolerance = 0;  // > 0: of that estimate, for each step; 0: all steps have the same length
  double end_time = std::numeric_limits<double>::infinity();  // where the last step ends; > start_time
  /// The longest step; 0: no limit, at most twice the one before. A step sees F at its end alone: of forces that come and
  /// go in a shorter time nothing is seen.
  double longest = 0;
};

/// Everything about a flow but its functional and its initial cloud.
struct FlowOptions {
  enum class Method {
    network,  // every step is a map, the gradient of a network: also of particles that come later, and of densities
    particles,  // the step of the particles themselves, exact where there is no internal energy: no map, no density
  };
  Method method = Method::network;
  double tau = 1e-3;  // > 0, time units of the PDE; of the first step where lengths are adaptive
  AdaptiveOptions adaptive{};
  int order = 1;           // 1: JKO; 2: BDF2 along trajectories
  Architecture network{};  // dim is taken from the cloud
  InnerOptions inner{};
  bool normalise = true;  // the network sees (x - mean)/deviation of the cloud
  double start_time = 0;  // time of the initial cloud
  double mass = 1;        // of the density; particles always have mass 1 together
  std::uint64_t seed = 0;
  std::string device = any_device();  // see backend()
  int threads = 0;                    // 0: all processors
  bool certificates = true;           // of every step, see StepReport; without them no step is tried again
  bool keep_maps = true;  // false: maps() stays empty, so that long flows take no more memory with time
  /// Processes that compute this flow together, see Flow; null: this one alone.
  std::shared_ptr<Communicator> communicator{};

  /// Throws ValueError that names the option, the value and the range.
  void validate() const;
  /// "auto", which no small string allocates for. A default that might throw makes g++ 12 warn, wrongly, of uninitialized
  /// widths of the network in programs that write options in place.
  static std::string any_device() noexcept { return "auto"; }
};

/// What the share that a step misses is known from.
enum class StepBasis {
  none,    // not computed
  affine,  // the gain of one more affine map, a lower bound: an internal energy, and the density of the initial
           // cloud is not known; see Flow::set_initial_density()
  residual,  // the optimality condition at particles
  optimum,   // the optimum on the particles themselves
};

/// What one step did.
struct StepReport {
  int step = 0;     // from 1
  double time = 0;  // after the step
  double tau = 0;
  int order = 1;              // 1 where a second-order step was not admissible
  ObjectiveValue functional;  // F on the cloud, times the mass
  double transport = 0;       // E|y - x|^2 / (2 tau'), tau' the length of the last JKO problem of the step
  double decrease = 0;        // F before minus (F + transport) after, of that problem; >= 0 for an exact step
  int iterations = 0;         // gradients of the inner problems, all start-up steps and retries together
  InnerOptions::Solver solver = InnerOptions::Solver::adam;  // that the step ended with
  const char* start = "";  // of its last problem: "warm" (the map before), "identity" or "affine"
  /// The share of the possible decrease of F + transport that the step misses, on particles of the cloud and on
  /// others of its law (NaN where these are not known), and the distance to the optimum relative to the step's. Of
  /// the worst problem of the step. Solved: no share is above inner.accept, no distance above 10 times that. Where a
  /// step can gain less than `floor`, shares are of that: what it costs to move all particles by 3e-4 of the cloud's
  /// size, by which networks in float round; with internal energies what moves that end the forces by which N particles leave
  /// their law open would gain; with interactions three times what moves against the noise of N of their forces would.
  StepBasis basis = StepBasis::none;
  double floor = 0;
  double missed_share = std::numeric_limits<double>::quiet_NaN();
  double missed_share_held_out = std::numeric_limits<double>::quiet_NaN();
  double displacement_error = std::numeric_limits<double>::quiet_NaN();
  bool solved = true;
  /// A step that is not solved on the law, though the cloud itself has nothing left to gain: gradients would fit the cloud
  /// closer than its law, so that none were spent on another try. More particles mend it, not more iterations.
  bool fitted = false;
  /// Where a step is not solved and has no internal energy: the decrease that particles without a network can reach.
  double particle_decrease = std::numeric_limits<double>::quiet_NaN();
  /// Particles that lie where another one does, while an interaction is singular at 0: F leaves their pairs out, and no map
  /// parts them. As seen in the precision of the inner loops, before the step.
  Index coincident = 0;
  double residual = 0;     // gradient of the inner problem at its end, relative to the first of the flow
  double min_log_det = 0;  // smallest log det H over the cloud; 0 where not computed
  /// The estimate of AdaptiveOptions at order 2, NaN otherwise; how many longer steps were tried before.
  double time_error = std::numeric_limits<double>::quiet_NaN();
  int rejected = 0;
  /// Of all maps of the step, at particles that are spread over the cloud; NaN without certificates.
  /// The smallest eigenvalue of H, at up to min(1024, 2^22 / d^3) of them; the largest |grad u*(grad u(x)) -
  /// x|, the inverse found by Newton's method, at up to min(256, 2^18 / d^2), and infinite where it does not
  /// converge. At least 16 particles each.
  double min_eigenvalue = std::numeric_limits<double>::quiet_NaN();
  double round_trip = std::numeric_limits<double>::quiet_NaN();
  /// Of the inner loops. Where it was cg or chosen by `automatic`, log_det_error is the mean over 64
  /// particles of log det H by stochastic Lanczos quadrature minus the exact one, with the step's last map,
  /// and log_det_deviation the standard error of that mean: what the probes leave open. 0 without internal
  /// energy.
  LogDetOptions::Method log_det_method = LogDetOptions::Method::exact;
  double log_det_error = 0;
  double log_det_deviation = 0;
  CgReport cg{};              // of all solves of the step
  SinkhornReport sinkhorn{};  // of all inner iterations; unconverged ones too are used, as far as they came
  double rate = 0;            // of Adam, after retries
  int retries = 0;
  double seconds = 0;              // wall time of the step, and of it
  double inner_seconds = 0;        // the inner loops
  double cloud_seconds = 0;        // maps applied to the cloud and the tracked ones, and F
  double certificate_seconds = 0;  // certificates and the comparison of log-determinants
  bool converged = false;          // by tolerance
};

/// A running flow. Float (the default) computes the inner loops in single precision; clouds, maps and
/// densities are double in any case. Not thread-safe; independent flows may run in parallel.
///
/// With a communicator every process makes a flow from the same arguments, and the same calls of the constructor, step(),
/// track(), functional(), functional_of() and restore(), which compute together; all others are of one process. Each then
/// has all of the flow, and all the same bits, for any number of processes and threads. What was done to one alone in
/// between, by set_cloud(), set_functional() or load(), or failed there, the next of these calls tells all, with a
/// RankError. What fails or is interrupted on one ends the call on all, with the same error where all have met it and
/// otherwise with a RankError that says which process has, and what. Also RankError: processes that have come apart, as
/// with different processors. The flow is then as before the step.
template <class T = float>
class Flow {
 public:
  /// ValueError, ShapeError: options or a cloud that do not fit (also: no log-densities where an internal
  /// energy needs them, particles that are not finite). NotAvailable: the device.
  Flow(Functional functional, Cloud initial, FlowOptions options = {});
  /// From arrays on the device of the options, once through host memory. ValueError as of set_cloud().
  Flow(Functional functional, const DeviceCloud& initial, FlowOptions options = {});
  ~Flow();
  Flow(Flow&&) noexcept;
  Flow& operator=(Flow&&) noexcept;

  /// One step, of length tau or as AdaptiveOptions say. NumericalError where it diverges in spite of all
  /// retries, or where no step length meets the tolerance, OutOfDeviceMemory
  /// where it does not fit the device (the message says what would), DeviceError where the device fails; the
  /// flow is then as it was before the call, and nothing of the step is left on the device. Returns nothing
  /// where interrupt() was called: the step is undone as well. Nor does it do anything at adaptive.end_time.
  /// ValueError: inner.refresh without set_source().
  std::optional<StepReport> step();

  /// Ends a running step() from another thread or a signal handler, after the current inner iteration (on a
  /// CUDA device those that are queued, a few dozen). Where none runs, the next one; a step that throws
  /// forgets it.
  void interrupt() noexcept;

  int steps() const;
  double time() const;
  const FlowOptions& options() const;
  const Icnn& network() const;

  const Trajectory& trajectory() const;         // the cloud, its log-densities
  const std::vector<BrenierMap>& maps() const;  // all maps since the cloud was given, in the order they apply
  ObjectiveValue functional() const;            // F on the cloud, times the mass
  Team& team() const;                           // its threads, for work between steps

  /// Carries another cloud along from now on; returns its number. Held-out clouds do not influence the flow.
  /// ShapeError: its dimension. ValueError: no particles, some that are not finite; steps whose maps were not kept.
  std::size_t track(Cloud held_out);
  /// ValueError: no such number.
  const Trajectory& tracked(std::size_t number) const;
  /// F of a cloud, times the mass. Interactions and distances cost a time quadratic in its size: with a
  /// `pair_limit` they are taken over that many of its particles, one at random of each run of N /
  /// pair_limit. (Step reports use 8192.) ShapeError: its dimension. ValueError: no log-densities where F
  /// needs them.
  ObjectiveValue functional_of(const Trajectory& cloud, Index pair_limit = 0) const;

  /// Another cloud from here on, of any size: what the host program has made of this one between two steps. The network
  /// stays as it is, and the next step starts from it; maps() begin anew, tracked clouds and the initial density are
  /// forgotten (both can be given again), and so is the step before, which order 2 starts up without. Time and steps
  /// go on. ShapeError: its dimension. ValueError: as for the constructor; inner.refresh > 0, which draws from rho_0. The
  /// flow is then as it was.
  void set_cloud(Cloud cloud);
  /// The same from arrays of the host program in the memory of the flow's CUDA device, float or double, with any strides: at
  /// order 1 nothing of it crosses the bus but a few bytes. The stream's earlier work is waited for, and when the call returns
  /// the arrays may change. ValueError: an address, or an end of an array, that is not on that device; another device.
  void set_cloud(const DeviceCloud& cloud);
  /// trajectory() into such arrays, each where its address is given: positions (N, d) and log-densities (N, 1), rounded to
  /// their type. The call does not wait: later work of the stream does. ShapeError; ValueError likewise, and for log-densities
  /// that are not known.
  void get_cloud(const DeviceResults& to) const;
  /// Whether the cloud is still the one that the flow was made with, carried by its steps: what a law of that is worth.
  bool has_initial_cloud() const;
  /// Another functional from here on; the network stays as it is. Errors as of the constructor; the flow is then as
  /// it was.
  void set_functional(Functional functional);

  /// The density of the initial cloud: gives steps with an internal energy their certificate, which needs scores, and
  /// others particles that no gradient has seen; scores up to 64 dimensions. save() marks its bytes with it. Before the first
  /// step of a cloud, or before restore(). ShapeError: its dimension. ValueError: steps were taken.
  void set_initial_density(const Density& initial);

  /// Where new clouds come from when inner.refresh > 0: draw(k) for k = 1, 2, ... returns a cloud from rho_0.
  void set_source(std::function<Cloud(std::uint32_t)> draw);

  /// Parameters of the last inner problem (network().parameters()), in normalised coordinates, with the
  /// number that residuals are relative to: with maps() and trajectory() all that a restart needs.
  struct Checkpoint {
    std::vector<double> theta;
    double gradient_scale = 0;
    std::uint32_t draws = 0;
    double next_tau = 0;  // of adaptive steps
    // Of a flow whose maps do not say so: those of other clouds are forgotten, or none are kept.
    int step = 0;
    std::uint32_t problems = 0;        // JKO problems so far, which key random numbers; 0: one for each map
    double time = 0, last_length = 0;  // of adaptive steps
  };
  Checkpoint checkpoint() const;
  /// Continues a flow bit for bit, from what trajectory(), maps() and checkpoint() gave. Clouds that are
  /// tracked already must be at their start: they are carried through all maps. ShapeError: dimension or
  /// numbers of parameters. ValueError: no log-densities where F needs them.
  void restore(Trajectory cloud, std::vector<BrenierMap> maps, const Checkpoint& checkpoint);

  /// All of a flow between two steps as the bytes of a .safetensors file: cloud, maps, tracked clouds, what certificates
  /// are known from.
  std::vector<std::byte> save() const;
  /// Continues bit for bit what save() gave, in a flow of the same functional and options (a source and a black box are
  /// given again: bytes cannot keep them). The cloud that this flow was made with is replaced. IoError: no such bytes, or
  /// damaged ones. ValueError: of another functional, order or initial density (where both flows have one). ShapeError:
  /// of another network. The flow is then as it was.
  void load(std::span<const std::byte> bytes);

 private:
  struct BRENIER_HIDDEN State;
  std::optional<StepReport> take_step();
  std::unique_ptr<State> state_;
};

extern template class Flow<float>;
extern template class Flow<double>;

}  // namespace brenier
