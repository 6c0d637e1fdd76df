// SPDX-License-Identifier: MIT
// The family of errors that Brenier throws. The library never prints and never exits: what went wrong,
// where, and what is allowed instead is in what().
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "brenier/export.h"

namespace BRENIER_API brenier {

/// Base of every error thrown by the library.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A value outside its valid range, or an option that contradicts another.
class ValueError : public Error {
 public:
  using Error::Error;
};

/// Arrays or parameters whose shapes do not fit together.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// Text that does not parse. `column` counts from 1; 0 where there is no single place.
class ParseError : public Error {
 public:
  explicit ParseError(const std::string& message, int column_in = 0) : Error(message), column(column_in) {}
  int column;
};

/// A file that cannot be read or written, or whose content is not what its format promises.
class IoError : public Error {
 public:
  using Error::Error;
};

/// The computation left the real numbers, or a factorisation met a matrix that is not positive definite.
class NumericalError : public Error {
 public:
  using Error::Error;
};

/// Something that this build, or this machine, does not have (a CUDA device, a backend).
class NotAvailable : public Error {
 public:
  using Error::Error;
};

/// A call to the device that failed, or a kernel that broke its rules; what() names the kernel and its
/// launch.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// Device memory ran out; nothing was allocated. Sizes in bytes.
class OutOfDeviceMemory : public DeviceError {
 public:
  /// `purpose`: what the memory was for.
  OutOfDeviceMemory(const std::string& purpose_in, std::size_t requested_in, std::size_t free_in,
                    std::size_t total_in)
      : DeviceError("out of device memory: " + std::to_string(requested_in) + " bytes requested for " +
                    purpose_in + ", " + std::to_string(free_in) + " of " + std::to_string(total_in) +
                    " bytes free; use fewer particles or a minibatch"),
        purpose(purpose_in),
        requested(requested_in),
        free(free_in),
        total(total_in) {}
  /// The same failure in the words of a caller that knows what it was about.
  OutOfDeviceMemory(const std::string& message, const OutOfDeviceMemory& cause)
      : DeviceError(message),
        purpose(cause.purpose),
        requested(cause.requested),
        free(cause.free),
        total(cause.total) {}
  std::string purpose;
  std::size_t requested;
  std::size_t free;   // when the request failed
  std::size_t total;  // of the device
};

}  // namespace brenier
