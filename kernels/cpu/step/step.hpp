// SPDX-License-Identifier: MIT
// One JKO step on the cpu: a single parallel region for all inner iterations. Each iteration is
//
//     tiles: map, Hessian, seeds, reverse sweep  |  barrier  |  sum over chunks, Adam, clamp  |  barrier
//
// with one more barrier after the map where an interaction or a divergence needs the images of all particles, or the
// host program is asked for a potential at them, and between the steps of a divergence, whose forces are there before
// the tiles are swept. Where log det H
// is stochastic (LogDetOptions), the tile solves for its probes with the network as it stands after the map,
// and the sweep carries probes and solutions instead of the Hessian. The cloud is
// cut into tiles of 64 and these into chunks by problem size alone, each chunk has its own partial gradient,
// and all sums run in a fixed order: results do not depend on the number of threads. Nor of processes (Team::ranks()),
// each of which has a part of the chunks: partial gradients are summed in the order of chunks, images and what divergences
// know of other tiles are brought to all, and the rest every process computes for itself.
#pragma once

#include <atomic>
#include <memory>

#include "brenier/base/philox.hpp"
#include "kernels/cpu/cloud/divergence.hpp"
#include "kernels/cpu/cloud/pairs.hpp"
#include "kernels/cpu/network/factor.hpp"
#include "kernels/cpu/network/learned.hpp"
#include "kernels/cpu/network/solves.hpp"
#include "kernels/cpu/parallel.hpp"
#include "kernels/model/adam.hpp"
#include "kernels/model/black_box.hpp"
#include "kernels/model/surrogate.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// Chunks of tiles: at least two tiles each, at most 64 chunks, and of large clouds one for 1024 particles, up to 1024 as
/// far as their partial gradients take no more than 32 MB.
inline Index chunks_of(Index tiles, Index parameters) {
  if (tiles < 128) return tiles < 4 ? 1 : tiles / 2;
  const Index wanted = tiles < 1024 * 16 ? tiles / 16 : 1024, room = (Index{1} << 22) / parameters;
  const Index most = wanted < room ? wanted : room;
  return most < 64 ? 64 : most;
}

inline constexpr Index kFlushTiles = 16;  // tiles summed in T before they go into the double partial sums
inline constexpr Index kNormBlock = 256;  // parameters per partial sum of the gradient norm

/// What all threads of a step share.
template <class T>
struct StepShared {
  Index n, tiles, parameters, chunks, norm_blocks, image_ld;
  bool interacting;
  bool values;          // of the objective are wanted
  bool spread = false;  // over processes
  double* partial;      // (chunks, parameters)
  double* energy;       // (chunks): sums over particles, but for divergences
  double* total;        // (parameters + 1): their sums over all chunks; only with other processes
  double* image_sum;    // (chunks, d): sums of images, for the mean
  T* image;             // (d, image_ld): images of the batch, component-major; only where interacting
  double* norm2;        // (norm_blocks)
  T* lower;             // (parameters): bounds
  T* rate;              // (parameters): factors of the rate, 0 where not updated
  LearnedParameters<T> learned;
  Divergence<T>** divergence = nullptr;  // one for each term
  BlackBoxForces* black_box = nullptr;
  std::atomic<bool> interrupted{false};

  StepShared(const InnerProblem<T>& problem, bool with_values, Carver& carver)
      : n(problem.minibatch > 0 ? problem.minibatch : problem.x.rows),
        tiles(tiles_of(n)),
        parameters(problem.net->parameters()),
        chunks(chunks_of(tiles, parameters)),
        norm_blocks((parameters + kNormBlock - 1) / kNormBlock),
        image_ld(tiles * kLanes),
        interacting(!problem.objective->interaction.empty() || !problem.objective->divergence.empty() ||
                    !problem.objective->black_box.empty()),
        values(with_values),
        partial(carver.take<double>(chunks * parameters)),
        energy(carver.take<double>(chunks)),
        total(carver.take<double>(parameters + 1)),
        image_sum(carver.take<double>(chunks * problem.x.cols)),
        image(carver.take<T>(interacting ? problem.x.cols * image_ld : 1)),
        norm2(carver.take<double>(norm_blocks)),
        lower(carver.take<T>(parameters)),
        rate(carver.take<T>(parameters)),
        learned(*problem.objective, carver) {}
};

