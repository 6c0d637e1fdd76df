// SPDX-License-Identifier: MIT
// Kernels over the packed parameters of a network.
//
//   launch   kParameterThreads threads; denormalise_kernel one block
#pragma once

#include <limits>

#include "kernels/cuda/network/parameters.hpp"
#include "kernels/model/metric.hpp"

namespace brenier::cuda {

inline constexpr int kParameterThreads = 256;

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kParameterThreads) void bounds_kernel(
    BRENIER_ARGUMENT BoundsArgs<T> args) {
  const int k = block_index() * block_size() + thread_index();
  if (k >= args.packed) return;
  double lower = -std::numeric_limits<double>::infinity(), rate = 0;
  for (int t = 0; t < args.count; ++t) {
    const TensorView& tensor = args.tensors[t];
    const int at = k - tensor.first;
    if (at < 0 || at >= tensor.rows * tensor.ld || at % tensor.ld >= tensor.cols) continue;
    lower = tensor.lower;
    rate = tensor.rate;
  }
  if (args.lower) args.lower[k] = static_cast<T>(lower);
  if (args.rate) args.rate[k] = static_cast<T>(rate);
  if (args.metric) args.metric[k] = squared_length(static_cast<double>(args.start[k]), lower, rate);
}

template <class T>
struct DenormaliseArgs {
  NetShape net;
  const LayerView* layers = nullptr;  // (depth)
  const T* theta = nullptr;           // (packed)
  const double* shift = nullptr;      // (dim)
  double scale = 1;
  double* out = nullptr;  // (packed + rank)
};

/// The parameters of S^2 u((x - m)/S) + m.x but for the output's bias, which maps do not see: reparametrised() of
/// kernels/model/icnn.cpp, where the formulas are.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kParameterThreads) void denormalise_kernel(
    BRENIER_ARGUMENT DenormaliseArgs<T> args) {
  const NetShape& net = args.net;
  double* const out = args.out;
  double* const projections = out + net.packed;
  const double scale = args.scale, square = scale * scale;
  for (int k = thread_index(); k < net.packed; k += block_size()) out[k] = static_cast<double>(args.theta[k]);
  sync_block();
  for (int l = 0; l < net.depth; ++l) {
    const LayerView& layer = args.layers[l];
    if (layer.input_weight < 0) continue;
    for (int i = thread_index(); i < layer.width; i += block_size()) {
      double moved = 0;
      for (int c = 0; c < net.dim; ++c) {
        double& weight = out[layer.input_weight + i * net.dim + c];
        weight /= scale;
        moved += weight * args.shift[c];
      }
      out[layer.bias + i] -= moved;
    }
  }
  for (int i = thread_index(); i < args.layers[net.depth - 1].width; i += block_size())
    out[net.output_weight + i] *= square;
  for (int r = thread_index(); r < net.rank; r += block_size()) {
    double* const row = out + net.factor + r * net.dim;
    double projection = 0;
    for (int c = 0; c < net.dim; ++c) {
      row[c] *= sqrt(square) / scale;
      projection += row[c] * args.shift[c];
    }
    projections[r] = projection;
  }
  sync_block();
  for (int c = thread_index(); c < net.dim; c += block_size()) {
    double slope = out[net.alpha] * args.shift[c];
    for (int r = 0; r < net.rank; ++r) slope += projections[r] * out[net.factor + r * net.dim + c];
    out[net.output_input + c] = scale * out[net.output_input + c] + args.shift[c] - slope;
  }
}

}  // namespace brenier::cuda
