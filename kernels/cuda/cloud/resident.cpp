// SPDX-License-Identifier: MIT
#include "kernels/cuda/cloud/resident.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>

#include "kernels/cuda/cloud/clouds.hpp"
#include "kernels/cuda/cloud/resident_kernels.hpp"
#include "kernels/cuda/cloud/residuals.hpp"
#include "kernels/cuda/transfer.hpp"
#include "kernels/cuda_devices.hpp"

namespace brenier::cuda {
namespace {

/// Blocks of a kernel whose threads take elements in turn.
int element_blocks(Index count) {
  return static_cast<int>(std::clamp<Index>((count + kSumThreads - 1) / kSumThreads, 1, 8 * kSumBlocks));
}

/// body(the first element) in the type that a host program's matrix has.
template <class Address, class Body>
void in_type(const DeviceArray<Address>& matrix, const Body& body) {
  using Float = std::conditional_t<std::is_const_v<Address>, const float, float>;
  using Double = std::conditional_t<std::is_const_v<Address>, const double, double>;
  if (matrix.type == DeviceArray<Address>::Type::float32)
    body(static_cast<Float*>(matrix.data));
  else
    body(static_cast<Double*>(matrix.data));
}

template <class T, class Address>
StridedMatrix<T> strided(T* data, const DeviceArray<Address>& matrix) {
  return {data, as_int(matrix.rows), as_int(matrix.cols), matrix.row_stride, matrix.col_stride};
}

/// ValueError unless all of the host program's matrix lies on the current device.
template <class Address>
void check_place(const DeviceArray<Address>& matrix, const char* what) {
  in_type(matrix, [&]<class T>(T* data) {
    const Index down = (matrix.rows - 1) * matrix.row_stride, across = (matrix.cols - 1) * matrix.col_stride;
    const Index low = std::min<Index>(down, 0) + std::min<Index>(across, 0);
    const Index high = std::max<Index>(down, 0) + std::max<Index>(across, 0);
    const auto first = reinterpret_cast<std::uintptr_t>(data);
    if (first % sizeof(T) != 0)
      throw ValueError(std::string("cloud: the address of ") + what + " is no multiple of " +
                       std::to_string(sizeof(T)) + ", the size of an element");
    const int here = current_device();
    const std::uintptr_t ends[] = {first + static_cast<std::uintptr_t>(low) * sizeof(T),
                                   first + static_cast<std::uintptr_t>(high + 1) * sizeof(T) - 1};
    for (const std::uintptr_t end : ends) {
      const int found = device_of(reinterpret_cast<const void*>(end));
      if (found == here) continue;
      throw ValueError(std::string("cloud: ") + (end == ends[0] ? "the first" : "the last") + " byte of " +
                       what + " is in " +
                       (found < 0 ? std::string("no memory of a CUDA device")
                                  : "the memory of CUDA device " + std::to_string(found)) +
                       "; addresses, sizes and strides must be of an array on device " +
                       std::to_string(here) + ", where the flow runs");
    }
  });
}

/// out (rows * cols) on the device = the host program's matrix. Leaves in `refused` the number of rows from the first that
/// has what is below `least`, infinite or NaN.
void gather(const DeviceArray<const void>& from, double least, DeviceBuffer<double>& out,
            DevicePointer<unsigned> refused, Stream& stream) {
  in_type(from, [&]<class T>(const T* data) {
    launch(gather_kernel<T>, {element_blocks(from.rows * from.cols), kSumThreads, 0, stream, "gather"},
           strided(data, from), out.pointer(), least, refused);
  });
}

class Resident final : public ResidentCloud, public std::enable_shared_from_this<Resident> {
 public:
  Resident(DeviceBuffer<double> x, DeviceBuffer<double> log_density, Index rows, Index cols, DeviceMap map)
      : x_(std::move(x)), log_density_(std::move(log_density)), rows_(rows), cols_(cols), map_(map) {}

  Index rows() const override { return rows_; }
  Index cols() const override { return cols_; }
  bool has_density() const override { return log_density_.size() > 0; }
  bool reachable() const override { return current_device() == device_; }
  const double* log_density() const override { return address(log_density_); }

  void download(MatrixView<double> x, double* log_density) const override {
    const ScopedDevice there(device_);
    Stream stream;
    if (x) cuda::download(x_, x, stream);
    if (log_density) cuda::download(log_density_, MatrixView<double>(log_density, rows_, 1), stream);
  }

  void download(std::span<const Index> rows, MatrixView<double> x, double* log_density) const override {
    const std::lock_guard lock(brought_mutex_);
    const Brought& found = bring(rows, static_cast<bool>(x), log_density != nullptr);
    for (Index i = 0; x && i < x.rows; ++i) std::copy_n(found.x.row(i), cols_, x.row(i));
    if (log_density) std::copy(found.log_density.begin(), found.log_density.end(), log_density);
  }

