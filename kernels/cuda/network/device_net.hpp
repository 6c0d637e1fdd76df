// SPDX-License-Identifier: MIT
// A network on the device, and the choice of the kernels that work on it.
#pragma once

#include <memory>
#include <tuple>
#include <utility>

#include "kernels/cuda/layered/layered.hpp"
#include "kernels/cuda/network/parameters.hpp"
#include "kernels/cuda/network/tile_memory.hpp"
#include "kernels/cuda/network/variants.hpp"
#include "kernels/cuda/transfer.hpp"

namespace brenier::cuda {

/// Which kernels are used: tiles of 8 particles spread a small cloud over the device, tiles of 32 read each
/// parameter less often; what does not fit the shared memory of a block goes layer by layer. A multiprocessor
/// is to have two blocks, so that one computes while the other waits: where two tiles of 32 are too large, steps
/// have tiles of 16. How much memory there is depends on the device, and so may the choice, and with it the
/// order of sums: the same device gives the same bits, another one perhaps not.
enum class Tiling { small, medium, large, layered };

/// Whether products by `Policy` are formed in tiles at all.
template <class Policy>
inline constexpr bool kTiled = !std::is_same_v<Policy, Cublas>;
/// Whether there are tiles of 16: not in double, where two of them are too large as well.
template <class Policy>
inline constexpr bool kHasMedium = std::is_same_v<Policy, Tf32x3>;

/// What kernels are asked for: each kind of tile that they may have is a kernel more to compile.
enum class Kernels { of_operations, of_steps };

/// f(form) with the TileForm of a tiling; nothing for the layered one, which has none.
template <class T, class Policy, Kernels kKernels, class F>
void with_form(Tiling tiling, const F& f) {
  if constexpr (kTiled<Policy>) {
    if (tiling == Tiling::small) f(TileForm<T, Policy, 8>{});
    if (tiling == Tiling::large) f(TileForm<T, Policy, 32>{});
  }
  if constexpr (kHasMedium<Policy> && kKernels == Kernels::of_steps) {
    if (tiling == Tiling::medium) f(TileForm<T, Policy, 16>{});
  }
}

/// The tiling for a task on a cloud, with its plan.
template <class T, class Policy>
std::pair<Tiling, TilePlan> choose_tiling(const NetView& net, const TileTask& task, Index particles) {
  constexpr Index kSmallCloud = 4096;
  TilePlan plan(net, task, 8);
  // Whether `blocks` of a multiprocessor have room.
  const auto fits = [&](Tiling tiling, int blocks) {
    bool found = false;
    with_form<T, Policy, Kernels::of_steps>(tiling, [&](auto form) {
      using Form = decltype(form);
      plan = TilePlan(net, task, Form::kParticles);
      found = tile_bytes<Form>(net, plan) <= (blocks > 1 ? most_shared_bytes(blocks) : most_shared_bytes());
    });
    return found;
  };
  if (kTiled<Policy> && net.depth <= kTileLayers) {
    if (particles > kSmallCloud) {
      if (fits(Tiling::large, 2)) return {Tiling::large, plan};
      if (task.step && fits(Tiling::medium, 2)) return {Tiling::medium, plan};
      if (fits(Tiling::large, 1)) return {Tiling::large, plan};
    }
    if (fits(Tiling::small, 1)) return {Tiling::small, plan};
  }
  return {Tiling::layered, plan};
}

/// Network, plan and parameters on the device, and how tile kernels are launched for them.
template <class T, class Policy>
class DeviceNet {
 public:
  DeviceNet(const Icnn& net, const NetParameters<T>& theta, Index particles, const TileTask& task,
            Stream& stream)
      : stream_(stream), net_(net), plan_(net_.view(), task, 8) {
    std::tie(tiling_, plan_) = choose_tiling<T, Policy>(net_.view(), task, particles);
    with_form<T, Policy, Kernels::of_steps>(tiling_, [&](auto form) {
      using Form = decltype(form);
      const Index tiles = (particles + Form::kParticles - 1) / Form::kParticles;
      // The number of blocks fixes the order of sums: it depends on problem and tiling, not on the size of
      // the device.
      grid_ = static_cast<int>(std::clamp<Index>(tiles, 1, kMaxBlocks));
      shared_bytes_ = tile_bytes<Form>(net_.view(), plan_);
      tile_ = Form::kParticles;
    });
    if (tiling_ == Tiling::layered) {
      layered_ = layered_net<T>(net_.view(), task, particles, stream);
      plan_ = layered_->plan();
    }
    there_ = theta.packed;
    if (there_) return;
    // Two sets, see update.hpp; operations without an inner loop use the first.
    theta_ = DeviceBuffer<T>(2 * net_.size());
    there_ = raw(theta_);
    if (theta.known) {
      copy_on_device(theta_.pointer(), theta.known->find(theta.host, stream), net_.size(), stream);
    } else {
      set_theta(theta.host);
    }
    const DeviceBuffer<T>& first = theta_;
    copy_on_device(theta_.pointer(net_.size()), first.pointer(), net_.size(), stream);
  }

  TileArgs<T> args(const T* x, int n) {
    TileArgs<T> out{.net = for_tile(net_.view()), .plan = for_tile(plan_)};
    out.theta = there_;
    out.x = x;
    out.n = n;
    out.blocks = grid_;
    return out;
  }
  DeviceBuffer<T>& theta() { return theta_; }
  /// Other parameters, for operations without an inner loop.
  void set_theta(const T* theta) {
    const std::vector<T> packed = net_.pack(theta);
    copy_to_device(theta_.pointer(), std::span<const T>(packed), stream_);
  }
  const PackedNet& net() const { return net_; }
  /// How many parts the sums over particles have.
  int grid() const { return grid_; }
  /// Particles of a tile; 0 where there are none.
  int tile() const { return tile_; }
  int packed() const { return net_.view().packed; }
  bool layered() const { return layered_ != nullptr; }
  /// tiled(form) launches tile kernels, layered(net) what takes their place where no tile fits. Kernels of
  /// steps: those of a task that says so.
  template <Kernels kKernels = Kernels::of_operations, class Tiled, class Layered>
  void run(const Tiled& tiled, const Layered& layered) {
    if (layered_) return layered(*layered_);
    with_form<T, Policy, kKernels>(tiling_, tiled);
  }
  Launch shape(const char* name) const { return shape(name, grid_); }
  Launch shape(const char* name, int blocks) const {
    return {blocks, kTileThreads, shared_bytes_, stream_, name};
  }

 private:
  static constexpr int kMaxBlocks = 264;  // two for each multiprocessor of a large device

  Stream& stream_;
  PackedNet net_;
  TilePlan plan_;
  Tiling tiling_;
  DeviceBuffer<T> theta_;
  const T* there_ = nullptr;  // its address, or that of somebody else's
  std::unique_ptr<LayeredNet<T>> layered_;
  int grid_ = 1, tile_ = 0;
  std::size_t shared_bytes_ = 0;
};

}  // namespace brenier::cuda
