// SPDX-License-Identifier: MIT
// The device dialect on the host: the emulator of kernels/device/emulator/emulator.hpp under the dialect's names.
// Included by kernels/device/device.hpp, which lists them.
#pragma once

#include <atomic>
#include <bit>
#include <tuple>

#include "kernels/device/emulator/emulator.hpp"
#include "kernels/device/host.hpp"

#if !BRENIER_CUDA

namespace brenier::device {
inline namespace BRENIER_DIALECT {

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

using Where = emulator::Where;

inline int thread_index() {
  return emulator::thread_index();
}
inline int block_index() {
  return emulator::block_index();
}
inline int block_size() {
  return emulator::block_size();
}
inline int grid_size() {
  return emulator::grid_size();
}

inline void sync_block(Where where = Where::current()) {
  emulator::sync_block(where);
}
inline void sync_warp(Where where = Where::current()) {
  emulator::sync_warp(where);
}

namespace detail {
inline void require_kernel() {
  emulator::thread_index();
}

/// The value that lane `source` gave to the same shuffle; the lane's own where there is no such lane.
template <class T>
T exchange(T value, int source, Where where) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  const std::uint64_t got = emulator::exchange(std::bit_cast<Bits>(value), source, where);
  return std::bit_cast<T>(static_cast<Bits>(got));
}
}  // namespace detail

template <class T>
T shuffle(T value, int source_lane, Where where = Where::current()) {
  return detail::exchange(value, source_lane % 32, where);
}
template <class T>
T shuffle_xor(T value, int mask, Where where = Where::current()) {
  return detail::exchange(value, (thread_index() % 32) ^ mask, where);
}
template <class T>
T shuffle_down(T value, int delta, Where where = Where::current()) {
  return detail::exchange(value, thread_index() % 32 + delta, where);
}
inline unsigned ballot(bool predicate, Where where = Where::current()) {
  return emulator::ballot(predicate, where);
}

template <class T>
T atomic_add(T* address, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*address).fetch_add(value, std::memory_order_relaxed);
}
template <class T>
T atomic_max(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>);
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (old < value && !target.compare_exchange_weak(old, value, std::memory_order_relaxed)) continue;
  return old;
}

namespace detail {
/// The arrivals before this one. What this thread did before is visible to whoever arrives later.
inline unsigned arrive(unsigned* counter) {
  return std::atomic_ref<unsigned>(*counter).fetch_add(1, std::memory_order_acq_rel);
}
}  // namespace detail

template <class S>
S& shared_storage(Where where = Where::current()) {
  static_assert(std::is_trivially_default_constructible_v<S> && std::is_trivially_destructible_v<S>);
  static_assert(alignof(S) <= 16);
  return *static_cast<S*>(emulator::shared_memory(0, sizeof(S), alignof(S), where));
}

template <class T>
T* shared_array(std::size_t offset, Index count, Where where = Where::current()) {
  static_assert(std::is_trivially_default_constructible_v<T> && alignof(T) <= 16);
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  return static_cast<T*>(emulator::shared_memory(offset, bytes, alignof(T), where));
}

/// An array whose index is checked. operator[] cannot take a `Where`: the message names kernel and thread.
template <class T, int N>
struct Array {
  T values[N];
  T& operator[](int i) { return values[checked(i)]; }
  const T& operator[](int i) const { return values[checked(i)]; }

 private:
  static int checked(int i) {
    if (i < 0 || i >= N) emulator::report_index(i, N);
    return i;
  }
};

inline float4 load4(const float* from, Where where = Where::current()) {
  return *static_cast<const float4*>(emulator::aligned(from, alignof(float4), where));
}
inline void store4(float* to, float4 value, Where where = Where::current()) {
  *static_cast<float4*>(emulator::aligned(to, alignof(float4), where)) = value;
}
inline float2 load2(const float* from, Where where = Where::current()) {
  return *static_cast<const float2*>(emulator::aligned(from, alignof(float2), where));
}
inline void store2(float* to, float2 value, Where where = Where::current()) {
  *static_cast<float2*>(emulator::aligned(to, alignof(float2), where)) = value;
}
inline double2 load2(const double* from, Where where = Where::current()) {
  return *static_cast<const double2*>(emulator::aligned(from, alignof(double2), where));
}
inline void store2(double* to, double2 value, Where where = Where::current()) {
  *static_cast<double2*>(emulator::aligned(to, alignof(double2), where)) = value;
}

/// As under CUDA; the kernel has run when launch() returns, unless its stream is capturing or
/// emulator::Options::delay is set. What the emulator finds wrong is thrown as DeviceError.
template <class... P, class... A>
void launch(void (*kernel)(P...), const Launch& shape, const A&... args) {
  static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter of the kernel");
  detail::check_launch(shape);
  emulator::submit(reinterpret_cast<const void*>(kernel), shape, (std::size_t{0} + ... + sizeof(P)),
                   [kernel, values = std::tuple<P...>(detail::kernel_argument<P>(args)...)] {
                     std::apply(kernel, values);
                   });
}

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device

#endif
