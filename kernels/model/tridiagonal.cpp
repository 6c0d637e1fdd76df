// SPDX-License-Identifier: MIT
#include "kernels/model/tridiagonal.hpp"

namespace brenier::host {

double tridiagonal_log(int n, double* diagonal, double* off_diagonal, double* first) {
  return brenier::tridiagonal_log(n, diagonal, off_diagonal, first);
}

}  // namespace brenier::host
