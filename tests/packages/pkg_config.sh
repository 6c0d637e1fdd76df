#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds and runs the examples with what pkg-config says and nothing else.
#   pkg_config.sh PKG-CONFIG LIBDIR EXAMPLES FOLDER C++-COMPILER
set -eu
pkg_config=$1 libdir=$2 examples=$3 folder=$4 cxx=$5
mkdir -p "$folder"
export PKG_CONFIG_PATH="$libdir/pkgconfig" LD_LIBRARY_PATH="$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
"$pkg_config" --exact-version="$("$pkg_config" --modversion brenier)" brenier
flags=$("$pkg_config" --cflags --libs brenier)
# shellcheck disable=SC2086
"$cxx" -std=c++20 -Wall -Wextra -Werror -pedantic "$examples/embed.cpp" $flags -o "$folder/embed"
"$folder/embed"
for cc in gcc clang clang-14; do
  command -v "$cc" >/dev/null || continue
  # shellcheck disable=SC2086
  "$cc" -std=c99 -Wall -Wextra -Werror -pedantic "$examples/embed.c" $flags -lm -o "$folder/embed_c_$cc"
  "$folder/embed_c_$cc"
done
if command -v gfortran >/dev/null; then
  module=$("$pkg_config" --variable=includedir brenier)/brenier/brenier.f90
  # shellcheck disable=SC2086
  gfortran -std=f2008 -J "$folder" "$module" "$examples/embed.f90" $flags -o "$folder/embed_f90"
  "$folder/embed_f90"
fi
if "$cxx" -std=c++17 -fsyntax-only "$examples/embed.cpp" $flags 2>"$folder/c++17"; then
  echo "the headers compile as C++17"
  exit 1
fi
grep -q "need C++20" "$folder/c++17"
