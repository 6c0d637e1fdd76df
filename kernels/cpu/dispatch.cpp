// SPDX-License-Identifier: MIT
// Picks the variant of the cpu backend for the processor it runs on.
#include <cstring>
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/operations.hpp"

namespace brenier::cpu {

#if defined(__x86_64__)
namespace avx512 {
template <class T>
const Operations<T>& table();
}
namespace avx2 {
template <class T>
const Operations<T>& table();
}
#endif
namespace sse2 {
template <class T>
const Operations<T>& table();
}

namespace {

bool supported(const char* variant) {
#if defined(__x86_64__)
  if (std::strcmp(variant, "avx512") == 0) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2");
  }
  if (std::strcmp(variant, "avx2") == 0) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  }
#endif
  return std::strcmp(variant, "sse2") == 0;  // vectors of 16 bytes, by whatever the target has
}

template <class T>
const Operations<T>& table_of(const char* variant) {
#if defined(__x86_64__)
  if (std::strcmp(variant, "avx512") == 0) return avx512::table<T>();
  if (std::strcmp(variant, "avx2") == 0) return avx2::table<T>();
#endif
  return sse2::table<T>();
}

}  // namespace

std::vector<const char*> variants() {
  std::vector<const char*> names;
  for (const char* variant : {"avx512", "avx2", "sse2"}) {
    if (supported(variant)) names.push_back(variant);
  }
  return names;
}

template <class T>
const Operations<T>& operations(const char* variant) {
  if (!supported(variant)) {
    std::string known;
    for (const char* name : variants()) known += std::string(known.empty() ? "" : ", ") + name;
    throw NotAvailable("cpu variant \"" + std::string(variant) +
                       "\" does not run on this processor; it has: " + known);
  }
  return table_of<T>(variant);
}

template <class T>
const Operations<T>& operations() {
  return table_of<T>(variants().front());
}

template const Operations<float>& operations<float>(const char*);
template const Operations<double>& operations<double>(const char*);
template const Operations<float>& operations<float>();
template const Operations<double>& operations<double>();

}  // namespace brenier::cpu
