// SPDX-License-Identifier: MIT
// Written in the device dialect: compiled as CUDA for a GPU, and for the emulated device.
#include "bench/operations/device_ceilings.hpp"

#if defined(__CUDACC__)
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include <cub/device/device_reduce.cuh>
#include <cub/device/device_segmented_reduce.cuh>
#endif

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "bench/timing.hpp"
#include "brenier/base/error.hpp"
#include "kernels/cuda/cloud/value.hpp"
#include "kernels/cuda/step/update.hpp"
#include "kernels/device/device.hpp"

namespace brenier::bench {

using namespace brenier::device;

namespace {

constexpr int kBlock = 128;
constexpr int kFlight = 4;        // vectors that a thread reads before it writes
constexpr int kChains = 16;       // independent: more than latency times throughput needs
constexpr int kPartials = 132;    // blocks of a step: one for each multiprocessor of a large device
constexpr Index kReduced = 2361;  // parameters of widths (100, 20) at d = 1
constexpr int kColumns = 32;      // that a block of the reduction adds
constexpr int kRounds = 8;        // multiply-adds of a chain between two tests of its loop's end
constexpr int kGraphNodes = 200;

/// Numbers that no compression of memory or wires makes smaller: to[i] in (0, 1) by a multiplicative hash.
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kBlock) void fill_kernel(Index count, float* to) {
  const Index threads = Index{grid_size()} * block_size();
  for (Index i = Index{block_index()} * block_size() + thread_index(); i < count; i += threads) {
    unsigned bits = static_cast<unsigned>(i) * 2654435761u;
    bits ^= bits >> 15;
    to[i] = static_cast<float>((bits * 2246822519u) >> 8) * 0x1p-24f;
  }
}

/// to[0 .. 4 vectors) = from.
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kBlock) void copy_kernel(Index vectors, const float* from, float* to) {
  const Index threads = Index{grid_size()} * block_size();
  const Index first = Index{block_index()} * block_size() + thread_index();
  Index v = first;
  for (; v + (kFlight - 1) * threads < vectors; v += kFlight * threads) {
    Array<float4, kFlight> held;
    BRENIER_UNROLL
    for (int k = 0; k < kFlight; ++k) held[k] = load4(from + 4 * (v + k * threads));
    BRENIER_UNROLL
    for (int k = 0; k < kFlight; ++k) store4(to + 4 * (v + k * threads), held[k]);
  }
  for (; v < vectors; v += threads) store4(to + 4 * v, load4(from + 4 * v));
}

/// out (threads) = sum over chains c of x_c after kRounds * count steps x <- a x + b from x_c = c.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kBlock) void fma_kernel(int count, T a, T b, T* out) {
  Array<T, kChains> x;
  BRENIER_UNROLL
  for (int c = 0; c < kChains; ++c) x[c] = static_cast<T>(c);
  for (int i = 0; i < count; ++i) {
    BRENIER_UNROLL
    for (int r = 0; r < kRounds; ++r) {
      BRENIER_UNROLL
      for (int c = 0; c < kChains; ++c) x[c] = fma(a, x[c], b);
    }
  }
  T sum = T(0);
  BRENIER_UNROLL
  for (int c = 0; c < kChains; ++c) sum += x[c];
  out[Index{block_index()} * block_size() + thread_index()] = sum;
}

/// Nothing but its launch: `none` is null.
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kBlock) void empty_kernel(int* none) {
  if (none) none[thread_index()] = 0;
}

struct ReduceStorage {
  Array<Array<float, kColumns>, kBlock / kColumns> sums;
};

