// SPDX-License-Identifier: MIT
// TileNet, second half: the collapsed second-order stream, the reverse sweep, and the sums over particles
// that become the theta-gradient. Included by kernels/cpu/network/tile.hpp.
//
// With g_l = du/dz_l known from adjoint() the reverse sweep has one base adjoint and one adjoint per tangent:
//
//     J*_k = sigma' zdot*_k + 2 g sigma'' (J M)_k
//     s*   = sigma' z* + sigma'' (sum_k zdot*_k J_k + g sddot) + sigma''' g r,      r = sum_kl M_kl J_k J_l
//     d[W|A|b] += s* e^T + sum_k J*_k edot_k^T + beta eddot^T
#pragma once

#include "kernels/cpu/network/tile.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// jm_k = sum_b M_kb J_b, Count rows of one part of the lanes.
template <class T>
template <int Count>
void TileNet<T>::weigh_rows(LayerTile& t, int k, const T* metric, Index part, Index row) {
  const Index block = t.h * kLanes;
  Vec<T> sum[Count] = {};
  for (int b = 0; b < tangents_; ++b) {
    const Vec<T> weight = load(metric + triangle_index(k, b) * kLanes + part);
    const T* j = t.j + b * block + row * kLanes + part;
#pragma GCC unroll 4
    for (int n = 0; n < Count; ++n) sum[n] += weight * load(j + n * kLanes);
  }
  for (int n = 0; n < Count; ++n) store(t.jm + k * block + (row + n) * kLanes + part, sum[n]);
}

/// jm_k = sum_l M_kl J_l and r = sum_k J_k jm_k.
template <class T>
void TileNet<T>::weigh_tangents(LayerTile& t, const T* metric) {
  const Index block = t.h * kLanes;
  for (int k = 0; k < tangents_; ++k) {
    T* jm = t.jm + k * block;
    if (plan_.directions == Directions::single) {
      copy_rows(jm, t.j + k * block, t.h);
    } else if (plan_.directions == Directions::pairs) {
      const T* partner = t.j + (k + plan_.count) % tangents_ * block;
      for (Index i = 0; i < block; i += w) store(jm + i, T(0.5) * load(partner + i));
    } else {
      for (Index part = 0; part < kLanes; part += w) {
        Index row = 0;
        for (; row + 4 <= t.h; row += 4) weigh_rows<4>(t, k, metric, part, row);
        for (; row < t.h; ++row) weigh_rows<1>(t, k, metric, part, row);
      }
    }
    const T* j = t.j + k * block;
    for (Index i = 0; i < block; i += w) {
      const Vec<T> term = load(j + i) * load(jm + i);
      store(t.r + i, k == 0 ? term : load(t.r + i) + term);
    }
  }
}

template <class T>
void TileNet<T>::second_order_streams(const T* v, const T* metric) {
  if (structured_) {
    for (Index b = 0; b < d_; ++b) {
      for (Index a = 0; a <= b; ++a) {
        const Index row = triangle_index(a, b) * kLanes;
        for (int i = 0; i < kLanes; i += w)
          store(metric2_ + row + i, (a == b ? T(1) : T(2)) * load(metric + row + i));
      }
    }
  }
  for (int l = 0; l < depth_; ++l) {
    LayerTile& t = layers_[l];
    if (l == 0 && first_in_registers_) {
      in_registers([&]<int D>(const auto& sigma) { first_second_order<D>(sigma, v); });
      continue;
    }
    if (structured_ && l == 0) {
      const Index s = triangle(d_);
      gemm<T>(t.h, kLanes, s, as_is<T>(p_, s), metric2_, kLanes, t.r, kLanes);
    } else if (tangents_ > 0) {
      weigh_tangents(t, metric);
    }
    if (t.input) copy_rows(t.e2 + t.before * kLanes, v, d_);
    T* z2 = l + 1 < depth_ ? layers_[l + 1].e2 : z2_last_;
    const T* skipped = t.skip >= 0 ? layers_[t.skip + 1].e2 : nullptr;
    const auto finish = [&](Index first, Index count) {
      if (skipped) {
        add_scaled_rows(t.s2 + first * kLanes, t.scale + first, skipped + first * kLanes, count);
      }
      with_activation<T>(t.sigma, [&](const auto& sigma) {
        for (Index i = first * kLanes; i < (first + count) * kLanes; i += w) {
          const Vec<T> d1 = load(t.d1 + i);
          Vec<T> value = d1 * load(t.s2 + i);
          if (tangents_ > 0) value += second_derivative<T>(sigma, d1) * load(t.r + i);
          store(z2 + i, value);
        }
      });
    };
    gemm<T>(t.h, kLanes, t.e - 1, as_is<T>(t.w, t.e), t.e2, kLanes, t.s2, kLanes, false, finish);
  }
}

