// SPDX-License-Identifier: MIT
// The layered form, for every kind of products the same: compiled once, as CUDA into the library, and by the
// host compiler for the emulated device.
#include "kernels/cuda/layered/layered.hpp"

#include <algorithm>

#include "kernels/cuda/layered/cg.hpp"
#include "kernels/cuda/layered/kernels.hpp"
#include "kernels/cuda/layered/solves.hpp"
#include "kernels/cuda/transfer.hpp"

namespace brenier::cuda {
namespace {

template <class T>
class Layers final : public LayeredNet<T> {
 public:
  Layers(const NetView& net, const TileTask& task, Index particles, Stream& stream)
      : net_(net), plan_(net, task, 1, true), theta_(net.packed) {
    const std::size_t bytes =
        static_cast<std::size_t>(plan_.rows) * sizeof(T) + static_cast<std::size_t>(plan_.doubles()) * 8;
    // The problem decides, not what the device has free: the same problem has the same bits.
    const Index fit = static_cast<Index>(kChunkBytes / bytes) / 32 * 32;
    const Index most = std::clamp<Index>(fit, 32, kMaxChunk);
    chunks_ = as_int(std::max<Index>((particles + most - 1) / most, 1));
    n_ = as_int(std::max<Index>(((particles + chunks_ - 1) / chunks_ + 31) / 32 * 32, 32));
    plan_ = TilePlan(net, task, n_, true);
    // Deep networks are too large for arguments of kernels.
    const TilePlan plans[] = {plan_, single_plan(plan_)};
    device_net_ = upload(&net_, 1, stream);
    device_plans_ = upload(plans, 2, stream);
    rows_ = DeviceBuffer<T>(Index{plan_.rows} * n_);
    doubles_ = DeviceBuffer<double>(std::max(plan_.doubles(), 1));
  }

  const TilePlan& plan() const override { return plan_; }

  void evaluate(const TileArgs<T>& tile, Stream& stream) override {
    begin({.tile = tile}, stream);
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      enter(chunk, layered::GatherCloud{});
      forward(plan_.tangents);
      adjoint();
      displace(false);
      if (plan_.directions == Directions::unit) {
        hessian();
        stage("log det", factor_threads(), layered::Factorise{});
      }
      stage("map", net_.dim * net_.dim, layered::ScatterMap{});
    }
  }

  void add_displacement(const StepArgs<T>& args, T factor, DevicePointer<T> to, Stream& stream) override {
    begin(args, stream);
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      enter(chunk, layered::GatherCloud{});
      forward(0);
      adjoint();
      displace(false);
      stage("add displacement", net_.dim, layered::AddDisplacement<T>{factor, raw(to)});
      if (args.tile.potential) stage("map", 1, layered::ScatterMap{});
    }
  }

