// SPDX-License-Identifier: MIT
// Between host memory and the device: arrays, matrices and programs.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cuda/cloud/program.hpp"
#include "kernels/device/device.hpp"

namespace brenier::cuda {

inline int as_int(Index n) {
  return static_cast<int>(n);
}

template <class T>
T* raw(DeviceBuffer<T>& buffer) {
  return reinterpret_cast<T*>(buffer.pointer().address());
}

template <class T>
T* raw(DevicePointer<T> pointer) {
  return reinterpret_cast<T*>(pointer.address());
}

/// A buffer with the content of a host array; at least one element, so that its address is never null.
template <class T>
DeviceBuffer<T> upload(const T* from, Index count, Stream& stream) {
  DeviceBuffer<T> buffer(std::max<Index>(count, 1));
  if (count > 0) buffer.copy_to_device(std::span<const T>(from, static_cast<std::size_t>(count)), stream);
  return buffer;
}

/// A matrix without gaps between its rows.
template <class T>
DeviceBuffer<T> upload(MatrixView<const T> from, Stream& stream) {
  std::vector<T> packed;
  packed.reserve(static_cast<std::size_t>(from.rows * from.cols));
  for (Index i = 0; i < from.rows; ++i) packed.insert(packed.end(), from.row(i), from.row(i) + from.cols);
  return upload(packed.data(), static_cast<Index>(packed.size()), stream);
}

template <class T>
std::vector<T> download(const DeviceBuffer<T>& buffer, Stream& stream) {
  std::vector<T> out(static_cast<std::size_t>(buffer.size()));
  buffer.copy_to_host(out, stream);
  return out;
}

template <class T>
void download(const DeviceBuffer<T>& buffer, MatrixView<T> to, Stream& stream) {
  const std::vector<T> packed = download(buffer, stream);
  for (Index i = 0; i < to.rows; ++i) std::copy_n(packed.begin() + i * to.cols, to.cols, to.row(i));
}

/// A program in device memory.
struct DeviceProgram {
  DeviceBuffer<Instruction> code;
  DeviceBuffer<int> place;
  DeviceBuffer<double> constants;
  ProgramView view{};

  DeviceProgram() = default;
  DeviceProgram(const Program& program, Stream& stream) {
    std::vector<int> places;
    int rows = 0;
    for (const Instruction& step : program.code) {
      places.push_back(rows);
      rows += step.size;
    }
    code = upload(program.code.data(), static_cast<Index>(program.code.size()), stream);
    place = upload(places.data(), static_cast<Index>(places.size()), stream);
    constants = upload(program.constants.data(), static_cast<Index>(program.constants.size()), stream);
    if (program.code.empty()) return;
    view = {raw(code),
            raw(place),
            raw(constants),
            static_cast<int>(program.code.size()),
            rows,
            program.input_size,
            places[static_cast<std::size_t>(program.value)],
            places[static_cast<std::size_t>(program.gradient)],
            program.code[static_cast<std::size_t>(program.gradient)].size > 1 ? 1 : 0};
  }
};

}  // namespace brenier::cuda