/// Adjoints of the tangents of layer l, and tz_l = sum_k zdot*_k J_k.
template <class T>
void TileNet<T>::reverse_tangents(int l) {
  LayerTile& t = layers_[l];
  const LayerTile* next = l + 1 < depth_ ? &layers_[l + 1] : nullptr;
  if (structured_ && l == 0) {
    if (next) {
      gemm<T>(t.h, kLanes, d_ * next->h, transposed<T>(t_, t.h), next->j_bar, kLanes, t.tz, kLanes);
    } else {
      for (Index i = 0; i < t.h; ++i) set_row(t.tz + i * kLanes, T(0));
    }
    return;
  }
  const Index block = t.h * kLanes;
  for (int k = 0; k < tangents_; ++k) {
    if (next) {
      gemm<T>(t.h, kLanes, next->h, transposed<T>(next->w, next->e), next->j_bar + k * next->h * kLanes,
              kLanes, temp_, kLanes);
    }
    if (t.skip_user >= 0) {
      const LayerTile& user = layers_[t.skip_user];
      add_scaled_rows(temp_, user.scale, user.j_bar + k * user.h * kLanes, t.h);
    }
    for (Index i = 0; i < block; i += w) {
      Vec<T> bar = T(2) * load(t.gamma + i) * load(t.jm + k * block + i);
      Vec<T> paired = {};
      if (next) {
        bar += load(t.d1 + i) * load(temp_ + i);
        paired = load(temp_ + i) * load(t.j + k * block + i);
      }
      store(t.j_bar + k * block + i, bar);
      store(t.tz + i, k == 0 ? paired : load(t.tz + i) + paired);
    }
  }
}

/// grad(rows, cols) += sum over lanes of lhs rhs^T.
template <class T>
void TileNet<T>::accumulate_outer(T* grad, Index ld, bool small, Index rows, Index cols, const T* lhs,
                                  const T* rhs, const T* rhs_transposed) {
  if (!small) {
    gemm<T>(rows, ld, kLanes, as_is<T>(lhs, kLanes), rhs_transposed, ld, grad, ld, true);
    return;
  }
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < cols; ++c) {
      Vec<T> sum = load(grad + (r * ld + c) * w);
      for (int i = 0; i < kLanes; i += w) sum += load(lhs + r * kLanes + i) * load(rhs + c * kLanes + i);
      store(grad + (r * ld + c) * w, sum);
    }
  }
}

