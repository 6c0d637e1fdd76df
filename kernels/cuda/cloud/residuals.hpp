// SPDX-License-Identifier: MIT
// What is asked of clouds that stay on the device, beside their maps: residuals of a step summed up against affine and smooth
// displacements, spectra of Hessians, scores. Defined in kernels/cuda/cloud/residuals.cpp.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/step/step_kernel.hpp"
#include "kernels/cuda/transfer.hpp"
#include "kernels/resident_cloud.hpp"

namespace brenier::cuda {

/// A cloud of n particles on the device, as kernels see it.
struct CloudArrays {
  const double* x = nullptr;            // (n, d)
  const double* log_density = nullptr;  // (n), or null
  int n = 0, d = 0;
};

/// The terms of an objective that particles have by themselves, on the device, with what computes them.
class DeviceResiduals {
 public:
  DeviceResiduals(const Objective& objective, const CloudArrays& cloud, const double* from, double tau,
                  Stream& stream);

  /// At y = m + A (x - m) + t with `affine` on the device: A as a triangle, t, m; null: y = x. Launches.
  void launch_at(const double* affine, double log_det);
  /// Means over particles of F + transport, of the pressure f' - f/rho, of r and, as a triangle, of r (x - m)^T and its
  /// transpose; m (d) on the device. Brings them.
  std::vector<double> affine_sums(const double* centre);
  /// Means of r.xi - (f' - f/rho) div xi. Brings them.
  std::vector<double> slopes(const SmoothWaves& waves);

 private:
  CloudArrays cloud_;
  const double* from_;
  double tau_;
  Stream& stream_;
  DeviceProgram potential_;
  std::vector<DeviceProgram> programs_;
  DeviceBuffer<InternalView> energies_, surrogates_;
  int terms_ = 0;
  DeviceBuffer<double> y_, r_, values_, rows_, sums_;
};

/// See ResidentCloud::affine.
std::unique_ptr<ResidentCloud::Affine> affine_residuals(const Objective& objective,
                                                        std::shared_ptr<const ResidentCloud> owner,
                                                        const CloudArrays& cloud,
                                                        std::shared_ptr<const ResidentCloud> from_owner,
                                                        const double* from, const std::vector<double>& centre,
                                                        double tau);

/// The mean over particles of Hessians (n, d*d) on the device, (d*d); and the smallest of their eigenvalues, NaN where one is
/// no number.
std::vector<double> mean_of(const double* hessians, int n, int d, Stream& stream);
double least_eigenvalue(const double* hessians, int n, int d, Stream& stream);

/// See ResidentCloud::scores.
void scores_of(const CloudArrays& cloud, MatrixView<double> score, Stream& stream);

/// spread() of kernels/base/subset.hpp on the device.
DeviceBuffer<int> spread_rows(Index n, Index count, std::uint64_t seed, Stream& stream);

}  // namespace brenier::cuda
