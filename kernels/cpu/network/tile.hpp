// SPDX-License-Identifier: MIT
// The network on a tile of 64 particles, particles in lanes: map, Hessian, and the theta-gradient of the
// second-order jet that every gradient of the method reduces to.
//
// Each layer sees one extended input e_l = [z_{l-1}; x; 1] with one matrix [W_l | A_l | b_l], so that
// forward, adjoint and gradient are one matrix product each. The streams of the jet extend alike: [zdot; q;
// 0] for the tangent along q and [zddot; v; 0] for the collapsed second-order stream.
//
// Exact log-determinants of plain networks use unit directions q_k = e_k and their structure: J_0 = A_0 is
// shared by all particles, so layer 0 enters H through P[i, ab] = A_0[i,a] A_0[i,b] and layer 1 through
// T[(k,j), i] = W_1[j,i] A_0[i,k], both built once per set of parameters. Everything else streams K tangents.
//
// Working sets are larger than the nearest cache, so that passes over rows cost more than arithmetic:
// elementwise work is done as epilogues of the products, on rows just written, and in dimensions up to 3 the
// first layer keeps only sigma and sigma' and recomputes the rest from x, v and the metric in registers
// (tile_first.hpp).
#pragma once

#include <cmath>

#include "brenier/model/icnn.hpp"
#include "kernels/base/arena.hpp"
#include "kernels/cpu/network/activation.hpp"
#include "kernels/cpu/network/gemm.hpp"
#include "kernels/model/jet.hpp"

namespace brenier::cpu::BRENIER_ISA {

template <class T>
inline void copy_rows(T* to, const T* from, Index rows) {
  __builtin_memcpy(to, from, static_cast<std::size_t>(rows) * kLanes * sizeof(T));
}

template <class T>
class TileNet {
 public:
  struct Plan {
    Directions directions = Directions::none;
    int count = 0;         // K, for single and pairs
    bool gradient = true;  // reverse() will be called
    bool value = false;    // sigma of the last layer is wanted: u itself, or seeds a
    bool product = false;  // hessian_vector() will be called
  };

  TileNet(const Icnn& net, Plan plan, Carver& carver)
      : net_(net), plan_(plan), d_(net.dim()), rank_(net.rank()) {
    structured_ = plan.directions == Directions::unit && !net.architecture().residual;
    tangents_ = plan.directions == Directions::none    ? 0
                : plan.directions == Directions::unit  ? static_cast<int>(d_)
                : plan.directions == Directions::pairs ? 2 * plan.count
                                                       : plan.count;
    curved_ = tangents_ > 0 || plan.product;
    first_in_registers_ = d_ <= 3 && net.layers().size() > 1 && !net.architecture().residual &&
                          !plan.product && (structured_ || plan.directions == Directions::none);
    place(carver);
  }

  /// Parameters of all following calls; discards nothing that has been accumulated.
  void set_parameters(const T* theta);

  T* inputs() { return x_; }          // (d, 64): write the particles here, then call forward()
  T* tangent_inputs() { return q_; }  // (tangents, d, 64): given directions; q then p where paired
  const T* displacement() { return displacement_; }  // (d, 64) after adjoint()
  T* hessian() { return hessian_; }                  // (triangle(d), 64) after curvature(), in unit mode
  int tangents() const { return tangents_; }

  void forward();
  void adjoint();
  /// Tangent streams; in unit mode also the Hessian.
  void curvature();
  void potential(T* u);
  /// out (d, 64) = H p, as often as wanted after adjoint(), which it leaves intact. p and out must not
  /// overlap.
  void hessian_vector(const T* p, T* out);
  /// Accumulates the theta-gradient for seeds a (64) or null, v (d, 64), metric (triangle(d), 64) in unit
  /// mode.
  void reverse(const T* a, const T* v, const T* metric);
  /// Adds what reverse() has accumulated to gradient (net.parameters()) and starts again from 0.
  void flush(double* gradient);

