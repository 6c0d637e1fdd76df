// SPDX-License-Identifier: MIT
#include "engine/src/flow/certificates.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "kernels/base/subset.hpp"
#include "kernels/resident_cloud.hpp"
#include "solvers/dense.hpp"

namespace brenier {
namespace {

double smallest_eigenvalue(const BrenierMap& map, const Matrix<double>& x, const Operations<double>& ops,
                           Team& team) {
  const Index n = x.rows();
  const Index d = x.cols();
  Matrix<double> displacement(n, d), hessian(n, d * d);
  map.evaluate(x, displacement, nullptr, hessian, team, ops);
  if (d == 1) return *std::min_element(hessian.elements().begin(), hessian.elements().end());
  std::vector<double> smallest(n);
  team.for_each(n, [&](Index i) {
    smallest[i] = dense::symmetric_eigen({hessian.row(i), d, d}, false).values.front();
  });
  return *std::min_element(smallest.begin(), smallest.end());
}

double largest_round_trip(const BrenierMap& map, const Matrix<double>& x, const Operations<double>& ops,
                          Team& team) {
  Matrix<double> y(x.rows(), x.cols());
  map.evaluate(x, y, nullptr, {}, team, ops);
  for (std::size_t k = 0; k < y.elements().size(); ++k) y.elements()[k] += x.elements()[k];
  Matrix<double> back(x.rows(), x.cols());
  const NewtonReport report = map.inverse(y, back, {}, team, ops);
  double worst = 0;
  for (Index i = 0; i < x.rows(); ++i) {
    if (report.status[i] != InverseStatus::converged) return std::numeric_limits<double>::infinity();
    double square = 0;
    for (Index c = 0; c < x.cols(); ++c) square += (back(i, c) - x(i, c)) * (back(i, c) - x(i, c));
    worst = std::max(worst, std::sqrt(square));
  }
  return worst;
}

}  // namespace

MapCertificates certify(const BrenierMap& map, const ResidentMap* there, const CloudView& x,
                        const Operations<double>& ops, Team& team) {
  const Index d = x.cols();
  // A few per cent of a step at most, also where it takes ten gradients and needs no Hessians.
  const Index spectra = std::clamp<Index>((Index{1} << 22) / (d * d * d), 16, 512);
  const Index trips = std::clamp<Index>((Index{1} << 18) / (d * d), 16, 64);
  std::optional<double> least;
  if (there && x.resident() && d <= 64)  // of larger ones a few are looked at
    least = where_there_is_room([&] { return x.resident()->subset(spectra, 0)->least_eigenvalue(*there); });
  return {least ? *least : smallest_eigenvalue(map, x.subset(spectra, 0), ops, team),
          map.net.smooth() ? largest_round_trip(map, x.subset(trips, 0), ops, team)
                           : std::numeric_limits<double>::quiet_NaN()};
}

}  // namespace brenier
