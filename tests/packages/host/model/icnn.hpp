// SPDX-License-Identifier: MIT
// A header of the host, under a name that the library has or had.
#pragma once
#ifndef HOST_PROGRAM
#error "the library includes a header of its host"
#endif

namespace host {
inline int part3() {
  return 8;
}
}  // namespace host
