// SPDX-License-Identifier: MIT
// Kernels for networks that have no room in a block's shared memory: what stands between the products of
// whole matrices, which cuBLAS forms (kernels/cuda/layered/layered.hpp).
//
//   computes   the stages of Tile on a chunk of thousands of particles, element by element; formulas:
//              kernels/cuda/network/elements.hpp
//   layout     rows of a chunk lie in global memory without gaps. Where a product has written its part of an
//              element, the stage that follows completes it in place
//   launch     kLayeredThreads threads; a block takes kLayeredThreads particles of one unit at a time
//   stop       under the control of an inner loop that has stopped, every kernel does nothing
#pragma once

#include "kernels/cuda/step/step_kernel.hpp"

namespace brenier::cuda {

inline constexpr int kLayeredThreads = 128;
/// Blocks that registers are kept for on a multiprocessor.
template <class Stage>
inline constexpr int kLayeredBlocks = 8;

template <class T>
struct LayeredArgs {
  const NetView* net = nullptr;  // on the device, as
  const TilePlan* plan = nullptr;
  StepArgs<T> step;          // beyond step.tile and step.control: what an inner loop sets
  const T* theta = nullptr;  // (sets, packed)
  T* current = nullptr;      // the set that is current, which step.tile.theta is as well
  int begin = 0;             // first particle of the chunk
  int particles = 0;         // of the chunk, with padding
  T* rows = nullptr;         // (plan.rows, particles)
  double* doubles = nullptr;
};

template <class T>
class Chunk : public Elements<T, ChunkRows<T>> {
 public:
  BRENIER_DEVICE explicit Chunk(const LayeredArgs<T>& args)
      : Elements<T, ChunkRows<T>>(*args.net, *args.plan, args.step.tile.theta,
                                  ChunkRows<T>{args.rows, args.particles}, args.doubles),
        particles_(args.particles) {}

  /// f(i, p) for i < count and all particles, dealt to the threads of the grid.
  template <class F>
  BRENIER_DEVICE void for_each(int count, const F& f) const {
    const int across = (particles_ + block_size() - 1) / block_size();
    for (int job = block_index(); job < count * across; job += grid_size()) {
      const int p = job % across * block_size() + thread_index();
      if (p < particles_) f(job / across, p);
    }
  }
  /// The row of unit i of tangent k in the streams from `first` on.
  BRENIER_DEVICE T& stream_at(int first, int l, int k, int i, int p) const {
    return this->at(first + this->stream(l, k, i), p);
  }

 private:
  int particles_;
};

template <class T, class Stage>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kLayeredThreads, kLayeredBlocks<Stage>) void layered_kernel(
    BRENIER_ARGUMENT LayeredArgs<T> args, Stage stage) {
  if (args.step.control && args.step.control->stop) return;  // all threads alike
  stage(Chunk<T>(args), args);
}

namespace layered {

/// The parameters of the iteration, where products find them; sums from 0 on.
struct Start {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    const int packed = chunk.net().packed;
    const int current = args.step.control ? args.step.control->current : 0;
    for (int e = block_index() * block_size() + thread_index(); e < packed; e += grid_size() * block_size()) {
      args.current[e] = args.theta[Index{current} * packed + e];
      if (args.step.tile.partial) args.step.tile.partial[e] = T(0);
    }
  }
};

struct GatherCloud {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    const TileArgs<T>& tile = args.step.tile;
    gather_cloud(chunk, tile, args.begin);
    if (tile.product)
      gather(chunk, chunk.plan().q, tile.q, tile.n, args.begin, chunk.net().dim, 0, chunk.net().dim, false);
  }
};

struct GatherSeeds {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    gather_cloud(chunk, args.step.tile, args.begin);
    gather_seeds(chunk, args.step.tile, args.begin);
  }
};

struct GatherBatch {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    gather_batch(chunk, args.step, args.begin);
  }
};

/// The first `tangents` tangents of unit i of layer l, after W sigma' J; and sigma' times each of them, for
/// the layer after it.
template <class T>
BRENIER_DEVICE void finish_tangents(const Chunk<T>& chunk, int l, int tangents, int i, int p) {
  const LayerRows rows = chunk.plan().layers[l];
  const T d1 = chunk.at(rows.d1 + i, p);
  for (int k = 0; k < tangents; ++k) {
    if (!chunk.constant_tangents(l)) {
      chunk.finish_tangent(l, k, i, p, l > 0 ? chunk.stream_at(rows.j, l, k, i, p) : T(0));
    }
    if (l + 1 < chunk.net().depth) chunk.stream_at(rows.t, l, k, i, p) = d1 * chunk.tangent(l, k, i, p);
  }
}

