// SPDX-License-Identifier: MIT
// The network on a tile of 32 particles, one particle per lane; the warps of a block share the rows of a
// layer.
//
//   computes   map, Hessian, log-determinant, and the theta-gradient of the second-order jet
//   (kernels/ops.hpp), by the
//              collapsed streams of the reference: 1 base, K tangents, 1 second-order stream
//   layout     every quantity is a set of rows of 32 lanes, kRow apart; TilePlan says where
//   memory     the rows lie in shared memory where they fit, else in a slab of global memory for each block
//   launch     any number of whole warps; each stage ends with sync_block()
//
// Rows are dealt to warps by number alone, so that a (row, lane) element has one owner: stages that only
// touch elements they own need no barrier between them.
#pragma once

#include "kernels/cuda/net_view.hpp"
#include "kernels/runtime/device.hpp"

namespace brenier::cuda {

using namespace brenier::device;

/// sigma and its derivatives; d2 and d3 are functions of d1 = sigma'.
template <class T>
BRENIER_DEVICE void activate(Activation kind, T s, T& value, T& d1) {
  if (kind == Activation::softplus) {
    const T t = exp(-abs(s));
    const T p = T(1) / (T(1) + t);
    value = (s > T(0) ? s : T(0)) + log1p(t);
    d1 = s < T(0) ? t * p : p;
  } else {
    const T root = sqrt(s * s + T(4));
    const T big = (abs(s) + root) * T(0.5);
    value = s < T(0) ? T(1) / big : big;
    d1 = s < T(0) ? T(1) / (big * root) : big / root;
  }
}
template <class T>
BRENIER_DEVICE T second_derivative(Activation kind, T d1) {
  const T d2 = d1 * (T(1) - d1);
  return kind == Activation::softplus ? d2 : T(2) * d2 * sqrt(d2);
}
template <class T>
BRENIER_DEVICE T third_derivative(Activation kind, T d1) {
  const T d2 = d1 * (T(1) - d1);
  const T slope = T(1) - T(2) * d1;
  return kind == Activation::softplus ? d2 * slope : T(6) * d2 * d2 * slope;
}

template <class T>
class Tile {
 public:
  BRENIER_DEVICE Tile(const NetView& net, const TilePlan& plan, const T* theta, T* rows)
      : net_(net), plan_(plan), theta_(theta), rows_(rows), d_(net.dim) {}

  BRENIER_DEVICE T& at(int row) const { return rows_[row * kRow + lane()]; }

  /// f(i) for the rows i < count that this warp owns.
  template <class F>
  BRENIER_DEVICE static void for_rows(int count, const F& f) {
    for (int first = warp() * kRows; first < count; first += warp_count() * kRows) {
      for (int i = first; i < first + kRows && i < count; ++i) f(i);
    }
  }

  BRENIER_DEVICE void forward();
  BRENIER_DEVICE void adjoint();
  BRENIER_DEVICE void tangents();
  BRENIER_DEVICE void hessian();
  /// log det H of every lane, on warp 0 (NaN where H is not positive definite); where `inverse`, the metric
  /// rows become H^{-1}. Ends with a barrier.
  BRENIER_DEVICE void factorise(double* log_det, bool inverse);
  BRENIER_DEVICE T potential() const;
  BRENIER_DEVICE void hessian_vector();  // into the y rows
  BRENIER_DEVICE void second_order();
  BRENIER_DEVICE void reverse();
  /// partial (parameters) += the gradient of this tile.
  BRENIER_DEVICE void accumulate(T* partial);

 private:
  static constexpr int kRows = 4;  // of a layer, per warp at a time: each input is read once for all of them

  /// out(i, sum_k A(i, k) in(k)) for i < rows, A(i, k) = a[i * row_stride + k * col_stride].
  template <class In, class Out>
  BRENIER_DEVICE void product(int rows, int depth, const T* a, int row_stride, int col_stride, const In& in,
                              const Out& out) const {
    for (int first = warp() * kRows; first < rows; first += warp_count() * kRows) {
      const int count = rows - first < kRows ? rows - first : kRows;
      T sum[kRows] = {};
      for (int k = 0; k < depth; ++k) {
        const T x = in(k);
        BRENIER_UNROLL
        for (int i = 0; i < kRows; ++i) {
          if (i < count) sum[i] = fma(a[(first + i) * row_stride + k * col_stride], x, sum[i]);
        }
      }
      for (int i = 0; i < count; ++i) out(first + i, sum[i]);
    }
  }

