// SPDX-License-Identifier: MIT
#include "brenier/model/icnn.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "brenier/base/error.hpp"
#include "brenier/base/philox.hpp"
#include "kernels/model/keys.hpp"

namespace brenier {
namespace {

constexpr double kUnbounded = -std::numeric_limits<double>::infinity();

void validate(const Architecture& a) {
  const auto fail = [](const std::string& what) { throw ValueError("ICNN architecture: " + what); };
  if (a.dim < 1) fail("dim = " + std::to_string(a.dim) + "; it must be at least 1");
  if (a.hidden.empty()) fail("no hidden layers; give at least one width, e.g. hidden = [100, 20]");
  check_options(architecture_keys(), a, "ICNN architecture: ");
  if (a.first_layer == FirstLayer::squared && a.activation.kind != Activation::leaky_relu) {
    fail("first_layer = squared with activation = " + text_of(a.activation) +
         "; it must be plain, or the activation leaky_relu");
  }
  for (const int width : a.hidden) {
    if (a.residual && width != a.hidden.front()) {
      fail("a residual network needs equal widths, got " + std::to_string(a.hidden.front()) + " and " +
           std::to_string(width));
    }
  }
  const std::size_t layers =
      (a.residual ? 2 * a.hidden.size() - 1 : a.hidden.size()) + (a.output_activation ? 1 : 0);
  if (layers > kMaxLayers) {
    fail(std::to_string(layers) + " hidden layers (a residual block counts two); at most " +
         std::to_string(kMaxLayers) + " are supported");
  }
}

}  // namespace

Index Icnn::add(ParameterTensor tensor) {
  tensor.offset = parameters_;
  parameters_ += tensor.size();
  tensors_.push_back(std::move(tensor));
  return tensors_.back().offset;
}

Icnn::Icnn(Architecture architecture) : architecture_(std::move(architecture)) {
  validate(architecture_);
  const Architecture& arch = architecture_;
  const double sharp = arch.sharpness;
  // Factors of the first values, and of Adam's rate where that is another one.
  const auto free = [&](const std::string& name, Index rows, Index cols, double start, double rate) {
    return add({.name = name, .rows = rows, .cols = cols, .rate = rate, .start = start});
  };
  const auto positive = [&](const std::string& name, Index rows, Index cols, double start, double rate) {
    return add({.name = name,
                .rows = rows,
                .cols = cols,
                .lower = arch.floor,
                .rate = rate,
                .start = start,
                .nonnegative = true});
  };
  std::vector<int> widths = arch.hidden;
  if (arch.output_activation) widths.push_back(1);
  for (std::size_t l = 0; l < widths.size(); ++l) {
    const int width = widths[l];
    const std::string prefix = "layer" + std::to_string(l) + ".";
    const int before = layers_.empty() ? 0 : layers_.back().width;
    Layer layer;
    layer.width = width;
    if (l > 0 && arch.residual && l < arch.hidden.size()) {
      Layer inner;
      inner.width = width;
      inner.weight = positive(prefix + "inner.weight", width, before, 1, 1);
      inner.bias = free(prefix + "inner.bias", width, 1, sharp, sharp);
      layers_.push_back(inner);
      layer.weight = positive(prefix + "outer.weight", width, width, 1, 1);
      layer.skip = static_cast<int>(layers_.size()) - 2;
      layer.scale = positive(prefix + "skip.scale", width, 1, 1, 1);
    } else if (l > 0) {
      layer.weight = positive(prefix + "hidden.weight", width, before, 1, 1);
    }
    layer.input_weight = free(prefix + "input.weight", width, arch.dim, sharp, sharp);
    layer.bias = free(prefix + "bias", width, 1, sharp, sharp);
    layers_.push_back(layer);
  }
  const double learned = arch.output_activation ? 0 : 1;
  output_weight_ = positive("output.hidden.weight", 1, layers_.back().width, 1 / sharp, learned / sharp);
  output_input_ = free("output.input.weight", 1, arch.dim, learned, learned);
  output_bias_ = free("output.bias", 1, 1, learned, learned);
  alpha_ = add({.name = "quadratic.alpha",
                .rows = 1,
                .cols = 1,
                .lower = arch.learn_alpha ? arch.alpha_min : kUnbounded,
                .rate = arch.learn_alpha ? 1.0 : 0.0,
                .nonnegative = true});
  if (arch.quadratic_rank > 0) factor_ = free("quadratic.factor", arch.quadratic_rank, arch.dim, 1, 1);
}

Activation Icnn::activation(int layer) const {
  const Activation& sigma = architecture_.activation;
  const bool squared = layer == 0 && architecture_.first_layer == FirstLayer::squared;
  return squared ? Activation(Activation::squared_leaky_relu, sigma.parameter) : sigma;
}

namespace {

/// Uniform and normal draws numbered in the order of the parameters.
class ParameterDraws {
 public:
  ParameterDraws(std::uint64_t seed, std::uint32_t draw)
      : random_(seed, RandomStream::parameters), draw_(draw) {}
  double uniform(double low, double high) { return low + (high - low) * random_.uniform(draw_, 0, next_++); }
  double normal(double deviation) { return deviation * random_.normals(draw_, 1, next_++)[0]; }

