// SPDX-License-Identifier: MIT
#include "kernels/model/black_box.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/base/floating_point.hpp"
#include "kernels/base/show.hpp"

namespace brenier {
namespace {

/// `written`: whether any of the numbers is one.
NumericalError not_a_number(const BlackBoxTerm& term, const char* what, bool written,
                            MatrixView<const double> x, Index i) {
  if (!written)
    return NumericalError("potential " + term.name + ": " + what +
                          " is NaN at all points of a call: the function must write it " +
                          "for each of them");
  std::string text = "potential " + term.name + ": " + what + " is NaN at x = (";
  for (Index c = 0; c < x.cols && c < 8; ++c) text += (c > 0 ? ", " : "") + show(x(i, c));
  return NumericalError(text + (x.cols > 8 ? ", ...)" : ")") +
                        "; it must be a number wherever a step may move particles");
}

}  // namespace

void evaluate_black_box(const BlackBoxTerm& term, MatrixView<const double> x, double* value,
                        MatrixView<double> gradient) {
  if (x.rows == 0 || (!value && !gradient)) return;
  // What the function forgets to write must not be taken for its result.
  constexpr double unwritten = std::numeric_limits<double>::quiet_NaN();
  if (value) std::fill_n(value, x.rows, unwritten);
  for (Index i = 0; gradient && i < x.rows; ++i) std::fill_n(gradient.row(i), x.cols, unwritten);
  {
    const HostFloatingPoint host;
    (*term.function)(x, value, gradient);
  }
  const auto is_nan = [](double v) { return std::isnan(v); };
  for (Index i = 0; i < x.rows; ++i) {
    if (value && std::isnan(value[i]))
      throw not_a_number(term, "V", !std::all_of(value, value + x.rows, is_nan), x, i);
    if (!gradient || std::none_of(gradient.row(i), gradient.row(i) + x.cols, is_nan)) continue;
    bool written = false;
    for (Index k = 0; k < x.rows; ++k)
      written = written || !std::all_of(gradient.row(k), gradient.row(k) + x.cols, is_nan);
    throw not_a_number(term, "the gradient of V", written, x, i);
  }
}

struct BlackBoxForces::Failure {
  std::mutex mutex;
  std::exception_ptr first;
};

BlackBoxForces::BlackBoxForces(const Objective& objective, Index n, bool values)
    : objective_(objective),
      d_(objective.black_box.empty() ? 0 : objective.black_box.front().dim),
      x_(static_cast<std::size_t>(n * d_)),
      force_(x_.size()),
      value_(values && d_ > 0 ? static_cast<std::size_t>(n) : 0),
      part_force_(x_.size()),
      part_value_(value_.size()),
      failure_(new Failure) {
  if (d_ == 0) return;
  x = x_.data();
  force = force_.data();
  if (values) value = value_.data();
}

BlackBoxForces::~BlackBoxForces() {
  delete failure_;
}

void BlackBoxForces::fail() noexcept {
  const std::lock_guard lock(failure_->mutex);
  if (!failure_->first) failure_->first = std::current_exception();
  failed = true;
}

void BlackBoxForces::add(const BlackBoxTerm& term, Index begin, Index end) {
  const Index count = end - begin;
  double* const values = value ? part_value_.data() + begin : nullptr;
  const MatrixView<double> gradient(part_force_.data() + begin * d_, count, d_);
  evaluate_black_box(term, {x + begin * d_, count, d_}, values, gradient);
  for (Index k = begin * d_; k < end * d_; ++k)
    force_[static_cast<std::size_t>(k)] += term.weight * part_force_[static_cast<std::size_t>(k)];
  for (Index i = begin; value && i < end; ++i)
    value[i] += term.weight * part_value_[static_cast<std::size_t>(i)];
}

void BlackBoxForces::evaluate(int rank, const Team& team, Index first, Index last) noexcept {
  if (d_ == 0) return;
  bool shared = true;  // by threads, all terms alike: each adds to its own particles
  for (const BlackBoxTerm& term : objective_.black_box) shared = shared && term.thread_safe;
  if (!shared && rank != 0) return;
  const auto [from, to] = shared ? team.share(last - first, rank) : std::pair<Index, Index>(0, last - first);
  const Index begin = first + from, end = first + to;
  try {
    for (Index k = begin * d_; k < end * d_; ++k) force[k] = 0;
    for (Index i = begin; value && i < end; ++i) value[i] = 0;
    for (const BlackBoxTerm& term : objective_.black_box) add(term, begin, end);
  } catch (...) {
    fail();
  }
}

void BlackBoxForces::rethrow() {
  if (!failed) return;
  failed = false;
  std::rethrow_exception(std::exchange(failure_->first, nullptr));
}

}  // namespace brenier
