// SPDX-License-Identifier: MIT
// Reference: the network, its derivatives in x, and the theta-gradient of a second-order jet. One particle at
// a time, plain loops; the formulas are those of the collapsed Taylor streams along x + t q + (t^2/2) v:
//
//     sdot_k = A q_k + W zdot_k            zdot_k = sigma' sdot_k
//     sddot  = A v   + W zddot             zddot  = sigma' sddot + sigma'' sum_kl M_kl sdot_k sdot_l
#include <cmath>
#include <vector>

#include "brenier/base/error.hpp"
#include "kernels/ref/ref.hpp"

namespace brenier::ref {
namespace {

/// Forward and backward sweep of one particle. Vectors are per hidden layer.
template <class T>
struct Sweep {
  std::vector<std::vector<T>> z, d1, d2, d3;  // sigma(s_l) and derivatives at s_l
  std::vector<std::vector<T>> g;              // du/dz_l
  std::vector<T> displacement;                // grad u - x
  T potential = 0;
};

template <class T>
class Network {
 public:
  Network(const Icnn& net, const T* theta) : net_(net), theta_(theta), layers_(net.layers()), d_(net.dim()) {}

  int depth() const { return static_cast<int>(layers_.size()); }

  /// out += W_l in + A_l direction + c_l * skipped (any of the three may be null).
  void apply_layer(int l, const std::vector<T>* before, const T* direction, const std::vector<T>* skipped,
                   std::vector<T>& out) const {
    const Layer& layer = layers_[l];
    for (int i = 0; i < layer.width; ++i) {
      T sum = 0;
      if (before) {
        for (std::size_t j = 0; j < before->size(); ++j)
          sum += weight(l, i, static_cast<int>(j)) * (*before)[j];
      }
      if (direction && layer.input_weight >= 0) {
        for (int c = 0; c < d_; ++c) sum += theta_[layer.input_weight + Index{i} * d_ + c] * direction[c];
      }
      if (skipped) sum += theta_[layer.scale + i] * (*skipped)[i];
      out[i] += sum;
    }
  }

  /// (W_l^T out) into `before`, and c_l * out into `skipped`; both added.
  void apply_transposed(int l, const std::vector<T>& out, std::vector<T>* before,
                        std::vector<T>* skipped) const {
    const Layer& layer = layers_[l];
    for (int i = 0; i < layer.width; ++i) {
      if (before) {
        for (std::size_t j = 0; j < before->size(); ++j)
          (*before)[j] += weight(l, i, static_cast<int>(j)) * out[i];
      }
      if (skipped) (*skipped)[i] += theta_[layer.scale + i] * out[i];
    }
  }

  /// Adds A_l^T out to a vector of R^d.
  void apply_input_transposed(int l, const std::vector<T>& out, T* x) const {
    const Layer& layer = layers_[l];
    if (layer.input_weight < 0) return;
    for (int i = 0; i < layer.width; ++i) {
      for (int c = 0; c < d_; ++c) x[c] += theta_[layer.input_weight + Index{i} * d_ + c] * out[i];
    }
  }

  /// Adds (alpha I + B^T B - shift I) x.
  void apply_quadratic(const T* x, T shift, T* out) const {
    for (int c = 0; c < d_; ++c) out[c] += (theta_[net_.alpha()] - shift) * x[c];
    for (int r = 0; r < net_.rank(); ++r) {
      const T* row = theta_ + net_.factor() + Index{r} * d_;
      T projection = 0;
      for (int c = 0; c < d_; ++c) projection += row[c] * x[c];
      for (int c = 0; c < d_; ++c) out[c] += projection * row[c];
    }
  }