/// After s = W z and, with `tangents`, W sigma' J.
struct Forward {
  int l, tangents;
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>&) const {
    const LayerRows rows = chunk.plan().layers[l];
    const bool last = l + 1 == chunk.net().depth;
    if (l == 0) {
      chunk.for_each(chunk.net().rank, [&](int r, int p) { chunk.project(chunk.plan().x, r, p); });
    }
    chunk.for_each(chunk.net().layers[l].width, [&](int i, int p) {
      chunk.finish_values(l, i, p, l > 0 ? chunk.at(rows.z + i, p) : T(0));
      finish_tangents(chunk, l, tangents, i, p);
      if (last) chunk.at(rows.beta + i, p) = chunk.beta(l, i, p);
    });
  }
};

/// The tangents alone, after W sigma' J.
struct Tangents {
  int l;
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>&) const {
    chunk.for_each(chunk.net().layers[l].width,
                   [&](int i, int p) { finish_tangents(chunk, l, chunk.plan().tangents, i, p); });
  }
};

/// After g = W^T beta of layer l + 1.
struct Adjoint {
  int l;
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>&) const {
    const LayerRows rows = chunk.plan().layers[l];
    chunk.for_each(chunk.net().layers[l].width, [&](int i, int p) {
      chunk.finish_adjoint(l, i, p, chunk.at(rows.g + i, p));
      chunk.at(rows.beta + i, p) = chunk.beta(l, i, p);
    });
  }
};

/// After sum_l A_l^T beta_l; with `image`, also the images of the batch.
struct Displace {
  bool image;
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    const int d = chunk.net().dim;
    chunk.for_each(d, [&](int c, int p) {
      chunk.finish_displacement(c, p, chunk.at(chunk.plan().displacement + c, p));
      if (image && args.begin + p < args.step.tile.n) {
        args.step.image[Index{args.begin + p} * d + c] = image_of(chunk, args.step, args.begin, c, p);
      }
    });
  }
};

/// The factor of H alone, for log det H.
struct Factorise {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>&) const {
    chunk.factorise(
        false, [](int, double) { return 0.0; }, block_index() * block_size() + thread_index(),
        grid_size() * block_size());
  }
};

struct ScatterMap {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    scatter_map(chunk, args.step.tile, args.begin);
  }
};

template <class T>
struct AddDisplacement {
  T factor;
  T* to;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    add_displacement(chunk, args.step.tile, args.begin, factor, to);
  }
};

struct StartAdjointTangent {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>&) const {
    const int last = chunk.net().depth - 1;
    chunk.for_each(chunk.net().rank, [&](int r, int p) { chunk.project(chunk.plan().q, r, p); });
    chunk.for_each(chunk.net().layers[last].width,
                   [&](int i, int p) { chunk.start_adjoint_tangent(last, i, p); });
  }
};

/// After W^T beta' of layer l + 1, which lies in the s_bar rows.
struct AdjointTangent {
  int l;
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>&) const {
    chunk.for_each(chunk.net().layers[l].width, [&](int i, int p) {
      chunk.finish_adjoint_tangent(l, i, p, chunk.at(chunk.plan().layers[l].s_bar + i, p));
    });
  }
};

/// After sum_l A_l^T beta'_l.
struct HessianVector {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    const TileArgs<T>& tile = args.step.tile;
    const int d = chunk.net().dim;
    chunk.for_each(d, [&](int c, int p) {
      chunk.finish_hessian_vector(c, p, chunk.at(chunk.plan().y + c, p));
      if (tile.product && args.begin + p < tile.n)
        tile.product[Index{args.begin + p} * d + c] = chunk.at(chunk.plan().y + c, p);
    });
  }
};

/// First-order seeds of the objective.
struct Seeds {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    chunk.for_each(1, [&](int, int p) { first_order_seeds(chunk, args.step, args.begin, p); });
  }
};

/// Second-order seeds: M from H^{-1} and the internal energies.
struct Metric {
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    chunk.factorise(
        true,
        [&](int p, double log_det) { return internal_weight(chunk, args.step, args.begin + p, p, log_det); },
        block_index() * block_size() + thread_index(), grid_size() * block_size());
  }
};

/// After W z2.
struct SecondOrder {
  int l;
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>&) const {
    chunk.for_each(chunk.net().layers[l].width, [&](int i, int p) {
      const T r = chunk.weigh_tangents(l, i, p);
      chunk.finish_second_order(l, i, p, l > 0 ? chunk.at(chunk.plan().layers[l].z2 + i, p) : T(0), r);
    });
  }
};

