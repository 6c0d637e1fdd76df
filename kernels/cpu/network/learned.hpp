// SPDX-License-Identifier: MIT
// Learned potentials in a JKO step: each worker has a network of its own beside that of the map, and adds its
// gradient at the images of a tile to the seeds of the tile. No other particle is needed.
#pragma once

#include <new>

#include "brenier/model/objective.hpp"
#include "kernels/cpu/network/tile.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// The parameters of all learned potentials as forces (write_as_force), which the threads share.
template <class T>
class LearnedParameters {
 public:
  LearnedParameters(const Objective& objective, Carver& carver)
      : objective_(objective), theta_(carver.take<T>(size(objective))) {
    Index most = 0;
    for (const NetworkTerm& term : objective.network)
      most = term.net->parameters() > most ? term.net->parameters() : most;
    exact_ = carver.take<double>(most);
  }

  /// For clouds relative to `shift` (d).
  void fill(const double* shift) {
    T* to = theta_;
    for (const NetworkTerm& term : objective_.network) {
      const std::size_t count = static_cast<std::size_t>(term.net->parameters());
      write_as_force(*term.net, *term.theta, {shift, static_cast<std::size_t>(term.net->dim())},
                     {exact_, count});
      for (std::size_t k = 0; k < count; ++k) *to++ = static_cast<T>(exact_[k]);
    }
  }
  /// Those of the first term; the others follow.
  const T* theta() const { return theta_; }

 private:
  static Index size(const Objective& objective) {
    Index sum = 0;
    for (const NetworkTerm& term : objective.network) sum += term.net->parameters();
    return sum;
  }

  const Objective& objective_;
  T* theta_;
  double* exact_;
};

/// The networks of one thread.
template <class T>
class LearnedForces {
 public:
  /// `values`: add() is asked for them.
  LearnedForces(const Objective& objective, bool values, Carver& carver)
      : terms_(objective.network),
        nets_(carver.take<Storage>(static_cast<Index>(terms_.size()))),
        value_(carver.take<T>(kLanes)) {
    for (std::size_t k = 0; k < terms_.size(); ++k) {
      const TileNet<T> net(*terms_[k].net, {.gradient = false, .value = values}, carver);
      if (nets_) new (nets_[k].bytes) TileNet<T>(net);
    }
  }

  void set_parameters(const LearnedParameters<T>& parameters) {
    const T* theta = parameters.theta();
    for (std::size_t k = 0; k < terms_.size(); ++k) {
      net(k).set_parameters(theta);
      theta += terms_[k].net->parameters();
    }
  }

  /// v (d, 64) += scale * weight * grad V(y + m) for images y (d, 64) relative to m, and energy (64), or null,
  /// += weight * V(y + m) up to a constant.
  void add(T scale, const T* y, T* v, double* energy) {
    for (std::size_t k = 0; k < terms_.size(); ++k) {
      TileNet<T>& tile = net(k);
      const Index d = terms_[k].net->dim();
      copy_rows(tile.inputs(), y, d);
      tile.forward();
      tile.adjoint();
      const T* force = tile.displacement();
      const T factor = scale * static_cast<T>(terms_[k].weight);
      for (Index i = 0; i < d * kLanes; i += kWidth<T>) store(v + i, load(v + i) + factor * load(force + i));
      if (!energy) continue;
      tile.potential(value_);
      for (int i = 0; i < kLanes; ++i) {
        double half = 0;  // of |y|^2, which the parameters as a force have added
        for (Index c = 0; c < d; ++c) {
          half += static_cast<double>(y[c * kLanes + i]) * static_cast<double>(y[c * kLanes + i]) / 2;
        }
        energy[i] += terms_[k].weight * (static_cast<double>(value_[i]) - half);
      }
    }
  }

 private:
  static_assert(std::is_trivially_destructible_v<TileNet<T>>);
  /// Room for one: workers take no memory but what they are given.
  struct Storage {
    alignas(TileNet<T>) unsigned char bytes[sizeof(TileNet<T>)];
  };

  TileNet<T>& net(std::size_t k) { return *std::launder(reinterpret_cast<TileNet<T>*>(nets_[k].bytes)); }

  const std::vector<NetworkTerm>& terms_;
  Storage* nets_;
  T* value_;  // (64)
};

}  // namespace brenier::cpu::BRENIER_ISA