  Sweep<T> sweep(const T* x) const {
    Sweep<T> s;
    const int depth = this->depth();
    for (int l = 0; l < depth; ++l) {
      const Layer& layer = layers_[l];
      std::vector<T> pre(layer.width);
      for (int i = 0; i < layer.width; ++i) pre[i] = theta_[layer.bias + i];
      apply_layer(l, l > 0 ? &s.z[l - 1] : nullptr, x, layer.skip >= 0 ? &s.z[layer.skip] : nullptr, pre);
      std::vector<T> z(layer.width), d1(layer.width), d2(layer.width), d3(layer.width);
      for (int i = 0; i < layer.width; ++i) {
        const ActivationJet<T> jet =
            with_activation<T>(net_.activation(l), [&](const auto& sigma) { return sigma.jet(pre[i]); });
        z[i] = jet.value, d1[i] = jet.d1, d2[i] = jet.d2, d3[i] = jet.d3;
      }
      s.z.push_back(z), s.d1.push_back(d1), s.d2.push_back(d2), s.d3.push_back(d3);
    }
    s.displacement.assign(d_, T(0));
    s.g.resize(depth);
    for (int l = 0; l < depth; ++l) s.g[l].assign(layers_[l].width, T(0));
    for (int i = 0; i < layers_.back().width; ++i) s.g.back()[i] = theta_[net_.output_weight() + i];
    for (int l = depth - 1; l >= 0; --l) {
      const std::vector<T> beta = product(s.g[l], s.d1[l]);  // du/ds_l
      apply_transposed(l, beta, l > 0 ? &s.g[l - 1] : nullptr,
                       layers_[l].skip >= 0 ? &s.g[layers_[l].skip] : nullptr);
      apply_input_transposed(l, beta, s.displacement.data());
    }
    for (int c = 0; c < d_; ++c) s.displacement[c] += theta_[net_.output_input() + c];
    apply_quadratic(x, T(1), s.displacement.data());
    s.potential = potential(x, s);
    return s;
  }

  /// Derivatives sdot_l of all layers along one direction.
  std::vector<std::vector<T>> tangent(const Sweep<T>& s, const T* direction) const {
    std::vector<std::vector<T>> sdot(depth());
    std::vector<std::vector<T>> zdot(depth());
    for (int l = 0; l < depth(); ++l) {
      sdot[l].assign(layers_[l].width, T(0));
      apply_layer(l, l > 0 ? &zdot[l - 1] : nullptr, direction,
                  layers_[l].skip >= 0 ? &zdot[layers_[l].skip] : nullptr, sdot[l]);
      zdot[l] = product(s.d1[l], sdot[l]);
    }
    return sdot;
  }

  /// H p by forward over reverse differentiation.
  void hessian_vector(const Sweep<T>& s, const T* p, T* out) const {
    const auto sdot = tangent(s, p);
    std::vector<std::vector<T>> gdot(depth());
    for (int l = 0; l < depth(); ++l) gdot[l].assign(layers_[l].width, T(0));
    for (int c = 0; c < d_; ++c) out[c] = 0;
    for (int l = depth() - 1; l >= 0; --l) {
      std::vector<T> beta_dot(layers_[l].width);
      for (int i = 0; i < layers_[l].width; ++i) {
        beta_dot[i] = gdot[l][i] * s.d1[l][i] + s.g[l][i] * s.d2[l][i] * sdot[l][i];
      }
      apply_transposed(l, beta_dot, l > 0 ? &gdot[l - 1] : nullptr,
                       layers_[l].skip >= 0 ? &gdot[layers_[l].skip] : nullptr);
      apply_input_transposed(l, beta_dot, out);
    }
    apply_quadratic(p, T(0), out);
  }

  /// Adds the theta-gradient of a u + v.grad u + sum_kl M_kl q_k^T H q_l at x. q: K directions of R^d, M: (K,
  /// K) symmetric.
  void add_jet_gradient(const T* x, T a, const T* v, const std::vector<std::vector<T>>& q,
                        const std::vector<T>& m, double* gradient) const;

 private:
  T weight(int l, int i, int j) const {
    return theta_[layers_[l].weight + Index{i} * layers_[l - 1].width + j];
  }

  static std::vector<T> product(const std::vector<T>& a, const std::vector<T>& b) {
    std::vector<T> c(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) c[i] = a[i] * b[i];
    return c;
  }

  T potential(const T* x, const Sweep<T>& s) const {
    T u = theta_[net_.output_bias()];
    for (int i = 0; i < layers_.back().width; ++i) u += theta_[net_.output_weight() + i] * s.z.back()[i];
    std::vector<T> quadratic(d_, T(0));
    apply_quadratic(x, T(0), quadratic.data());
    for (int c = 0; c < d_; ++c) u += (theta_[net_.output_input() + c] + quadratic[c] / 2) * x[c];
    return u;
  }

