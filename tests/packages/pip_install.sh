#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: pip_install.sh PYTHON FOLDER [BUILD [CMAKE_OPTION...]]
#
# The package in a fresh virtual environment FOLDER/venv, where the program of the README runs. Without BUILD it is
# `pip install .`, as a user does it: all of the library is compiled, and PyPI is needed. With a finished build of the
# library in the folder BUILD only the module is compiled, by what PYTHON has.
set -euo pipefail

python="$1" folder="$2" build="${3:-}"
shift $(($# < 3 ? $# : 3))
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
quiet=(--quiet --disable-pip-version-check)
rm -rf "$folder/venv" "$folder/wheel"
mkdir -p "$folder"
if [[ -z "$build" ]]; then
  "$python" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install "${quiet[@]}" "$root"
else
  options=()
  for setting in cmake.source-dir=tools/python "cmake.define.brenier_DIR=$build" "build-dir=$folder/build" \
    "${@/#/cmake.define.}"; do
    options+=(--config-settings "$setting")
  done
  "$python" -m pip wheel "${quiet[@]}" --no-deps --no-build-isolation "${options[@]}" -w "$folder/wheel" "$root"
  # NumPy may be the system's.
  "$python" -m venv --system-site-packages "$folder/venv"
  "$folder/venv/bin/python" -m pip install "${quiet[@]}" --no-index "$folder"/wheel/*.whl
fi
cd "$folder"  # not the source tree
sed -n '/^```python$/,/^```$/{/^```/d;p}' "$root/README.md" > readme.py
venv/bin/python readme.py
venv/bin/python -c 'import brenier, sys; print(brenier.__version__, brenier.__file__)
assert brenier.__file__.startswith(sys.prefix)'
