// SPDX-License-Identifier: MIT
#include "brenier/device.hpp"

#include <charconv>
#include <optional>

#include "brenier/base/error.hpp"
#include "brenier/base/team.hpp"
#include "brenier/version.hpp"
#include "engine/src/device/device_memory.hpp"
#include "kernels/cuda_devices.hpp"
#include "kernels/operations.hpp"

namespace brenier {
namespace {

constexpr const char* kCuda = "cuda:";

std::string quoted(const std::string& device) {
  return "device \"" + device + "\"";
}

/// K of "cuda:K", -1 for "cuda", nothing for what is no CUDA device.
std::optional<int> cuda_number(const std::string& device) {
  if (device == "cuda") return -1;
  if (device.rfind(kCuda, 0) != 0) return std::nullopt;
  const std::string digits = device.substr(5);
  int number = -1;
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (end.ec != std::errc() || end.ptr != digits.data() + digits.size() || number < 0) {
    throw ValueError(quoted(device) + ": after \"cuda:\" comes the number of a device, from 0, as in cuda:0");
  }
  return number;
}

/// Throws NotAvailable unless CUDA device `number` (-1: the current one) can be used. The backend is
/// compiled.
void check_cuda(const std::string& device, int number) {
  const int count = cuda::devices();
  if (count == 0) {
    throw NotAvailable(quoted(device) + ": there is no CUDA device that can be used here (" +
                       cuda::trouble() + "); use \"cpu\" or \"auto\"");
  }
  if (number >= count) {
    throw NotAvailable(quoted(device) + ": this machine has " + std::to_string(count) +
                       (count == 1
                            ? " CUDA device, \"cuda:0\""
                            : " CUDA devices, \"cuda:0\" to \"cuda:" + std::to_string(count - 1) + "\"") +
                       "; use one of these, \"cpu\" or \"auto\"");
  }
  const cuda::DeviceInfo info = cuda::device_info(number < 0 ? cuda::current_device() : number);
  if (info.compute < cuda::kLeastCompute) {
    throw NotAvailable(quoted(device) + ": " + info.name + " has compute capability " +
                       std::to_string(info.compute / 10) + "." + std::to_string(info.compute % 10) +
                       ", and the kernels need 8.0; use \"cpu\" or \"auto\"");
  }
}

}  // namespace

BuildInfo build_info() {
  BuildInfo info;
  info.version = BRENIER_VERSION;
#if defined(__clang__)
  info.compiler = "clang " __clang_version__;
#elif defined(__GNUC__)
  info.compiler = "gcc " __VERSION__;
#endif
  info.cuda = cuda::compiled();
  for (int k = 0; k < cuda::devices(); ++k) info.cuda_devices.push_back(cuda::device_info(k).name);
  info.cuda_trouble = cuda::trouble();
  for (const char* variant : cpu::variants()) info.cpu_variants.emplace_back(variant);
  info.threads = Team::available();
  return info;
}

template <class T>
const Operations<T>& backend(const std::string& device) {
  // "auto" stays with the CPU until the kernels have been seen on a GPU: nobody gets numbers that were not
  // checked on the machine they come from without having asked for it.
  if (device == "auto" || device == "cpu") return cpu::operations<T>();
  if (device == "ref") return ref::operations<T>();
  if (device.rfind("cpu:", 0) == 0) return cpu::operations<T>(device.c_str() + 4);
  if (const std::optional<int> number = cuda_number(device)) {
    const Operations<T>& operations = cuda::operations<T>();
    check_cuda(device, *number);
    return operations;
  }
  throw ValueError(quoted(device) + " is not known; use auto, cpu, cpu:VARIANT, ref, cuda or cuda:K");
}

template const Operations<float>& backend<float>(const std::string&);
template const Operations<double>& backend<double>(const std::string&);

std::string resolved_device(const std::string& device) {
  const std::string name = backend<float>(device).name;
  if (const std::optional<int> number = cuda_number(device)) {
    return kCuda + std::to_string(*number < 0 ? cuda::current_device() : *number);
  }
  return device == "ref" ? name : "cpu:" + name;
}

std::string describe_device(const std::string& device) {
  const std::string resolved = resolved_device(device);
  const std::optional<int> number = cuda_number(resolved);
  if (!number) return resolved;
  const cuda::DeviceInfo info = cuda::device_info(*number);
  return resolved + " (" + info.name + ", " + bytes_text(info.memory) + ")";
}

DeviceScope::DeviceScope(const std::string& device)
    : scope_(std::make_unique<cuda::ScopedDevice>(cuda_number(device).value_or(-1))) {}

DeviceScope::~DeviceScope() = default;

}  // namespace brenier
