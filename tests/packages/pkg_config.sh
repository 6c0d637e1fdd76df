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
# A compiler with these flags behind its own; evaluated, as a folder may have a space, which pkg-config escapes.
with_flags() { eval '"$@"' "$flags" -lm; }
with_flags "$cxx" -std=c++20 -Wall -Wextra -Werror -pedantic -o "$folder/embed" "$examples/embed.cpp"
"$folder/embed"
for cc in gcc clang clang-14; do
  command -v "$cc" >/dev/null || continue
  with_flags "$cc" -std=c99 -Wall -Wextra -Werror -pedantic -o "$folder/embed_c_$cc" "$examples/embed.c"
  "$folder/embed_c_$cc"
done
if command -v gfortran >/dev/null; then
  eval "set -- $("$pkg_config" --variable=includedir brenier)"
  module=$1/brenier/brenier.f90
  with_flags gfortran -std=f2008 -J "$folder" -o "$folder/embed_f90" "$module" "$examples/embed.f90"
  "$folder/embed_f90"
fi
if with_flags "$cxx" -std=c++17 -fsyntax-only "$examples/embed.cpp" 2>"$folder/c++17"; then
  echo "the headers compile as C++17"
  exit 1
fi
grep -q "need C++20" "$folder/c++17"
