# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by tools/run and tools/test: finds or installs what the build needs, and builds. Sets `root`.
# Nothing is written outside the repository but Debian packages, and those only with root or password-free sudo.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# The first C++ compiler that is new enough; CXX goes first where it is set.
find_compiler() {
  local candidate major
  for candidate in ${CXX:+"$CXX"} g++ g++-14 g++-13 g++-12; do
    command -v "$candidate" > /dev/null || continue
    major="$("$candidate" -dumpversion 2> /dev/null | cut -d. -f1)"
    if [[ "$major" =~ ^[0-9]+$ ]] && (( major >= 12 )); then
      compiler="$candidate"
      return 0
    fi
  done
  return 1
}

# A clang++ for the fuzz targets; CLANG goes first where it is set.
find_clang() {
  local candidate
  for candidate in ${CLANG:+"$CLANG"} clang++ clang++-19 clang++-16 clang++-15 clang++-14; do
    command -v "$candidate" > /dev/null || continue
    if echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
      "$candidate" -x c++ -fsanitize=fuzzer,address,undefined -o /dev/null - 2> /dev/null; then
      clang="$candidate"
      return 0
    fi
  done
  return 1
}

has_cmake() {
  local major minor
  command -v cmake > /dev/null || return 1
  IFS=. read -r major minor _ <<< "$(cmake --version | sed -n '1s/[^0-9]*//p')"
  (( major > 3 || (major == 3 && minor >= 22) ))
}

# Headers that the compiler does not find, one package name a line; all with one run of the preprocessor.
missing_headers() {
  local header package
  while read -r header package; do
    printf '#if !__has_include(<%s>)\nMISSING %s\n#endif\n' "$header" "$package"
  done << 'LIST' | "$compiler" -x c++ -std=c++20 -E -P - 2> /dev/null | sed -n 's/^MISSING //p' | tr -d ' '
eigen3/Eigen/Core libeigen3-dev
doctest/doctest.h doctest-dev
toml++/toml.h libtomlplusplus-dev
CLI/CLI.hpp libcli11-dev
nlohmann/json.hpp nlohmann-json3-dev
xxhash.h libxxhash-dev
zlib.h zlib1g-dev
LIST
}

# The first Python that has what the figures need; PYTHON goes first where it is set. A python3 in PATH need not be
# the one that Debian's packages belong to.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 /usr/bin/python3; do
    command -v "$candidate" > /dev/null || continue
    if "$candidate" -c 'import importlib.util as u; assert u.find_spec("numpy") and u.find_spec("matplotlib")' \
      2> /dev/null; then
      export PYTHON="$candidate"
      return 0
    fi
  done
  return 1
}

# MPI, which is not needed: what uses it is left out where it cannot be had.
find_mpi() {
  command -v mpirun > /dev/null && command -v mpicxx > /dev/null
}

missing_packages() {
  has_cmake || echo cmake
  command -v ninja > /dev/null || command -v make > /dev/null || echo ninja-build
  if find_compiler; then
    missing_headers
  else
    # A distribution whose g++ is too old has a newer one beside it.
    if command -v g++ > /dev/null; then echo g++-12; else echo g++; fi
    echo libeigen3-dev doctest-dev libtomlplusplus-dev libcli11-dev nlohmann-json3-dev libxxhash-dev zlib1g-dev | tr ' ' '\n'
  fi
  find_python || printf '%s\n' python3 python3-numpy python3-matplotlib
}