 private:
  Random random_;
  std::uint32_t draw_;
  std::uint64_t next_ = 0;
};

void fill(std::vector<double>& theta, Index offset, Index count, const auto& draw) {
  if (offset < 0) return;
  for (Index i = 0; i < count; ++i) theta[offset + i] = draw();
}

void initialise_paper(const Icnn& net, std::vector<double>& theta, ParameterDraws& draws) {
  const double input_bound = 1.0 / std::sqrt(net.dim());
  const auto uniform = [&](double bound) { return [&draws, bound] { return draws.uniform(-bound, bound); }; };
  int before = 0;
  for (const Layer& layer : net.layers()) {
    const double hidden_bound = before > 0 ? 1.0 / std::sqrt(before) : input_bound;
    fill(theta, layer.weight, Index{layer.width} * before, uniform(hidden_bound));
    fill(theta, layer.scale, layer.width, [] { return 1.0; });
    fill(theta, layer.input_weight, Index{layer.width} * net.dim(), uniform(input_bound));
    fill(theta, layer.bias, layer.width, uniform(layer.input_weight < 0 ? hidden_bound : input_bound));
    before = layer.width;
  }
  if (net.architecture().output_activation) {
    theta[net.output_weight()] = 1;
  } else {
    fill(theta, net.output_weight(), before, uniform(1.0 / std::sqrt(before)));
    fill(theta, net.output_input(), net.dim(), uniform(input_bound));
    fill(theta, net.output_bias(), 1, uniform(input_bound));
  }
  for (const ParameterTensor& tensor : net.tensors()) {
    if (!tensor.nonnegative) continue;
    for (Index i = 0; i < tensor.size(); ++i) {
      double& weight = theta[tensor.offset + i];
      weight = std::max(weight, net.architecture().floor);
    }
  }
}

void initialise_identity(const Icnn& net, std::vector<double>& theta, ParameterDraws& draws) {
  // Of the first layer: bends of unit width across a cloud of unit variance. A square bends of itself.
  const double first_slope = net.architecture().first_layer == FirstLayer::squared ? 0.5 : 2.0;
  constexpr double kOutput = 0.02;  // size of the part of grad u that is not the identity
  const int dim = net.dim();
  int before = 0;
  for (const Layer& layer : net.layers()) {
    const double slope = before == 0 ? first_slope : 1.0;
    fill(theta, layer.weight, Index{layer.width} * before, [&] { return draws.uniform(0.0, 2.0 / before); });
    fill(theta, layer.scale, layer.width, [] { return 0.5; });
    fill(theta, layer.input_weight, Index{layer.width} * dim,
         [&] { return draws.normal(slope / std::sqrt(dim)); });
    fill(theta, layer.bias, layer.width, [&] { return draws.normal(slope) - (before == 0 ? 0.0 : 1.0); });
    before = layer.width;
  }
  if (net.architecture().output_activation) {
    const Layer& output = net.layers().back();
    const auto shrink = [&](Index offset, Index count) {
      for (Index k = offset; k < offset + count; ++k) theta[k] *= kOutput;
    };
    if (output.weight >= 0) shrink(output.weight, net.layers()[net.layers().size() - 2].width);
    shrink(output.input_weight, dim);
    shrink(output.bias, 1);
    theta[net.output_weight()] = 1;
    return;
  }
  const double last = before;
  fill(theta, net.output_weight(), before, [&] { return draws.uniform(0.0, 2.0 * kOutput / last); });
}

}  // namespace

std::vector<double> initial_parameters(const Icnn& net, Initialisation how, std::uint64_t seed,
                                       std::uint32_t draw, double alpha) {
  if (!(alpha >= 0)) throw ValueError("alpha = " + std::to_string(alpha) + "; it must be at least 0");
  std::vector<double> theta(net.parameters(), 0.0);
  ParameterDraws draws(seed, draw);
  if (how == Initialisation::paper) {
    initialise_paper(net, theta, draws);
  } else {
    initialise_identity(net, theta, draws);
  }
  const Architecture& arch = net.architecture();
  for (const ParameterTensor& tensor : net.tensors()) {
    if (tensor.offset == net.alpha()) break;  // the quadratic part has no bends
    for (Index k = tensor.offset; k < tensor.offset + tensor.size(); ++k) theta[k] *= tensor.start;
  }
  theta[net.alpha()] = arch.learn_alpha ? std::max(alpha, arch.alpha_min) : alpha;
  const int rank = net.rank();
  if (rank == 0) return theta;
  const double in_alpha = arch.learn_alpha ? std::max(alpha / 2, arch.alpha_min) : alpha;
  const double rest = alpha - in_alpha;
  if (rank >= net.dim() && rest > 0) {
    // Half of the quadratic part in B, so that B^T B can grow and shrink in every direction: alpha I + B^T B
    // is alpha times the identity at the start. A rank above d splits the rows evenly.
    theta[net.alpha()] = in_alpha;
    for (int r = 0; r < rank; ++r) {
      const int copies = (rank - 1 - r % net.dim()) / net.dim() + 1;
      theta[net.factor() + Index{r} * net.dim() + r % net.dim()] = std::sqrt(rest / copies);
    }
  } else {
    // B = 0 is a saddle: start with small random rows.
    fill(theta, net.factor(), Index{rank} * net.dim(),
         [&] { return draws.normal(0.1 / std::sqrt(net.dim())); });
  }
  return theta;
}

std::vector<double> reparametrised(const Icnn& net, std::span<const double> theta,
                                   const Reparametrisation& to) {
  const int dim = net.dim();
  const auto shift = [&](int c) { return to.shift.empty() ? 0.0 : to.shift[c]; };
  const auto scale = [&](int c) { return to.scale.empty() ? 1.0 : to.scale[to.scale.size() > 1 ? c : 0]; };
  std::vector<double> out(theta.begin(), theta.end());
  for (const Layer& layer : net.layers()) {
    if (layer.input_weight < 0) continue;
    for (int i = 0; i < layer.width; ++i) {
      double moved = 0;
      for (int c = 0; c < dim; ++c) {
        double& weight = out[layer.input_weight + Index{i} * dim + c];
        weight /= scale(c);
        moved += weight * shift(c);
      }
      out[layer.bias + i] -= moved;
    }
  }
  for (int i = 0; i < net.layers().back().width; ++i) out[net.output_weight() + i] *= to.value_scale;

  // s/2 (x - m)^T Q (x - m) = 1/2 x^T sQ x - (sQ m).x + constant, sQ = alpha I + B^T B in the coordinates of x.
  const double alpha = theta[net.alpha()];
  for (int c = 0; c < dim && alpha != 0; ++c) {
    if (scale(c) != scale(0)) {
      throw ValueError("reparametrised: coordinates of the scales " + std::to_string(scale(0)) + " and " +
                       std::to_string(scale(c)) + " for a network with alpha = " + std::to_string(alpha) +
                       ", whose |x|^2 has one scale; use one scale, or alpha = 0");
    }
  }
  const double curvature = alpha * (to.value_scale / (scale(0) * scale(0)));
  out[net.alpha()] = curvature + to.curvature;
  std::vector<double> q_shift(dim);
  for (int c = 0; c < dim; ++c) q_shift[c] = curvature * shift(c);
  for (int r = 0; r < net.rank(); ++r) {
    double* row = out.data() + net.factor() + Index{r} * dim;
    double projection = 0;
    for (int c = 0; c < dim; ++c) {
      row[c] *= std::sqrt(to.value_scale) / scale(c);
      projection += row[c] * shift(c);
    }
    for (int c = 0; c < dim; ++c) q_shift[c] += projection * row[c];
  }
  double constant = to.value_shift + to.value_scale * theta[net.output_bias()];
  for (int c = 0; c < dim; ++c) {
    // s/S is S itself, to the last bit, where values scale like squares.
    const double factor = to.value_scale == scale(c) * scale(c) ? scale(c) : to.value_scale / scale(c);
    const double slope = factor * theta[net.output_input() + c];
    out[net.output_input() + c] = slope + (to.slope.empty() ? 0.0 : to.slope[c]) - q_shift[c];
    constant += -slope * shift(c) + 0.5 * q_shift[c] * shift(c);
  }
  out[net.output_bias()] = constant;
  return out;
}

std::vector<double> denormalised(const Icnn& net, std::span<const double> theta,
                                 std::span<const double> shift, double scale) {
  return reparametrised(net, theta,
                        {.shift = shift, .scale = {&scale, 1}, .value_scale = scale * scale, .slope = shift});
}

void write_as_force(const Icnn& net, std::span<const double> theta, std::span<const double> shift,
                    std::span<double> out) {
  std::vector<double> back(shift.begin(), shift.end());
  for (double& m : back) m = -m;
  const std::vector<double> force = reparametrised(net, theta, {.shift = back, .curvature = 1});
  std::copy(force.begin(), force.end(), out.begin());
}

}  // namespace brenier