/// What one thread of a step owns.
template <class T>
class StepWorker {
 public:
  StepWorker(const InnerProblem<T>& problem, StepShared<T>& shared, Carver& carver)
      : problem_(problem),
        shared_(shared),
        objective_(*problem.objective),
        d_(problem.x.cols),
        internal_(!objective_.internal.empty()),
        exact_(internal_ &&
               problem.log_det.resolved(static_cast<int>(d_)).method == LogDetOptions::Method::exact),
        probes_(internal_ && !exact_ ? problem.log_det.probes : 0),
        net_(*problem.net, plan(), carver),
        cg_(probes_ > 0 ? d_ : 0, recorded_steps(), carver),
        x_(carver.take<T>(d_ * kLanes)),
        y_(carver.take<T>(d_ * kLanes)),
        physical_(carver.take<T>(d_ * kLanes)),
        v_(carver.take<T>(d_ * kLanes)),
        metric_(carver.take<T>(exact_ ? triangle(d_) * kLanes : 1)),
        log_det_(carver.take<double>(kLanes)),
        log_xi_(carver.take<double>(kLanes)),
        energy_(carver.take<double>(kLanes)),
        weight_(carver.take<T>(kLanes)),
        xi_(carver.take<double>(kLanes)),
        surrogate_(carver.take<double>(surrogate_rows() * kLanes)),
        factor_(carver.take<double>(exact_ ? factor_workspace(d_) : 1)),
        program_(carver.take<T>(program_rows() * kLanes)),
        mean_(carver.take<double>(d_)),
        pairs_(d_, pair_rows(), carver),
        learned_(objective_, shared.values, carver) {}

  void set_parameters(const T* theta) { net_.set_parameters(theta); }
  /// Once, before the first iteration.
  void set_learned_potentials() { learned_.set_parameters(shared_.learned); }

  /// Phase 1, only where particles interact: images of the tiles of a chunk.
  void images(Index chunk, int iteration) {
    double* sum = shared_.image_sum + chunk * d_;
    for (Index c = 0; c < d_; ++c) sum[c] = 0;
    for_tiles(chunk, [&](Index tile) {
      map_tile(tile, iteration);
      for (Index c = 0; c < d_; ++c) {
        store_rows(shared_.image + c * shared_.image_ld + tile * kLanes, y_ + c * kLanes);
        for (int i = 0; i < count_; ++i) sum[c] += static_cast<double>(y_[c * kLanes + i]);
        double* const physical = shared_.black_box->x;
        for (int i = 0; physical && i < count_; ++i)
          physical[(tile * kLanes + i) * d_ + c] =
              static_cast<double>(y_[c * kLanes + i]) + problem_.shift[c];
      }
    });
  }

  /// Between the phases, all threads together: forces of the divergences, which keep their potentials for the
  /// next iteration. Ends with a barrier.
  void divergences(int rank, Team& team) {
    if (objective_.divergence.empty()) return;
    gather_mean();
    for (std::size_t k = 0; k < objective_.divergence.size(); ++k) {
      sinkhorn_.add(shared_.divergence[k]->evaluate(
          [&](Index i, Index c) { return static_cast<double>(shared_.image[c * shared_.image_ld + i]); },
          mean_, problem_.shift.data(), rank, team));
    }
  }

  /// Phase 2: partial gradient of a chunk.
  void gradient(Index chunk, int iteration) {
    double* partial = shared_.partial + chunk * shared_.parameters;
    for (Index k = 0; k < shared_.parameters; ++k) partial[k] = 0;
    shared_.energy[chunk] = 0;
    if (shared_.interacting) gather_mean();
    Index pending = 0;
    for_tiles(chunk, [&](Index tile) {
      map_tile(tile, iteration);
      for (int i = 0; i < kLanes; ++i) energy_[i] = 0;
      seeds_first_order(tile);
      if (exact_) seeds_exact(tile, iteration);
      if (probes_ > 0) seeds_stochastic(tile, iteration);
      for (int i = 0; i < count_; ++i) shared_.energy[chunk] += energy_[i];
      clear_padding();
      net_.reverse(nullptr, v_, metric_);
      if (++pending == kFlushTiles) {
        net_.flush(partial);
        pending = 0;
      }
    });
    if (pending > 0) net_.flush(partial);
  }

