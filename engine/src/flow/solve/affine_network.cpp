// SPDX-License-Identifier: MIT
#include "engine/src/flow/solve/affine_network.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "kernels/resident_cloud.hpp"
#include "solvers/dense.hpp"

namespace brenier {
namespace {

constexpr double kNarrow = 0.1;

/// Writes alpha I + B^T B = q, with at least half of its smallest eigenvalue in alpha: only with learn_alpha and a
/// rank of at least d.
void set_quadratic(const Icnn& net, const Matrix<double>& q, double least, std::vector<double>& theta) {
  const int d = net.dim(), rank = net.rank();
  const double alpha = std::max(net.architecture().alpha_min, least / 2);
  Matrix<double> rest = q;
  for (int c = 0; c < d; ++c) rest(c, c) -= alpha;
  for (int c = 0; c < d; ++c) rest(c, c) += std::max(0.0, alpha - least) + 1e-12 * alpha;
  const Matrix<double> root = dense::symmetric_root(rest);
  theta[net.alpha()] = alpha;
  for (int r = 0; r < rank; ++r) {
    const int copies = (rank - 1 - r % d) / d + 1;
    for (int c = 0; c < d; ++c)
      theta[net.factor() + Index{r} * d + c] = root(r % d, c) / std::sqrt(static_cast<double>(copies));
  }
}

}  // namespace

Matrix<double> mean_hessian(const BrenierMap& map, const ResidentMap* there, const CloudView& x,
                            std::uint64_t seed, const Operations<double>& ops, Team& team) {
  constexpr Index kParticles = 256;
  const Index d = x.cols();
  Matrix<double> out(d, d);
  if (there && x.resident()) {
    std::optional<std::vector<double>> found =
        where_there_is_room([&] { return x.resident()->subset(kParticles, seed)->mean_hessian(*there); });
    if (found) {
      out.elements() = std::move(*found);
      return out;
    }
  }
  const Matrix<double> some = x.subset(kParticles, seed);
  Matrix<double> displacement(some.rows(), d), hessians(some.rows(), d * d);
  map.evaluate(some, displacement, nullptr, hessians, team, ops);
  for (Index i = 0; i < some.rows(); ++i) {
    for (Index k = 0; k < hessians.cols(); ++k)
      out.elements()[k] += hessians(i, k) / static_cast<double>(some.rows());
  }
  return out;
}

void scale_bends(const Icnn& net, double factor, std::vector<double>& theta) {
  for (int k = 0; k < net.layers().back().width; ++k) {
    double& weight = theta[net.output_weight() + k];
    weight = std::max(weight * factor, net.architecture().floor);
  }
}

std::vector<double> with_affine(const Icnn& net, std::vector<double> first, const AffineMap& map,
                                double scale) {
  const int d = net.dim(), rank = net.rank();
  const Architecture& a = net.architecture();
  double least = map.matrix(0, 0);
  if (a.learn_alpha && rank >= d) {
    least = dense::symmetric_eigen(map.matrix, false).values.front();
    set_quadratic(net, map.matrix, least, first);
  } else if (a.learn_alpha) {
    first[net.alpha()] = std::max(a.alpha_min, first[net.alpha()] * least);
    for (Index k = 0; k < Index{rank} * d; ++k) first[net.factor() + k] *= std::sqrt(least);
  }
  // Bends are of the size of the cloud: where it is narrow in some direction they would be wider than all of it there.
  const double bends = least * (map.narrowest < kNarrow ? map.narrowest : 1);
  scale_bends(net, bends, first);
  for (int c = 0; c < d; ++c) {
    double& slope = first[net.output_input() + c];
    slope = slope * bends + map.shift[c] / scale;
  }
  return first;
}

std::vector<double> followed_by(const Icnn& net, std::vector<double> theta, const AffineMap& map,
                                const Matrix<double>& hessian, const std::vector<double>& mean,
                                const std::vector<double>& origin, double scale) {
  const int d = net.dim(), rank = net.rank();
  const Architecture& a = net.architecture();
  // In normalised coordinates, where particles have the mean 0: T(z) = Q z + b + bends(z).
  std::vector<double> bends(static_cast<std::size_t>(d)), target(bends);
  for (int c = 0; c < d; ++c) {
    bends[c] = (mean[c] - origin[c]) / scale - theta[net.output_input() + c];
    target[c] = map.centre[c] + map.shift[c] - origin[c];
    for (int k = 0; k < d; ++k) target[c] += map.matrix(c, k) * (mean[k] - map.centre[k]);
    target[c] /= scale;
  }
  double factor = map.matrix(0, 0);
  if (a.learn_alpha && rank >= d) {
    Matrix<double> bent = hessian,
                   whole(d, d);  // the part of the mean Jacobian that bends, and what is wanted
    for (int i = 0; i < d; ++i) {
      bent(i, i) -= theta[net.alpha()];
      for (int j = 0; j < d; ++j) {
        for (int r = 0; r < rank; ++r)
          bent(i, j) -= theta[net.factor() + Index{r} * d + i] * theta[net.factor() + Index{r} * d + j];
        for (int k = 0; k < d; ++k)
          whole(i, j) += (map.matrix(i, k) * hessian(k, j) + hessian(i, k) * map.matrix(k, j)) / 2;
      }
    }
    factor = 0;
    for (int c = 0; c < d; ++c) factor += map.matrix(c, c) / d;
    Matrix<double> quadratic(d, d);
    double least = 0;
    for (int tries = 0; tries < 5; ++tries, factor = tries < 4 ? factor / 2 : 0) {
      for (int i = 0; i < d; ++i) {
        for (int j = 0; j < d; ++j) quadratic(i, j) = whole(i, j) - factor * bent(i, j);
      }
      least = dense::symmetric_eigen(quadratic, false).values.front();
      if (least > 2 * a.alpha_min) break;
    }
    set_quadratic(net, quadratic, least, theta);
  } else if (a.learn_alpha) {
    theta[net.alpha()] = std::max(a.alpha_min, theta[net.alpha()] * factor);
    for (Index k = 0; k < Index{rank} * d; ++k) theta[net.factor() + k] *= std::sqrt(factor);
  }
  scale_bends(net, factor, theta);
  for (int c = 0; c < d; ++c) theta[net.output_input() + c] = target[c] - factor * bends[c];
  return theta;
}

}  // namespace brenier
