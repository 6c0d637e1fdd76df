// SPDX-License-Identifier: MIT
// A network on the device, and the choice of the tile kernels that work on it.
#pragma once

#include "kernels/cuda/tile_kernels.hpp"
#include "kernels/cuda/transfer.hpp"

namespace brenier::cuda {

/// Which tile kernels are used: tiles of 8 particles spread a small cloud over the device, tiles of 32 read
/// each parameter less often; the last form is for what does not fit the shared memory of a block.
enum class Tiling { small, large, global };

/// f(form) with the TileForm of a tiling.
template <class T, class Policy, class F>
void with_form(Tiling tiling, const F& f) {
  switch (tiling) {
    case Tiling::small:
      return f(TileForm<T, Policy, 8, true>{});
    case Tiling::large:
      return f(TileForm<T, Policy, 32, true>{});
    case Tiling::global:
      return f(TileForm<T, Policy, 32, false>{});
  }
}

/// Network, plan and parameters on the device, and how tile kernels are launched for them.
template <class T, class Policy>
class DeviceNet {
 public:
  DeviceNet(const Icnn& net, const T* theta, Index particles, const TileTask& task, Stream& stream)
      : stream_(stream), net_(net), plan_(net_.view(), task, 8) {
    tiling_ = particles <= kSmallCloud ? Tiling::small : Tiling::large;
    while (!plan(tiling_, task)) tiling_ = tiling_ == Tiling::large ? Tiling::small : Tiling::global;
    with_form<T, Policy>(tiling_, [&](auto form) {
      using Form = decltype(form);
      const Index tiles = (particles + Form::kParticles - 1) / Form::kParticles;
      // The number of blocks fixes the order of sums: it depends on the problem, not on the device.
      grid_ = static_cast<int>(std::clamp<Index>(tiles, 1, kMaxBlocks));
      const std::size_t bytes = tile_bytes<Form>(net_.view(), plan_);
      if (Form::kShared) {
        shared_bytes_ = bytes;
      } else {
        slab_doubles_ = static_cast<Index>((bytes + 255) / 256 * 256 / sizeof(double));
        slab_ = DeviceBuffer<double>(grid_ * slab_doubles_);
      }
    });
    // Two sets, see update.hpp; operations without an inner loop use the first.
    theta_ = DeviceBuffer<T>(2 * net_.size());
    const std::vector<T> packed = net_.pack(theta);
    std::vector<T> sets = packed;
    sets.insert(sets.end(), packed.begin(), packed.end());
    theta_.copy_to_device(sets, stream);
  }

  TileArgs<T> args(const T* x, int n) {
    TileArgs<T> out{.net = net_.view(), .plan = plan_};
    out.theta = raw(theta_);
    out.x = x;
    out.n = n;
    out.slab = slab_.size() > 0 ? raw(slab_) : nullptr;
    out.slab_doubles = slab_doubles_;
    return out;
  }
  DeviceBuffer<T>& theta() { return theta_; }
  const PackedNet& net() const { return net_; }
  int grid() const { return grid_; }
  int packed() const { return net_.view().packed; }
  Tiling tiling() const { return tiling_; }
  Launch shape(const char* name) const { return {grid_, kTileThreads, shared_bytes_, stream_, name}; }

 private:
  static constexpr Index kSmallCloud = 4096;
  static constexpr int kMaxBlocks = 264;                   // two for each multiprocessor of a large device
  static constexpr std::size_t kSharedBytes = 227 * 1024;  // of a block, compute capability 9.0

  /// Plans the tile; whether it fits.
  bool plan(Tiling tiling, const TileTask& task) {
    bool fits = false;
    with_form<T, Policy>(tiling, [&](auto form) {
      using Form = decltype(form);
      plan_ = TilePlan(net_.view(), task, Form::kParticles);
      fits = !Form::kShared || tile_bytes<Form>(net_.view(), plan_) <= kSharedBytes;
    });
    return fits;
  }

  Stream& stream_;
  PackedNet net_;
  TilePlan plan_;
  Tiling tiling_;
  DeviceBuffer<T> theta_;
  DeviceBuffer<double> slab_;
  Index slab_doubles_ = 0;
  int grid_ = 1;
  std::size_t shared_bytes_ = 0;
};

}  // namespace brenier::cuda