  /// The objective of the evaluation before, up to a constant; every thread gets the same number.
  double value() const {
    if (probes_ > 0) return std::numeric_limits<double>::quiet_NaN();
    double sum = 0;
    for (Index chunk = 0; chunk < shared_.chunks; ++chunk) sum += shared_.energy[chunk];
    if (shared_.spread) sum = shared_.total[shared_.parameters];
    sum /= static_cast<double>(shared_.n);
    for (std::size_t k = 0; k < objective_.divergence.size(); ++k)
      sum += objective_.divergence[k].weight * shared_.divergence[k]->value();
    return sum;
  }

  /// Of all solves so far.
  const CgReport& report() const { return report_; }
  const SinkhornReport& sinkhorn() const { return sinkhorn_; }

 private:
  static constexpr int w = kWidth<T>;

  typename TileNet<T>::Plan plan() const {
    if (probes_ > 0) return {.directions = Directions::pairs, .count = probes_, .product = true};
    return {.directions = exact_ ? Directions::unit : Directions::none};
  }
  /// The weight of the entropy does not depend on log det H.
  bool needs_log_det() const {
    for (const InternalTerm& term : objective_.internal) {
      if (term.form != InternalTerm::Form::entropy) return true;
    }
    return false;
  }
  int recorded_steps() const { return probes_ > 0 && needs_log_det() ? problem_.log_det.iterations : 0; }

  static void store_rows(T* to, const T* from) { __builtin_memcpy(to, from, kLanes * sizeof(T)); }

  Index program_rows() const { return objective_.potential.workspace() + 1; }
  Index surrogate_rows() const {
    Index rows = 1;
    for (const InternalTerm& term : objective_.internal) {
      for (const Index more : {term.surrogate.workspace(), term.program.workspace()})
        rows = more > rows ? more : rows;
    }
    return rows;
  }
  Index pair_rows() const {
    Index rows = 1;
    for (const InteractionTerm& term : objective_.interaction) {
      const Index more = term.kernel.program.workspace();
      rows = more > rows ? more : rows;
    }
    return rows;
  }

  void for_tiles(Index chunk, const auto& body) {
    const Index first = shared_.tiles * chunk / shared_.chunks;
    const Index last = shared_.tiles * (chunk + 1) / shared_.chunks;
    for (Index tile = first; tile < last; ++tile) body(tile);
  }

  /// The particle that lane i of a tile holds in this iteration; padding repeats the last one.
  Index particle(Index tile, int lane, int iteration) const {
    Index b = tile * kLanes + lane;
    b = b < shared_.n ? b : shared_.n - 1;
    if (problem_.minibatch == 0) return b;
    return Random(problem_.seed, RandomStream::minibatch)
        .below(static_cast<std::uint32_t>(problem_.x.rows), problem_.step,
               static_cast<std::uint32_t>(iteration), static_cast<std::uint64_t>(b));
  }

  /// y = x + S (grad u_theta(x_hat) - x_hat), x_hat = x/S; x and y relative to m.
  void map_tile(Index tile, int iteration) {
    const Index left = shared_.n - tile * kLanes;
    count_ = static_cast<int>(left < kLanes ? left : kLanes);
    const T scale = static_cast<T>(problem_.scale);
    for (int i = 0; i < kLanes; ++i) {
      const T* row = problem_.x.row(particle(tile, i, iteration));
      for (Index c = 0; c < d_; ++c) x_[c * kLanes + i] = row[c];
    }
    for (Index c = 0; c < d_; ++c) {
      for (Index i = c * kLanes; i < (c + 1) * kLanes; ++i) net_.inputs()[i] = x_[i] / scale;
    }
    net_.forward();
    net_.adjoint();
    const T* displacement = net_.displacement();
    for (Index i = 0; i < d_ * kLanes; i += w) store(y_ + i, load(x_ + i) + scale * load(displacement + i));
  }

  void gather_mean() {
    for (Index c = 0; c < d_; ++c) {
      mean_[c] = 0;
      for (Index chunk = 0; chunk < shared_.chunks; ++chunk) mean_[c] += shared_.image_sum[chunk * d_ + c];
      mean_[c] /= static_cast<double>(shared_.n);
    }
  }

  /// y + m, which potentials see.
  const T* physical_images() {
    for (Index c = 0; c < d_; ++c) {
      const T shift = static_cast<T>(problem_.shift[c]);
      for (Index i = c * kLanes; i < (c + 1) * kLanes; i += w) store(physical_ + i, load(y_ + i) + shift);
    }
    return physical_;
  }

