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
if "$cxx" -std=c++17 -fsyntax-only "$examples/embed.cpp" $flags 2>"$folder/c++17"; then
  echo "the headers compile as C++17"
  exit 1
fi
grep -q "need C++20" "$folder/c++17"
