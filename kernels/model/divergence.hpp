// SPDX-License-Identifier: MIT
// What the backends share of divergences between a cloud and a reference: terms are in model/objective.hpp,
// the operation in kernels/operations.hpp.
#pragma once

#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/model/objective.hpp"

namespace brenier {

/// A cloud of N particles at x_i + shift.
template <class T>
struct WeightedCloud {
  MatrixView<const T> x;            // (N, d)
  const double* shift = nullptr;    // (d), or null for 0
  const double* weights = nullptr;  // (N), > 0, sum 1; or null for 1/N each
};

/// Dual potentials that a Sinkhorn solve ended with, for the next one to start from.
struct TransportDuals {
  std::vector<double> f, g;
  double schedule_error = 0;  // marginal error of the last solve that started from nothing

  bool fit(Index n, Index m) const;
  /// Potentials of 0.
  void reset(Index n, Index m);
};

/// What an evaluation of a divergence leaves for the next one.
struct DivergenceState {
  TransportDuals cross;        // between cloud and reference
  TransportDuals self;         // of the cloud with itself, where debiased
  bool has_reference = false;  // whether reference_value is known
  double reference_value = 0;  // what depends on the reference alone
};

/// The reference of a term about its weighted mean.
struct CentredReference {
  explicit CentredReference(const DivergenceTerm& term);
  ~CentredReference();
  CentredReference(const CentredReference&) = delete;
  CentredReference& operator=(const CentredReference&) = delete;

  Matrix<double> y;             // (M, d)
  std::vector<double> mean;     // (d)
  std::vector<double> weights;  // (M)
};

/// The first epsilon of a schedule for costs up to `bound`; the last one where that is no number.
double first_epsilon(double bound, const SinkhornOptions& options);

/// The epsilon to solve with for costs up to `bound` in arithmetic of `rounding` units: the one of the options, or where that
/// is above bound / sqrt(rounding) this. Plans are independent there to that root, and potentials of a size of epsilon would
/// lose what costs say: a larger one changes values and forces by less than sqrt(rounding) of theirs.
double solved_epsilon(double bound, double rounding, const SinkhornOptions& options);

/// The epsilon after this one: times scaling^2, or the last.
double next_epsilon(double epsilon, const SinkhornOptions& options);

/// Costs of up to this many bytes are stored in any dimension.
inline constexpr std::ptrdiff_t kSmallCosts = std::ptrdiff_t{4} * 4096 * 4096;

/// Whether the cpu stores the costs between clouds of n and m points in dimension d, elements of the size
/// given in bytes, or computes them whenever a step needs them: where they take at most options.storage bytes
/// and storing pays. It does but for many pairs in double and few dimensions, whose costs are computed as
/// fast as memory is read; in 128 dimensions computing takes three times as long. A transport takes that
/// memory once, a debiased one twice (between the clouds, and within the moving one), three times while its
/// value is computed; where there is no such memory, costs are computed.
bool stores_costs(Index n, Index m, Index d, std::size_t element, const SinkhornOptions& options);

/// A warm start whose marginal error after its steps is above this is dropped.
double warm_limit(double schedule_error);

/// Throws ShapeError or ValueError, with the value and what is allowed, where a term cannot be used: no
/// reference, points that are not finite or so far apart that the cost overflows in single precision, weights
/// that are not above 0 or do not sum to 1, options outside their range. `where` begins the message.
void check_divergence(const DivergenceTerm& term, const char* where);

/// The same for a cloud that is compared with the reference.
void check_cloud(MatrixView<const double> x, const std::vector<double>& weights, const char* where);

}  // namespace brenier