  void write(const DeviceResults& to) const override {
    const ScopedDevice there(device_);
    Stream stream;
    const auto put = [&](const DeviceBuffer<double>& from, const DeviceArray<void>& matrix) {
      in_type(matrix, [&]<class T>(T* data) {
        launch(scatter_kernel<T>,
               {element_blocks(matrix.rows * matrix.cols), kSumThreads, 0, stream, "scatter"}, from.pointer(),
               strided(data, matrix));
      });
    };
    if (to.x) check_place(to.x, "the positions");
    if (to.log_density) check_place(to.log_density, "the log-densities");
    stream.follow(to.stream);
    if (to.x) put(x_, to.x);
    if (to.log_density) put(log_density_, to.log_density);
    stream.lead(to.stream);
  }

  Spread spread() const override {
    std::call_once(spread_known_, [this] { spread_ = find_spread(); });  // a step asks for it some five times
    return spread_;
  }

  Image image(const Icnn& net, const double* theta) const override { return move(net, theta); }
  Image image(const ResidentMap& map) const override {
    const auto& there = static_cast<const DeviceMapParameters&>(map);
    return move(there.net, there.theta.pointer());
  }
  std::shared_ptr<const ResidentCloud> subset(Index count, std::uint64_t seed) const override {
    Stream stream;
    const DeviceBuffer<int> rows = spread_rows(rows_, count, seed, stream);
    const Index taken = rows.size();
    DeviceBuffer<double> x(taken * cols_), log_density(has_density() ? taken : 0);
    const auto take = [&](const DeviceBuffer<double>& from, Index cols, DeviceBuffer<double>& to) {
      launch(take_rows_kernel<double>, {element_blocks(taken * cols), kSumThreads, 0, stream, "take rows"},
             from.pointer(), rows.pointer(), as_int(taken), as_int(cols), to.pointer());
    };
    take(x_, cols_, x);
    if (has_density()) take(log_density_, 1, log_density);
    stream.synchronise();
    return std::make_shared<Resident>(std::move(x), std::move(log_density), taken, cols_, map_);
  }

  std::vector<double> mean_hessian(const ResidentMap& map) const override {
    Stream stream;
    DeviceBuffer<double> hessians = hessians_of(map, stream);
    return mean_of(raw(hessians), as_int(rows_), as_int(cols_), stream);
  }
  double least_eigenvalue(const ResidentMap& map) const override {
    Stream stream;
    DeviceBuffer<double> hessians = hessians_of(map, stream);
    return cuda::least_eigenvalue(raw(hessians), as_int(rows_), as_int(cols_), stream);
  }
  void scores(MatrixView<double> score) const override {
    Stream stream;
    scores_of(arrays(), score, stream);
  }
  std::unique_ptr<Affine> affine(const Objective& objective, const std::shared_ptr<const ResidentCloud>& from,
                                 const std::vector<double>& centre, double tau) const override {
    return affine_residuals(objective, shared_from_this(), arrays(), from,
                            address(static_cast<const Resident&>(*from).x_), centre, tau);
  }
  std::vector<double> slopes(const Objective& objective, const ResidentCloud& from, double tau,
                             const SmoothWaves& waves) const override {
    Stream stream;
    DeviceResiduals residuals(objective, arrays(), address(static_cast<const Resident&>(from).x_), tau,
                              stream);
    residuals.launch_at(nullptr, 0);
    return residuals.slopes(waves);
  }
  double pressure(const Objective& objective) const override {
    Stream stream;
    Objective internal;
    internal.internal = objective.internal;
    // What stands still: residuals of no other term.
    DeviceResiduals residuals(internal, arrays(), address(x_), 1, stream);
    residuals.launch_at(nullptr, 0);
    const std::vector<double> origin(static_cast<std::size_t>(cols_));
    DeviceBuffer<double> centre = upload(origin.data(), cols_, stream);
    return residuals.affine_sums(raw(centre))[1];
  }