  /// Adds adjoint (x) input to the gradients of W_l, A_l, b_l and c_l, for one stream.
  void add_outer(int l, const std::vector<T>& adjoint, const std::vector<T>* before, const T* direction,
                 T constant, const std::vector<T>* skipped, double* gradient) const {
    const Layer& layer = layers_[l];
    for (int i = 0; i < layer.width; ++i) {
      if (before) {
        const Index n = static_cast<Index>(before->size());
        for (Index j = 0; j < n; ++j) gradient[layer.weight + i * n + j] += double(adjoint[i] * (*before)[j]);
      }
      if (layer.input_weight >= 0) {
        for (int c = 0; c < d_; ++c) {
          gradient[layer.input_weight + Index{i} * d_ + c] += double(adjoint[i] * direction[c]);
        }
      }
      gradient[layer.bias + i] += double(adjoint[i] * constant);
      if (skipped) gradient[layer.scale + i] += double(adjoint[i] * (*skipped)[i]);
    }
  }

  const Icnn& net_;
  const T* theta_;
  const std::vector<Layer>& layers_;
  int d_;
};

template <class T>
void Network<T>::add_jet_gradient(const T* x, T a, const T* v, const std::vector<std::vector<T>>& q,
                                  const std::vector<T>& m, double* gradient) const {
  using Stream = std::vector<std::vector<T>>;
  const Sweep<T> s = sweep(x);
  const int depth = this->depth();
  const int directions = static_cast<int>(q.size());
  const auto skipped = [&](const Stream& z, int l) {
    return layers_[l].skip >= 0 ? &z[layers_[l].skip] : nullptr;
  };
  const auto before = [](const Stream& z, int l) { return l > 0 ? &z[l - 1] : nullptr; };

  // Forward: tangent streams and the collapsed second-order stream.
  std::vector<Stream> sdot(directions), zdot(directions),
      weighted(directions);  // weighted_k = sum_l M_kl sdot_l
  for (int k = 0; k < directions; ++k) {
    sdot[k] = tangent(s, q[k].data());
    zdot[k].resize(depth), weighted[k].resize(depth);
    for (int l = 0; l < depth; ++l) zdot[k][l] = product(s.d1[l], sdot[k][l]);
  }
  Stream r(depth), sddot(depth), zddot(depth);  // r_l = sum_kl M_kl sdot_k sdot_l
  for (int l = 0; l < depth; ++l) {
    const int width = layers_[l].width;
    r[l].assign(width, T(0)), sddot[l].assign(width, T(0)), zddot[l].assign(width, T(0));
    for (int k = 0; k < directions; ++k) {
      weighted[k][l].assign(width, T(0));
      for (int j = 0; j < directions; ++j) {
        for (int i = 0; i < width; ++i) weighted[k][l][i] += m[k * directions + j] * sdot[j][l][i];
      }
      for (int i = 0; i < width; ++i) r[l][i] += sdot[k][l][i] * weighted[k][l][i];
    }
    apply_layer(l, before(zddot, l), v, skipped(zddot, l), sddot[l]);
    for (int i = 0; i < width; ++i) zddot[l][i] = s.d1[l][i] * sddot[l][i] + s.d2[l][i] * r[l][i];
  }

  // Reverse. The adjoint of zddot_l is du/dz_l = g_l, known from the sweep.
  Stream z_bar(depth);
  std::vector<Stream> zdot_bar(directions, Stream(depth));
  for (int l = 0; l < depth; ++l) {
    z_bar[l].assign(layers_[l].width, T(0));
    for (int k = 0; k < directions; ++k) zdot_bar[k][l].assign(layers_[l].width, T(0));
  }
  for (int i = 0; i < layers_.back().width; ++i) {
    z_bar.back()[i] = a * theta_[net_.output_weight() + i];
    gradient[net_.output_weight() + i] += double(a * s.z.back()[i] + zddot.back()[i]);
  }
  const std::vector<T> zero(d_, T(0));
  for (int l = depth - 1; l >= 0; --l) {
    const int width = layers_[l].width;
    const auto below = [&](Stream& bar) { return l > 0 ? &bar[l - 1] : nullptr; };
    const auto across = [&](Stream& bar) { return layers_[l].skip >= 0 ? &bar[layers_[l].skip] : nullptr; };
    std::vector<T> s_bar(width);
    for (int i = 0; i < width; ++i) {
      T paired = s.g[l][i] * sddot[l][i];
      for (int k = 0; k < directions; ++k) paired += zdot_bar[k][l][i] * sdot[k][l][i];
      s_bar[i] = s.d1[l][i] * z_bar[l][i] + s.d2[l][i] * paired + s.d3[l][i] * s.g[l][i] * r[l][i];
    }
    add_outer(l, s_bar, before(s.z, l), x, T(1), skipped(s.z, l), gradient);
    apply_transposed(l, s_bar, below(z_bar), across(z_bar));
    for (int k = 0; k < directions; ++k) {
      std::vector<T> sdot_bar(width);
      for (int i = 0; i < width; ++i) {
        sdot_bar[i] = s.d1[l][i] * zdot_bar[k][l][i] + 2 * s.g[l][i] * s.d2[l][i] * weighted[k][l][i];
      }
      add_outer(l, sdot_bar, before(zdot[k], l), q[k].data(), T(0), skipped(zdot[k], l), gradient);
      apply_transposed(l, sdot_bar, below(zdot_bar[k]), across(zdot_bar[k]));
    }
    add_outer(l, product(s.g[l], s.d1[l]), before(zddot, l), v, T(0), skipped(zddot, l), gradient);
  }

  // The quadratic skip: its part of S is 1/2 trace(Q K), K = a x x^T + v x^T + x v^T + 2 sum_kl M_kl q_k
  // q_l^T.
  std::vector<T> outer(Index{d_} * d_, T(0));
  for (int c = 0; c < d_; ++c) {
    gradient[net_.output_input() + c] += double(a * x[c] + v[c]);
    for (int e = 0; e < d_; ++e) {
      T entry = a * x[c] * x[e] + v[c] * x[e] + x[c] * v[e];
      for (int k = 0; k < directions; ++k) {
        for (int j = 0; j < directions; ++j) entry += 2 * m[k * directions + j] * q[k][c] * q[j][e];
      }
      outer[c * d_ + e] = entry;
    }
    gradient[net_.alpha()] += double(outer[c * d_ + c]) / 2;
  }
  gradient[net_.output_bias()] += double(a);
  for (int row = 0; row < net_.rank(); ++row) {
    for (int c = 0; c < d_; ++c) {
      for (int e = 0; e < d_; ++e) {
        gradient[net_.factor() + Index{row} * d_ + c] +=
            double(theta_[net_.factor() + Index{row} * d_ + e] * outer[e * d_ + c]);
      }
    }
  }
}

}  // namespace

bool cholesky_log_det(const double* h, Index d, double* log_det, double* inverse) {
  // H = L L^T, row by row; log det H = 2 sum log L_ii; H^{-1} = L^{-T} L^{-1}.
  std::vector<double> low(h, h + d * d);
  *log_det = std::nan("");
  double sum = 0;
  for (Index i = 0; i < d; ++i) {
    for (Index j = 0; j <= i; ++j) {
      double entry = low[i * d + j];
      for (Index k = 0; k < j; ++k) entry -= low[i * d + k] * low[j * d + k];
      if (i == j) {
        if (!(entry > 0)) return false;
        low[i * d + i] = std::sqrt(entry);
        sum += std::log(entry);
      } else {
        low[i * d + j] = entry / low[j * d + j];
      }
    }
  }
  *log_det = sum;
  if (!inverse) return true;
  std::vector<double> column(d);
  for (Index c = 0; c < d; ++c) {
    for (Index i = 0; i < d; ++i) {
      column[i] = i == c ? 1.0 : 0.0;
      for (Index k = 0; k < i; ++k) column[i] -= low[i * d + k] * column[k];
      column[i] /= low[i * d + i];
    }
    for (Index i = d - 1; i >= 0; --i) {
      for (Index k = i + 1; k < d; ++k) column[i] -= low[k * d + i] * column[k];
      column[i] /= low[i * d + i];
    }
    for (Index i = 0; i < d; ++i) inverse[i * d + c] = column[i];
  }
  return true;
}

template <class T>
void evaluate(const Icnn& net, const T* theta, MatrixView<const T> x, const MapOutputs<T>& out, Team&) {
  const Network<T> network(net, theta);
  const Index d = net.dim();
  std::vector<T> unit(d), column(d);
  std::vector<double> h(d * d);
  for (Index i = 0; i < x.rows; ++i) {
    const Sweep<T> s = network.sweep(x.row(i));
    if (out.potential) out.potential[i] = s.potential;
    if (out.displacement) {
      for (Index c = 0; c < d; ++c) out.displacement(i, c) = s.displacement[c];
    }
    if (!out.hessian && !out.log_det) continue;
    for (Index c = 0; c < d; ++c) {
      unit.assign(d, T(0));
      unit[c] = T(1);
      network.hessian_vector(s, unit.data(), column.data());
      for (Index e = 0; e < d; ++e) h[e * d + c] = double(column[e]);
    }
    if (out.hessian) {
      for (Index k = 0; k < d * d; ++k) out.hessian(i, k) = static_cast<T>(h[k]);
    }
    if (out.log_det) cholesky_log_det(h.data(), d, &out.log_det[i], nullptr);
  }
}

template <class T>
void hessian_vector(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                    MatrixView<T> out, Team&) {
  const Network<T> network(net, theta);
  for (Index i = 0; i < x.rows; ++i) network.hessian_vector(network.sweep(x.row(i)), p.row(i), out.row(i));
}

template <class T>
void jet_gradient(const Icnn& net, const T* theta, MatrixView<const T> x, const JetSeeds<T>& seeds,
                  double* gradient, Team&) {
  const Network<T> network(net, theta);
  const int d = net.dim();
  std::fill(gradient, gradient + net.parameters(), 0.0);
  const std::vector<T> zero(d, T(0));
  for (Index i = 0; i < x.rows; ++i) {
    std::vector<std::vector<T>> q;
    std::vector<T> m;
    const auto push = [&](const T* direction) { q.emplace_back(direction, direction + d); };
    if (seeds.metric) {
      for (int c = 0; c < d; ++c) {
        std::vector<T> unit(d, T(0));
        unit[c] = T(1);
        push(unit.data());
      }
      m.assign(seeds.metric.row(i), seeds.metric.row(i) + Index{d} * d);
    } else {
      for (int k = 0; k < seeds.directions; ++k) push(seeds.q.row(i) + Index{k} * d);
      if (seeds.p) {
        for (int k = 0; k < seeds.directions; ++k) push(seeds.p.row(i) + Index{k} * d);
      }
      // p^T H q = 1/2 p^T H q + 1/2 q^T H p.
      const int n = static_cast<int>(q.size());
      m.assign(n * n, T(0));
      for (int k = 0; k < seeds.directions; ++k) {
        const int partner = seeds.p ? k + seeds.directions : k;
        m[k * n + partner] += T(0.5);
        m[partner * n + k] += T(0.5);
      }
    }
    network.add_jet_gradient(x.row(i), seeds.a ? seeds.a[i] : T(0), seeds.v ? seeds.v.row(i) : zero.data(), q,
                             m, gradient);
  }
}

#define BRENIER_INSTANTIATE(T)                                                                           \
  template void evaluate<T>(const Icnn&, const T*, MatrixView<const T>, const MapOutputs<T>&, Team&);    \
  template void hessian_vector<T>(const Icnn&, const T*, MatrixView<const T>, MatrixView<const T>,       \
                                  MatrixView<T>, Team&);                                                 \
  template void jet_gradient<T>(const Icnn&, const T*, MatrixView<const T>, const JetSeeds<T>&, double*, \
                                Team&);
BRENIER_INSTANTIATE(float)
BRENIER_INSTANTIATE(double)
#undef BRENIER_INSTANTIATE

}  // namespace brenier::ref