  /// The input parts of row i of layer l: A_l direction + b_l * constant.
  BRENIER_DEVICE T input_part(int l, int i, int direction_row) const {
    const LayerView& layer = net_.layers[l];
    T sum = T(0);
    if (layer.input_weight < 0) return sum;
    for (int c = 0; c < d_; ++c)
      sum = fma(theta_[layer.input_weight + i * d_ + c], at(direction_row + c), sum);
    return sum;
  }
  /// The same for tangent k, whose direction may be a unit vector.
  BRENIER_DEVICE T input_part_tangent(int l, int i, int k) const {
    const LayerView& layer = net_.layers[l];
    if (plan_.directions != Directions::unit) return input_part(l, i, plan_.q + k * d_);
    return layer.input_weight < 0 ? T(0) : theta_[layer.input_weight + i * d_ + k];
  }
  /// J_l[k, i] at this lane.
  BRENIER_DEVICE T tangent(int l, int k, int i) const {
    if (l == 0 && plan_.directions == Directions::unit)
      return theta_[net_.layers[0].input_weight + i * d_ + k];
    return at(plan_.layers[l].j + k * net_.layers[l].width + i);
  }
  BRENIER_DEVICE T direction(int k, int c) const {
    if (plan_.directions == Directions::unit) return k == c ? T(1) : T(0);
    return at(plan_.q + k * d_ + c);
  }
  BRENIER_DEVICE T gamma(int l, int i) const {
    return at(plan_.layers[l].g + i) * second_derivative(net_.activation, at(plan_.layers[l].d1 + i));
  }
  BRENIER_DEVICE T quadratic(int a, int b) const {
    T sum = a == b ? theta_[net_.alpha] : T(0);
    for (int r = 0; r < net_.rank; ++r) {
      sum = fma(theta_[net_.factor + r * d_ + a], theta_[net_.factor + r * d_ + b], sum);
    }
    return sum;
  }
  /// sum_b M_kb J_b of row i.
  BRENIER_DEVICE T weighted_tangent(int l, int k, int i) const {
    if (plan_.directions == Directions::single) return tangent(l, k, i);
    if (plan_.directions == Directions::pairs) {
      return T(0.5) * tangent(l, (k + plan_.count) % plan_.tangents, i);
    }
    T sum = T(0);
    for (int b = 0; b < d_; ++b) sum = fma(at(plan_.metric + triangle_index(k, b)), tangent(l, b, i), sum);
    return sum;
  }
  BRENIER_DEVICE void reverse_tangents(int l);
  /// Adds sum over lanes of f(lane) to partial[k]; elements of one call go to all threads of the block.
  template <class F>
  BRENIER_DEVICE static void sum_lanes(T* partial, int count, const F& f) {
    for (int e = thread_index(); e < count; e += block_size()) {
      T sum = T(0);
      for (int lane = 0; lane < 32; ++lane) sum += f(e, lane);
      partial[e] += sum;
    }
  }