  /// v = S grad(first variation)(y) + S^2/tau (grad u - x).
  void seeds_first_order(Index tile) {
    const T scale = static_cast<T>(problem_.scale);
    const T inertia = static_cast<T>(problem_.scale * problem_.scale / problem_.tau);
    const T* displacement = net_.displacement();
    for (Index i = 0; i < d_ * kLanes; i += w) store(v_ + i, inertia * load(displacement + i));
    if (shared_.values) add_transport();
    if (objective_.has_potential()) {
      const ProgramRows<T> result = evaluate_lanes<T>(objective_.potential, physical_images(), program_);
      if (shared_.values) {
        for (int i = 0; i < kLanes; ++i) energy_[i] += static_cast<double>(result.value[i]);
      }
      for (Index i = 0; i < d_ * kLanes; i += w) {
        store(v_ + i, load(v_ + i) + scale * load(result.gradient + i));
      }
    }
    learned_.add(scale, y_, v_, shared_.values ? energy_ : nullptr);
    if (const double* forces = shared_.black_box->force) {
      for (int i = 0; i < count_; ++i) {
        const Index particle = tile * kLanes + i;
        for (Index c = 0; c < d_; ++c)
          v_[c * kLanes + i] += scale * static_cast<T>(forces[particle * d_ + c]);
        if (shared_.values) energy_[i] += shared_.black_box->value[particle];
      }
    }
    for (const InteractionTerm& term : objective_.interaction) {
      const Components<T> cloud{shared_.image, shared_.n, d_, shared_.image_ld};
      add_pair_forces<T>(term.kernel, problem_.scale * term.weight, y_, cloud, mean_, v_, pairs_);
      if (shared_.values) add_pair_energies(term, cloud);
    }
    for (std::size_t k = 0; k < objective_.divergence.size(); ++k) {
      const T factor = static_cast<T>(problem_.scale * objective_.divergence[k].weight);
      for (int i = 0; i < count_; ++i) {
        const T* force = shared_.divergence[k]->force(tile * kLanes + i);
        for (Index c = 0; c < d_; ++c) v_[c * kLanes + i] += factor * force[c];
      }
    }
  }

  /// energy += S^2/(2 tau) |grad u - x|^2.
  void add_transport() {
    const double factor = problem_.scale * problem_.scale / (2 * problem_.tau);
    const T* displacement = net_.displacement();
    for (Index c = 0; c < d_; ++c) {
      for (int i = 0; i < kLanes; ++i) {
        const double step = static_cast<double>(displacement[c * kLanes + i]);
        energy_[i] += factor * step * step;
      }
    }
  }

  /// The first particle of the tile gets those of all.
  void add_pair_energies(const InteractionTerm& term, const Components<T>& cloud) {
    if (shared_.n < 2) return;
    const PairKernel& kernel = term.kernel;
    const double others = static_cast<double>(shared_.n - 1);
    if (kernel.form == PairKernel::Form::quadratic_log && kernel.log_coefficient == 0) {
      // sum_ij |y_i - y_j|^2 = 2 N sum_i |y_i - mean|^2.
      for (Index c = 0; c < d_; ++c) {
        for (int i = 0; i < kLanes; ++i) {
          const double off = static_cast<double>(y_[c * kLanes + i]) - mean_[c];
          energy_[i] += term.weight * kernel.quadratic * static_cast<double>(shared_.n) / others * off * off;
        }
      }
      return;
    }
    // Pairs of a particle with itself are a constant.
    energy_[0] += term.weight * pair_energies<T>(kernel, y_, count_, cloud, pairs_) / (2 * others);
  }

  /// weight = w(xi), xi = rho / det H.
  void surrogate_weights(Index tile, int iteration) {
    for (int i = 0; i < kLanes; ++i) {
      log_xi_[i] = problem_.log_density[particle(tile, i, iteration)] - log_det_[i];
    }
    for (int i = 0; i < kLanes; i += w) store(weight_ + i, Vec<T>{});
    for (const InternalTerm& term : objective_.internal) {
      add_surrogate_weight(term);
      if (shared_.values) add_internal_energy(term);
    }
  }

