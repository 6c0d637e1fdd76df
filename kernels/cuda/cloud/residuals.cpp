// SPDX-License-Identifier: MIT
// Compiled once, as CUDA into the library, and by the host compiler for the emulated device.
#include "kernels/cuda/cloud/residuals.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/cuda/cloud/residual_kernels.hpp"

namespace brenier::cuda {
namespace {

/// Blocks of a kernel with a thread for each of so many.
int thread_blocks(Index count) {
  return static_cast<int>((count + kSumThreads - 1) / kSumThreads);
}

DevicePointer<const double> pointer_to(const double* at) {
  return DevicePointer<const double>(reinterpret_cast<std::uintptr_t>(at));
}

}  // namespace

DeviceResiduals::DeviceResiduals(const Objective& objective, const CloudArrays& cloud, const double* from,
                                 double tau, Stream& stream)
    : cloud_(cloud), from_(from), tau_(tau), stream_(stream), potential_(objective.potential, stream) {
  const Index n = cloud.n, d = cloud.d;
  Index rows = potential_.view.rows;
  std::vector<InternalView> energies, surrogates;
  const auto view = [&](const InternalTerm& term, const Program& program) {
    programs_.emplace_back(program, stream);
    rows = std::max<Index>(rows, programs_.back().view.rows);
    return InternalView{term.form, term.weight, term.exponent, programs_.back().view};
  };
  for (const InternalTerm& term : objective.internal) {
    energies.push_back(view(term, term.program));
    surrogates.push_back(view(term, term.surrogate));
  }
  terms_ = as_int(static_cast<Index>(energies.size()));
  energies_ = upload(energies.data(), terms_, stream);
  surrogates_ = upload(surrogates.data(), terms_, stream);
  y_ = DeviceBuffer<double>(n * d);
  r_ = DeviceBuffer<double>(n * d);
  values_ = DeviceBuffer<double>(2 * n);
  rows_ = DeviceBuffer<double>(std::max<Index>(rows, 1) * DeviceValue::threads(n));
  sums_ = DeviceBuffer<double>(2 + d + triangle(d));
}

void DeviceResiduals::launch_at(const double* affine, double log_det) {
  ResidualArgs args{.cloud = cloud_};
  args.from = from_;
  args.affine = affine;
  args.log_det = log_det;
  args.tau = tau_;
  args.has_potential = potential_.view.length > 0;
  args.potential = potential_.view;
  args.energies = raw(energies_);
  args.surrogates = raw(surrogates_);
  args.terms = terms_;
  args.y = raw(y_);
  args.r = raw(r_);
  args.values = raw(values_);
  args.rows = raw(rows_);
  launch(residual_kernel, {DeviceValue::blocks(cloud_.n), kSumThreads, 0, stream_, "residuals"}, args);
}

std::vector<double> DeviceResiduals::affine_sums(const double* centre) {
  launch(affine_sums_kernel,
         {as_int(sums_.size()), kSumThreads, sizeof(ResidualSum), stream_, "sums of residuals"},
         pointer_to(cloud_.x), cloud_.n, cloud_.d, r_.pointer(), values_.pointer(), pointer_to(centre),
         sums_.pointer());
  return download(sums_, stream_);
}

std::vector<double> DeviceResiduals::slopes(const SmoothWaves& waves) {
  const Index d = cloud_.d, count = 2 * d + 2 * (static_cast<Index>(waves.wave.size()) / d);
  std::vector<double> all(waves.mean.begin(), waves.mean.end());
  all.insert(all.end(), waves.deviation.begin(), waves.deviation.end());
  all.insert(all.end(), waves.wave.begin(), waves.wave.end());
  DeviceBuffer<double> there = upload(all.data(), static_cast<Index>(all.size()), stream_), out(count);
  const WavesView view{raw(there), raw(there) + d, raw(there) + 2 * d};
  launch(slopes_kernel, {as_int(count), kSumThreads, sizeof(ResidualSum), stream_, "slopes"},
         pointer_to(cloud_.x), cloud_.n, cloud_.d, r_.pointer(), values_.pointer(cloud_.n), view,
         out.pointer());
  return download(out, stream_);
}

namespace {

class AffineResiduals final : public ResidentCloud::Affine {
 public:
  AffineResiduals(const Objective& objective, std::shared_ptr<const ResidentCloud> owner,
                  const CloudArrays& cloud, std::shared_ptr<const ResidentCloud> from_owner,
                  const double* from, const std::vector<double>& centre, double tau)
      : owner_(std::move(owner)),
        from_owner_(std::move(from_owner)),
        d_(cloud.d),
        centre_(centre),
        residuals_(objective, cloud, from, tau, stream_),
        affine_(triangle(d_) + 2 * d_) {
    copy_to_device(affine_.pointer(triangle(d_) + d_), std::span<const double>(centre_), stream_);
  }

