// SPDX-License-Identifier: MIT
// CAPTURE of a structured binding, which clang lets into a lambda from version 16 on.
#pragma once

#include <doctest/doctest.h>

#define CAPTURE_BOUND(name)                           \
  const auto& DOCTEST_CAT(bound_, __LINE__) = (name); \
  INFO(#name " := ", DOCTEST_CAT(bound_, __LINE__))
