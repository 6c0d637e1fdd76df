// SPDX-License-Identifier: MIT
#include "kernels/cuda/network/net_view.hpp"

#include <algorithm>

namespace brenier::cuda {

PackedNet::PackedNet(const Icnn& net) : place_(static_cast<std::size_t>(net.parameters())) {
  NetView& view = view_;
  view.activation = net.architecture().activation;
  view.first_activation = net.activation(0);
  view.dim = net.dim();
  view.rank = net.rank();
  view.depth = static_cast<int>(net.layers().size());

  int taken = 0;
  const auto take = [&](Index offset, int rows, int cols, int ld) {
    const int at = taken;
    if (offset < 0 || rows == 0) return -1;
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < cols; ++j) {
        place_[static_cast<std::size_t>(offset + Index{i} * cols + j)] =
            static_cast<std::size_t>(at + i * ld + j);
      }
    }
    taken += rows * ld;
    return at;
  };
  for (int l = 0; l < view.depth; ++l) {
    const Layer& from = net.layers()[l];
    LayerView& to = view.layers[l];
    to.width = from.width;
    to.before = l > 0 ? net.layers()[l - 1].width : 0;
    to.skip = from.skip;
    to.skip_user = -1;
    if (from.skip >= 0) view.layers[from.skip].skip_user = l;
    to.weight_ld = (to.before + 3) / 8 * 8 + 4;
    to.weight = take(from.weight, to.width, to.before, to.weight_ld);
    to.input_weight = take(from.input_weight, to.width, view.dim, view.dim);
    to.bias = take(from.bias, 1, to.width, to.width);
    to.scale = take(from.scale, 1, to.width, to.width);
  }
  const int last = view.layers[view.depth - 1].width;
  view.output_weight = take(net.output_weight(), 1, last, last);
  view.output_input = take(net.output_input(), 1, view.dim, view.dim);
  view.output_bias = take(net.output_bias(), 1, 1, 1);
  view.alpha = take(net.alpha(), 1, 1, 1);
  view.factor = take(net.factor(), view.rank, view.dim, view.dim);
  view.packed = (taken + 3) / 4 * 4;
}

TilePlan::TilePlan(const NetView& net, const TileTask& task, int particles, bool operands) : PlanOf{} {
  directions = task.directions;
  count = task.count;
  gradient = task.gradient;
  interacting = task.interacting;
  const int d = net.dim;
  const int s = triangle(d);
  const bool unit = directions == Directions::unit;
  tangents = directions == Directions::none    ? 0
             : unit                            ? d
             : directions == Directions::pairs ? 2 * count
                                               : count;
  // Above kRegisterDim: L, and its inverse as a square.
  factor_doubles = unit && d > kRegisterDim ? (s + d * d) * particles : 0;
  surrogate_doubles = task.surrogate_rows * particles;
  log_det_doubles = unit ? particles : 0;
  state_doubles = task.state_doubles * particles;
  const auto take = [this](int n) {
    const int at = rows;
    rows += n;
    return at;
  };
  x = take(d + 1);
  v = take(gradient ? d + 1 : 0);
  y = take(d);
  displacement = take(d);
  q = take(unit ? 0 : tangents * d);
  projection = take(net.rank);
  seed_a = take(gradient ? 1 : 0);
  curvature = take(unit ? s : 0);
  metric = take(unit ? s : 0);
  vectors = take(task.vectors * d);
  int widest = 0;
  for (int l = 0; l < net.depth; ++l) widest = std::max(widest, net.layers[l].width);
  scratch = take(operands && gradient ? widest : 0);
  for (int l = 0; l < net.depth; ++l) {
    const int h = net.layers[l].width;
    const int streams = tangents * h;
    LayerRows& at = layers[l];
    at.z = take(h), at.d1 = take(h), at.g = take(h);
    at.j = take(l == 0 && unit ? 0 : streams);
    at.z2 = gradient && l + 1 == net.depth && !operands ? at.z : take(gradient ? h : 0);
    at.s_bar = take(gradient || task.product ? h : 0);
    at.j_bar = take(gradient ? streams : 0);
    at.beta = take(operands ? h : 0);
    at.t = take(operands && l + 1 < net.depth ? streams : 0);
  }
  // First-order seeds come before the second-order stream and the adjoints of layer 0.
  const int free = gradient && !operands ? (1 + tangents) * net.layers[0].width : 0;
  program = task.program_rows <= free ? layers[0].s_bar : take(task.program_rows);
}

}  // namespace brenier::cuda