template <class T>
void TileNet<T>::accumulate_layer(int l, bool with_tangents) {
  LayerTile& t = layers_[l];
  const Index ld = t.small ? t.e : t.ep;
  if (!t.small) {
    transpose(t.e1, static_cast<int>(t.e), t.e1t, t.ep);
    transpose(t.e2, static_cast<int>(t.e), t.e2t, t.ep);
  }
  accumulate_outer(t.grad, ld, t.small, t.h, t.e, t.s_bar, t.e1, t.e1t);
  accumulate_outer(t.grad, ld, t.small, t.h, t.e, t.beta, t.e2, t.e2t);
  if (t.skip >= 0) {
    const T* z = layers_[t.skip + 1].e1;
    const T* z2 = layers_[t.skip + 1].e2;
    for (Index i = 0; i < t.h; ++i) {
      for (Index k = i * kLanes; k < (i + 1) * kLanes; k += w) {
        accumulate(t.grad_scale + i * w, load(t.s_bar + k) * load(z + k) + load(t.beta + k) * load(z2 + k));
      }
    }
  }
  if (!with_tangents) return;
  if (structured_ && l == 0) {
    const Index s = triangle(d_);
    const bool small = s <= kSmallColumns;
    if (!small) transpose(metric2_, static_cast<int>(s), metric2t_, sp_);
    accumulate_outer(grad_p_, small ? s : sp_, small, t.h, s, t.gamma, metric2_, metric2t_);
    return;
  }
  if (structured_ && l == 1) {
    transpose(layers_[0].d1, static_cast<int>(t.before), d1t_, h0p_);
    gemm<T>(d_ * t.h, h0p_, kLanes, as_is<T>(t.j_bar, kLanes), d1t_, h0p_, grad_t_, h0p_, true);
    for (Index k = 0; k < d_; ++k) {
      for (Index i = 0; i < t.h; ++i) {
        const Vec<T> sum = row_sum(t.j_bar + (k * t.h + i) * kLanes);
        if (t.small) {
          accumulate(t.grad + (i * ld + t.before + k) * w, sum);
        } else {
          t.grad[i * ld + t.before + k] += sum_of<T>(sum);
        }
      }
    }
    return;
  }
  for (int k = 0; k < tangents_; ++k) {
    const T* j_bar = t.j_bar + k * t.h * kLanes;
    extend_tangent(l, k);
    if (!t.small) transpose(temp_, static_cast<int>(t.e - 1), temp_t_, t.ep);
    accumulate_outer(t.grad, ld, t.small, t.h, t.e - 1, j_bar, temp_, temp_t_);
    if (t.skip < 0) continue;
    multiply_rows(temp_, layers_[t.skip].d1, layer_tangent(t.skip, k), t.h);
    for (Index i = 0; i < t.h; ++i) {
      for (Index m = i * kLanes; m < (i + 1) * kLanes; m += w) {
        accumulate(t.grad_scale + i * w, load(j_bar + m) * load(temp_ + m));
      }
    }
  }
}

/// K = a x x^T + v x^T + x v^T + 2 sum_kl M_kl q_k q_l^T, summed over lanes: 1/2 trace(Q K) is the part of S
/// that belongs to Q = alpha I + B^T B. Without B the trace of K is enough.
template <class T>
void TileNet<T>::accumulate_quadratic(const T* a, const T* v, const T* metric) {
  for (int i = 0; i < kLanes; i += w) {
    const Vec<T> seed = a ? load(a + i) : Vec<T>{};
    accumulate(grad_b_, seed);
    for (Index c = 0; c < d_; ++c) {
      const Vec<T> x_c = load(x_ + c * kLanes + i);
      const Vec<T> v_c = load(v + c * kLanes + i);
      accumulate(grad_a_ + c * w, v_c + seed * x_c);
      for (Index b = rank_ > 0 ? 0 : c; b <= c; ++b) {
        const Vec<T> x_b = load(x_ + b * kLanes + i);
        const Vec<T> v_b = load(v + b * kLanes + i);
        Vec<T> entry = (seed * x_b + v_b) * x_c + x_b * v_c;
        if (plan_.directions == Directions::unit) {
          entry += T(2) * load(metric + triangle_index(b, c) * kLanes + i);
        }
        for (int k = 0; k < plan_.count; ++k) {
          const T* q = q_ + k * d_ * kLanes + i;
          const T* p = plan_.directions == Directions::pairs ? q + plan_.count * d_ * kLanes : q;
          entry += load(q + b * kLanes) * load(p + c * kLanes) + load(p + b * kLanes) * load(q + c * kLanes);
        }
        accumulate(grad_quadratic_ + (rank_ > 0 ? triangle_index(b, c) : 0) * w, entry);
      }
    }
  }
}