 private:
  struct LayerTile {
    Index h, before, e, ep;  // width; rows before it; rows of the extended input; the same, padded
    Activation sigma;
    bool input, small;                     // has A_l; few enough columns to sum its gradient in lanes
    int skip, skip_user;                   // layer that skips into it; layer it skips into
    T *w, *scale;                          // (h, e), (h)
    T *e1, *d1, *g, *beta, *gamma, *back;  // (e), (h), (h), (h), (h), (e) rows
    T *e2, *s2, *r, *s_bar, *z_bar, *tz;   // jet: (e), (h), (h), (h), (e), (h) rows
    T *j, *jm, *j_bar;                     // (tangents * h) rows
    T *e_dot, *s_dot;                      // product: (e), (h) rows
    T *e1t, *e2t;                          // (64, ep)
    T *grad, *grad_scale;                  // (h, ep) or (h, e, width) in lanes; (h, width)
  };

  static constexpr int w = kWidth<T>;
  static constexpr Index kSmallColumns = 6;

  // Layer 0 in registers, for D = dim.
  template <int D, class Sigma>
  void first_forward(const Sigma& sigma);
  template <int D, class Sigma>
  void first_adjoint(const Sigma& sigma, Index first, Index count);
  template <int D, class Sigma>
  void first_second_order(const Sigma& sigma, const T* v);
  template <int D, class Sigma>
  void first_reverse(const Sigma& sigma, const T* v, Index first, Index count);
  /// f<D>(sigma) for the dimension and the activation.
  template <class F>
  void in_registers(const F& f) const {
    with_activation<T>(layers_[0].sigma, [&](const auto& sigma) {
      if (d_ == 1) {
        f.template operator()<1>(sigma);
      } else if (d_ == 2) {
        f.template operator()<2>(sigma);
      } else {
        f.template operator()<3>(sigma);
      }
    });
  }

  void place(Carver& carver);
  void place_jet(Carver& carver, LayerTile& t);
  const T* layer_tangent(int l, int k) { return layers_[l].j + k * layers_[l].h * kLanes; }
  void extend_tangent(int l, int k);
  void finish_adjoint(LayerTile& t, Index first, Index count);
  void finish_reverse(LayerTile& t, const T* z_bar, const T* a, Index first, Index count);
  void hessian_from_layer(const LayerTile& t);
  template <int Count>
  void add_products(const LayerTile& t, Index a, Index b);
  template <int Count>
  void weigh_rows(LayerTile& t, int k, const T* metric, Index part, Index row);
  void weigh_tangents(LayerTile& t, const T* metric);
  void add_quadratic_product(const T* p, T* out);
  void second_order_streams(const T* v, const T* metric);
  void reverse_tangents(int l);
  void accumulate_layer(int l, bool with_tangents);
  void accumulate_quadratic(const T* a, const T* v, const T* metric);
  void accumulate_outer(T* grad, Index ld, bool small, Index rows, Index cols, const T* lhs, const T* rhs,
                        const T* rhs_transposed);
  void flush_layer(int l, double* gradient);
  void flush_structure(double* gradient);
  void flush_quadratic(double* gradient);
  void set_quadratic();
  /// Whether B^T B is one product with (d, d) in place of two with (rank, d).
  bool dense() const { return rank_ > 0 && 2 * rank_ >= d_; }

  // Rows of a tile, elementwise.
  static void set_row(T* row, T value) {
    for (int i = 0; i < kLanes; i += w) store(row + i, broadcast(value));
  }
  static void multiply_rows(T* out, const T* a, const T* b, Index rows) {
    for (Index i = 0; i < rows * kLanes; i += w) store(out + i, load(a + i) * load(b + i));
  }
  /// out += c_i * a, row by row.
  static void add_scaled_rows(T* out, const T* c, const T* a, Index rows) {
    for (Index i = 0; i < rows; ++i) {
      const Vec<T> factor = broadcast(c[i]);
      for (Index k = i * kLanes; k < (i + 1) * kLanes; k += w)
        store(out + k, load(out + k) + factor * load(a + k));
    }
  }
  static Vec<T> row_sum(const T* row) {
    Vec<T> sum = load(row);
    for (int i = w; i < kLanes; i += w) sum += load(row + i);
    return sum;
  }
  static void accumulate(T* lanes, Vec<T> value) { store(lanes, load(lanes) + value); }

