#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# usage: pip_install.sh PYTHON FOLDER [MODULE]
#
# The package in a fresh virtual environment FOLDER/venv, where the program of the README runs. Without MODULE it is
# `pip install .`, as a user does it: all of the library is compiled, and PyPI is needed. With the folder MODULE of a module
# that is built already, that is what is packaged, by what PYTHON has.
set -euo pipefail

python="$1" folder="$2" module="${3:-}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
quiet=(--quiet --disable-pip-version-check)
rm -rf "$folder/venv" "$folder/wheel"
mkdir -p "$folder"
if [[ -z "$module" ]]; then
  "$python" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install "${quiet[@]}" "$root"
else
  options=(--config-settings cmake.source-dir=tools/python --config-settings "cmake.define.BRENIER_PYTHON_MODULE=$module")
  "$python" -m pip wheel "${quiet[@]}" --no-deps --no-build-isolation "${options[@]}" -w "$folder/wheel" "$root"
  # NumPy of the system will do.
  "$python" -m venv --system-site-packages "$folder/venv"
  "$folder/venv/bin/python" -m pip install "${quiet[@]}" "$folder"/wheel/*.whl
fi
cd "$folder"  # not the source tree
sed -n '/^```python$/,/^```$/{/^```/d;p}' "$root/README.md" > readme.py
venv/bin/python readme.py
venv/bin/python -c 'import brenier, sys; print(brenier.__version__, brenier.__file__)
assert brenier.__file__.startswith(sys.prefix)'
