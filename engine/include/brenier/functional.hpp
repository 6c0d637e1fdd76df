// SPDX-License-Identifier: MIT
// Functionals of probability densities, as sums of weighted terms:
//
//     Functional F = entropy() + 0.5 * potential("sum(x^2)", 2) + interaction("0.5*r^2 - log(r)", 2);
//
// These are the energies of the paper's Table 1: each pair of a functional and its gradient-flow PDE.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "brenier/export.h"
#include "brenier/expression.hpp"
#include "brenier/model/objective.hpp"
#include "brenier/potential.hpp"

namespace BRENIER_API brenier {

class Functional;
// Friends that are declared in the class alone would be hidden in a shared library.
Functional operator+(Functional a, const Functional& b);
Functional operator*(double factor, Functional f);

/// A weighted sum of terms. A value; the default is the sum of no terms.
class Functional {
 public:
  /// Where F is entropy or potential with quadratic potentials only: V = 1/2 x^T A x - g.x + c and the factor
  /// of the entropy. Nothing else has Gaussian solutions.
  struct Gaussian {
    Quadratic potential;
    double diffusion = 0;
  };
  /// Where F is weight * integral rho^m/(m-1) + integral (stiffness/2 |x|^2 + constant) d rho, with a weight
  /// above 0 and a stiffness of at least 0: what scales Barenblatt profiles.
  struct PorousMedium {
    double weight = 0;
    double m = 0;  // 0: not known yet
    double stiffness = 0;
    double constant = 0;
  };

  /// Where F is entropy and one potential that is minus the logarithm of a probability density: with one weight for both
  /// F is that weight times the relative entropy, whose infimum over laws is 0.
  struct RelativeEntropy {
    double potential = 0;
    double entropy = 0;
  };

  // The kinds of terms. Each answers the same questions, and one that leaves a question open does not compile:
  //
  //   dimension()              d, or 0 where the term is for any
  //   needs_density()          whether clouds need log-densities
  //   add_to(Objective)        the term as the kernels want it
  //   add_to(Gaussian)         the same in closed form; false where the term has no such form
  //   add_to(PorousMedium)
  //   add_to(RelativeEntropy)

  /// integral V d rho.
  struct Potential {
    Expression v;
    bool normalised = false;  // exp(-V) is known to be a probability density
    int dimension() const { return v.dimension(); }
    bool needs_density() const { return false; }
    void add_to(Objective& objective, double weight, double mass) const;
    bool add_to(Gaussian& form, double weight, int dim) const;
    bool add_to(PorousMedium& form, double weight, int dim) const;
    bool add_to(RelativeEntropy& form, double weight, int dim) const;
  };
  /// integral V(x, time) d rho. Functional::at() makes a Potential of it.
  struct TimePotential {
    std::function<Expression(double time)> at;  // V(., time)
    int d;
    int dimension() const { return d; }
    bool needs_density() const { return false; }
    /// ValueError: the time is not known here.
    void add_to(Objective& objective, double weight, double mass) const;
    bool add_to(Gaussian&, double, int) const { return false; }
    bool add_to(PorousMedium&, double, int) const { return false; }
    bool add_to(RelativeEntropy&, double, int) const { return false; }
  };
  /// 1/2 double-integral W(x - y) d rho d rho.
  struct Interaction {
    Expression w;
    int dimension() const { return w.dimension(); }
    bool needs_density() const { return false; }
    void add_to(Objective& objective, double weight, double mass) const;
    bool add_to(Gaussian&, double, int) const { return false; }
    bool add_to(PorousMedium&, double, int) const { return false; }
    bool add_to(RelativeEntropy&, double, int) const { return false; }
  };
  /// integral f(rho) dx.
  struct Internal {
    Expression f;
    int dimension() const { return 0; }
    bool needs_density() const { return true; }
    void add_to(Objective& objective, double weight, double mass) const;
    bool add_to(Gaussian& form, double weight, int dim) const;
    bool add_to(PorousMedium& form, double weight, int dim) const;
    bool add_to(RelativeEntropy& form, double weight, int dim) const;
  };
  /// integral V d rho, V a network.
  struct Network {
    NetworkTerm term;
    int dimension() const { return term.net->dim(); }
    bool needs_density() const { return false; }
    void add_to(Objective& objective, double weight, double mass) const;
    bool add_to(Gaussian&, double, int) const { return false; }
    bool add_to(PorousMedium&, double, int) const { return false; }
    bool add_to(RelativeEntropy&, double, int) const { return false; }
  };
  /// D(rho, reference), the distance from a fixed cloud.
  struct Divergence {
    DivergenceTerm term;
    int dimension() const { return static_cast<int>(term.reference->cols()); }
    bool needs_density() const { return false; }
    void add_to(Objective& objective, double weight, double mass) const;
    bool add_to(Gaussian&, double, int) const { return false; }
    bool add_to(PorousMedium&, double, int) const { return false; }
    bool add_to(RelativeEntropy&, double, int) const { return false; }
  };
  /// integral V d rho, V a function of the host program.
  struct BlackBox {
    BlackBoxTerm term;
    int dimension() const { return term.dim; }
    bool needs_density() const { return false; }
    void add_to(Objective& objective, double weight, double mass) const;
    bool add_to(Gaussian&, double, int) const { return false; }
    bool add_to(PorousMedium&, double, int) const { return false; }
    bool add_to(RelativeEntropy&, double, int) const { return false; }
  };
  using Kind = std::variant<Potential, TimePotential, Interaction, Internal, Network, Divergence, BlackBox>;