  void hessian_vector(const TileArgs<T>& tile, Stream& stream) override {
    begin({.tile = tile}, stream);
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      enter(chunk, layered::GatherCloud{});
      forward(plan_.tangents);
      adjoint();
      products();
    }
  }

  void jet_gradient(const TileArgs<T>& tile, Stream& stream) override {
    begin({.tile = tile}, stream);
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      enter(chunk, layered::GatherSeeds{});
      forward(plan_.tangents);
      adjoint();
      second_order();
    }
  }

  void solve(const SolveArgs<T>& args, Stream& stream) override {
    begin({.tile = args.tile}, stream);
    const ConjugateGradients<T> cg{args.options};
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      evaluate_once(chunk);
      for (int k = 0; k < args.count; ++k) {
        stage("vectors", net_.dim, layered::GatherVectors<T, SolveState>{args, k});
        if (args.options.warm_start) {
          stage("guess", 32, layered::Guess<T>{cg});
          tangents();
          products();
        }
        stage("start", 32, layered::StartSolve<T>{cg});
        for (int j = 0; j < args.options.iterations; ++j) {
          tangents();
          products();
          stage("conjugate gradients", 32, layered::AdvanceSolve<T>{cg});
        }
        stage("solutions", net_.dim, layered::FinishSolve<T>{cg, args, k});
      }
    }
  }

  void log_det_lanczos(const SolveArgs<T>& args, Stream& stream) override {
    begin({.tile = args.tile}, stream);
    const Lanczos<T> lanczos{args.steps};
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      evaluate_once(chunk);
      for (int k = 0; k < args.count; ++k) {
        stage("vectors", net_.dim, layered::GatherVectors<T, LanczosState>{args, k});
        stage("start", 32, layered::StartLanczos<T>{lanczos});
        for (int j = 0; j < args.steps; ++j) {
          tangents();
          products();
          stage("Lanczos", 32, layered::AdvanceLanczos<T>{lanczos, j});
        }
        stage("quadrature", 1, layered::FinishLanczos<T>{lanczos, args});
      }
    }
  }

  void step(const StepArgs<T>& args, bool images, const std::function<void()>& launch_forces,
            Stream& stream) override {
    begin(args, stream);
    for (int chunk = 0; images && chunk < chunks_; ++chunk) {
      // The rows of the only chunk serve the second half as well.
      image(chunk, chunks_ > 1 ? 0 : plan_.tangents, true);
    }
    if (images) launch_forces();
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      if (!images || chunks_ > 1) image(chunk, plan_.tangents, false);
      stage("seeds", 1, layered::Seeds{});
      if (plan_.directions == Directions::unit) {
        hessian();
        stage("metric", factor_threads(), layered::Metric{});
      }
      if (args.tile.displacement) stage("map", net_.dim, layered::ScatterMap{});
      second_order();
    }
  }

  void step_cg(const StepCgArgs<T>& args, bool images, const std::function<void()>& launch_forces,
               Stream& stream) override {
    begin(args.step, stream);
    const TilePlan pairs = plan_;
    const auto use = [&](const TilePlan& plan, int uploaded) {
      plan_ = plan;
      args_.plan = raw(device_plans_) + uploaded;
    };
    const ConjugateGradients<T> cg{args.log_det.options};
    for (int chunk = 0; images && chunk < chunks_; ++chunk) image(chunk, 0, true);
    if (images) launch_forces();
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      if (!images || chunks_ > 1) image(chunk, 0, false);
      stage("seeds", 1, layered::Seeds{});
      use(single_plan(pairs), 1);
      for (int k = 0; k < args.log_det.probes; ++k) {
        stage("probes", net_.dim, layered::GatherProbe{k});
        stage("start", 32, layered::StartSolve<T>{cg});
        for (int j = 0; j < args.log_det.options.iterations; ++j) {
          tangents();
          products();
          stage("conjugate gradients", 32, layered::AdvanceRecorded<T>{cg, args.log_det});
        }
        stage("solutions", net_.dim, layered::FinishRecorded<T>{cg, args.log_det, k});
      }
      use(pairs, 0);
      stage("pairs", args.log_det.probes * net_.dim, layered::SeedPairs{args.log_det});
      tangents();
      second_order();
    }
  }

 private:
  static constexpr Index kMaxChunk = 8192;  // fills a large device
  static constexpr std::size_t kChunkBytes = std::size_t{1} << 30;
  static constexpr int kMaxGrid = 4096;

  // --- launches

  void begin(const StepArgs<T>& args, Stream& stream) {
    stream_ = &stream;
    args_.net = raw(device_net_);
    args_.plan = raw(device_plans_);
    args_.step = args;
    args_.theta = args.tile.theta;
    args_.current = raw(theta_);
    args_.step.tile.theta = raw(theta_);
    args_.particles = n_;
    args_.rows = raw(rows_);
    args_.doubles = raw(doubles_);
    launch(layered_kernel<T, layered::Start>, shape("start", net_.packed), args_, layered::Start{});
  }
  template <class Gather>
  void enter(int chunk, const Gather& gather) {
    args_.begin = chunk * n_;
    stage("gather", net_.dim, gather);
  }
  Launch shape(const char* name, Index threads) const {
    const Index blocks = (threads + kLayeredThreads - 1) / kLayeredThreads;
    return {as_int(std::clamp<Index>(blocks, 1, kMaxGrid)), kLayeredThreads, 0, *stream_, name};
  }
  /// A stage with work for `rows` threads a particle.
  template <class Stage>
  void stage(const char* name, int rows, const Stage& stage) {
    launch(layered_kernel<T, Stage>, shape(name, Index{rows} * n_), args_, stage);
  }

  /// Threads for the factor of one particle.
  int factor_threads() const { return net_.dim > kRegisterDim ? 32 : 1; }

  // --- products

  DevicePointer<T> row(int r) { return rows_.pointer(Index{r} * n_); }
  DevicePointer<const T> parameter(int at) const { return theta_.pointer(at); }
  DevicePointer<T> sums(int at) {
    return DevicePointer<T>(reinterpret_cast<std::uintptr_t>(args_.step.tile.partial)) + at;
  }

  /// Rows `to` (height) = a times rows `from` (depth), n columns, + beta times what is there.
  void multiply(int height, int depth, const Factor<T>& a, int from, int to, int n, T beta = 0) {
    if (n > 0)
      gemm<T>(blas_, *stream_,
              {.m = height,
               .n = n,
               .k = depth,
               .a = a,
               .b = {row(from), n},
               .c = row(to),
               .ldc = n,
               .beta = beta});
  }
  /// Rows `to` of layer l = W_l times rows `from` of the layer before, `streams` at once.
  void product(int l, int from, int to, int streams) {
    const LayerView& layer = net_.layers[l];
    multiply(layer.width, layer.before, {parameter(layer.weight), layer.weight_ld}, from, to, streams * n_);
  }
  /// Rows `to` of layer l - 1 = W_l^T times rows `from` of layer l.
  void transposed(int l, int from, int to, int streams) {
    const LayerView& layer = net_.layers[l];
    multiply(layer.before, layer.width, {parameter(layer.weight), layer.weight_ld, Transpose::yes}, from, to,
             streams * n_);
  }
  /// Rows `to` (d) = or, beyond layer 0, += A_l^T times rows `from` of layer l.
  void to_inputs(int l, int from, int to) {
    const LayerView& layer = net_.layers[l];
    if (layer.input_weight < 0) return;
    multiply(net_.dim, layer.width, {parameter(layer.input_weight), net_.dim, Transpose::yes}, from, to, n_,
             static_cast<T>(l > 0));
  }
  /// sums of a matrix (height, width) at `at` += rows `left` times the transpose of rows `right`. Elements
  /// are summed over `n` columns; rows of the left lie `left_distance` apart.
  void add_outer(int at, int distance, int height, int width, int left, int left_distance, int right, int n) {
    if (n > 0)
      gemm<T>(blas_, *stream_,
              {.m = height,
               .n = width,
               .k = n,
               .a = {row(left), left_distance},
               .b = {row(right), n, Transpose::yes},
               .c = sums(at),
               .ldc = distance,
               .beta = 1});
  }

  // --- sweeps over the layers

  void forward(int tangents) {
    for (int l = 0; l < net_.depth; ++l) {
      const LayerRows& rows = plan_.layers[l];
      if (l > 0) {
        product(l, plan_.layers[l - 1].z, rows.z, 1);
        product(l, plan_.layers[l - 1].t, rows.j, tangents);
      }
      stage("forward", net_.layers[l].width, layered::Forward{l, tangents});
    }
  }
  void adjoint() {
    for (int l = net_.depth - 1; l > 0; --l) {
      transposed(l, plan_.layers[l].beta, plan_.layers[l - 1].g, 1);
      stage("adjoint", net_.layers[l - 1].width, layered::Adjoint{l - 1});
    }
  }
  /// J for the directions in the q rows.
  void tangents() {
    for (int l = 0; l < net_.depth; ++l) {
      if (l > 0) product(l, plan_.layers[l - 1].t, plan_.layers[l].j, plan_.tangents);
      stage("tangents", net_.layers[l].width, layered::Tangents{l});
    }
  }
  /// y = H q, after the tangents.
  void products() {
    const int last = net_.depth - 1;
    stage("adjoint tangent", net_.layers[last].width, layered::StartAdjointTangent{});
    for (int l = last; l > 0; --l) {
      transposed(l, plan_.layers[l].s_bar, plan_.layers[l - 1].s_bar, 1);
      stage("adjoint tangent", net_.layers[l - 1].width, layered::AdjointTangent{l - 1});
    }
    for (int l = 0; l < net_.depth; ++l) to_inputs(l, plan_.layers[l].s_bar, plan_.y);
    stage("Hessian product", net_.dim, layered::HessianVector{});
  }
  void displace(bool image) {
    for (int l = 0; l < net_.depth; ++l) to_inputs(l, plan_.layers[l].beta, plan_.displacement);
    stage("displacement", net_.dim, layered::Displace{image});
  }
  /// What all products with H of a chunk share.
  void evaluate_once(int chunk) {
    enter(chunk, layered::GatherCloud{});
    forward(0);
    adjoint();
  }
  void image(int chunk, int tangents, bool write) {
    enter(chunk, layered::GatherBatch{});
    forward(tangents);
    adjoint();
    displace(write);
  }
  void hessian() {
    launch(layered_hessian_kernel<T>,
           {n_ / 32, kHessianThreads, sizeof(HessianShared<T>), *stream_, "Hessian"}, args_);
  }
  /// Second-order stream, reverse sweep and sums.
  void second_order() {
    for (int l = 0; l < net_.depth; ++l) {
      if (l > 0) product(l, plan_.layers[l - 1].z2, plan_.layers[l].z2, 1);
      stage("second order", net_.layers[l].width, layered::SecondOrder{l});
    }
    for (int l = net_.depth - 1; l >= 0; --l) {
      add_layer(l);  // before its t rows are taken for z_bar
      if (l == 0) break;
      transposed(l, plan_.layers[l].j_bar, plan_.layers[l - 1].t, plan_.tangents);
      transposed(l, plan_.layers[l].s_bar, plan_.scratch, 1);
      stage("reverse", net_.layers[l - 1].width, layered::Reverse{l - 1});
    }
    int widest = 0;
    for (int l = 0; l < net_.depth; ++l) widest = std::max(widest, net_.layers[l].width);
    const int rows = plan_.directions == Directions::unit ? widest * net_.dim : widest;
    launch(layered_sums_kernel<T>,
           {std::min(rows, kMaxGrid), kLayeredThreads, sizeof(SumsShared), *stream_, "sums"}, args_);
  }
  void add_layer(int l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& rows = plan_.layers[l];
    const int streams = plan_.tangents;
    const int d = net_.dim;
    if (l > 0) {
      const LayerRows& from = plan_.layers[l - 1];
      const auto add = [&](int left, int right, int n) {
        add_outer(layer.weight, layer.weight_ld, layer.width, layer.before, left, n, right, n);
      };
      add(rows.s_bar, from.z, n_);
      add(rows.beta, from.z2, n_);
      add(rows.j_bar, from.t, streams * n_);
    }
    if (layer.input_weight < 0) return;
    const auto add = [&](int left, int left_distance, int right) {
      add_outer(layer.input_weight, d, layer.width, d, left, left_distance, right, n_);
    };
    add(rows.s_bar, n_, plan_.x);
    add(rows.beta, n_, plan_.v);
    for (int k = 0; k < streams && plan_.directions != Directions::unit; ++k) {
      add(rows.j_bar + k, streams * n_, plan_.q + k * d);
    }
  }

  NetView net_;
  TilePlan plan_;
  int chunks_ = 1;
  int n_ = 32;  // particles of a chunk, with padding
  Blas blas_;
  DeviceBuffer<NetView> device_net_;
  DeviceBuffer<TilePlan> device_plans_;  // of the task, and with one tangent
  DeviceBuffer<T> theta_;                // the current set
  DeviceBuffer<T> rows_;
  DeviceBuffer<double> doubles_;
  LayeredArgs<T> args_{};
  Stream* stream_ = nullptr;
};

}  // namespace

template <class T>
std::unique_ptr<LayeredNet<T>> layered_net(const NetView& net, const TileTask& task, Index particles,
                                           Stream& stream) {
  return std::make_unique<Layers<T>>(net, task, particles, stream);
}
template std::unique_ptr<LayeredNet<float>> layered_net(const NetView&, const TileTask&, Index, Stream&);
template std::unique_ptr<LayeredNet<double>> layered_net(const NetView&, const TileTask&, Index, Stream&);

}  // namespace brenier::cuda