  const Icnn& net_;
  Plan plan_;
  Index d_;
  Index rank_;
  bool structured_ = false;
  bool curved_ = false;              // sigma'' is wanted
  bool first_in_registers_ = false;  // layer 0 as in tile_first.hpp
  int tangents_ = 0;
  const T* theta_ = nullptr;

  LayerTile layers_[kMaxLayers] = {};
  int depth_ = 0;

  T *x_ = nullptr, *q_ = nullptr, *displacement_ = nullptr, *hessian_ = nullptr;
  T *z_last_ = nullptr, *z2_last_ = nullptr;
  T *temp_ = nullptr, *temp_t_ = nullptr;           // the widest layer's rows, plain and transposed
  T *quadratic_ = nullptr, *product_ = nullptr;     // alpha I + B^T B and, where dense(), B^T B: (d, d)
  T* projection_ = nullptr;                         // B x (rank, 64)
  T *p_ = nullptr, *t_ = nullptr, *d1t_ = nullptr;  // structure: (h0, s), (d, h1, h0), (64, h0 padded)
  T *metric2_ = nullptr, *metric2t_ = nullptr;      // (s, 64) off-diagonal doubled; (64, s padded)
  T *grad_p_ = nullptr, *grad_t_ = nullptr;         // (h0, s padded), (d, h1, h0 padded)
  T *grad_output_ = nullptr, *grad_a_ = nullptr, *grad_b_ = nullptr;  // in lanes: (h_last, w), (d, w), (w)
  T* grad_quadratic_ = nullptr;  // (triangle(d), w), or (1, w) for the trace where rank is 0
  T *column_ = nullptr, *column_sum_ = nullptr, *slope_ = nullptr;  // (h0), (h0), (d)
  Index sp_ = 0, h0p_ = 0;
};

template <class T>
void TileNet<T>::place_jet(Carver& carver, LayerTile& t) {
  t.e2 = carver.take<T>(t.e * kLanes);
  t.s2 = carver.take<T>(t.h * kLanes);
  t.r = carver.take<T>(t.h * kLanes);
  t.s_bar = carver.take<T>(t.h * kLanes);
  t.z_bar = carver.take<T>(t.e * kLanes);
  t.tz = carver.take<T>(t.h * kLanes);
  t.jm = carver.take<T>(tangents_ * t.h * kLanes);
  t.j_bar = carver.take<T>(tangents_ * t.h * kLanes);
  t.e1t = carver.take<T>(kLanes * t.ep);
  t.e2t = carver.take<T>(kLanes * t.ep);
  t.grad = carver.take<T>(t.small ? t.h * t.e * w : t.h * t.ep);
  if (t.skip >= 0) t.grad_scale = carver.take<T>(t.h * w);
}

template <class T>
void TileNet<T>::place(Carver& carver) {
  const auto pad = [](Index n) { return (n + w - 1) / w * w; };
  depth_ = static_cast<int>(net_.layers().size());
  Index widest = d_ + 1;
  for (int l = 0; l < depth_; ++l) {
    const Layer& layer = net_.layers()[l];
    LayerTile& t = layers_[l];
    t.h = layer.width;
    t.sigma = net_.activation(l);
    t.before = l > 0 ? net_.layers()[l - 1].width : 0;
    t.input = layer.input_weight >= 0;
    t.e = t.before + (t.input ? d_ : 0) + 1;
    t.ep = pad(t.e);
    t.small = t.e <= kSmallColumns;
    t.skip = layer.skip;
    t.skip_user = -1;
    if (t.skip >= 0) layers_[t.skip].skip_user = l;
    t.w = carver.take<T>(t.h * t.e);
    t.scale = carver.take<T>(t.h);
    t.e1 = carver.take<T>(t.e * kLanes);
    t.d1 = carver.take<T>(t.h * kLanes);
    t.beta = carver.take<T>(t.h * kLanes);
    if (curved_) t.gamma = carver.take<T>(t.h * kLanes);
    t.back = carver.take<T>(t.e * kLanes);
    if (!(structured_ && l == 0)) t.j = carver.take<T>(tangents_ * t.h * kLanes);
    if (plan_.product) {
      t.e_dot = carver.take<T>(t.e * kLanes);
      t.s_dot = carver.take<T>(t.h * kLanes);
    }
    if (plan_.gradient) place_jet(carver, t);
    widest = t.e > widest ? t.e : widest;
    widest = t.h > widest ? t.h : widest;
  }
  // g_l = du/dz_l is the first part of the next layer's back-propagated rows.
  for (int l = 0; l + 1 < depth_; ++l) layers_[l].g = layers_[l + 1].back;
  const Index h_last = layers_[depth_ - 1].h;
  layers_[depth_ - 1].g = carver.take<T>(h_last * kLanes);

  const Index s = triangle(d_);
  x_ = carver.take<T>(d_ * kLanes);
  q_ = carver.take<T>(plan_.directions == Directions::unit ? 0 : tangents_ * d_ * kLanes);
  displacement_ = carver.take<T>(d_ * kLanes);
  z_last_ = carver.take<T>(h_last * kLanes);
  temp_ = carver.take<T>(widest * kLanes);
  temp_t_ = carver.take<T>(kLanes * pad(widest));
  quadratic_ = carver.take<T>(d_ * d_);
  product_ = carver.take<T>(dense() ? d_ * d_ : 0);
  projection_ = carver.take<T>((rank_ > 0 ? rank_ : 1) * kLanes);
  if (plan_.directions == Directions::unit) hessian_ = carver.take<T>(s * kLanes);
  sp_ = pad(s);
  h0p_ = pad(layers_[0].h);
  if (structured_) {
    p_ = carver.take<T>(layers_[0].h * s);
    if (depth_ > 1) t_ = carver.take<T>(d_ * layers_[1].h * layers_[0].h);
  }
  if (!plan_.gradient) return;
  z2_last_ = carver.take<T>(h_last * kLanes);
  grad_output_ = carver.take<T>(h_last * w);
  grad_a_ = carver.take<T>(d_ * w);
  grad_b_ = carver.take<T>(w);
  grad_quadratic_ = carver.take<T>((rank_ > 0 ? s : 1) * w);
  if (!structured_) return;
  column_ = carver.take<T>(layers_[0].h);
  column_sum_ = carver.take<T>(layers_[0].h);
  slope_ = carver.take<T>(d_);
  metric2_ = carver.take<T>(s * kLanes);
  metric2t_ = carver.take<T>(kLanes * sp_);
  grad_p_ = carver.take<T>(layers_[0].h * (s <= kSmallColumns ? s * w : sp_));
  if (depth_ > 1) {
    d1t_ = carver.take<T>(kLanes * h0p_);
    grad_t_ = carver.take<T>(d_ * layers_[1].h * h0p_);
  }
}

template <class T>
void TileNet<T>::set_quadratic() {
  const T* factor = theta_ + net_.factor();
  for (Index a = 0; a < d_; ++a) {
    // Along a row: next to each other in memory.
    T* row = quadratic_ + a * d_;
    for (Index b = 0; b < d_; ++b) row[b] = T(0);
    row[a] = theta_[net_.alpha()];
    T square = T(0);
    for (Index r = 0; r < rank_; ++r) {
      const T* of_factor = factor + r * d_;
      const T scale = of_factor[a];
      for (Index b = 0; b < d_; ++b) row[b] += scale * of_factor[b];
      square += scale * scale;
    }
    if (!dense()) continue;
    for (Index b = 0; b < d_; ++b) product_[a * d_ + b] = row[b];
    product_[a * d_ + a] = square;  // without alpha, which would take its digits
  }
}

template <class T>
void TileNet<T>::set_parameters(const T* theta) {
  theta_ = theta;
  for (int l = 0; l < depth_; ++l) {
    const Layer& layer = net_.layers()[l];
    LayerTile& t = layers_[l];
    for (Index i = 0; i < t.h; ++i) {
      T* row = t.w + i * t.e;
      for (Index j = 0; j < t.before; ++j) row[j] = theta[layer.weight + i * t.before + j];
      if (t.input) {
        for (Index c = 0; c < d_; ++c) row[t.before + c] = theta[layer.input_weight + i * d_ + c];
      }
      row[t.e - 1] = theta[layer.bias + i];
      if (t.skip >= 0) t.scale[i] = theta[layer.scale + i];
    }
  }
  for (Index i = 0; i < layers_[depth_ - 1].h; ++i) {
    set_row(layers_[depth_ - 1].g + i * kLanes, theta[net_.output_weight() + i]);
  }
  set_quadratic();
  if (!structured_) return;
  const Index h0 = layers_[0].h;
  const Index s = triangle(d_);
  for (Index i = 0; i < h0; ++i) {
    const T* row = layers_[0].w + i * layers_[0].e;
    for (Index b = 0; b < d_; ++b) {
      for (Index a = 0; a <= b; ++a) p_[i * s + triangle_index(a, b)] = row[a] * row[b];
    }
  }
  if (depth_ < 2) return;
  const LayerTile& next = layers_[1];
  for (Index k = 0; k < d_; ++k) {
    for (Index i = 0; i < h0; ++i) temp_[i] = layers_[0].w[i * layers_[0].e + k];
    for (Index j = 0; j < next.h; ++j) {
      T* row = t_ + (k * next.h + j) * h0;
      for (Index i = 0; i < h0; ++i) row[i] = next.w[j * next.e + i] * temp_[i];
    }
  }
}

template <class T>
void TileNet<T>::forward() {
  for (int l = 0; l < depth_; ++l) {
    LayerTile& t = layers_[l];
    if (l == 0 && first_in_registers_) {
      in_registers([&]<int D>(const auto& sigma) { first_forward<D>(sigma); });
      continue;
    }
    if (t.input) copy_rows(t.e1 + t.before * kLanes, x_, d_);
    set_row(t.e1 + (t.e - 1) * kLanes, T(1));
    const bool last = l + 1 == depth_;
    // z_l lives in the first rows of the next layer's extended input.
    T* z = last ? z_last_ : layers_[l + 1].e1;
    const T* skipped = t.skip >= 0 ? layers_[t.skip + 1].e1 : nullptr;
    const bool slope_only = last && !plan_.value;
    const auto activate_rows = [&](Index first, Index count) {
      T* d1 = t.d1 + first * kLanes;
      if (skipped) add_scaled_rows(d1, t.scale + first, skipped + first * kLanes, count);
      with_activation<T>(t.sigma, [&](const auto& sigma) {
        if (slope_only) {
          for (Index i = 0; i < count * kLanes; i += w) store(d1 + i, slope<T>(sigma, load(d1 + i)));
          return;
        }
        for (Index i = 0; i < count * kLanes; i += kBatch * w) {
          Vec<T> s[kBatch];
#pragma GCC unroll 4
          for (int n = 0; n < kBatch; ++n) s[n] = load(d1 + i + n * w);
          activate<T>(sigma, s, z + first * kLanes + i, d1 + i);
        }
      });
    };
    gemm<T>(t.h, kLanes, t.e, as_is<T>(t.w, t.e), t.e1, kLanes, t.d1, kLanes, false, activate_rows);
  }
}

/// beta_l = g_l sigma'(s_l) and, where wanted, gamma_l = g_l sigma''(s_l), rows first .. first + count.
template <class T>
void TileNet<T>::finish_adjoint(LayerTile& t, Index first, Index count) {
  T* g = t.g + first * kLanes;
  if (t.skip_user >= 0) {
    const LayerTile& user = layers_[t.skip_user];
    add_scaled_rows(g, user.scale + first, user.beta + first * kLanes, count);
  }
  with_activation<T>(t.sigma, [&](const auto& sigma) {
    for (Index i = first * kLanes; i < (first + count) * kLanes; i += w) {
      const Vec<T> slope = load(t.d1 + i);
      const Vec<T> adjoint = load(t.g + i);
      store(t.beta + i, adjoint * slope);
      if (curved_) store(t.gamma + i, adjoint * second_derivative<T>(sigma, slope));
    }
  });
}

template <class T>
void TileNet<T>::adjoint() {
  const T* a = theta_ + net_.output_input();
  const T alpha_less_one = theta_[net_.alpha()] - T(1);
  for (Index c = 0; c < d_; ++c) {
    for (int i = 0; i < kLanes; i += w) {
      store(displacement_ + c * kLanes + i, a[c] + alpha_less_one * load(x_ + c * kLanes + i));
    }
  }
  if (plan_.directions == Directions::unit) {
    for (Index b = 0; b < d_; ++b) {
      for (Index c = 0; c <= b; ++c)
        set_row(hessian_ + triangle_index(c, b) * kLanes, quadratic_[c * d_ + b]);
    }
  }
  if (dense()) {
    gemm<T>(d_, kLanes, d_, as_is<T>(product_, d_), x_, kLanes, displacement_, kLanes, true);
  } else if (rank_ > 0) {
    const T* b = theta_ + net_.factor();
    gemm<T>(rank_, kLanes, d_, as_is<T>(b, d_), x_, kLanes, projection_, kLanes);
    gemm<T>(d_, kLanes, rank_, transposed<T>(b, d_), projection_, kLanes, displacement_, kLanes, true);
  }
  finish_adjoint(layers_[depth_ - 1], 0, layers_[depth_ - 1].h);
  for (int l = depth_ - 1; l >= (first_in_registers_ ? 1 : 0); --l) {
    LayerTile& t = layers_[l];
    // Rows of g_{l-1}, then of the input; the row of the constant 1 is not needed.
    const auto finish = [&](Index first, Index count) {
      const Index end = first + count < t.before ? first + count : t.before;
      if (first >= end) return;
      if (l == 1 && first_in_registers_) {
        in_registers([&]<int D>(const auto& sigma) { first_adjoint<D>(sigma, first, end - first); });
      } else {
        finish_adjoint(layers_[l - 1], first, end - first);
      }
    };
    gemm<T>(t.e - 1, kLanes, t.h, transposed<T>(t.w, t.e), t.beta, kLanes, t.back, kLanes, false, finish);
    if (!t.input) continue;
    const T* back_x = t.back + t.before * kLanes;
    for (Index i = 0; i < d_ * kLanes; i += w) {
      store(displacement_ + i, load(displacement_ + i) + load(back_x + i));
    }
  }
}

template <class T>
void TileNet<T>::potential(T* u) {
  const T* weight = theta_ + net_.output_weight();
  const T* a = theta_ + net_.output_input();
  for (int i = 0; i < kLanes; i += w) {
    Vec<T> sum = broadcast(theta_[net_.output_bias()]);
    for (Index j = 0; j < layers_[depth_ - 1].h; ++j) sum += weight[j] * load(z_last_ + j * kLanes + i);
    for (Index b = 0; b < d_; ++b) {
      Vec<T> slope = {};
      for (Index c = 0; c < d_; ++c) slope += quadratic_[b * d_ + c] * load(x_ + c * kLanes + i);
      sum += (a[b] + T(0.5) * slope) * load(x_ + b * kLanes + i);
    }
    store(u + i, sum);
  }
}

/// temp = [zdot_{l-1,k}; q_k], the extended tangent input of layer l without the row of the constant.
template <class T>
void TileNet<T>::extend_tangent(int l, int k) {
  const LayerTile& t = layers_[l];
  if (l > 0) multiply_rows(temp_, layers_[l - 1].d1, layer_tangent(l - 1, k), t.before);
  if (!t.input) return;
  T* rows = temp_ + t.before * kLanes;
  if (plan_.directions == Directions::unit) {
    for (Index c = 0; c < d_; ++c) set_row(rows + c * kLanes, c == k ? T(1) : T(0));
  } else {
    copy_rows(rows, q_ + k * d_ * kLanes, d_);
  }
}

template <class T>
void TileNet<T>::curvature() {
  for (int l = 0; l < depth_; ++l) {
    LayerTile& t = layers_[l];
    if (structured_ && l == 0) continue;
    for (int k = 0; k < tangents_; ++k) {
      T* j = t.j + k * t.h * kLanes;
      if (structured_ && l == 1) {
        for (Index i = 0; i < t.h; ++i) set_row(j + i * kLanes, t.w[i * t.e + t.before + k]);
        continue;
      }
      extend_tangent(l, k);
      gemm<T>(t.h, kLanes, t.e - 1, as_is<T>(t.w, t.e), temp_, kLanes, j, kLanes);
      if (t.skip >= 0) {
        multiply_rows(temp_, layers_[t.skip].d1, layer_tangent(t.skip, k), t.h);
        add_scaled_rows(j, t.scale, temp_, t.h);
      }
    }
    if (structured_ && l == 1) {
      gemm<T>(d_ * t.h, kLanes, t.before, as_is<T>(t_, t.before), layers_[0].d1, kLanes, t.j, kLanes, true);
    }
  }
  if (plan_.directions != Directions::unit) return;
  for (int l = first_in_registers_ ? 1 : 0; l < depth_; ++l) hessian_from_layer(layers_[l]);
}

/// H += J_l^T diag(g_l sigma''(s_l)) J_l.
template <class T>
void TileNet<T>::hessian_from_layer(const LayerTile& t) {
  if (!t.j) {
    const Index s = triangle(d_);
    gemm<T>(s, kLanes, t.h, transposed<T>(p_, s), t.gamma, kLanes, hessian_, kLanes, true);
    return;
  }
  const Index block = t.h * kLanes;
  for (Index a = 0; a < d_; ++a) {
    multiply_rows(temp_, t.gamma, t.j + a * block, t.h);
    Index b = a;
    for (; b + 4 <= d_; b += 4) add_products<4>(t, a, b);
    for (; b < d_; ++b) add_products<1>(t, a, b);
  }
}

/// H_ab += temp . J_b over the rows of a layer, for Count columns from b on.
template <class T>
template <int Count>
void TileNet<T>::add_products(const LayerTile& t, Index a, Index b) {
  const Index block = t.h * kLanes;
  for (Index part = 0; part < kLanes; part += w) {
    Vec<T> sum[Count] = {};
    for (Index r = part; r < block; r += kLanes) {
      const Vec<T> left = load(temp_ + r);
#pragma GCC unroll 4
      for (int n = 0; n < Count; ++n) sum[n] += left * load(t.j + (b + n) * block + r);
    }
    for (int n = 0; n < Count; ++n) {
      T* row = hessian_ + triangle_index(a, b + n) * kLanes + part;
      store(row, load(row) + sum[n]);
    }
  }
}

}  // namespace brenier::cpu::BRENIER_ISA

#include "kernels/cpu/network/tile_first.hpp"
#include "kernels/cpu/network/tile_product.hpp"
#include "kernels/cpu/network/tile_reverse.hpp"