  /// energy += weight * f(xi)/xi, after add_surrogate_weight(term).
  void add_internal_energy(const InternalTerm& term) {
    const double* f = xi_;
    if (term.form == InternalTerm::Form::general) {
      f = evaluate_lanes<double>(term.program, xi_, surrogate_).value;
    }
    for (int i = 0; i < count_; ++i) {
      if (log_xi_[i] == -std::numeric_limits<double>::infinity()) continue;
      switch (term.form) {
        case InternalTerm::Form::entropy:
          energy_[i] += term.weight * log_xi_[i];
          break;
        case InternalTerm::Form::power:
          energy_[i] += term.weight * xi_[i] / (term.exponent - 1);
          break;
        case InternalTerm::Form::general:
          energy_[i] += xi_[i] > 0 ? term.weight * f[i] / xi_[i] : xi_[i];
          break;
      }
    }
  }

  /// metric = -w(xi) H^{-1}, the gradient of -w log det H with w held constant.
  void seeds_exact(Index tile, int iteration) {
    net_.curvature();
    factorise<T>(d_, net_.hessian(), log_det_, metric_, factor_);
    surrogate_weights(tile, iteration);
    for (Index row = 0; row < triangle(d_); ++row) {
      for (int i = 0; i < kLanes; i += w) {
        T* entry = metric_ + row * kLanes + i;
        store(entry, -load(weight_ + i) * load(entry));
      }
    }
  }

  /// Directions e and -w(xi)/P H^{-1} e for P probes e; log det H as the mean of their quadratures. The
  /// probes of padding are 0, and so are their solutions.
  void seeds_stochastic(Index tile, int iteration) {
    const RademacherProbes signs(problem_.seed, problem_.step, static_cast<std::uint32_t>(iteration),
                                 static_cast<int>(d_));
    const T share = T(1) / static_cast<T>(probes_);
    for (int i = 0; i < kLanes; ++i) log_det_[i] = 0;
    for (int k = 0; k < probes_; ++k) {
      T* probe = net_.tangent_inputs() + k * d_ * kLanes;
      for (int i = 0; i < kLanes; ++i) {
        const std::uint64_t place = static_cast<std::uint64_t>(tile * kLanes + i);
        const T sign = i < count_ ? T(1) : T(0);
        signs.for_components(
            place, k, [&](int c, bool negative) { probe[Index{c} * kLanes + i] = negative ? -sign : sign; });
      }
      cg_.solve(net_, probe, solution(k), problem_.log_det.cg(), count_, report_);
      for (int i = 0; recorded_steps() > 0 && i < count_; ++i) {
        log_det_[i] += cg_.log_quadrature(i) / static_cast<double>(probes_);
      }
    }
    surrogate_weights(tile, iteration);
    for (int k = 0; k < probes_; ++k) {
      for (Index at = 0; at < d_ * kLanes; at += w) {
        T* entry = solution(k) + at;
        store(entry, -share * load(weight_ + at % kLanes) * load(entry));
      }
    }
    net_.curvature();
  }

  T* solution(int k) { return net_.tangent_inputs() + (probes_ + k) * d_ * kLanes; }

  void add_surrogate_weight(const InternalTerm& term) {
    const T weight = static_cast<T>(term.weight);
    if (term.form == InternalTerm::Form::entropy) {
      for (int i = 0; i < kLanes; i += w) store(weight_ + i, load(weight_ + i) + weight);
      return;
    }
    for (int i = 0; i < kLanes; i += kWidth<double>) {
      store<double>(xi_ + i, surrogate_weight(term.form, term.exponent, load<double>(log_xi_ + i),
                                              VectorMath<double>()));
    }
    const double* of_program = xi_;
    if (term.form == InternalTerm::Form::general) {
      of_program = evaluate_lanes<double>(term.surrogate, xi_, surrogate_).value;
    }
    for (int i = 0; i < kLanes; ++i) {
      weight_[i] += weight * static_cast<T>(surrogate_is_program(term.form, xi_[i]) ? of_program[i] : xi_[i]);
    }
  }

  void clear_padding() {
    for (int i = count_; i < kLanes; ++i) {
      for (Index c = 0; c < d_; ++c) v_[c * kLanes + i] = T(0);
      for (Index row = 0; exact_ && row < triangle(d_); ++row) metric_[row * kLanes + i] = T(0);
    }
  }

