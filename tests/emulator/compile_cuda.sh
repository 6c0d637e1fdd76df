#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: compile_cuda.sh [--kernels] [--one] SOURCE_ROOT OUT_DIR
#
# The device dialect is real CUDA: nvcc compiles the runtime, the cuda backend and the dialect's own tests for
# sm_80, sm_90 and PTX, warnings as errors, and links the last. What ptxas says of the library's kernels
# (registers, spills) goes to OUT_DIR/*.ptxas, the machine code of hot ones to OUT_DIR/*.cubin, and
# tools/resource_report judges both. Nothing is run. OUT_DIR/verdict
# says in one line what was found, where all is well. Exit code 77 where nvcc is missing.
#   --kernels   the library's kernels only, without the judgement: what tools/resource_report asks for
#   --one       for sm_90 alone, in half the time
set -euo pipefail
kernels_only=0 architectures="sm_80, sm_90 and PTX"
one=(-gencode "arch=compute_90,code=sm_90")
all=(-gencode "arch=compute_80,code=sm_80" -gencode "arch=compute_90,code=[sm_90,compute_90]")
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --kernels) kernels_only=1 ;;
    --one) all=("${one[@]}") architectures="sm_90" ;;
    *) echo "compile_cuda.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
root=$1
out=$2
nvcc=$(command -v nvcc || true)
if [[ -z "$nvcc" && -x /usr/local/cuda/bin/nvcc ]]; then nvcc=/usr/local/cuda/bin/nvcc; fi
if [[ -z "$nvcc" ]]; then
  echo "SKIPPED: no nvcc here, the CUDA form of the dialect is not compiled"
  exit 77
fi
version=$("$nvcc" --version | sed -n 's/.*, V\([0-9.]*\).*/\1/p')
mkdir -p "$out"
rm -f "$out"/*.ptxas "$out"/*.cubin "$out/verdict"
flags=(-std=c++20 -O1 --expt-relaxed-constexpr -Werror all-warnings -I "$root"
       -I "$root/kernels/include" -I "$root/autodiff/include" -I "$root/solvers/include" -I "$root/engine/include"
       -Xcompiler "-Wall,-Wextra,-Wshadow")

# compile SOURCE OBJECT [FLAG...]
compile() {
  local source=$1 object=$2
  shift 2
  "$nvcc" "${flags[@]}" "$@" -x cu -c "$root/$source" -o "$out/$object.o"
}

# Every source of the library that may hold device code, also what nobody has listed in the build yet.
cd "$root"
sources=$(find kernels -name '*.cu' -o -path 'kernels/cuda/*.cpp' ! -name none.cpp)
for source in $sources; do
  name=$(basename "${source%.*}")
  keep=()
  case "$name" in
    float_tf32x3 | divergence | clouds)
      mkdir -p "$out/keep"
      keep=(--keep --keep-dir "$out/keep")
      ;;
  esac
  if ! compile "$source" "$name" "${all[@]}" -Xptxas -v "${keep[@]}" 2> "$out/$name.log"; then
    cat "$out/$name.log" >&2
    exit 1
  fi
  if (( ${#keep[@]} > 0 )); then
    kept="$out/keep/$name.compute_90.sm_90.cubin"
    [[ -f "$kept" ]] || kept="$out/keep/$name.cubin"  # its name where there is one architecture
    mv "$kept" "$out/$name.cubin"
    rm -rf "$out/keep"
  fi
  { echo "nvcc $version"; cat "$out/$name.log"; } > "$out/$name.ptxas"
done
(( kernels_only )) && exit 0

"${PYTHON:-python3}" "$root/tools/resource_report" --logs "$out"

# Tests and benchmarks in the dialect: what only a machine with a GPU builds otherwise.
compile tests/emulator/test_emulator.cpp test_emulator "${all[@]}"
for source in tests/cuda/test_operations.cpp tests/kernels/test_device_loop.cpp tests/kernels/test_pairs.cpp \
              bench/operations/device_ceilings.cpp; do
  compile "$source" "$(basename "${source%.*}")" "${one[@]}"
done
compile tests/main.cpp main "${one[@]}"
"$nvcc" "$out/cuda.o" "$out/test_emulator.o" "$out/main.o" -lcublas -o "$out/test_device"
verdict="compiled for $architectures with nvcc $version, and linked; resources as recorded; not run"
echo "$verdict" | tee "$out/verdict"
