// SPDX-License-Identifier: MIT
// Terms of F whose gradients at the images of the particles need launches of their own: learned potentials,
// divergences. Potentials that are programs and interactions are not among them; the step computes these
// itself.
//
//   when      in every inner iteration, between the kernel of the images and that of the step, which adds
//             what they leave (StepArgs::external)
//   frame     images are relative to InnerProblem::shift, forces are gradients with respect to them; the
//             step multiplies with InnerProblem::scale
//   graphs    launches are captured and replayed: launch() neither allocates nor waits nor copies to or from
//             the host. What a term keeps between iterations lies in buffers of its own
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernels/cuda/cloud/value.hpp"
#include "kernels/device/device.hpp"

namespace brenier::cuda {

using namespace brenier::device;

/// One such term.
template <class T>
class CloudForce {
 public:
  virtual ~CloudForce() = default;

  /// Launches what adds weight * n * dD/dimage_i, the gradient of the term's first variation, to each
  /// external_i; both (n, d) without gaps, for the n and d that the term was made for.
  virtual void launch(DevicePointer<const T> image, DevicePointer<T> external, Stream& stream) = 0;

  /// After launch() with the same images: value += weight * D, up to a constant. Only for a term that was made
  /// for values.
  virtual void launch_value(DevicePointer<const T> image, DeviceValue& value, Stream& stream) = 0;
};

/// All of them, and the buffer that they add to.
template <class T>
class CloudForces {
 public:
  /// For images (n, d).
  CloudForces(int n, int d) : size_(Index{n} * d) {}

  /// Allocates the buffer with the first term.
  void add(std::unique_ptr<CloudForce<T>> term) {
    if (terms_.empty()) external_ = DeviceBuffer<T>(size_, "forces of learned potentials and divergences");
    terms_.push_back(std::move(term));
  }
  bool empty() const { return terms_.empty(); }

  /// Launches all terms, from 0 on.
  void launch(DevicePointer<const T> image, Stream& stream) {
    if (empty()) return;
    external_.fill_zero(stream);
    for (const std::unique_ptr<CloudForce<T>>& term : terms_)
      term->launch(image, external_.pointer(), stream);
  }
  /// After launch(): the values of all terms.
  void launch_values(DevicePointer<const T> image, DeviceValue& value, Stream& stream) {
    for (const std::unique_ptr<CloudForce<T>>& term : terms_) term->launch_value(image, value, stream);
  }
  /// (n, d) where there are terms, else null.
  DevicePointer<T> external() { return empty() ? DevicePointer<T>() : external_.pointer(); }

 private:
  Index size_;
  std::vector<std::unique_ptr<CloudForce<T>>> terms_;
  DeviceBuffer<T> external_;
};

}  // namespace brenier::cuda