  const InnerProblem<T>& problem_;
  StepShared<T>& shared_;
  const Objective& objective_;
  Index d_;
  bool internal_, exact_;
  int probes_;  // 0: log det H is exact, or not wanted
  int count_ = 0;
  TileNet<T> net_;
  TileCg<T> cg_;
  CgReport report_;
  SinkhornReport sinkhorn_;
  T *x_, *y_, *physical_, *v_, *metric_;
  double *log_det_, *log_xi_;
  double* energy_;  // (64): of the particles of the tile
  T* weight_;
  double *xi_, *surrogate_;
  double* factor_;
  T* program_;
  double* mean_;
  PairWorkspace<T> pairs_;
  LearnedForces<T> learned_;
};

/// Shared and private memory of a step, sized before any thread starts.
template <class T>
class StepRun {
 public:
  StepRun(const InnerProblem<T>& problem, bool values, Team& team)
      : problem_(problem),
        team_(team),
        black_box_(*problem.objective, problem.minibatch > 0 ? problem.minibatch : problem.x.rows, values) {
    Carver count(nullptr);
    StepShared<T> sizes(problem, values, count);
    StepWorker<T> worker(problem, sizes, count);
    shared_memory_ = Arena(count.used());
    Carver carver(shared_memory_.data());
    new (shared_storage_) StepShared<T>(problem, values, carver);
    for (const ParameterTensor& tensor : problem.net->tensors()) {
      for (Index k = tensor.offset; k < tensor.offset + tensor.size(); ++k) {
        shared().lower[k] = static_cast<T>(tensor.lower);
        shared().rate[k] = static_cast<T>(tensor.rate);
      }
    }
    shared().learned.fill(problem.shift.data());
    shared().black_box = &black_box_;
    shared().spread = team.ranks() != nullptr;
    if (shared().spread) parts_.reset(new RankPart[static_cast<std::size_t>(problem.x.cols) + 1]);
    Carver private_count(nullptr);
    StepWorker<T> private_sizes(problem, sizes, private_count);
    private_bytes_ = (private_count.used() + 4095) / 4096 * 4096;
    private_memory_ = Arena(private_bytes_ * static_cast<std::size_t>(team.size()));
    const std::vector<DivergenceTerm>& terms = problem.objective->divergence;
    divergence_memory_ = Arena((terms.size() + 1) * sizeof(Divergence<T>*));
    shared().divergence = reinterpret_cast<Divergence<T>**>(divergence_memory_.data());
    divergences_.reset(new std::unique_ptr<Divergence<T>>[terms.size()]);
    for (std::size_t k = 0; k < terms.size(); ++k) {
      divergences_[k] = std::make_unique<Divergence<T>>(terms[k], shared().n, nullptr, nullptr, team);
      shared().divergence[k] = divergences_[k].get();
    }
  }
  ~StepRun() { shared().~StepShared<T>(); }
  StepRun(const StepRun&) = delete;
  StepRun& operator=(const StepRun&) = delete;

  StepShared<T>& shared() { return *std::launder(reinterpret_cast<StepShared<T>*>(shared_storage_)); }

  StepWorker<T> worker(int rank) {
    Carver carver(private_memory_.data() + private_bytes_ * static_cast<std::size_t>(rank));
    StepWorker<T> worker(problem_, shared(), carver);
    worker.set_learned_potentials();
    return worker;
  }

  /// Whether the host program has failed to give a potential, in the iteration before; and what it threw, outside of
  /// the threads.
  bool failed() const { return black_box_.failed; }
  void rethrow() { black_box_.rethrow(); }

  /// All partial gradients of one iteration; ends with a barrier.
  void gradients(StepWorker<T>& worker, const T* theta, int iteration, int rank) {
    const auto [first, last] = share_of_all(team_, shared().chunks, rank);
    worker.set_parameters(theta);
    if (shared().interacting) {
      for (Index chunk = first; chunk < last; ++chunk) worker.images(chunk, iteration);
      team_.barrier();
      meet_images(rank);
      worker.divergences(rank, team_);
      if (black_box_.x) {
        const auto [begin, end] = own_particles();
        black_box_.evaluate(rank, team_, begin, end);
        team_.barrier();
        if (black_box_.failed) return;
      }
    }
    for (Index chunk = first; chunk < last; ++chunk) worker.gradient(chunk, iteration);
    team_.barrier();
    if (!shared().spread) return;
    if (rank == 0) {
      team_.ranks()->sum_blocks_between(shared().partial, shared().energy, shared().chunks,
                                        shared().parameters, shared().total);
    }
    team_.barrier();
    team_.ranks()->rethrow();
  }

