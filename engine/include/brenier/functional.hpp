// SPDX-License-Identifier: MIT
// Functionals of probability densities, as sums of weighted terms:
//
//     Functional F = entropy() + 0.5 * potential("sum(x^2)", 2) + interaction("0.5*r^2 - log(r)", 2);
//
// These are the energies of the paper's Table 1: each pair of a functional and its gradient-flow PDE.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "brenier/expression.hpp"
#include "brenier/model/objective.hpp"
#include "brenier/potential.hpp"

namespace brenier {

/// A weighted sum of potential, interaction and internal energies. A value; the default is the sum of no
/// terms.
class Functional {
 public:
  /// One term. `text` describes it in reports.
  struct Term {
    double weight = 1;
    Expression expression;
    std::string text;
  };

  /// A potential energy whose V is a network.
  struct Learned {
    NetworkTerm term;
    std::string text;
  };

  /// The distance from a fixed cloud.
  struct Distance {
    DivergenceTerm term;
    std::string text;
  };

  Functional() = default;
  explicit Functional(Expression expression);
  explicit Functional(Learned learned);
  /// ShapeError, ValueError: as for sinkhorn(), mmd() and energy_distance_to().
  explicit Functional(Distance distance);

  const std::vector<Term>& terms() const { return terms_; }
  const std::vector<Learned>& learned() const { return learned_; }
  const std::vector<Distance>& distances() const { return distances_; }
  /// No terms at all.
  bool empty() const { return terms_.empty() && learned_.empty() && distances_.empty(); }

  /// d of the potentials and interactions, 0 where there are none.
  int dimension() const;
  /// Whether there is an internal energy, so that clouds need log-densities.
  bool needs_density() const;
  /// e.g. "1 * entropy + 0.5 * potential sum(x^2)".
  std::string describe() const;

  /// The sum as the kernels want it, divided by `mass`: a density of that mass is `mass` times the law of the
  /// particles, and its interactions weigh mass^2.
  Objective objective(double mass = 1) const;

  /// Where F is entropy or potential with quadratic potentials only: V = 1/2 x^T A x - g.x + c and the factor
  /// of the entropy. Nothing else has Gaussian solutions.
  struct Gaussian {
    Quadratic potential;
    double diffusion = 0;
  };
  std::optional<Gaussian> gaussian(int dim) const;
  /// Where F is weight * integral rho^m/(m-1) and nothing else.
  struct PorousMedium {
    double weight = 1;
    double m = 2;
  };
  std::optional<PorousMedium> porous_medium() const;

  friend Functional operator+(Functional a, const Functional& b);
  /// Scales every term. ValueError: a factor that is not finite.
  friend Functional operator*(double factor, Functional f);

 private:
  std::vector<Term> terms_;
  std::vector<Learned> learned_;
  std::vector<Distance> distances_;
};

/// integral V d rho, V(x) with x in R^d. Errors as for Expression::potential.
Functional potential(const std::string& v, int dimension, const Parameters& parameters = {});
/// 1/2 double-integral W(x - y) d rho d rho, W in `x` (the difference) or `r` (the distance). Only the even
/// part of W acts: W(z) and W(-z) meet in every pair. All pairs of the cloud (or of the minibatch) are taken:
/// O(N^2).
Functional interaction(const std::string& w, int dimension, const Parameters& parameters = {});
/// integral f(rho) dx, f in `t`.
Functional internal(const std::string& f, const Parameters& parameters = {});

/// The same from C++ functions of a Var.
template <std::invocable<Var> F>
Functional potential(int dimension, F&& v) {
  return Functional(Expression::potential(dimension, std::forward<F>(v)));
}
template <std::invocable<Var> F>
Functional interaction(int dimension, F&& w) {
  return Functional(Expression::interaction(dimension, std::forward<F>(w)));
}
template <std::invocable<Var> F>
Functional internal(F&& f) {
  return Functional(Expression::internal(std::forward<F>(f)));
}

/// integral V d rho, V a network. `text` describes it in reports.
Functional learned_potential(const LearnedPotential& v, const std::string& text = "network");
/// The same from a file. IoError as for read_potential().
Functional learned_potential(const std::filesystem::path& file);

/// Entropic optimal transport between rho and the points of `reference` (M, d), of equal weight or of the
/// `weights` given (> 0, sum 1), with the cost 1/2 |x - y|^2. Between laws of mass 1, whatever the mass of
/// rho. ShapeError: no points, a number of weights that does not fit. ValueError: points that are not finite
/// or whose cost overflows, weights, options outside their range.
Functional sinkhorn(Matrix<double> reference, const SinkhornOptions& options = {},
                    std::vector<double> weights = {});
/// Squared maximum mean discrepancy of the two empirical measures, kernel exp(-|x - y|^2 / (2 bandwidth^2));
/// median_distance() is a customary bandwidth. Errors as above, and bandwidth <= 0.
Functional mmd(Matrix<double> reference, double bandwidth, std::vector<double> weights = {});
/// Energy distance of the two empirical measures, 2 E|X - Y| - E|X - X'| - E|Y - Y'|. Errors as above.
Functional energy_distance_to(Matrix<double> reference, std::vector<double> weights = {});

/// integral rho log rho: heat and Fokker-Planck equations.
Functional entropy();
/// integral rho^m / (m - 1): the porous medium equation. ValueError: m <= 1.
Functional porous_medium(double m);

}  // namespace brenier
