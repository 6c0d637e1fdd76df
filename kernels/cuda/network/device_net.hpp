// SPDX-License-Identifier: MIT
// A network on the device, and the choice of the kernels that work on it.
#pragma once

#include <memory>

#include "kernels/cuda/layered/layered.hpp"
#include "kernels/cuda/network/tile_kernels.hpp"
#include "kernels/cuda/network/variants.hpp"
#include "kernels/cuda/transfer.hpp"

namespace brenier::cuda {

/// Which kernels are used: tiles of 8 particles spread a small cloud over the device, tiles of 32 read each
/// parameter less often; what does not fit the shared memory of a block goes layer by layer. How much that is
/// depends on the device, and so may the choice, and with it the order of sums: the same device gives the
/// same bits, another one perhaps not.
enum class Tiling { small, large, layered };

/// Whether products by `Policy` are formed in tiles at all.
template <class Policy>
inline constexpr bool kTiled = !std::is_same_v<Policy, Cublas>;

/// f(form) with the TileForm of a tiling; nothing for the layered one, which has none.
template <class T, class Policy, class F>
void with_form(Tiling tiling, const F& f) {
  if constexpr (kTiled<Policy>) {
    if (tiling == Tiling::small) f(TileForm<T, Policy, 8>{});
    if (tiling == Tiling::large) f(TileForm<T, Policy, 32>{});
  }
}

/// Network, plan and parameters on the device, and how tile kernels are launched for them.
template <class T, class Policy>
class DeviceNet {
 public:
  DeviceNet(const Icnn& net, const T* theta, Index particles, const TileTask& task, Stream& stream)
      : stream_(stream), net_(net), plan_(net_.view(), task, 8) {
    tiling_ = !kTiled<Policy> ? Tiling::layered : particles <= kSmallCloud ? Tiling::small : Tiling::large;
    const std::size_t most = kTiled<Policy> ? most_shared_bytes() : 0;
    while (tiling_ != Tiling::layered && !plan(tiling_, task, most)) {
      tiling_ = tiling_ == Tiling::large ? Tiling::small : Tiling::layered;
    }
    with_form<T, Policy>(tiling_, [&](auto form) {
      using Form = decltype(form);
      const Index tiles = (particles + Form::kParticles - 1) / Form::kParticles;
      // The number of blocks fixes the order of sums: it depends on problem and tiling, not on the size of
      // the device.
      grid_ = static_cast<int>(std::clamp<Index>(tiles, 1, kMaxBlocks));
      shared_bytes_ = tile_bytes<Form>(net_.view(), plan_);
    });
    if (tiling_ == Tiling::layered) {
      layered_ = layered_net<T>(net_.view(), task, particles);
      plan_ = layered_->plan();
    }
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
    return out;
  }
  DeviceBuffer<T>& theta() { return theta_; }
  const PackedNet& net() const { return net_; }
  /// How many parts the sums over particles have.
  int grid() const { return grid_; }
  int packed() const { return net_.view().packed; }
  bool layered() const { return layered_ != nullptr; }
  /// tiled(form) launches tile kernels, layered(net) what takes their place where no tile fits.
  template <class Tiled, class Layered>
  void run(const Tiled& tiled, const Layered& layered) {
    if (layered_) return layered(*layered_);
    with_form<T, Policy>(tiling_, tiled);
  }
  Launch shape(const char* name) const { return {grid_, kTileThreads, shared_bytes_, stream_, name}; }

 private:
  static constexpr Index kSmallCloud = 4096;
  static constexpr int kMaxBlocks = 264;  // two for each multiprocessor of a large device

  /// Plans the tile; whether it takes at most `most` bytes.
  bool plan(Tiling tiling, const TileTask& task, std::size_t most) {
    bool fits = false;
    with_form<T, Policy>(tiling, [&](auto form) {
      using Form = decltype(form);
      plan_ = TilePlan(net_.view(), task, Form::kParticles);
      fits = tile_bytes<Form>(net_.view(), plan_) <= most;
    });
    return fits;
  }

  Stream& stream_;
  PackedNet net_;
  TilePlan plan_;
  Tiling tiling_;
  DeviceBuffer<T> theta_;
  std::unique_ptr<LayeredNet<T>> layered_;
  int grid_ = 1;
  std::size_t shared_bytes_ = 0;
};

}  // namespace brenier::cuda