  /// One term. `text` describes it in reports.
  struct Term {
    Kind kind;
    std::string text;
    double weight = 1;
  };

  Functional() = default;
  explicit Functional(Term term) : terms_{std::move(term)} {}
  explicit Functional(Expression expression);

  const std::vector<Term>& terms() const { return terms_; }
  /// The terms of one kind, in their order.
  template <class K>
  std::vector<Term> terms_of() const {
    std::vector<Term> out;
    for (const Term& term : terms_) {
      if (std::holds_alternative<K>(term.kind)) out.push_back(term);
    }
    return out;
  }
  /// No terms at all.
  bool empty() const { return terms_.empty(); }

  /// d of the potentials, interactions and references, 0 where there are none.
  int dimension() const;
  /// Whether there is an internal energy, so that clouds need log-densities.
  bool needs_density() const;
  /// e.g. "1 * entropy + 0.5 * potential sum(x^2)".
  std::string describe() const;

  /// Whether some V depends on time; and F as it is at one. A flow takes every JKO step with the F at its end.
  bool depends_on_time() const;
  Functional at(double time) const;

  /// The sum as the kernels want it, divided by `mass`: a density of that mass is `mass` times the law of the
  /// particles, and its interactions weigh mass^2. ValueError where F depends on time: take that of at().
  Objective objective(double mass = 1) const;

  /// The closed forms, where F has them in dimension `dim`.
  std::optional<Gaussian> gaussian(int dim) const;
  std::optional<PorousMedium> porous_medium(int dim) const;
  /// The weight of the relative entropy, above 0, where F is that.
  std::optional<double> relative_entropy(int dim) const;

  friend Functional operator+(Functional a, const Functional& b);
  /// Scales every term. ValueError: a factor that is not finite.
  friend Functional operator*(double factor, Functional f);

 private:
  std::vector<Term> terms_;
};

/// integral V d rho, V(x) with x in R^d, or V(x, time) where the text names `time` (that of the PDE). Errors
/// as for Expression::potential.
Functional potential(const std::string& v, int dimension, const Parameters& parameters = {});
/// 1/2 double-integral W(x - y) d rho d rho, W in `x` (the difference) or `r` (the distance). Only the even
/// part of W acts: W(z) and W(-z) meet in every pair. All pairs of the cloud (or of the minibatch) are taken:
/// O(N^2). Of N particles it is 1/(2 N (N - 1)) sum over i != j of W(x_i - x_j): without bias for independent particles of
/// rho. The double integral of the particles' own empirical measure has 1/(2 N^2) and the pairs i = j: (N - 1)/N of this
/// and W(0)/(2 N) more.
Functional interaction(const std::string& w, int dimension, const Parameters& parameters = {});
/// integral f(rho) dx, f in `t`.
Functional internal(const std::string& f, const Parameters& parameters = {});

/// The same from C++ functions of a Var.
template <std::invocable<Var> F>
Functional potential(int dimension, F&& v) {
  return Functional(Expression::potential(dimension, std::forward<F>(v)));
}
template <std::invocable<Var, double> F>
Functional potential(int dimension, F v) {
  const auto at = [dimension, v = std::move(v)](double time) {
    return Expression::potential(dimension, [&](Var x) { return v(x, time); });
  };
  return Functional(Functional::Term{Functional::TimePotential{at, dimension}, "potential (C++ function)"});
}
template <std::invocable<Var> F>
Functional interaction(int dimension, F&& w) {
  return Functional(Expression::interaction(dimension, std::forward<F>(w)));
}
template <std::invocable<Var> F>
Functional internal(F&& f) {
  return Functional(Expression::internal(std::forward<F>(f)));
}

/// What is known of a potential that the host program computes.
struct BlackBoxOptions {
  bool thread_safe = false;  // several threads may call it at once, each with particles of its own
  std::string name = "of the host program";  // in reports and messages
};
/// integral V d rho, V a function that writes V(x_i) and grad V(x_i) for many x_i at a time: a legacy force field. The
/// two must belong together, V up to a constant. Called from the thread that calls the flow, unless it is
/// thread-safe; on the cpu and the reference (elsewhere flows throw NotAvailable). What it throws ends the call that
/// asked it (a step is undone), and NaN is a NumericalError; infinite values are taken for places where no particle
/// can be. Files cannot keep it: a resumed flow is given it again. ValueError: no function, dimension < 1.
Functional potential(int dimension, PotentialFunction v, const BlackBoxOptions& options = {});

/// integral V d rho, V = -log of the density of the mixture of the Gaussians N(means_k, variances_k I), with weights that
/// are divided by their sum. With entropy() F is the relative entropy to it, and its infimum 0. `means` (K, d), `variances`
/// and `weights` (K). ShapeError: no means, sizes. ValueError: means that are not finite, variances and weights that are
/// not above 0.
Functional gaussian_mixture_potential(const Matrix<double>& means, const std::vector<double>& variances,
                                      const std::vector<double>& weights);

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