/// s* of rows first .. first + count of a layer. z_bar is null in the last layer, where z* = a w.
template <class T>
void TileNet<T>::finish_reverse(LayerTile& t, const T* z_bar, const T* a, Index first, Index count) {
  const T* weight = theta_ + net_.output_weight();
  with_activation<T>(t.sigma, [&](const auto& sigma) {
    for (Index i = first * kLanes; i < (first + count) * kLanes; i += w) {
      const Vec<T> d1 = load(t.d1 + i);
      const Vec<T> g = load(t.g + i);
      Vec<T> paired = g * load(t.s2 + i);
      Vec<T> sum = {};
      if (z_bar) {
        sum = d1 * load(z_bar + i);
      } else if (a) {
        sum = d1 * weight[i / kLanes] * load(a + i % kLanes);
      }
      if (tangents_ > 0) {
        paired += load(t.tz + i);
        sum += third_derivative<T>(sigma, d1) * g * load(t.r + i);
      }
      store(t.s_bar + i, sum + second_derivative<T>(sigma, d1) * paired);
    }
  });
}

template <class T>
void TileNet<T>::reverse(const T* a, const T* v, const T* metric) {
  second_order_streams(v, metric);
  accumulate_quadratic(a, v, metric);
  const Index h_last = layers_[depth_ - 1].h;
  for (Index j = 0; j < h_last; ++j) {
    Vec<T> sum = row_sum(z2_last_ + j * kLanes);
    for (int i = 0; a && i < kLanes; i += w) sum += load(a + i) * load(z_last_ + j * kLanes + i);
    accumulate(grad_output_ + j * w, sum);
  }
  if (tangents_ > 0) reverse_tangents(depth_ - 1);
  finish_reverse(layers_[depth_ - 1], nullptr, a, 0, h_last);
  accumulate_layer(depth_ - 1, tangents_ > 0);
  for (int l = depth_ - 2; l >= 0; --l) {
    LayerTile& t = layers_[l];
    const LayerTile& next = layers_[l + 1];
    if (tangents_ > 0) reverse_tangents(l);
    const auto finish = [&](Index first, Index count) {
      if (l == 0 && first_in_registers_) {
        in_registers([&]<int D>(const auto& sigma) { first_reverse<D>(sigma, v, first, count); });
        return;
      }
      if (t.skip_user >= 0) {
        const LayerTile& user = layers_[t.skip_user];
        add_scaled_rows(next.z_bar + first * kLanes, user.scale + first, user.s_bar + first * kLanes, count);
      }
      finish_reverse(t, next.z_bar, a, first, count);
    };
    gemm<T>(t.h, kLanes, next.h, transposed<T>(next.w, next.e), next.s_bar, kLanes, next.z_bar, kLanes, false,
            finish);
    if (l > 0 || !first_in_registers_) accumulate_layer(l, tangents_ > 0);
  }
}

/// gradient += the lanes at `lanes`, which start again from 0.
template <class T>
inline void drain_lanes(double* gradient, T* lanes) {
  *gradient += static_cast<double>(sum_of<T>(load(lanes)));
  store(lanes, Vec<T>{});
}

/// gradient += `count` sums in a row, which start again from 0.
template <class T>
inline void drain(double* gradient, T* sums, Index count) {
  for (Index i = 0; i < count; ++i) gradient[i] += static_cast<double>(sums[i]);
  for (Index i = 0; i < count; ++i) sums[i] = T(0);
}

template <class T>
void TileNet<T>::flush_layer(int l, double* gradient) {
  const Layer& layer = net_.layers()[l];
  LayerTile& t = layers_[l];
  const Index inputs = t.e - 1 - t.before;
  for (Index i = 0; i < t.h; ++i) {
    double* weight = gradient + layer.weight + i * t.before;
    double* input = gradient + layer.input_weight + i * d_;
    double* bias = gradient + layer.bias + i;
    if (t.small) {
      T* row = t.grad + i * t.e * w;
      for (Index c = 0; c < t.before; ++c) drain_lanes(weight + c, row + c * w);
      for (Index c = 0; c < inputs; ++c) drain_lanes(input + c, row + (t.before + c) * w);
      drain_lanes(bias, row + (t.e - 1) * w);
    } else {
      T* row = t.grad + i * t.ep;
      drain(weight, row, t.before);
      drain(input, row + t.before, inputs);
      drain(bias, row + t.e - 1, 1);
    }
    if (t.skip >= 0) drain_lanes(gradient + layer.scale + i, t.grad_scale + i * w);
  }
}