  ObjectiveValue value(const Objective& objective) const override {
    Stream stream;
    const double share = 1.0 / static_cast<double>(rows_);
    const Index threads = DeviceValue::threads(rows_);
    DeviceBuffer<double> sums(2);
    sums.fill_zero(stream);
    DeviceValue potential(sums.pointer(0), nullptr, stream), internal(sums.pointer(1), nullptr, stream);
    bool potentials = false;
    // Kept until the sums are here.
    std::vector<DeviceProgram> programs;
    std::vector<DeviceBuffer<double>> memory;
    if (objective.has_potential()) {
      programs.emplace_back(objective.potential, stream);
      memory.emplace_back(threads * programs.back().view.rows);
      potential.add("potential", share, rows_,
                    ProgramValues{programs.back().view, address(x_), raw(memory.back())}, stream);
      potentials = true;
    }
    for (const NetworkTerm& term : objective.network) {
      memory.emplace_back(rows_, "values of a learned potential");
      map_(*term.net, {term.theta->data()}, address(x_), as_int(rows_), {.potential = raw(memory.back())},
           stream);
      potential.add("learned potential", term.weight * share, rows_, Numbers{raw(memory.back())}, stream);
      potentials = true;
    }
    for (const InternalTerm& term : objective.internal) {
      programs.emplace_back(term.program, stream);
      memory.emplace_back(threads * std::max<Index>(programs.back().view.rows, 1));
      internal.add("internal energy", share, rows_,
                   InternalValues{{term.form, term.weight, term.exponent, programs.back().view},
                                  address(log_density_),
                                  raw(memory.back())},
                   stream);
    }
    ObjectiveValue out;
    if (!potentials && objective.internal.empty()) return out;
    const std::vector<double> found = cuda::download(sums, stream);
    out.potential = found[0];
    out.internal = found[1];
    return out;
  }

  Centred<float> centred_float(const std::vector<double>& shift) const override {
    return centre<float>(shift);
  }
  Centred<double> centred_double(const std::vector<double>& shift) const override {
    return centre<double>(shift);
  }

 private:
  Image move(const Icnn& net, const NetParameters<double>& theta) const {
    Stream stream;
    const int n = as_int(rows_), d = as_int(cols_);
    const bool density = has_density();
    // Displacements and log-determinants become positions and log-densities where they are.
    DeviceBuffer<double> y(rows_ * cols_, "positions"), log_density(density ? rows_ : 0, "log-densities");
    map_(net, theta, address(x_), n, {.displacement = raw(y), .log_det = raw(log_density)}, stream);
    const int blocks = DeviceValue::blocks(rows_);
    DeviceBuffer<CarrySums> partial(blocks), sums(1);
    DeviceBuffer<unsigned> ticket(1);
    ticket.fill_zero(stream);
    CarryArgs<double> args{.x = address(x_), .log_density = address(log_density_)};
    args.y = raw(y);
    args.log_density_after = raw(log_density);
    args.n = n;
    args.d = d;
    args.partial = raw(partial);
    args.sums = raw(sums);
    args.ticket = raw(ticket);
    launch(carry_kernel<double>, {blocks, kSumThreads, sizeof(SumShared), stream, "carry"}, args);
    const CarrySums found = cuda::download(sums, stream).front();
    Image out;
    out.squares = found.squares;
    if (density)
      out.least_log_det =
          found.undefined > 0 ? std::numeric_limits<double>::quiet_NaN() : found.least_log_det;
    out.cloud = std::make_shared<Resident>(std::move(y), std::move(log_density), rows_, cols_, map_);
    return out;
  }

