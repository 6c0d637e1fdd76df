// SPDX-License-Identifier: MIT
// What a step has missed: a certificate that does not depend on how the step was solved. For .cpp files only.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "brenier/map.hpp"
#include "engine/src/flow/cloud/cloud_view.hpp"
#include "engine/src/flow/cloud_objective.hpp"

namespace brenier {

/// Particles that are judged, carried along through all maps: some of the cloud itself, and others of its law that no
/// gradient has seen: a quarter of these are the outermost of many, where the cloud says least of a map. With `scores`
/// each has neighbours 2d around it, whose log-densities and places give the score grad log rho at it by central
/// differences, at either order and through any map. With `pairs` there are kLawParticles more, independent of all
/// others, which tell the forces of the law between particles.
class JudgedParticles {
 public:
  /// Above this dimension neighbours cost more than the step, and scores are not known.
  static constexpr Index kScoreDim = 64;
  static constexpr Index kLawParticles = 2048;
  static constexpr Index kFew = 8192;  // coordinates that are not worth the way to a device and back

  JudgedParticles() = default;
  /// At the start of a flow; x (N, d) is its cloud.
  JudgedParticles(const Density& initial, const Matrix<double>& x, bool scores, bool pairs, bool second_order,
                  std::uint64_t seed);

  bool empty() const { return points_.size() == 0; }

  /// All of it, for files. restore(parts()) is the same again; nothing is checked.
  struct Parts {
    Trajectory points, law;
    Index neighbours = 0;
    std::vector<char> held_out;
    std::vector<Index> cloud_rows;
    std::vector<double> weights;
    Matrix<double> distance;
  };
  Parts parts() const { return {points_, law_, neighbours_, held_out_, cloud_rows_, weights_, distance_}; }
  static JudgedParticles restore(Parts parts) {
    JudgedParticles out;
    out.points_ = std::move(parts.points);
    out.law_ = std::move(parts.law);
    out.neighbours_ = parts.neighbours;
    out.held_out_ = std::move(parts.held_out);
    out.cloud_rows_ = std::move(parts.cloud_rows);
    out.weights_ = std::move(parts.weights);
    out.distance_ = std::move(parts.distance);
    return out;
  }
  /// Where maps are applied from now on; see Trajectory::run_on().
  void run_on(const Operations<double>& ops) {
    for (Trajectory* some : {&points_, &law_})
      some->run_on(some->size() * some->dim() > kFew ? ops : for_few_points(ops));
  }
  void advance(const BrenierMap& map, Team& team, const ResidentMap* there = nullptr) {
    centres_ = {};
    points_.advance(map, team, there);
    if (has_law()) law_.advance(map, team, there);
  }
  /// Points of the particles that a map starts from.
  Trajectory::Base base(const BrenierMap& map, Team& team) const { return points_.base(map, team); }

  Index size() const { return static_cast<Index>(held_out_.size()); }
  /// The row of the cloud that a particle is, or -1.
  Index cloud_row(Index i) const { return i < static_cast<Index>(cloud_rows_.size()) ? cloud_rows_[i] : -1; }
  /// Share of the law that a held-out particle stands for, up to a factor; 1 for those of the cloud.
  double weight(Index i) const { return weights_[static_cast<std::size_t>(i)]; }
  bool held_out(Index i) const { return held_out_[static_cast<std::size_t>(i)] != 0; }
  bool has_scores() const { return neighbours_ > 0; }
  bool has_law() const { return law_.size() > 0; }
  /// Independent particles of the law (kLawParticles, d), where has_law().
  const Matrix<double>& law() const { return law_.x(); }
  /// The particles without their neighbours (size, d), brought here once where they lie on a device; and their log-densities,
  /// (size) or empty.
  const Matrix<double>& centres() const;
  const std::vector<double>& log_density() const {
    centres();
    return central_log_density_;
  }
  /// The same of base().
  Matrix<double> centres_of(const Trajectory::Base& base) const;
  /// score (size, d); false for particles where it is not known: at the edge of a support.
  std::vector<char> scores(Matrix<double>& score) const;