  /// Takes in what the other processes know of solves.
  void add_others(CgReport& report) {
    if (!shared().spread || problem_.log_det.method == LogDetOptions::Method::exact) return;
    const Index count = team_.ranks()->size();
    const Arena storage(static_cast<std::size_t>(count) * sizeof(CgReport));
    CgReport* all = reinterpret_cast<CgReport*>(storage.data());
    all[team_.ranks()->rank()] = report;
    const RankPart part = RankPart::rows(all, sizeof(CgReport), count);
    team_.ranks()->gather(&part, 1);
    report = {};
    for (Index k = 0; k < count; ++k) report.add(all[k]);
  }

  /// Mean gradient of parameter block [first, first + count): sum over chunks in order.
  void reduce(Index first, Index count, double* out) {
    const StepShared<T>& s = shared();
    for (Index k = 0; k < count; ++k) out[k] = s.spread ? s.total[first + k] : 0;
    for (Index chunk = 0; !s.spread && chunk < s.chunks; ++chunk) {
      const double* partial = s.partial + chunk * s.parameters + first;
      for (Index k = 0; k < count; ++k) out[k] += partial[k];
    }
    for (Index k = 0; k < count; ++k) out[k] /= static_cast<double>(s.n);
  }

  /// Norm of the gradient, blocks summed in order; every thread gets the same number.
  double gradient_norm() {
    double sum = 0;
    for (Index b = 0; b < shared().norm_blocks; ++b) sum += shared().norm2[b];
    return __builtin_sqrt(sum);
  }

 private:
  /// Images and their sums, where particles see each other: from all processes to all.
  void meet_images(int rank) {
    const Objective& objective = *problem_.objective;
    if (!shared().spread || (objective.interaction.empty() && objective.divergence.empty())) return;
    const StepShared<T>& s = shared();
    const Index d = problem_.x.cols;
    if (rank == 0) {
      for (Index c = 0; c < d; ++c)
        parts_[c] = RankPart::chunks(s.image + c * s.image_ld, kLanes * sizeof(T), s.tiles, s.chunks);
      parts_[d] = RankPart::rows(s.image_sum, static_cast<std::size_t>(d) * sizeof(double), s.chunks);
      team_.ranks()->gather_between(parts_.get(), static_cast<int>(d) + 1);
    }
    team_.barrier();
    team_.ranks()->rethrow();
  }

  /// The particles of this process's chunks.
  std::pair<Index, Index> own_particles() {
    const StepShared<T>& s = shared();
    if (!s.spread) return {0, s.n};
    const auto [first, last] = team_.ranks()->share(s.chunks);
    const Index begin = s.tiles * first / s.chunks * kLanes, end = s.tiles * last / s.chunks * kLanes;
    return {begin < s.n ? begin : s.n, end < s.n ? end : s.n};
  }

  const InnerProblem<T>& problem_;
  Team& team_;
  BlackBoxForces black_box_;
  std::unique_ptr<RankPart[]> parts_;
  Arena shared_memory_, private_memory_, divergence_memory_;
  std::unique_ptr<std::unique_ptr<Divergence<T>>[]> divergences_;
  std::size_t private_bytes_ = 0;
  alignas(StepShared<T>) unsigned char shared_storage_[sizeof(StepShared<T>)];
};

template <class T>
void objective_gradient(const InnerProblem<T>& problem, const T* theta, int iteration, double* gradient,
                        Team& team) {
  StepRun<T> run(problem, false, team);
  team.run([&](int rank) {
    StepWorker<T> worker = run.worker(rank);
    run.gradients(worker, theta, iteration, rank);
    const auto [first, last] = team.share(run.shared().parameters, rank);
    run.reduce(first, last - first, gradient + first);
  });
  run.rethrow();
}

/// Keeps its memory, and the potentials of divergences, between evaluations.
template <class T>
class CpuObjective final : public StepObjective<T> {
 public:
  CpuObjective(const InnerProblem<T>& problem, Team& team)
      : run_(problem, true, team),
        team_(team),
        reports_(static_cast<std::size_t>(team.size()) * sizeof(CgReport)) {}

