// SPDX-License-Identifier: MIT
// Compiled once, as CUDA into the library, and by the host compiler for the emulated device.
#include "kernels/cuda/network/parameters.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cuda/network/parameters_kernels.hpp"

namespace brenier::cuda {

template <class T>
void launch_bounds(const BoundsArgs<T>& args, Stream& stream) {
  const int blocks = (args.packed + kParameterThreads - 1) / kParameterThreads;
  launch(bounds_kernel<T>, {blocks, kParameterThreads, 0, stream, "bounds"}, args);
}

DeviceTensors::DeviceTensors(const Icnn& net, const PackedNet& packed, Stream& stream)
    : packed_(packed.view().packed) {
  std::vector<TensorView> tensors;
  for (const ParameterTensor& tensor : net.tensors()) {
    const int first = as_int(packed.place(tensor.offset));
    const int ld =
        tensor.rows > 1 ? as_int(packed.place(tensor.offset + tensor.cols)) - first : as_int(tensor.cols);
    tensors.push_back({first, as_int(tensor.rows), as_int(tensor.cols), ld, tensor.lower, tensor.rate});
  }
  tensors_ = upload(tensors.data(), static_cast<Index>(tensors.size()), stream);
}

template <class T>
DeviceParameters<T>::DeviceParameters(const Icnn& net) : net_(net), packed_(net) {
  layers_ = upload(packed_.view().layers, packed_.view().depth, stream_);
}

template <class T>
const typename DeviceParameters<T>::Entry* DeviceParameters<T>::known(const T* theta) const {
  for (const Entry& entry : entries_) {
    // Bits: what is no number is known again as well, and no zero is another one.
    if (std::memcmp(entry.theta.data(), theta, entry.theta.size() * sizeof(T)) == 0) return &entry;
  }
  return nullptr;
}

template <class T>
DevicePointer<T> DeviceParameters<T>::add(const T* theta) {
  if (entries_.size() == kKept) entries_.erase(entries_.begin());
  entries_.push_back({std::vector<T>(theta, theta + net_.parameters()), DeviceBuffer<T>(packed_.size())});
  return entries_.back().packed.pointer();
}

template <class T>
DevicePointer<const T> DeviceParameters<T>::find(const T* theta, Stream& stream) {
  if (const Entry* entry = known(theta)) return entry->packed.pointer();
  const std::vector<T> packed = packed_.pack(theta);
  const DevicePointer<T> there = add(theta);
  copy_to_device(there, std::span<const T>(packed), stream);
  return there;
}

template <class T>
void DeviceParameters<T>::keep(const T* theta, DevicePointer<const T> there, Stream& stream) {
  if (!known(theta)) copy_on_device(add(theta), there, packed_.size(), stream);
}

template <class T>
std::shared_ptr<const ResidentMap> DeviceParameters<T>::map(const std::vector<T>& theta,
                                                            const std::vector<double>& shift, double scale) {
  const DeviceBuffer<double> by = upload(shift.data(), static_cast<Index>(shift.size()), stream_);
  auto out = std::make_shared<DeviceMapParameters>(net_, packed_.size() + net_.rank());
  DenormaliseArgs<T> args{packed_.view()};
  args.layers = raw(layers_);
  args.theta = raw(find(theta.data(), stream_));
  args.shift = raw(by.pointer());
  args.scale = scale;
  args.out = raw(out->theta);
  launch(denormalise_kernel<T>, {1, kParameterThreads, 0, stream_, "denormalise"}, args);
  stream_.synchronise();
  return out;
}

template void launch_bounds(const BoundsArgs<float>&, Stream&);
template void launch_bounds(const BoundsArgs<double>&, Stream&);
template class DeviceParameters<float>;
template class DeviceParameters<double>;

}  // namespace brenier::cuda