 private:
  Index row(Index i) const { return i * (neighbours_ + 1); }  // in points_ and in base()
  std::vector<Index> rows() const;

  Trajectory points_, law_;
  mutable Matrix<double> centres_;
  mutable std::vector<double> central_log_density_;
  Index neighbours_ = 0;
  std::vector<char> held_out_;
  std::vector<double> weights_;
  std::vector<Index> cloud_rows_;
  Matrix<double> distance_;  // (size, d): of the neighbours, at the start
};

/// Networks in float move particles by what is asked for up to a tenth of this, in sizes of the cloud.
constexpr double kRoundedMove = 3e-4;

/// Shares are of what the step could have lowered F + transport by, or of `floor` where that is more.
struct Missed {
  enum class Basis {
    none,    // nothing is known
    affine,  // the gain of one more affine map: a lower bound, where there are internal energies and no scores
    residual,  // of the optimality condition, at particles
  };
  Basis basis = Basis::none;
  double share = std::numeric_limits<double>::quiet_NaN();     // on particles of the cloud
  double held_out = std::numeric_limits<double>::quiet_NaN();  // on others; NaN where there are none
  /// Root mean square distance to the optimum, relative to the step's: sees soft directions beside stiff ones. Also
  /// in each principal axis of the cloud alone, without translation (engine/src/flow/solve/axes.hpp): a wide axis, a stiff one or a long
  /// way hides no other.
  double displacement = std::numeric_limits<double>::quiet_NaN();

  /// The most of three: rounding of F, noise/accept; rounding of maps, what it costs to move all particles by
  /// kRoundedMove of the cloud's size, 1/2 E tr K of that; and sampling. Internal energies: N particles leave forces of
  /// A/sqrt(N) times the size open, A the part of K that is the Hessian of F, and a step that ends them would gain
  /// 1/2 tr A K^{-1} A times the size squared over N, as little in a short step as the step itself. Likewise with
  /// interactions, where the Hessian of W counts by its virial; where particles of the law are known, it is three
  /// times the gain of noise alone in N of their forces.
  double floor = 0;

  bool smooth = false;  // a share comes from smooth displacements
  bool fitted =
      false;  // the cloud itself has next to nothing of what is missed to gain: more gradients will not find it

  double worst_share() const { return std::fmax(share, held_out); }
  /// What is not known is not solved: where no score is finite, say.
  bool solved(double accept) const {
    const double worst = worst_share();
    return std::isfinite(worst) && worst <= accept &&
           (std::isnan(displacement) || displacement <= 10 * accept);
  }
  /// For errors, e.g. "it misses 2 % of its possible decrease, above inner.accept".
  std::string in_words(double accept) const;
};

/// The step from `base` to `y`, the cloud's images with their log-densities.
struct JudgedStep {
  CloudView base;
  CloudView y;
  double tau;
  double decrease;  // of F + transport on the cloud
  double noise;     // deviation of F by rounding
  double accept;    // shares above this are looked at again
};

/// With r = grad(first variation of F)(y) + (y - base)/tau, which is 0 where the step is solved, and K = 1/tau + the
/// Hessian of V: 1/2 E[r K^{-1} r] is what a Newton step on the particles would still gain. An internal energy's own
/// Hessian is left out, so that the share comes out too large, 2.5 times in the median, and without bound where rho
/// is rough: above `accept` it is replaced by the gain of smooth displacements. Forces of pairs at single particles are
/// noise where W is singular: those of the cloud are summed against smooth displacements over all of it. At held-out
/// particles they come from others of the law, so that what a few particles leave open of them is seen, and their noise is
/// taken out: batches of these have it independently. `judged` after the map, and where it moved them from (size, d), or empty
/// ones.
Missed missed_share(const Objective& objective, const JudgedStep& step, const Matrix<double>& judged_from,
                    const JudgedParticles& judged, std::uint64_t seed, const Operations<double>& ops,
                    Team& team);

}  // namespace brenier
