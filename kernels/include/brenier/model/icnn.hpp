// SPDX-License-Identifier: MIT
// The input-convex neural network (Amos, Xu, Kolter, ICML 2017) as data: its shape, and where each parameter
// lies in one flat array theta.
//
//     s_0  = A_0 x + b_0        s_l = W_l z_{l-1} + c_l * z_{skip(l)} + A_l x + b_l        z_l = sigma(s_l)
//     u(x) = w . z_{L-1} + a . x + b + 1/2 x^T (alpha I + B^T B) x
//
// W_l, c_l, w >= floor and alpha >= alpha_min, elementwise, keep u convex. A plain network has hidden layers
// with input skips and no c_l. A residual network has a first layer and then blocks of two layers, `inner`
// without an input skip and `outer` with one and with c_l * (output of the previous block).
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/export.h"
#include "brenier/model/activation.hpp"

namespace BRENIER_API brenier {

/// Hidden layers a network may have; a residual block counts two.
inline constexpr int kMaxLayers = 64;

/// What z_0 is.
enum class FirstLayer : std::uint8_t {
  plain,  // sigma(s_0), as in all other layers
  squared,  // sigma(s_0)^2: convex in x for any convex sigma >= 0 and for the leaky ReLU, which alone may have it
};

/// Shape of a network; an aggregate for designated initialisers.
struct Architecture {
  int dim = 1;                          // d >= 1
  std::vector<int> hidden = {100, 20};  // widths, each >= 1; of the blocks where residual
  Activation activation = Activation::softplus;
  FirstLayer first_layer = FirstLayer::plain;
  /// u(x) = sigma(w . z_{L-1} + a . x + b) + 1/2 x^T Q x: one more layer of width 1, after which w = 1, a = 0 and b = 0
  /// stay what they are. With a leaky ReLU and a squared first layer the network of Alvarez-Melis, Schiff and Mroueh.
  bool output_activation = false;
  bool residual = false;    // blocks of two layers after the first; all widths equal
  int quadratic_rank = 0;   // rows of B, >= 0
  bool learn_alpha = true;  // false: alpha keeps its initial value
  double alpha_min = 1e-3;  // lower bound of a learned alpha, >= 0
  double floor = 1e-18;     // lower bound of W_l, c_l and w, >= 0
  /// beta > 0: trained as a network with sigma(beta s)/beta in the place of sigma(s), whose bends are beta
  /// times as sharp. Written as one with sigma: A_l and b_l start beta times as large, w as small, and Adam
  /// moves them by beta times, by 1/beta times its rate. Targets with narrow transitions (mixtures of distant
  /// modes) need it: at the common rate weights would take thousands of iterations to grow that large.
  double sharpness = 1;
};

/// One hidden layer. Offsets into theta are -1 where the layer has no such parameter.
struct Layer {
  int width = 0;
  int skip = -1;            // hidden layer whose output enters through c_l, or -1
  Index weight = -1;        // W_l (width, width of the layer before)
  Index input_weight = -1;  // A_l (width, dim)
  Index bias = -1;          // b_l (width)
  Index scale = -1;         // c_l (width)
};

/// One named tensor of theta, row-major. `lower` is the bound it is clamped to after each update (-inf:
/// none).
struct ParameterTensor {
  std::string name;
  Index offset = 0;
  Index rows = 0;
  Index cols = 0;
  double lower = -std::numeric_limits<double>::infinity();
  double rate = 1;           // factor of Adam's rate; 0 where it is not updated
  double start = 1;          // factor of the first values
  bool nonnegative = false;  // convexity needs it >= 0
  Index size() const { return rows * cols; }
};

/// A shape with its parameter layout. Immutable after construction.
class Icnn {
 public:
  /// Throws ValueError where the architecture is not valid.
  explicit Icnn(Architecture architecture);

  const Architecture& architecture() const { return architecture_; }
  int dim() const { return architecture_.dim; }
  int rank() const { return architecture_.quadratic_rank; }
  /// Of a layer.
  Activation activation(int layer) const;
  /// Whether grad u is continuous. Where it is not, log-determinants and inverses of it mean nothing.
  bool smooth() const { return is_smooth(architecture_.activation); }
  const std::vector<Layer>& layers() const { return layers_; }
  const std::vector<ParameterTensor>& tensors() const { return tensors_; }
  Index parameters() const { return parameters_; }

  Index output_weight() const { return output_weight_; }  // w (width of the last layer)
  Index output_input() const { return output_input_; }    // a (dim)
  Index output_bias() const { return output_bias_; }      // b
  Index alpha() const { return alpha_; }
  Index factor() const { return factor_; }  // B (rank, dim); -1 where rank is 0

 private:
  Index add(ParameterTensor tensor);

  Architecture architecture_;
  std::vector<Layer> layers_;
  std::vector<ParameterTensor> tensors_;
  Index parameters_ = 0;
  Index output_weight_ = -1, output_input_ = -1, output_bias_ = -1, alpha_ = -1, factor_ = -1;
};

/// How theta starts. Both are meant for inputs of mean 0 and variance 1.
enum class Initialisation {
  identity,  // grad u = x up to a small perturbation; positive weights that keep s_l of order 1
  /// Weights uniform in +-1/sqrt(fan-in), biases in +-1/sqrt(dim) where the layer sees x; what must be >= 0 clipped to
  /// the floor: as in the release of Alvarez-Melis, Schiff and Mroueh.
  paper,
};

/// Starting parameters (parameters()). `alpha` is the initial quadratic skip: 1 by default; 0 with
/// learn_alpha = false is the plain network. `draw` numbers independent draws of one seed (cold starts at
/// later JKO steps).
std::vector<double> initial_parameters(const Icnn& net, Initialisation how, std::uint64_t seed,
                                       std::uint32_t draw = 0, double alpha = 1.0);

/// A potential in other coordinates and units: c + s u((x - m)/S) + l.x + k/2 |x|^2.
struct Reparametrisation {
  std::span<const double> shift = {};  // m (dim); empty: 0
  std::span<const double> scale = {};  // S > 0 (dim, or 1 for all); empty: 1
  double value_scale = 1;              // s > 0
  double value_shift = 0;              // c
  std::span<const double> slope = {};  // l (dim); empty: 0
  double curvature = 0;                // k
};

/// Its parameters. ValueError: coordinates of different scale for a network with alpha != 0, whose |x|^2 has
/// one.
std::vector<double> reparametrised(const Icnn& net, std::span<const double> theta,
                                   const Reparametrisation& to);

/// The parameters of S^2 u((x - m)/S) + m.x, whose gradient is m + S grad u((x - m)/S): a potential learned
/// in normalised coordinates, expressed in physical ones.
std::vector<double> denormalised(const Icnn& net, std::span<const double> theta,
                                 std::span<const double> shift, double scale);

/// The parameters of u(x + m) + 1/2 |x|^2: evaluated at x, their displacement is grad u(x + m), without the
/// cancellation of a displacement and x, nor the digits that x + m costs in a short type. `shift` m (dim),
/// empty: 0; `out` parameters().
void write_as_force(const Icnn& net, std::span<const double> theta, std::span<const double> shift,
                    std::span<double> out);

}  // namespace brenier