/// The gradients of P and T, contracted to those of A_0 and W_1.
template <class T>
void TileNet<T>::flush_structure(double* gradient) {
  const Index h0 = layers_[0].h;
  const Index s = triangle(d_);
  const bool small = s <= kSmallColumns;
  double* grad_a0 = gradient + net_.layers()[0].input_weight;  // (h0, d)
  for (Index i = 0; i < h0; ++i) {
    const T* a0 = layers_[0].w + i * layers_[0].e;
    for (Index b = 0; b < d_; ++b) {
      const Index first = triangle_index(0, b);
      if (small) {
        for (Index a = 0; a <= b; ++a) {
          T* lanes = grad_p_ + (i * s + first + a) * w;
          slope_[a] = sum_of<T>(load(lanes));
          store(lanes, Vec<T>{});
        }
      } else {
        T* sums = grad_p_ + i * sp_ + first;
        for (Index a = 0; a <= b; ++a) slope_[a] = sums[a];
        for (Index a = 0; a <= b; ++a) sums[a] = T(0);
      }
      // P[i, ab] = A[i,a] A[i,b].
      double own = 0;
      for (Index a = 0; a <= b; ++a) {
        grad_a0[i * d_ + a] += static_cast<double>(slope_[a] * a0[b]);
        own += static_cast<double>(slope_[a] * a0[a]);
      }
      grad_a0[i * d_ + b] += own;
    }
  }
  if (depth_ < 2) return;
  const LayerTile& next = layers_[1];
  double* grad_w1 = gradient + net_.layers()[1].weight;  // (h1, h0)
  for (Index k = 0; k < d_; ++k) {
    for (Index i = 0; i < h0; ++i) {
      column_[i] = layers_[0].w[i * layers_[0].e + k];
      column_sum_[i] = T(0);
    }
    for (Index j = 0; j < next.h; ++j) {
      T* __restrict slope = grad_t_ + (k * next.h + j) * h0p_;
      const T* weight = next.w + j * next.e;
      double* __restrict out = grad_w1 + j * h0;
      for (Index i = 0; i < h0; ++i) {
        out[i] += static_cast<double>(slope[i] * column_[i]);
        column_sum_[i] += slope[i] * weight[i];
        slope[i] = T(0);
      }
    }
    for (Index i = 0; i < h0; ++i) grad_a0[i * d_ + k] += static_cast<double>(column_sum_[i]);
  }
}

template <class T>
void TileNet<T>::flush_quadratic(double* gradient) {
  if (rank_ == 0) {
    double trace = 0;
    drain_lanes(&trace, grad_quadratic_);
    gradient[net_.alpha()] += trace / 2;
    return;
  }
  const T* factor = theta_ + net_.factor();
  for (Index c = 0; c < d_; ++c) {
    for (Index b = 0; b <= c; ++b) {
      double entry = 0;
      drain_lanes(&entry, grad_quadratic_ + triangle_index(b, c) * w);
      if (b == c) gradient[net_.alpha()] += entry / 2;
      for (Index r = 0; r < rank_; ++r) {
        gradient[net_.factor() + r * d_ + c] += static_cast<double>(factor[r * d_ + b]) * entry;
        if (b != c) gradient[net_.factor() + r * d_ + b] += static_cast<double>(factor[r * d_ + c]) * entry;
      }
    }
  }
}

template <class T>
void TileNet<T>::flush(double* gradient) {
  for (int l = 0; l < depth_; ++l) flush_layer(l, gradient);
  if (structured_) flush_structure(gradient);
  flush_quadratic(gradient);
  for (Index j = 0; j < layers_[depth_ - 1].h; ++j) {
    drain_lanes(gradient + net_.output_weight() + j, grad_output_ + j * w);
  }
  for (Index c = 0; c < d_; ++c) drain_lanes(gradient + net_.output_input() + c, grad_a_ + c * w);
  drain_lanes(gradient + net_.output_bias(), grad_b_);
}

}  // namespace brenier::cpu::BRENIER_ISA
