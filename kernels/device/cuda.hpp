// SPDX-License-Identifier: MIT
// The device dialect in CUDA. Included by kernels/device/device.hpp, which lists the names.
#pragma once

#include "kernels/device/host.hpp"

#if BRENIER_CUDA

namespace brenier::device {
inline namespace BRENIER_DIALECT {

using ::double2;
using ::float2;
using ::float4;

/// Where a barrier stands in the source; only the emulator looks.
struct Where {
  BRENIER_HOST_DEVICE static constexpr Where current() { return {}; }
};

BRENIER_DEVICE inline int thread_index() {
  return static_cast<int>(threadIdx.x);
}
BRENIER_DEVICE inline int block_index() {
  return static_cast<int>(blockIdx.x);
}
BRENIER_DEVICE inline int block_size() {
  return static_cast<int>(blockDim.x);
}
BRENIER_DEVICE inline int grid_size() {
  return static_cast<int>(gridDim.x);
}

BRENIER_DEVICE inline void sync_block(Where = Where::current()) {
  __syncthreads();
}
BRENIER_DEVICE inline void sync_warp(Where = Where::current()) {
  __syncwarp();
}

inline constexpr unsigned kFullMask = 0xFFFFFFFFu;

template <class T>
BRENIER_DEVICE T shuffle(T value, int source_lane, Where = Where::current()) {
  return __shfl_sync(kFullMask, value, source_lane);
}
template <class T>
BRENIER_DEVICE T shuffle_xor(T value, int mask, Where = Where::current()) {
  return __shfl_xor_sync(kFullMask, value, mask);
}
template <class T>
BRENIER_DEVICE T shuffle_down(T value, int delta, Where = Where::current()) {
  return __shfl_down_sync(kFullMask, value, static_cast<unsigned>(delta));
}
BRENIER_DEVICE inline unsigned ballot(bool predicate, Where = Where::current()) {
  return __ballot_sync(kFullMask, predicate);
}

template <class T>
BRENIER_DEVICE T atomic_add(T* address, std::type_identity_t<T> value) {
  return atomicAdd(address, value);
}
template <class T>
BRENIER_DEVICE T atomic_max(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>);
  return atomicMax(address, value);
}

namespace detail {
/// The arrivals before this one. What this thread did before is visible to whoever arrives later.
BRENIER_DEVICE inline unsigned arrive(unsigned* counter) {
  unsigned before;
  asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}
BRENIER_DEVICE inline void require_kernel() {}
BRENIER_DEVICE inline unsigned char* shared_bytes() {
  extern __shared__ __align__(16) unsigned char brenier_shared[];
  return brenier_shared;
}
}  // namespace detail

template <class S>
BRENIER_DEVICE S& shared_storage(Where = Where::current()) {
  static_assert(std::is_trivially_default_constructible_v<S> && std::is_trivially_destructible_v<S>);
  static_assert(alignof(S) <= 16);
  return *reinterpret_cast<S*>(detail::shared_bytes());
}

template <class T>
BRENIER_DEVICE T* shared_array(std::size_t offset, Index count, Where = Where::current()) {
  static_assert(std::is_trivially_default_constructible_v<T> && alignof(T) <= 16);
  static_cast<void>(count);
  return reinterpret_cast<T*>(detail::shared_bytes() + offset);
}

template <class T, int N>
struct Array {
  T values[N];
  BRENIER_DEVICE T& operator[](int i) { return values[i]; }
  BRENIER_DEVICE const T& operator[](int i) const { return values[i]; }
};

BRENIER_DEVICE inline float4 load4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
BRENIER_DEVICE inline void store4(float* to, float4 value) {
  *reinterpret_cast<float4*>(to) = value;
}
BRENIER_DEVICE inline float2 load2(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
BRENIER_DEVICE inline void store2(float* to, float2 value) {
  *reinterpret_cast<float2*>(to) = value;
}
BRENIER_DEVICE inline double2 load2(const double* from) {
  return *reinterpret_cast<const double2*>(from);
}
BRENIER_DEVICE inline void store2(double* to, double2 value) {
  *reinterpret_cast<double2*>(to) = value;
}

namespace detail {
bool prepare_launch(const void* kernel, const Launch& shape);  // asks for shared memory above 48 KiB; false:
                                                               // a MemoryProbe lives, nothing is to be run
void finish_launch(const Launch& shape);                       // DeviceError with CUDA's words
}  // namespace detail

/// Runs kernel(args...) as `shape` says, in stream order. Device pointers are passed as DevicePointer,
/// everything else by value. Throws ValueError for a shape that no device runs, DeviceError with the launch
/// and CUDA's words.
template <class... P, class... A>
void launch(void (*kernel)(P...), const Launch& shape, const A&... args) {
  static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter of the kernel");
  detail::check_launch(shape);
  if (!detail::prepare_launch(reinterpret_cast<const void*>(kernel), shape)) return;
  kernel<<<static_cast<unsigned>(shape.grid), static_cast<unsigned>(shape.block), shape.shared_bytes,
           static_cast<cudaStream_t>(shape.stream.native())>>>(detail::kernel_argument<P>(args)...);
  detail::finish_launch(shape);
}

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device

#endif
