// SPDX-License-Identifier: MIT
#include "brenier/device.hpp"

#include "brenier/version.hpp"
#include "kernels/runtime/error.hpp"
#include "kernels/runtime/team.hpp"

namespace brenier {

BuildInfo build_info() {
  BuildInfo info;
  info.version = BRENIER_VERSION;
#if defined(__clang__)
  info.compiler = "clang " __clang_version__;
#elif defined(__GNUC__)
  info.compiler = "gcc " __VERSION__;
#endif
  info.cuda = cuda::compiled();
  for (const char* variant : cpu::variants()) info.cpu_variants.emplace_back(variant);
  info.threads = Team::available();
  return info;
}

template <class T>
const Operations<T>& backend(const std::string& device) {
  // The cuda backend becomes the choice of "auto" once it has been seen to run on a GPU.
  if (device == "auto" || device == "cpu") return cpu::operations<T>();
  if (device == "ref") return ref::operations<T>();
  if (device.rfind("cpu:", 0) == 0) return cpu::operations<T>(device.c_str() + 4);
  if (device == "cuda") {
    const Operations<T>& operations = cuda::operations<T>();
    if (cuda::devices() == 0) {
      throw NotAvailable("device \"cuda\": there is no CUDA device here; use \"cpu\" or \"auto\"");
    }
    return operations;
  }
  throw ValueError("device \"" + device + "\" is not known; use auto, cpu, cpu:VARIANT, ref or cuda");
}

template const Operations<float>& backend<float>(const std::string&);
template const Operations<double>& backend<double>(const std::string&);

}  // namespace brenier