/// After W^T j_bar (in the t rows) and W^T s_bar (in the scratch rows) of layer l + 1.
struct Reverse {
  int l;
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>&) const {
    const int t = chunk.plan().layers[l].t;
    chunk.for_each(chunk.net().layers[l].width, [&](int i, int p) {
      T paired = T(0);
      for (int k = 0; k < chunk.plan().tangents; ++k) {
        chunk.reverse_tangent(l, k, i, p, chunk.stream_at(t, l, k, i, p), paired);
      }
      chunk.reverse_values(l, i, p, chunk.at(chunk.plan().scratch + i, p), paired);
    });
  }
};

}  // namespace layered

// Programs and factors keep much in registers.
template <>
inline constexpr int kLayeredBlocks<layered::Seeds> = 4;
template <>
inline constexpr int kLayeredBlocks<layered::Metric> = 4;

inline constexpr int kHessianThreads = 256;
inline constexpr int kHessianBlock = 4;  // columns and rows of H that a thread has at a time

template <class T>
struct HessianShared {
  Array<T, kHessianThreads * kHessianBlock * kHessianBlock> part;
};

/// Hessians of 32 particles a block: warps share the units of all layers.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kHessianThreads,
                                     2) void layered_hessian_kernel(BRENIER_ARGUMENT LayeredArgs<T> args) {
  HessianShared<T>& shared = shared_storage<HessianShared<T>>();
  if (args.step.control && args.step.control->stop) return;  // all threads alike
  const Chunk<T> chunk(args);
  const NetView& net = chunk.net();
  constexpr int kSize = kHessianBlock * kHessianBlock;
  const int p = block_index() * 32 + lane();
  for (int column = 0; column < net.dim; column += kHessianBlock) {
    for (int first = 0; first <= column; first += kHessianBlock) {
      T sum[kHessianBlock][kHessianBlock] = {};
      for (int l = 0; l < net.depth; ++l) {
        for (int i = warp(); i < net.layers[l].width; i += warp_count()) {
          chunk.add_curvature(l, i, p, column, first, sum);
        }
      }
      BRENIER_UNROLL
      for (int e = 0; e < kSize; ++e) {
        shared.part[(warp() * kSize + e) * 32 + lane()] = sum[e / kHessianBlock][e % kHessianBlock];
      }
      sync_block();
      for (int e = warp(); e < kSize; e += warp_count()) {
        const int b = column + e / kHessianBlock, a = first + e % kHessianBlock;
        if (b >= net.dim || a > b) continue;
        T total = T(0);
        for (int w = 0; w < warp_count(); ++w) total += shared.part[(w * kSize + e) * 32 + lane()];
        chunk.at(chunk.plan().metric + triangle_index(a, b), p) = total;
        chunk.at(chunk.plan().curvature + triangle_index(a, b), p) = chunk.quadratic(a, b);
      }
      sync_block();
    }
  }
}

struct SumsShared {
  BlockScratch<double> scratch;
};

/// The gradients that are no products of matrices: sums of rows, one block a parameter.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kLayeredThreads) void layered_sums_kernel(
    BRENIER_ARGUMENT LayeredArgs<T> args) {
  SumsShared& shared = shared_storage<SumsShared>();
  if (args.step.control && args.step.control->stop) return;  // all threads alike
  const Chunk<T> chunk(args);
  const TilePlan& plan = chunk.plan();
  int turn = 0;
  const auto add = [&](int first, int count, const auto& f) {
    const int start = (block_index() + grid_size() - turn) % grid_size();
    for (int e = start; e < count; e += grid_size()) {
      T sum = T(0);
      for (int p = thread_index(); p < args.particles; p += block_size()) sum += f(e, p);
      const double total = block_reduce_sum(static_cast<double>(sum), shared.scratch);
      if (thread_index() == 0) args.step.tile.partial[first + e] += static_cast<T>(total);
    }
    turn = (turn + count) % grid_size();
  };
  for (int l = 0; l < chunk.net().depth; ++l) {
    const LayerView& layer = chunk.net().layers[l];
    const LayerRows rows = plan.layers[l];
    add(layer.bias, layer.width, [&](int i, int p) { return chunk.at(rows.s_bar + i, p); });
    // Tangents of unit vectors: column k of A_l gets the adjoint of tangent k, and lies like its rows.
    if (plan.directions != Directions::unit || layer.input_weight < 0) continue;
    add(layer.input_weight, layer.width * chunk.net().dim,
        [&](int e, int p) { return chunk.at(rows.j_bar + e, p); });
  }
  chunk.add_small_sums(add);
}

}  // namespace brenier::cuda
