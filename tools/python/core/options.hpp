// SPDX-License-Identifier: MIT
// The options of flows and of training by the rows that configurations are read by: the same names, ranges and defaults.
#pragma once

#include "tools/python/core/arrays.hpp"

namespace brenier::python {

/// tau: a number, or "auto". ValueError, TypeError of Python: the option, its value and what it may be.
FlowOptions flow_options(nb::handle tau, const nb::dict& given, double start_time, double mass);
FitOptions fit_options(const nb::dict& given);

}  // namespace brenier::python