install_packages() {
  local as_root=()
  if (( $(id -u) != 0 )); then
    if command -v sudo > /dev/null && sudo -n true 2> /dev/null; then as_root=(sudo -n); else return 1; fi
  fi
  command -v apt-get > /dev/null || return 1
  say "installing: $*"
  "${as_root[@]}" apt-get update -qq >&2 &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# Makes sure that everything needed is there, or says in one command what is not, and ends.
ensure_packages() {
  local packages=()
  mapfile -t packages < <(missing_packages)
  if (( ${#packages[@]} > 0 )); then
    install_packages "${packages[@]}" || die "these packages are missing; install them and call this again:
  sudo apt-get install --no-install-recommends ${packages[*]}"
    mapfile -t packages < <(missing_packages)
    (( ${#packages[@]} == 0 )) || die "still missing after the installation: ${packages[*]}"
  fi
  find_compiler || die "no C++ compiler of version 12 or newer; set CXX to one"
  find_python || die "no Python with numpy and matplotlib; set PYTHON to one"
  find_mpi || install_packages libopenmpi-dev openmpi-bin || say "MPI: not installed; flows over several processes are left out"
  ensure_nvdisasm
}

# nvdisasm, for what tools/resource_report says of machine code. Not part of every CUDA toolkit; where it cannot be had,
# that part is left out, and said to be.
ensure_nvdisasm() {
  command -v nvcc > /dev/null || [[ -x /usr/local/cuda/bin/nvcc ]] || return 0
  command -v nvdisasm > /dev/null || [[ -x /usr/local/cuda/bin/nvdisasm ]] && return 0
  compgen -G "$root/build/tools/nvidia/*/bin/nvdisasm" > /dev/null && return 0
  local candidate
  for candidate in "$PYTHON" python3; do
    "$candidate" -m pip --version > /dev/null 2>&1 || continue
    "$candidate" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
      --target "$root/build/tools" 'nvidia-cuda-nvdisasm>=13,<14' >&2 || continue
    chmod +x "$root"/build/tools/nvidia/*/bin/nvdisasm
    return 0
  done
  say "nvdisasm: not installed; the machine code of kernels is not looked at"
}

# What the Python package is built and tested with, in .venv/python: nanobind and scikit-build-core are on PyPI alone.
# Where it cannot be had, the package is left out, and said to be. Sets python_options.
ensure_python_package() {
  local venv="$root/.venv/python" list="$root/tools/python/requirements.txt"
  local header='import os, sysconfig, venv; assert os.path.exists(sysconfig.get_paths()["include"] + "/Python.h")'
  if ! cmp -s "$list" "$venv/installed.txt"; then
    say "Python package: installing nanobind, scikit-build-core and pytest into $venv"
    "$PYTHON" -c "$header" 2> /dev/null || install_packages python3-dev python3-venv || true
    if "$PYTHON" -c "$header" 2> /dev/null && "$PYTHON" -m venv --system-site-packages "$venv" >&2 &&
      "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 30 -r "$list" >&2; then
      cp "$list" "$venv/installed.txt"
    else
      say "Python package: cannot be installed; is there a network? The package brenier is left out"
    fi
  fi
  find_python_package
}

# The options of a build with the Python package where there is what it needs.
find_python_package() {
  python_options=(-DBRENIER_PYTHON=OFF)
  if cmp -s "$root/tools/python/requirements.txt" "$root/.venv/python/installed.txt"; then
    python_options=(-DBRENIER_PYTHON=ON "-DPython_EXECUTABLE=$root/.venv/python/bin/python")
  fi
}

# configure FOLDER [-DOPTION=VALUE...]: configures a build folder where it is new or the options are others; of the
# project in project_folder, where a caller has set that, instead of the whole.
configure() {
  local folder="$root/$1" project="${project_folder:-$root}" wanted was generator=()
  shift
  wanted="$project $compiler $PYTHON $*"
  # A repository that was moved or copied has a cache that belongs elsewhere.
  if [[ -f "$folder/CMakeCache.txt" ]] &&
    ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$project" "$folder/CMakeCache.txt"; then
    rm -rf "$folder"
  fi
  if [[ -f "$folder/CMakeCache.txt" && -f "$folder/.configured" && "$(< "$folder/.configured")" == "$wanted" ]]; then
    return 0
  fi
  # So has one of another compiler: cmake would begin anew and forget the options it was given.
  if [[ -f "$folder/CMakeCache.txt" ]]; then
    was="$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$folder/CMakeCache.txt")"
    [[ "$was" == "$compiler" || "$was" == "$(command -v "$compiler")" ]] || rm -rf "$folder"
  fi
  # A folder keeps the generator it began with.
  if [[ ! -f "$folder/CMakeCache.txt" ]] && command -v ninja > /dev/null; then generator=(-G Ninja); fi
  say "configuring $folder"
  cmake -S "$project" -B "$folder" "${generator[@]}" -DCMAKE_CXX_COMPILER="$compiler" \
    -DPython3_EXECUTABLE="$(command -v "$PYTHON")" "$@" >&2
  printf '%s\n' "$wanted" > "$folder/.configured"
}

# The Release build in build/, which tools/run, tools/test and tools/fuzz share; BRENIER_LONG_TESTS as $long says.
configure_release() {
  configure build -DCMAKE_BUILD_TYPE=Release "-DBRENIER_LONG_TESTS=${long:-OFF}" "$@" "${python_options[@]}"
}

# The fuzz targets in build-fuzz/, with the compiler that find_clang has found, beside a finished build in build/.
build_fuzz() {
  local compiler="$clang" project_folder="$root/tests/fuzz"
  configure build-fuzz "-DBRENIER_BUILD=$root/build" "-DBRENIER_FUZZ_COMPARISONS=${FUZZ_COMPARISONS:-ON}"
  build build-fuzz
}

# build FOLDER [TARGET]: builds, and says nothing where there is nothing to do.
build() {
  local folder="$1" target=()
  if (( $# > 1 )); then target=(--target "$2"); fi
  [[ -f "$root/$folder/.built" ]] || say "building $folder; the first time takes some minutes"
  cmake --build "$root/$folder" "${target[@]}" --parallel "$(nproc)" |
    sed -u -e '/no work to do/d' -e '/Re-checking globbed/d' -e '/Built target/d' -e '/Consolidate compiler/d' >&2
  touch "$root/$folder/.built"
}
