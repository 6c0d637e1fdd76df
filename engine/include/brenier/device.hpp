// SPDX-License-Identifier: MIT
// Where a computation runs.
#pragma once

#include <string>
#include <vector>

#include "kernels/ops.hpp"

namespace brenier {

/// What this build and this machine offer.
struct BuildInfo {
  std::string version;                    // "0.1.0"
  std::string compiler;                   // of this library
  bool cuda = false;                      // compiled with the CUDA backend
  std::vector<std::string> cpu_variants;  // instruction sets that this processor runs, best first
  int threads = 1;                        // processors available to this process
};
BuildInfo build_info();

/// A backend by name: "auto" (the best there is), "cpu", "cpu:avx2" (one variant), "ref" (slow, for
/// checking), or "cuda". NotAvailable where this build or machine does not have it; ValueError for another
/// name.
template <class T>
const Operations<T>& backend(const std::string& device);

}  // namespace brenier