/// out (columns) = sums of the rows of partial (rows, columns), kColumns of them a block, in fixed order.
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kBlock) void reduce_rows_kernel(int rows, Index columns,
                                                                     const float* partial, float* out) {
  auto& sums = shared_storage<ReduceStorage>().sums;
  const Index column = Index{block_index()} * kColumns + lane();
  float sum = 0;
  if (column < columns) {
    BRENIER_UNROLL
    for (int r = warp(); r < rows; r += warp_count()) sum += partial[r * columns + column];
  }
  sums[warp()][lane()] = sum;
  sync_block();
  if (warp() == 0 && column < columns) {
    for (int w = 1; w < warp_count(); ++w) sum += sums[w][lane()];
    out[column] = sum;
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/// Median seconds on the device of `work`, which fills the stream; by events, after a warm-up.
double device_seconds(Stream& stream, double seconds, const std::function<void()>& work) {
  work();
  stream.synchronise();
  std::vector<double> samples;
  Event start, end;
  for (const double until = now() + seconds; samples.size() < 5 || now() < until;) {
    start.record(stream);
    work();
    end.record(stream);
    samples.push_back(end.milliseconds_since(start) * 1e-3);
  }
  return median(samples);
}

/// Median seconds of the host for one of `count` calls that do not wait. The queue is empty before and holds
/// them all.
double host_seconds(Stream& stream, double seconds, int count, const std::function<void()>& call) {
  call();
  std::vector<double> samples;
  for (const double until = now() + seconds; samples.size() < 5 || now() < until;) {
    stream.synchronise();
    const double start = now();
    for (int k = 0; k < count; ++k) call();
    samples.push_back((now() - start) / count);
  }
  stream.synchronise();
  return median(samples);
}

template <class T>
void launch_fma(int grid, int count, DeviceBuffer<T>& out, Stream& stream) {
  launch(fma_kernel<T>, {grid, kBlock, 0, stream, "fma"}, count, T(0.5), T(1), out.pointer());
}

void launch_fill(DeviceBuffer<float>& to, Stream& stream) {
  launch(fill_kernel, {16 * properties().multiprocessors, kBlock, 0, stream, "fill"}, to.size(),
         to.pointer());
}

void launch_empty(int grid, Stream& stream) {
  launch(empty_kernel, {grid, kBlock, 0, stream, "empty"}, nullptr);
}

void launch_reduce(int rows, Index columns, const DeviceBuffer<float>& partial, DeviceBuffer<float>& out,
                   Stream& stream) {
  const int grid = static_cast<int>((columns + kColumns - 1) / kColumns);
  launch(reduce_rows_kernel, {grid, kBlock, sizeof(ReduceStorage), stream, "reduce_rows"}, rows, columns,
         partial.pointer(), out.pointer());
}

void require(bool right, const char* kernel) {
  if (!right) throw NumericalError(std::string("the device's result of kernel \"") + kernel + "\" is wrong");
}

template <class T>
void check_fma() {
  Stream stream;
  DeviceBuffer<T> out(2 * kBlock);
  launch_fma(2, 3, out, stream);
  std::vector<T> found(2 * kBlock);
  out.copy_to_host(found, stream);
  T expected = T(0);
  for (int c = 0; c < kChains; ++c) {
    T x = static_cast<T>(c);
    for (int i = 0; i < 3 * kRounds; ++i) x = std::fma(T(0.5), x, T(1));
    expected += x;
  }
  for (const T value : found) require(value == expected, "fma");
}

}  // namespace

std::string device_name() {
  const DeviceProperties p = properties();
  return p.name + " (compute " + std::to_string(p.compute_major) + "." + std::to_string(p.compute_minor) +
         ", " + std::to_string(p.multiprocessors) + " multiprocessors)";
}

template <class T>
double device_peak_flops(double seconds) {
  Stream stream;
  const int grid = 16 * properties().multiprocessors;  // as many threads as a multiprocessor holds: 16 x 128
  DeviceBuffer<T> out(Index{grid} * kBlock);
  const int count = 2048;
  const double time = device_seconds(stream, seconds, [&] { launch_fma(grid, count, out, stream); });
  return 2.0 * kChains * kRounds * count * grid * kBlock / time;
}

CopyRates device_copy_rates(std::size_t bytes, double seconds) {
  Stream stream;
  const Index elements = static_cast<Index>(bytes / sizeof(float)) / 4 * 4;
  DeviceBuffer<float> from(elements), to(elements);
  launch_fill(from, stream);
  const int grid = 16 * properties().multiprocessors;
  const double moved = 2.0 * static_cast<double>(elements) * sizeof(float);
  CopyRates rates;
  rates.kernel =
      moved / device_seconds(stream, seconds, [&] {
        launch(copy_kernel, {grid, kBlock, 0, stream, "copy"}, elements / 4, from.pointer(), to.pointer());
      });
  rates.runtime = moved / device_seconds(stream, seconds, [&] {
                    copy_on_device<float>(to.pointer(), from.pointer(), elements, stream);
                  });
  return rates;
}

LaunchCosts device_launch_costs(double seconds) {
  Stream stream;
  const int grid = properties().multiprocessors;
  DeviceBuffer<float> partial(kPartials * kReduced), sum(kReduced);
  launch_fill(partial, stream);
  stream.synchronise();
  const auto chain = [&](int nodes, const std::function<void()>& node) {
    return Graph::capture(stream, [&] {
      for (int k = 0; k < nodes; ++k) node();
    });
  };
  const auto empty = [&] { launch_empty(grid, stream); };
  Graph two = chain(2, empty), three = chain(3, empty), many = chain(kGraphNodes, empty);
  Graph reductions = chain(kGraphNodes, [&] { launch_reduce(kPartials, kReduced, partial, sum, stream); });
  const auto replays = [&](Graph& graph, int count) {
    return device_seconds(stream, seconds / 6,
                          [&] {
                            for (int k = 0; k < count; ++k) graph.launch(stream);
                          }) /
           count;
  };
  LaunchCosts costs;
  costs.two_nodes = replays(two, 500);
  costs.three_nodes = replays(three, 500);
  costs.node = replays(many, 5) / kGraphNodes;
  costs.reduction = replays(reductions, 5) / kGraphNodes;
  costs.reduced = kReduced;
  costs.host_graph = host_seconds(stream, seconds / 6, 200, [&] { two.launch(stream); });
  costs.host_kernel = host_seconds(stream, seconds / 6, 200, empty);
  return costs;
}

namespace {

/// Launches the sum of `count` doubles.
void launch_sum(cuda::DeviceValue& value, const DeviceBuffer<double>& numbers, Stream& stream) {
  value.begin();
  value.add("sum", 1, numbers.size(),
            cuda::Numbers{reinterpret_cast<const double*>(numbers.pointer().address())}, stream);
}

/// Launches the sums of the columns of (rows, columns) floats, as the end of an inner iteration has them.
void launch_columns(int rows, Index columns, DeviceBuffer<float>& partial, DeviceBuffer<double>& gradient,
                    Stream& stream) {
  cuda::UpdateArgs<float> args{};
  args.partial = cuda::raw(partial);
  args.blocks = rows;
  args.packed = static_cast<int>(columns);
  args.gradient = cuda::raw(gradient);
  launch(
      cuda::update_kernel<float>,
      {cuda::update_blocks(args.packed), cuda::kUpdateThreads, sizeof(cuda::UpdateShared), stream, "update"},
      args);
}

#if defined(__CUDACC__)
/// Where a segment of CUB's begins.
struct SegmentStart {
  int length;
  __host__ __device__ int operator()(int segment) const { return segment * length; }
};

/// call(memory, its bytes), as CUB has it: first asked for the bytes, then launched.
template <class Call>
void with_storage(DeviceBuffer<unsigned char>& storage, const Call& call) {
  std::size_t bytes = 0;
  if (storage.size() == 0) {
    call(nullptr, bytes);
    storage = DeviceBuffer<unsigned char>(static_cast<Index>(std::max<std::size_t>(bytes, 1)));
  }
  bytes = static_cast<std::size_t>(storage.size());
  if (call(cuda::raw(storage), bytes) != cudaSuccess) throw DeviceError("CUB has refused a sum");
}
#endif

}  // namespace

SumCosts device_sum_costs(double seconds) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  SumCosts costs{
      .count = 1'000'000, .cub_sum = kNone, .rows = kPartials, .columns = kReduced, .cub_columns = kNone};
  Stream stream;
  DeviceBuffer<double> numbers(costs.count), sum(1), gradient(kReduced);
  DeviceBuffer<float> partial(kPartials * kReduced), reduced(kReduced);
  launch_fill(partial, stream);
  numbers.copy_to_device(std::vector<double>(static_cast<std::size_t>(costs.count), 0.125), stream);
  cuda::DeviceValue value(sum.pointer(), nullptr, stream);
  const auto time = [&](const std::function<void()>& node) {
    Graph graph = Graph::capture(stream, [&] {
      for (int k = 0; k < kGraphNodes; ++k) node();
    });
    return device_seconds(stream, seconds / 4, [&] { graph.launch(stream); }) / kGraphNodes;
  };
  costs.own_sum = time([&] { launch_sum(value, numbers, stream); });
  costs.own_columns = time([&] { launch_columns(kPartials, kReduced, partial, gradient, stream); });
#if defined(__CUDACC__)
  const auto queue = static_cast<cudaStream_t>(stream.native());
  DeviceBuffer<unsigned char> storage, more;
  const auto cub_sum = [&] {
    with_storage(storage, [&](void* memory, std::size_t& bytes) {
      return cub::DeviceReduce::Sum(memory, bytes, cuda::raw(numbers), cuda::raw(sum),
                                    static_cast<int>(costs.count), queue);
    });
  };
  const auto starts = [](int shift) {
    return thrust::make_transform_iterator(thrust::counting_iterator<int>(shift), SegmentStart{kPartials});
  };
  const auto cub_columns = [&] {
    with_storage(more, [&](void* memory, std::size_t& bytes) {
      return cub::DeviceSegmentedReduce::Sum(memory, bytes, cuda::raw(partial), cuda::raw(reduced),
                                             static_cast<int>(kReduced), starts(0), starts(1), queue);
    });
  };
  cub_sum();  // takes the storage
  cub_columns();
  stream.synchronise();
  costs.cub_sum = time(cub_sum);
  costs.cub_columns = time(cub_columns);
#endif
  return costs;
}