  double evaluate(const T* theta, int iteration, double* gradient) override {
    double value = 0;
    CgReport* solves = reinterpret_cast<CgReport*>(reports_.data());  // of threads
    team_.run([&](int rank) {
      StepWorker<T> worker = run_.worker(rank);
      run_.gradients(worker, theta, iteration, rank);
      const auto [first, last] = team_.share(run_.shared().parameters, rank);
      run_.reduce(first, last - first, gradient + first);
      solves[rank] = worker.report();
      if (rank != 0) return;
      value = worker.value();
      sinkhorn_.add(worker.sinkhorn());
    });
    run_.rethrow();
    CgReport report;
    for (int rank = 0; rank < team_.size(); ++rank) report.add(solves[rank]);
    run_.add_others(report);
    cg_.add(report);
    return value;
  }
  CgReport cg() const override { return cg_; }
  SinkhornReport sinkhorn() const override { return sinkhorn_; }

 private:
  StepRun<T> run_;
  Team& team_;
  Arena reports_;
  CgReport cg_;
  SinkhornReport sinkhorn_;
};

template <class T>
std::unique_ptr<StepObjective<T>> step_objective(const InnerProblem<T>& problem, Team& team) {
  return std::make_unique<CpuObjective<T>>(problem, team);
}

/// Adam on parameters first .. last; a loop without branches, which compilers vectorise.
template <class T>
void update_range(const AdamStep<T>& adam, InnerState<T>& state, const StepShared<T>& shared, Index first,
                  Index last) {
  T* __restrict theta = state.theta.data();
  T* __restrict m = state.first_moment.data();
  T* __restrict v = state.second_moment.data();
  const double* __restrict gradient = shared.partial;
  const T* __restrict lower = shared.lower;
  const T* __restrict rate = shared.rate;
  for (Index i = first; i < last; ++i) {
    adam.update(theta[i], m[i], v[i], static_cast<T>(gradient[i]), lower[i], rate[i]);
  }
}

template <class T>
InnerReport inner_loop(const InnerProblem<T>& problem, InnerState<T>& state, int until, Team& team) {
  StepRun<T> run(problem, false, team);
  StepShared<T>& shared = run.shared();
  InnerReport result;
  const Arena storage(static_cast<std::size_t>(team.size()) * sizeof(CgReport));
  CgReport* solves = reinterpret_cast<CgReport*>(storage.data());  // of threads
  const int start = state.iteration;
  team.run([&](int rank) {
    StepWorker<T> worker = run.worker(rank);
    const auto [first_block, last_block] = team.share(shared.norm_blocks, rank);
    InnerReport report;  // every thread takes the same decisions from the same numbers
    double gradient[kNormBlock];
    for (int k = start; k < until; ++k) {
      run.gradients(worker, state.theta.data(), k, rank);
      if (run.failed()) break;
      // The norm decides whether the update happens at all, so it comes first.
      for (Index block = first_block; block < last_block; ++block) {
        const Index first = block * kNormBlock;
        const Index count = first + kNormBlock < shared.parameters ? kNormBlock : shared.parameters - first;
        run.reduce(first, count, gradient);
        double norm2 = 0;
        const T* theta = state.theta.data() + first;
        for (Index i = 0; i < count; ++i) {
          shared.partial[first + i] = gradient[i];  // chunk 0 keeps the mean
          const double part =
              moving_part(theta[i], shared.lower[first + i], shared.rate[first + i], gradient[i]);
          norm2 += part * part;
        }
        shared.norm2[block] = norm2;
      }
      if (rank == 0 && problem.interrupt) {
        shared.interrupted.store(problem.interrupt->load(std::memory_order_relaxed),
                                 std::memory_order_relaxed);
      }
      team.barrier();
      if (!report.take(run.gradient_norm(), problem.tolerance, problem.gradient_scale)) break;
      report.interrupted = shared.interrupted.load(std::memory_order_relaxed);
      const AdamStep<T> adam(problem.adam, k, problem.iterations);
      const Index first = first_block * kNormBlock;
      const Index last =
          last_block * kNormBlock < shared.parameters ? last_block * kNormBlock : shared.parameters;
      update_range(adam, state, shared, first, last);
      team.barrier();
      if (report.converged || report.interrupted) break;
    }
    solves[rank] = worker.report();
    if (rank == 0) {
      result = report;
      result.sinkhorn = worker.sinkhorn();  // the same on every thread
    }
  });
  run.rethrow();
  for (int rank = 0; rank < team.size(); ++rank) result.cg.add(solves[rank]);
  run.add_others(result.cg);
  state.iteration += result.iterations;
  return result;
}

}  // namespace brenier::cpu::BRENIER_ISA
