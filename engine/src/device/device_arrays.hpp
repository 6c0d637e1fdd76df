// SPDX-License-Identifier: MIT
// What arrays of a host program on a device have to be.
#pragma once

#include <limits>
#include <string>
#include <type_traits>

#include "brenier/base/error.hpp"
#include "brenier/base/view.hpp"

namespace brenier {

/// ShapeError where an array that is given has another shape. ValueError: no room between the elements of a result, sizes and
/// strides whose products are beyond all addresses.
template <class Address>
void check_device_array(const DeviceArray<Address>& array, Index rows, Index cols, const char* name) {
  if (!array) return;
  if (array.rows != rows || array.cols != cols) {
    throw ShapeError(std::string("cloud: ") + name + " on the device are (" + std::to_string(array.rows) +
                     ", " + std::to_string(array.cols) + "); they must be (" + std::to_string(rows) + ", " +
                     std::to_string(cols) + ")");
  }
  // Rows and columns are counted in int on the device, and the last element has an address in bytes.
  constexpr Index most = std::numeric_limits<int>::max();
  constexpr Index farthest = std::numeric_limits<Index>::max() / 32;
  const auto beyond = [](Index count, Index stride) {
    return count > most || stride < -farthest || stride > farthest ||
           (count > 1 && stride != 0 && count - 1 > farthest / (stride < 0 ? -stride : stride));
  };
  if (beyond(rows, array.row_stride) || beyond(cols, array.col_stride)) {
    throw ValueError(std::string("cloud: ") + name + " on the device are (" + std::to_string(rows) + ", " +
                     std::to_string(cols) + ") with the strides " + std::to_string(array.row_stride) +
                     " and " + std::to_string(array.col_stride) +
                     "; sizes must be at most 2147483647, and all elements in what can be addressed");
  }
  if (std::is_const_v<Address>) return;
  if ((rows > 1 && array.row_stride == 0) || (cols > 1 && array.col_stride == 0)) {
    throw ValueError(std::string("cloud: ") + name + " would be written with the strides " +
                     std::to_string(array.row_stride) + " and " + std::to_string(array.col_stride) +
                     ", several to one place; strides of results must not be 0");
  }
}

template <class Address>
void check_device_arrays(const DeviceParticles<Address>& cloud, Index rows, Index cols) {
  check_device_array(cloud.x, rows, cols, "positions");
  check_device_array(cloud.log_density, rows, 1, "log-densities");
}

inline ValueError not_on_a_device(const std::string& device) {
  return ValueError("flow: arrays on a CUDA device in a flow on the device \"" + device +
                    "\"; use device = \"cuda\" or \"cuda:K\", or arrays of the host");
}

}  // namespace brenier
