// SPDX-License-Identifier: MIT
// The functional F of a JKO step as data that every backend can evaluate: weighted sums of potential,
// interaction and internal energies.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "brenier/export.h"
#include "brenier/model/icnn.hpp"
#include "brenier/model/program.hpp"
#include "brenier/options.hpp"

namespace BRENIER_API brenier {

/// W of 1/2 double-integral W(x - y): one of three forms.
struct PairKernel {
  enum class Form {
    quadratic_log,  // quadratic r^2 + log_coefficient log r + constant: moments, and one reciprocal a pair
    radial,         // program in r = |x - y|
    vector,         // program in x - y, an even function
  };
  Form form = Form::quadratic_log;
  double quadratic = 0;
  double log_coefficient = 0;
  double constant = 0;
  Program program{};
};

/// weight * 1/2 double-integral W(x - y) d rho d rho. The self pair i = j of a cloud is excluded, and the sum
/// over pairs is divided by N (N - 1): unbiased for independent particles.
struct InteractionTerm {
  double weight = 1;
  PairKernel kernel;
};

/// weight * integral f(rho) dx.
struct InternalTerm {
  enum class Form {
    entropy,  // f(t) = t log t
    power,    // f(t) = t^m / (m - 1)
    general,  // programs in t
  };
  double weight = 1;
  Form form = Form::entropy;
  double exponent = 2;  // m > 1, for Form::power
  Program program{};    // f(t)
  Program surrogate{};  // w(t) = f'(t) - f(t)/t, the weight of log det H (the paper's Table 3)
};

/// weight * integral u d rho, u a network in physical coordinates.
struct NetworkTerm {
  double weight = 1;
  std::shared_ptr<const Icnn> net;
  std::shared_ptr<const std::vector<double>> theta;  // net->parameters()
};

/// V of the host program: writes V(x_i) (N) and grad V(x_i) (N, d) at the rows of x (N, d), each where it is not null
/// (empty). Rows of x and of the gradient may be further apart than d.
using PotentialFunction =
    std::function<void(MatrixView<const double> x, double* v, MatrixView<double> gradient)>;

/// weight * integral V d rho, V a function that nothing is known of.
struct BlackBoxTerm {
  double weight = 1;
  int dim = 0;
  std::shared_ptr<const PotentialFunction> function;
  bool thread_safe = false;  // several threads may call it at once, with particles of their own
  std::string name;          // in messages
};

/// weight * D(rho, reference): how far the particles, of equal weight, are from a fixed cloud. MMD and energy
/// distance are those of the two empirical measures themselves, pairs of a particle with itself included:
/// they are 0 between equal clouds, and so are their forces.
struct DivergenceTerm {
  enum class Form {
    sinkhorn,  // entropic optimal transport
    mmd,       // squared maximum mean discrepancy, kernel exp(-|x - y|^2 / (2 bandwidth^2))
    energy,    // energy distance
  };
  double weight = 1;
  Form form = Form::sinkhorn;
  std::shared_ptr<const Matrix<double>> reference;  // (M, d), physical coordinates
  std::vector<double> reference_weights;            // (M), > 0, sum 1; empty: 1/M each
  SinkhornOptions sinkhorn;
  double bandwidth = 1;  // of mmd, > 0
};

/// All terms of F. Potentials are summed into one program, weights included.
struct Objective {
  Program potential;  // in x; no code where there is no potential
  std::vector<InternalTerm> internal;
  std::vector<InteractionTerm> interaction;
  std::vector<NetworkTerm> network;
  std::vector<DivergenceTerm> divergence;
  std::vector<BlackBoxTerm> black_box;

  bool has_potential() const { return !potential.code.empty(); }
};

/// Values of the parts of F, weights included, natural logarithms.
struct ObjectiveValue {
  double potential = 0;
  double interaction = 0;
  double internal = 0;
  double divergence = 0;
  std::vector<double> distances = {};  // D of each term of the divergence, without its weight and the mass
  double total() const { return potential + interaction + internal + divergence; }
};

}  // namespace brenier
