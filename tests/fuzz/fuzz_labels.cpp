// SPDX-License-Identifier: MIT
// Points and labels of `fit`: any numbers, in any number.
#include <algorithm>
#include <cmath>
#include <vector>

#include "brenier/fit.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace brenier;
using namespace brenier::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  FitOptions options;
  options.loss = data[0] & 1 ? FitOptions::Loss::squared : FitOptions::Loss::binary;
  options.hidden = {3};
  options.epochs = 2;
  options.batch = 1 + data[1] % 8;
  options.threads = 1;
  options.device = "cpu";  // the reference takes most of its time for small allocations
  const Index dim = 1 + (data[0] >> 1) % 3;
  std::vector<double> numbers((size - 2) / sizeof(double));
  if (!numbers.empty()) std::memcpy(numbers.data(), data + 2, numbers.size() * sizeof(double));
  // Few points are as wrong as many, in a fraction of the time; now and then there are many.
  const Index most = data[1] & 128 ? 40 : 8;
  const Index count = std::min<Index>(static_cast<Index>(numbers.size()) / (dim + 1), most);
  Matrix<double> x(count, dim);
  std::copy_n(numbers.begin(), count * dim, x.elements().begin());
  std::vector<double> labels(numbers.begin() + count * dim, numbers.begin() + count * (dim + 1));
  if (data[0] & 16)
    for (double& label : labels) label = label > 0;
  accepted([&] {
    const FitResult result = fit<double>(x, labels, options, [](const FitEpoch&) { return true; });
    for (const double value : result.potential.theta) require(std::isfinite(value), "a parameter");
  });
  return 0;
}
