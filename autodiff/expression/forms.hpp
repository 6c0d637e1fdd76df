// SPDX-License-Identifier: MIT
// Recognition of closed forms: each instruction maps the forms of its operands to its own form, or to none.
#pragma once

#include <optional>

#include "brenier/expression.hpp"
#include "brenier/model/program.hpp"

namespace brenier {

/// Of a function of one number >= 0.
std::optional<PowerLog> find_power_log(const Program& program);
std::optional<EntropyPower> find_entropy_power(const Program& program);
/// Of a function of a vector.
std::optional<Quadratic> find_quadratic(const Program& program);

/// The same function as one of r = |x|, recorded on `radial` (a tape with a nonnegative scalar argument);
/// nothing where `value` uses x otherwise than through dot(x, x).
std::optional<Var> record_radial(const Tape& tape, Var value, Tape& radial);

}  // namespace brenier
