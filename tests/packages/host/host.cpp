// SPDX-License-Identifier: MIT
// A program with headers of its own under the names of the library's: neither sees the other's. Where it is compiled with
// -ffast-math and without exceptions the library still sees what is not a number.
#include <brenier/brenier.h>

#include <brenier/brenier.hpp>
#include <cstdio>
#include <cstring>
#include <limits>

#include "engine/src/flow/state.hpp"
#include "kernels/base/arena.hpp"
#include "kernels/operations.hpp"
#include "kernels/ops.hpp"
#include "model/icnn.hpp"
#include "options.hpp"
#include "util.hpp"

namespace {

/// Whether a flow from particles of which one has this coordinate is refused, with `reason` in the message.
bool refused(double coordinate, const char* reason) {
  brenier_settings* settings = nullptr;
  if (brenier_settings_create(
          &settings, "[flow]\ntau = 0.1\n[[functional]]\nterm = \"potential\"\nexpression = \"x[0]^2\"\n",
          nullptr) != BRENIER_OK)
    return false;
  const double x[] = {0.5, coordinate, 1.5};
  brenier_flow* flow = nullptr;
  const int status = brenier_flow_create(&flow, settings, 3, 1, BRENIER_DOUBLE, x, 1, 1, nullptr);
  const bool said = status == BRENIER_VALUE_ERROR && std::strstr(brenier_last_error(), reason);
  if (!said)
    std::printf("a coordinate %s was not refused: status %d, %s\n", reason, status, brenier_last_error());
  brenier_flow_destroy(flow);
  brenier_settings_destroy(settings);
  return said;
}

}  // namespace

int main() {
  const int own = host::part0() + host::part1() + host::part2() + host::part3() + host::part4() +
                  host::part5() + host::part6();
  const brenier::Cloud cloud = brenier::Density::gaussian(1, 0.0, 1.0).sample(3);
  std::printf("%d %td\n", own, cloud.x.rows());
  const bool checked = refused(std::numeric_limits<double>::quiet_NaN(), "nan") &&
                       refused(std::numeric_limits<double>::infinity(), "inf");
  return own == 127 && cloud.x.rows() == 3 && checked ? 0 : 1;
}
