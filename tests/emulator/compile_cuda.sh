#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: compile_cuda.sh SOURCE_ROOT OUT_DIR
#
# The device dialect is real CUDA: nvcc compiles the runtime, the cuda backend and the emulator's own tests, kernels
# included, for sm_80, sm_90 and PTX, warnings as errors, and links the last. Nothing is run. Exit code 77 where nvcc is missing.
set -euo pipefail
root=$1
out=$2
nvcc=$(command -v nvcc || true)
if [[ -z "$nvcc" && -x /usr/local/cuda/bin/nvcc ]]; then nvcc=/usr/local/cuda/bin/nvcc; fi
if [[ -z "$nvcc" ]]; then
  echo "SKIPPED: no nvcc here, the CUDA form of the dialect is not compiled"
  exit 77
fi
mkdir -p "$out"
flags=(-std=c++20 -O1 --expt-relaxed-constexpr -Werror all-warnings -I "$root"
       -Xcompiler "-Wall,-Wextra,-Wshadow"
       -gencode "arch=compute_80,code=sm_80" -gencode "arch=compute_90,code=[sm_90,compute_90]")
"$nvcc" "${flags[@]}" -c "$root/kernels/runtime/device_cuda.cu" -o "$out/device_cuda.o"
"$nvcc" "${flags[@]}" -x cu -c "$root/tests/emulator/test_emulator.cpp" -o "$out/test_emulator.o"
"$nvcc" "${flags[@]}" -x cu -c "$root/kernels/cuda/backend.cpp" -o "$out/backend.o"
"$nvcc" "${flags[@]}" -x cu -c "$root/kernels/cuda/devices.cpp" -o "$out/devices.o"
"$nvcc" "${flags[@]}" -x cu -c "$root/tests/main.cpp" -o "$out/main.o"
"$nvcc" "$out/device_cuda.o" "$out/test_emulator.o" "$out/main.o" -lcublas -o "$out/test_device"
echo "compiled and linked for sm_80, sm_90 and PTX with $("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/nvcc \1/p'); not run"