void check_device_kernels() {
  check_fma<float>();
  check_fma<double>();
  Stream stream;
  std::vector<float> values(4 * 3001), found(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 97);
  DeviceBuffer<float> from(static_cast<Index>(values.size())), to(static_cast<Index>(values.size()));
  from.copy_to_device(values, stream);
  launch(copy_kernel, {3, kBlock, 0, stream, "copy"}, Index{3001}, from.pointer(), to.pointer());
  to.copy_to_host(found, stream);
  require(found == values, "copy");

  const int rows = 9;
  const Index columns = 77;
  DeviceBuffer<float> partial(rows * columns), sum(columns);
  values.resize(static_cast<std::size_t>(rows * columns));
  partial.copy_to_device(values, stream);
  launch_reduce(rows, columns, partial, sum, stream);
  std::vector<float> expected(static_cast<std::size_t>(columns)), sums(expected.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    expected[i % expected.size()] += values[i];  // integers: exact
  sum.copy_to_host(sums, stream);
  require(sums == expected, "reduce_rows");

  DeviceBuffer<double> gradient(columns);
  launch_columns(rows, columns, partial, gradient, stream);
  std::vector<double> sums_in_double(expected.size());
  gradient.copy_to_host(sums_in_double, stream);
  require(std::equal(expected.begin(), expected.end(), sums_in_double.begin()), "update");
  DeviceBuffer<double> numbers(5001), total(1);
  numbers.copy_to_device(std::vector<double>(5001, 3.0), stream);
  cuda::DeviceValue value(total.pointer(), nullptr, stream);
  launch_sum(value, numbers, stream);
  std::vector<double> totals(1);
  total.copy_to_host(totals, stream);
  require(totals[0] == 3.0 * 5001, "sum");

  launch_fill(partial, stream);
  values.resize(static_cast<std::size_t>(partial.size()));
  partial.copy_to_host(values, stream);
  std::sort(values.begin(), values.end());
  require(values.front() >= 0 && values.back() < 1 && values[1] < values[values.size() - 2], "fill");

  Graph graph = Graph::capture(stream, [&] { launch_empty(2, stream); });
  graph.launch(stream);
  stream.synchronise();
  require(graph.nodes() == 1, "empty");
}

template double device_peak_flops<float>(double);
template double device_peak_flops<double>(double);

}  // namespace brenier::bench
