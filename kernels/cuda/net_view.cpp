// SPDX-License-Identifier: MIT
#include "kernels/cuda/net_view.hpp"

namespace brenier::cuda {

NetView::NetView(const Icnn& net)
    : activation(net.activation()),
      dim(net.dim()),
      rank(net.rank()),
      depth(static_cast<int>(net.layers().size())),
      parameters(static_cast<int>(net.parameters())),
      output_weight(static_cast<int>(net.output_weight())),
      output_input(static_cast<int>(net.output_input())),
      output_bias(static_cast<int>(net.output_bias())),
      alpha(static_cast<int>(net.alpha())),
      factor(static_cast<int>(net.factor())),
      layers{} {
  for (int l = 0; l < depth; ++l) {
    const Layer& from = net.layers()[l];
    layers[l] = {from.width,
                 l > 0 ? net.layers()[l - 1].width : 0,
                 from.skip,
                 -1,
                 static_cast<int>(from.weight),
                 static_cast<int>(from.input_weight),
                 static_cast<int>(from.bias),
                 static_cast<int>(from.scale)};
    if (from.skip >= 0) layers[from.skip].skip_user = l;
  }
}

TilePlan::TilePlan(const NetView& net, Directions directions_in, int count_in, bool gradient_in,
                   int program_rows, bool wide)
    : directions(directions_in), count(count_in), gradient(gradient_in), rows(0), layers{} {
  const int d = net.dim;
  const int s = triangle(d);
  tangents = directions == Directions::none    ? 0
             : directions == Directions::unit  ? d
             : directions == Directions::pairs ? 2 * count
                                               : count;
  const auto take = [this](int n) {
    const int at = rows;
    rows += n;
    return at;
  };
  x = take(d);
  y = take(d);
  displacement = take(d);
  v = take(gradient ? d : 0);
  q = take(directions == Directions::unit ? 0 : tangents * d);
  hessian = take(directions == Directions::unit ? s : 0);
  metric = take(directions == Directions::unit && gradient ? s : 0);
  projection = take(net.rank);
  seed_a = take(gradient ? 1 : 0);
  program = take(program_rows);
  // Cholesky factors are double: two rows of float each. A row of 33 floats is no multiple of 8 bytes, two
  // are.
  rows += rows % 2;
  factor = take(directions == Directions::unit ? s * (wide ? 1 : 2) : 0);
  for (int l = 0; l < net.depth; ++l) {
    const int h = net.layers[l].width;
    LayerRows& at = layers[l];
    at.z = take(h), at.d1 = take(h), at.g = take(h), at.beta = take(h);
    at.j = take(l == 0 && directions == Directions::unit ? 0 : tangents * h);
    if (!gradient) continue;
    at.z2 = take(h), at.s2 = take(h), at.r = take(h), at.s_bar = take(h), at.tz = take(h);
    at.jm = take(tangents * h), at.j_bar = take(tangents * h);
  }
}

}  // namespace brenier::cuda
