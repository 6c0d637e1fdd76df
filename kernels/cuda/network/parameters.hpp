// SPDX-License-Identifier: MIT
// Parameters of a network that a device knows, and what it makes of them itself: bounds and lengths for a search, the map in
// physical coordinates.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/cuda/network/net_view.hpp"
#include "kernels/cuda/transfer.hpp"
#include "kernels/resident_cloud.hpp"

namespace brenier::cuda {

/// One tensor among packed parameters: rows ld apart.
struct TensorView {
  int first, rows, cols, ld;
  double lower, rate;
};

/// Where a packed parameter may go.
template <class T>
struct BoundsArgs {
  const TensorView* tensors = nullptr;
  int count = 0, packed = 0;
  // (packed), each or null; gaps between parameters have the bound -inf, the rate 0 and the metric 0.
  T *lower = nullptr, *rate = nullptr;
  const T* start = nullptr;  // for the metric: squared_length()
  double* metric = nullptr;
};

/// Launches what fills them in.
template <class T>
void launch_bounds(const BoundsArgs<T>& args, Stream& stream);

/// The tensors of a network on the device.
class DeviceTensors {
 public:
  DeviceTensors(const Icnn& net, const PackedNet& packed, Stream& stream);
  template <class T>
  BoundsArgs<T> bounds() {
    BoundsArgs<T> args;
    args.tensors = raw(tensors_);
    args.count = as_int(tensors_.size());
    args.packed = packed_;
    return args;
  }

 private:
  DeviceBuffer<TensorView> tensors_;
  int packed_;
};

/// Packed parameters of a map.
struct DeviceMapParameters final : ResidentMap {
  DeviceMapParameters(const Icnn& of, Index size) : net(of), theta(size, "parameters of a map") {}
  const Icnn& net;
  DeviceBuffer<double> theta;  // (packed), and behind them what the device needed to make them
};

template <class T>
class DeviceParameters final : public ResidentParameters<T> {
 public:
  explicit DeviceParameters(const Icnn& net);

  std::shared_ptr<const ResidentMap> map(const std::vector<T>& theta, const std::vector<double>& shift,
                                         double scale) override;
  /// theta (net.parameters()) on the device, packed; brought where it is not known. Until the next few calls of this and keep().
  DevicePointer<const T> find(const T* theta, Stream& stream);
  /// `there` on the device, packed, is theta. Does not wait.
  void keep(const T* theta, DevicePointer<const T> there, Stream& stream);

 private:
  /// Those of a start, of a map after it and of what a search makes of the better one.
  static constexpr std::size_t kKept = 4;
  struct Entry {
    std::vector<T> theta;
    DeviceBuffer<T> packed;
  };
  const Entry* known(const T* theta) const;
  DevicePointer<T> add(const T* theta);

  const Icnn& net_;
  PackedNet packed_;
  Stream stream_;
  DeviceBuffer<LayerView> layers_;
  std::vector<Entry> entries_;  // the oldest first
};

/// Where the parameters of a network are.
template <class T>
struct NetParameters {
  const T* host = nullptr;               // (net.parameters())
  DeviceParameters<T>* known = nullptr;  // who may know them already, or null
  const T* packed = nullptr;             // without `host`: on the device, for as long as they are used

  NetParameters(const T* from, ResidentParameters<T>* who = nullptr)
      : host(from), known(static_cast<DeviceParameters<T>*>(who)) {}
  NetParameters(DevicePointer<const T> there) : packed(raw(there)) {}
};

}  // namespace brenier::cuda