  Sums at(const Matrix<double>& matrix, const std::vector<double>& shift, double log_det) override {
    std::vector<double> packed(static_cast<std::size_t>(triangle(d_)));
    for (Index b = 0; b < d_; ++b) {
      for (Index a = 0; a <= b; ++a) packed[static_cast<std::size_t>(triangle_index(a, b))] = matrix(a, b);
    }
    packed.insert(packed.end(), shift.begin(), shift.end());
    copy_to_device(affine_.pointer(), std::span<const double>(packed), stream_);
    residuals_.launch_at(raw(affine_), log_det);
    const std::vector<double> sums = residuals_.affine_sums(raw(affine_) + triangle(d_) + d_);
    Sums out{sums[0], sums[1], {sums.begin() + 2, sums.begin() + 2 + d_}, Matrix<double>(d_, d_)};
    for (Index b = 0; b < d_; ++b) {
      for (Index a = 0; a <= b; ++a)
        out.matrix(a, b) = out.matrix(b, a) = sums[static_cast<std::size_t>(2 + d_ + triangle_index(a, b))];
    }
    return out;
  }

 private:
  Stream stream_;
  std::shared_ptr<const ResidentCloud> owner_, from_owner_;
  Index d_;
  std::vector<double> centre_;
  DeviceResiduals residuals_;
  DeviceBuffer<double> affine_;
};

}  // namespace

std::unique_ptr<ResidentCloud::Affine> affine_residuals(const Objective& objective,
                                                        std::shared_ptr<const ResidentCloud> owner,
                                                        const CloudArrays& cloud,
                                                        std::shared_ptr<const ResidentCloud> from_owner,
                                                        const double* from, const std::vector<double>& centre,
                                                        double tau) {
  return std::make_unique<AffineResiduals>(objective, std::move(owner), cloud, std::move(from_owner), from,
                                           centre, tau);
}

std::vector<double> mean_of(const double* hessians, int n, int d, Stream& stream) {
  DeviceBuffer<double> out(Index{d} * d);
  launch(mean_kernel, {thread_blocks(out.size()), kSumThreads, 0, stream, "mean"}, pointer_to(hessians), n,
         d * d, out.pointer());
  return download(out, stream);
}

double least_eigenvalue(const double* hessians, int n, int d, Stream& stream) {
  DeviceBuffer<double> work((Index{d} * d + 4 * d) * n), out(2 * thread_blocks(n));
  launch(least_eigenvalue_kernel,
         {thread_blocks(n), kSumThreads, sizeof(ResidualSum), stream, "least eigenvalue"},
         pointer_to(hessians), n, d, work.pointer(), out.pointer());
  double least = std::numeric_limits<double>::infinity(), undefined = 0;
  const std::vector<double> found = download(out, stream);
  for (std::size_t k = 0; k < found.size(); k += 2) {
    least = std::min(least, found[k]);
    undefined += found[k + 1];
  }
  return undefined > 0 ? std::numeric_limits<double>::quiet_NaN() : least;
}

void scores_of(const CloudArrays& cloud, MatrixView<double> score, Stream& stream) {
  const Index groups = score.rows, d = cloud.d;
  DeviceBuffer<double> work(d * (d + 1) * groups), out(groups * d);
  launch(scores_kernel, {thread_blocks(groups), kSumThreads, 0, stream, "scores"}, cloud, as_int(groups),
         work.pointer(), out.pointer());
  download(out, score, stream);
}

DeviceBuffer<int> spread_rows(Index n, Index count, std::uint64_t seed, Stream& stream) {
  count = std::min(n, count);
  DeviceBuffer<int> out(count);
  launch(spread_kernel, {thread_blocks(count), kSumThreads, 0, stream, "spread"}, n, count, seed,
         out.pointer());
  return out;
}

}  // namespace brenier::cuda
