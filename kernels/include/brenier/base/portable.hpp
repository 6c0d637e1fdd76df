// SPDX-License-Identifier: MIT
// Qualifiers of code that compiles for the host, for CUDA and for the emulator of CUDA blocks.
#pragma once

// Code that runs on both sides. Functions of the standard library may be called from it where they are
// constexpr (nvcc: --expt-relaxed-constexpr) or have a CUDA version (<cmath>).
#if defined(__CUDACC__)
#define BRENIER_HOST_DEVICE __host__ __device__
#else
#define BRENIER_HOST_DEVICE
#endif

// The dialect is an inline namespace: a program may hold the CUDA and the emulated form of one kernel.
// BRENIER_LAUNCH_BOUNDS(threads, blocks): at most `threads` in a block, registers for `blocks` (default 1) of
// them on a multiprocessor.
// BRENIER_ARGUMENT: before the type of a large kernel parameter, which is then read where it lies.
#if defined(__CUDACC__) && !defined(BRENIER_EMULATE)
#define BRENIER_CUDA 1
#define BRENIER_DIALECT cuda_dialect
#define BRENIER_DEVICE __device__
#define BRENIER_KERNEL __global__
#define BRENIER_LAUNCH_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
#define BRENIER_ARGUMENT const __grid_constant__
#define BRENIER_RESTRICT __restrict__
#define BRENIER_UNROLL _Pragma("unroll")
#define BRENIER_UNROLL_BY(count) BRENIER_PRAGMA(unroll count)
#define BRENIER_PRAGMA(text) _Pragma(#text)
#define BRENIER_NOINLINE __noinline__
#define BRENIER_ASSUME(condition) __builtin_assume(condition)
#else
#define BRENIER_CUDA 0
#define BRENIER_DIALECT emulated
#define BRENIER_DEVICE
#define BRENIER_KERNEL
#define BRENIER_LAUNCH_BOUNDS(...)
#define BRENIER_ARGUMENT const
#define BRENIER_RESTRICT
#define BRENIER_UNROLL
#define BRENIER_UNROLL_BY(count)
#define BRENIER_NOINLINE
#define BRENIER_ASSUME(condition) static_cast<void>(condition)
#endif