  /// Rows of the cloud that have come to the host: the images of a step are asked for by several of its certificates, and by the
  /// next step as its particles.
  struct Brought {
    std::vector<Index> rows;
    Matrix<double> x;                 // (rows.size(), d), or empty
    std::vector<double> log_density;  // (rows.size()), or empty
  };
  const Brought& bring(std::span<const Index> rows, bool x, bool log_density) const {
    constexpr std::size_t kKept = 4;
    auto at = std::find_if(brought_.begin(), brought_.end(), [&](const Brought& one) {
      return std::equal(one.rows.begin(), one.rows.end(), rows.begin(), rows.end());
    });
    if (at == brought_.end()) {
      if (brought_.size() == kKept) brought_.erase(brought_.begin());
      at = brought_.insert(brought_.end(), {{rows.begin(), rows.end()}, {}, {}});
    }
    x = x && at->x.empty();
    log_density = log_density && at->log_density.empty();
    if (!x && !log_density) return *at;
    const ScopedDevice there(device_);
    Stream stream;
    const std::vector<int> numbers(rows.begin(), rows.end());
    const Index count = static_cast<Index>(numbers.size());
    const DeviceBuffer<int> places = upload(numbers.data(), count, stream);
    const auto take = [&](const DeviceBuffer<double>& from, Index cols, MatrixView<double> to) {
      DeviceBuffer<double> some(count * cols);
      launch(take_rows_kernel<double>, {element_blocks(count * cols), kSumThreads, 0, stream, "take rows"},
             from.pointer(), places.pointer(), as_int(count), as_int(cols), some.pointer());
      cuda::download(some, to, stream);
    };
    if (x) {
      Matrix<double> positions(count, cols_);
      take(x_, cols_, positions);
      at->x = std::move(positions);
    }
    if (log_density) {
      std::vector<double> densities(static_cast<std::size_t>(count));
      take(log_density_, 1, MatrixView<double>(densities.data(), count, 1));
      at->log_density = std::move(densities);
    }
    return *at;
  }
  Spread find_spread() const {
    Stream stream;
    DeviceBuffer<PairMoments> moments(cols_);
    launch(pair_moments_kernel<double>,
           {as_int(cols_), kMomentThreads, sizeof(MomentsShared), stream, "moments"}, x_.pointer(),
           as_int(rows_), as_int(cols_), moments.pointer());
    Spread out;
    for (const PairMoments& of : cuda::download(moments, stream)) {
      out.mean.push_back(of.origin + of.offset);
      out.squares.push_back(of.square);
      const double largest = std::isfinite(of.square) ? std::max(std::abs(of.low), std::abs(of.high))
                                                      : std::numeric_limits<double>::quiet_NaN();
      out.largest = std::isnan(out.largest) || largest <= out.largest ? out.largest : largest;
    }
    return out;
  }
  CloudArrays arrays() const {
    return {address(x_), has_density() ? address(log_density_) : nullptr, as_int(rows_), as_int(cols_)};
  }
  DeviceBuffer<double> hessians_of(const ResidentMap& map, Stream& stream) const {
    const auto& there = static_cast<const DeviceMapParameters&>(map);
    DeviceBuffer<double> out(rows_ * cols_ * cols_, "Hessians");
    map_(there.net, there.theta.pointer(), address(x_), as_int(rows_), {.hessian = raw(out)}, stream);
    return out;
  }
  static const double* address(const DeviceBuffer<double>& buffer) {
    return reinterpret_cast<const double*>(buffer.pointer().address());
  }
  template <class T>
  Centred<T> centre(const std::vector<double>& shift) const {
    Stream stream;
    const DeviceBuffer<double> by = upload(shift.data(), cols_, stream);
    auto memory = std::make_shared<DeviceBuffer<T>>(rows_ * cols_, "the cloud of an inner problem");
    launch(shift_kernel<T>, {element_blocks(rows_ * cols_), kSumThreads, 0, stream, "centre"}, x_.pointer(),
           by.pointer(), as_int(rows_), as_int(cols_), memory->pointer());
    stream.synchronise();
    return {memory, MatrixView<const T>(raw(*memory), rows_, cols_)};
  }

  DeviceBuffer<double> x_, log_density_;
  Index rows_, cols_;
  DeviceMap map_;
  int device_ = current_device();
  mutable std::once_flag spread_known_;
  mutable Spread spread_;
  mutable std::mutex brought_mutex_;
  mutable std::vector<Brought> brought_;
};

}  // namespace

std::shared_ptr<const ResidentCloud> resident_cloud(MatrixView<const double> x, const double* log_density,
                                                    DeviceMap map) {
  Stream stream;
  DeviceBuffer<double> positions = upload<double>(x, stream);
  DeviceBuffer<double> densities = log_density ? upload(log_density, x.rows, stream) : DeviceBuffer<double>();
  return std::make_shared<Resident>(std::move(positions), std::move(densities), x.rows, x.cols, map);
}

std::shared_ptr<const ResidentCloud> gathered_cloud(const DeviceCloud& from, DeviceMap map) {
  Stream stream;
  const bool density = static_cast<bool>(from.log_density);
  const Index rows = from.x.rows, cols = from.x.cols;
  check_place(from.x, "the positions");
  if (density) check_place(from.log_density, "the log-densities");
  DeviceBuffer<double> x(rows * cols, "positions"), log_density(density ? rows : 0, "log-densities");
  DeviceBuffer<unsigned> refused(2);
  refused.fill_zero(stream);
  stream.follow(from.stream);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  gather(from.x, std::numeric_limits<double>::lowest(), x, refused.pointer(0), stream);
  if (density) gather(from.log_density, -infinity, log_density, refused.pointer(1), stream);
  const std::vector<unsigned> found = cuda::download(refused, stream);
  const auto particle = [&](unsigned from_there) { return std::to_string(rows - Index{from_there}); };
  if (found[0] > 0)
    throw ValueError("cloud: particle " + particle(found[0]) +
                     " has a coordinate that is infinite or NaN; all coordinates must be finite");
  if (found[1] > 0)
    throw ValueError(
        "cloud: particle " + particle(found[1]) +
        " has a log-density that is +inf or NaN; log-densities must be finite, or -inf where the density "
        "vanishes");
  return std::make_shared<Resident>(std::move(x), std::move(log_density), rows, cols, map);
}

}  // namespace brenier::cuda