  const NetView& net_;
  const TilePlan& plan_;
  const T* theta_;
  T* rows_;
  int d_;
};

template <class T>
BRENIER_DEVICE void Tile<T>::forward() {
  for (int l = 0; l < net_.depth; ++l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& to = plan_.layers[l];
    const int z_before = l > 0 ? plan_.layers[l - 1].z : 0;
    product(
        layer.width, layer.before, theta_ + layer.weight, layer.before, 1,
        [&](int k) { return at(z_before + k); },
        [&](int i, T s) {
          s += input_part(l, i, plan_.x) + theta_[layer.bias + i];
          if (layer.skip >= 0) s = fma(theta_[layer.scale + i], at(plan_.layers[layer.skip].z + i), s);
          activate(net_.activation, s, at(to.z + i), at(to.d1 + i));
        });
    sync_block();
  }
}

template <class T>
BRENIER_DEVICE void Tile<T>::adjoint() {
  product(
      net_.rank, d_, theta_ + net_.factor, d_, 1, [&](int c) { return at(plan_.x + c); },
      [&](int r, T sum) { at(plan_.projection + r) = sum; });
  const LayerRows& last = plan_.layers[net_.depth - 1];
  for_rows(net_.layers[net_.depth - 1].width,
           [&](int i) { at(last.g + i) = theta_[net_.output_weight + i]; });
  sync_block();
  product(
      d_, net_.rank, theta_ + net_.factor, 1, d_, [&](int r) { return at(plan_.projection + r); },
      [&](int c, T sum) {
        at(plan_.displacement + c) =
            sum + theta_[net_.output_input + c] + (theta_[net_.alpha] - T(1)) * at(plan_.x + c);
      });
  for (int l = net_.depth - 1; l >= 0; --l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& rows = plan_.layers[l];
    for_rows(layer.width, [&](int i) {
      if (layer.skip_user >= 0) {
        const LayerView& user = net_.layers[layer.skip_user];
        at(rows.g + i) =
            fma(theta_[user.scale + i], at(plan_.layers[layer.skip_user].beta + i), at(rows.g + i));
      }
      at(rows.beta + i) = at(rows.g + i) * at(rows.d1 + i);
    });
    sync_block();
    const auto beta = [&](int k) { return at(rows.beta + k); };
    if (l > 0) {
      product(layer.before, layer.width, theta_ + layer.weight, 1, layer.before, beta,
              [&](int i, T sum) { at(plan_.layers[l - 1].g + i) = sum; });
    }
    if (layer.input_weight >= 0) {
      product(d_, layer.width, theta_ + layer.input_weight, 1, d_, beta,
              [&](int c, T sum) { at(plan_.displacement + c) += sum; });
    }
  }
  sync_block();
}

template <class T>
BRENIER_DEVICE void Tile<T>::tangents() {
  for (int l = 0; l < net_.depth; ++l) {
    const LayerView& layer = net_.layers[l];
    if (l == 0 && plan_.directions == Directions::unit) continue;
    for (int k = 0; k < plan_.tangents; ++k) {
      product(
          layer.width, layer.before, theta_ + layer.weight, layer.before, 1,
          [&](int i) { return at(plan_.layers[l - 1].d1 + i) * tangent(l - 1, k, i); },
          [&](int i, T sum) {
            sum += input_part_tangent(l, i, k);
            if (layer.skip >= 0) {
              const T skipped = at(plan_.layers[layer.skip].d1 + i) * tangent(layer.skip, k, i);
              sum = fma(theta_[layer.scale + i], skipped, sum);
            }
            at(plan_.layers[l].j + k * layer.width + i) = sum;
          });
    }
    sync_block();
  }
}

template <class T>
BRENIER_DEVICE void Tile<T>::hessian() {
  for (int b = 0; b < d_; ++b) {
    for_rows(b + 1, [&](int a) {
      T sum = quadratic(a, b);
      for (int l = 0; l < net_.depth; ++l) {
        for (int i = 0; i < net_.layers[l].width; ++i)
          sum = fma(gamma(l, i) * tangent(l, a, i), tangent(l, b, i), sum);
      }
      at(plan_.hessian + triangle_index(a, b)) = sum;
    });
  }
  sync_block();
}

template <class T>
BRENIER_DEVICE void Tile<T>::factorise(double* log_det, bool inverse) {
  if (warp() == 0) {
    double* factor = reinterpret_cast<double*>(rows_ + plan_.factor * kRow);
    const auto low = [&](int i, int j) -> double& { return factor[triangle_index(j, i) * kRow + lane()]; };
    double sum = 0;
    for (int i = 0; i < d_; ++i) {  // H = L L^T by rows; the diagonal of L is kept as its reciprocal
      for (int j = 0; j <= i; ++j) {
        double entry = static_cast<double>(at(plan_.hessian + triangle_index(j, i)));
        for (int k = 0; k < j; ++k) entry -= low(i, k) * low(j, k);
        if (j < i) {
          low(i, j) = entry * low(j, j);
        } else {
          sum += log(entry);
          low(i, i) = 1.0 / sqrt(entry);
        }
      }
    }
    *log_det = sum;
    for (int j = 0; inverse && j < d_; ++j) {  // L^{-1} in place, column by column
      for (int i = j + 1; i < d_; ++i) {
        double entry = 0;
        for (int k = j; k < i; ++k) entry -= low(i, k) * low(k, j);
        low(i, j) = entry * low(i, i);
      }
    }
    for (int b = 0; inverse && b < d_; ++b) {  // H^{-1} = L^{-T} L^{-1}
      for (int a = 0; a <= b; ++a) {
        double entry = 0;
        for (int k = b; k < d_; ++k) entry += low(k, a) * low(k, b);
        at(plan_.metric + triangle_index(a, b)) = static_cast<T>(entry);
      }
    }
  }
  sync_block();
}

template <class T>
BRENIER_DEVICE T Tile<T>::potential() const {
  T u = theta_[net_.output_bias];
  for (int i = 0; i < net_.layers[net_.depth - 1].width; ++i) {
    u = fma(theta_[net_.output_weight + i], at(plan_.layers[net_.depth - 1].z + i), u);
  }
  for (int c = 0; c < d_; ++c) {
    T slope = theta_[net_.alpha] * at(plan_.x + c);
    for (int r = 0; r < net_.rank; ++r) {
      slope = fma(theta_[net_.factor + r * d_ + c], at(plan_.projection + r), slope);
    }
    u = fma(theta_[net_.output_input + c] + T(0.5) * slope, at(plan_.x + c), u);
  }
  return u;
}

}  // namespace brenier::cuda

#include "kernels/cuda/tile_reverse.hpp"
