// SPDX-License-Identifier: MIT
// Correct kernels give correct results, whatever the order of threads and blocks; the host's side of the
// device does what it says. The same file compiles for CUDA (compile_cuda.sh), where the order is the
// device's.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "tests/emulator/sound_kernels.hpp"
#include "tests/support/capture.hpp"
#include "tests/support/near.hpp"

using namespace brenier;
using namespace brenier::test;
using brenier::device::DeviceBuffer;
using brenier::device::DevicePointer;
using brenier::device::Launch;
using brenier::device::Stream;
using device::launch;

namespace {

constexpr Index kUgly[] = {1, 7, 31, 33, 257};

/// Runs a test body in every order that the emulator knows; once on a real device.
template <class Body>
void in_every_order(const Body& body) {
#if BRENIER_CUDA
  body();
#else
  using device::emulator::Order;
  for (const Order order : {Order::forward, Order::reverse, Order::shuffled}) {
    for (const bool interleave : {false, true}) {
      if (interleave != (order == Order::shuffled)) continue;
      CAPTURE(static_cast<int>(order));
      const device::emulator::ScopedOptions options({.threads = order,
                                                     .blocks = order,
                                                     .seed = 11,
                                                     .interleave = interleave,
                                                     .delay = order == Order::reverse});
      body();
    }
  }
#endif
}

/// Values of both signs, all different, exact in float.
template <class T>
std::vector<T> values(Index n) {
  std::vector<T> x(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i)
    x[static_cast<std::size_t>(i)] = static_cast<T>((i * 37 + 11) % 521 - 260) / T(8);
  return x;
}

template <class T>
DeviceBuffer<T> upload(const std::vector<T>& host, Stream& stream) {
  DeviceBuffer<T> buffer(static_cast<Index>(host.size()));
  buffer.copy_to_device(host, stream);
  return buffer;
}

template <class T>
std::vector<T> download(const DeviceBuffer<T>& buffer, Stream& stream) {
  std::vector<T> host(static_cast<std::size_t>(buffer.size()));
  buffer.copy_to_host(host, stream);
  return host;
}

}  // namespace

TEST_CASE_TEMPLATE("axpy with a grid stride is exact on exact numbers", T, float, double) {
  in_every_order([] {
    for (const Index n : kUgly) {
      CAPTURE(n);
      Stream stream;
      const auto x = values<T>(n);
      std::vector<T> y(x.size(), T(1));
      const auto device_x = upload(x, stream);
      auto device_y = upload(y, stream);
      launch(axpy<T>, {2, 32, 0, stream, "axpy"}, n, T(2), device_x.pointer(), device_y.pointer());
      for (std::size_t i = 0; i < x.size(); ++i) y[i] += 2 * x[i];
      CHECK(download(device_y, stream) == y);
    }
  });
}

TEST_CASE_TEMPLATE("block sums: exact on exact numbers, and the last bits do not depend on the order", T,
                   float, double) {
  for (const Index n : kUgly) {
    CAPTURE(n);
    const auto x = values<T>(n);
    auto rough = x;
    for (std::size_t i = 0; i < x.size(); ++i) rough[i] = std::sin(x[i]);
    std::vector<T> first;
    in_every_order([&] {
      Stream stream;
      for (const std::vector<T>* input : {&x, static_cast<const std::vector<T>*>(&rough)}) {
        const auto device_x = upload(*input, stream);
        DeviceBuffer<T> sums(3);
        launch(block_sums<T>, {3, 96, sizeof(BlockSumStorage<T>), stream, "block_sums"}, n,
               device_x.pointer(), sums.pointer());
        const auto parts = download(sums, stream);
        if (input == &x) {
          CHECK(parts[0] + parts[1] + parts[2] == std::accumulate(x.begin(), x.end(), T(0)));
        } else {
          if (first.empty()) first = parts;
          CHECK(parts == first);
        }
      }
    });
  }
}

TEST_CASE_TEMPLATE("extremes of a block of 1024 threads", T, float, double) {
  in_every_order([] {
    Stream stream;
    const auto x = values<T>(257);
    const auto device_x = upload(x, stream);
    DeviceBuffer<T> out(2);
    launch(extremes<T>, {1, 1024, sizeof(BlockSumStorage<T>), stream, "extremes"}, Index{257},
           device_x.pointer(), out.pointer());
    const auto found = download(out, stream);
    CHECK(found[0] == *std::max_element(x.begin(), x.end()));
    CHECK(found[1] == -*std::min_element(x.begin(), x.end()));
  });
}

TEST_CASE_TEMPLATE("transpose by tiles", T, float, double) {
  in_every_order([] {
    for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {7, 31}, {33, 1}, {33, 65}}) {
      CAPTURE_BOUND(rows);
      Stream stream;
      const auto in = values<T>(rows * cols);
      const auto device_in = upload(in, stream);
      DeviceBuffer<T> out(rows * cols);
      const int tiles = static_cast<int>((rows + 31) / 32 * ((cols + 31) / 32));
      launch(transpose<T>, {tiles, 128, sizeof(TransposeStorage<T>), stream, "transpose"}, rows, cols,
             device_in.pointer(), out.pointer());
      std::vector<T> expected(in.size());
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j)
          expected[static_cast<std::size_t>(j * rows + i)] = in[static_cast<std::size_t>(i * cols + j)];
      CHECK(download(out, stream) == expected);
    }
  });
}

TEST_CASE_TEMPLATE("prefix sum in shared memory of run-time size", T, float, double) {
  in_every_order([] {
    for (const Index n : kUgly) {
      CAPTURE(n);
      Stream stream;
      const auto x = values<T>(n);
      const auto device_x = upload(x, stream);
      DeviceBuffer<T> out(n);
      launch(prefix_sum<T>, {1, 64, 16 + 2 * 64 * sizeof(T), stream, "prefix_sum"}, n, device_x.pointer(),
             out.pointer());
      std::vector<T> expected(x.size());
      std::partial_sum(x.begin(), x.end(), expected.begin());
      CHECK(download(out, stream) == expected);
    }
  });
}

TEST_CASE("histogram by atomics in shared and in global memory") {
  in_every_order([] {
    for (const Index n : kUgly) {
      CAPTURE(n);
      Stream stream;
      std::vector<int> x(static_cast<std::size_t>(n));
      std::vector<unsigned> expected(kBins, 0);
      for (Index i = 0; i < n; ++i) {
        x[static_cast<std::size_t>(i)] = static_cast<int>(i * i % kBins);
        ++expected[static_cast<std::size_t>(i * i % kBins)];
      }
      const auto device_x = upload(x, stream);
      DeviceBuffer<unsigned> counts(kBins);
      counts.fill_zero(stream);
      launch(histogram<int>, {3, 64, sizeof(HistogramStorage), stream, "histogram"}, n, device_x.pointer(),
             counts.pointer());
      CHECK(download(counts, stream) == expected);
    }
  });
}

TEST_CASE("draws have the host's bits") {
  in_every_order([] {
    const Index n = 257;
    Stream stream;
    const Random random(0x123456789ABCDEFull, RandomStream::probes);
    DeviceBuffer<double> out(4 * n);
    launch(draws<double>, {2, 64, 0, stream, "draws"}, n, random, out.pointer());
    const auto found = download(out, stream);
    std::vector<double> expected;
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(n); ++i) {
      const auto pair = random.normals(3, 5, i, 1);
      expected.insert(expected.end(), {pair[0], pair[1], random.uniform(3, 6, i),
                                       static_cast<double>(random.below(1000, 3, 7, i))});
    }
    CHECK(found == expected);
  });
}

TEST_CASE_TEMPLATE("sync_warp orders shared memory", T, float, double) {
  in_every_order([] {
    Stream stream;
    const auto x = values<T>(192);
    const auto device_x = upload(x, stream);
    DeviceBuffer<T> out(192);
    launch(swap_neighbours<T>, {2, 96, sizeof(NeighbourStorage<T>), stream, "swap_neighbours"},
           device_x.pointer(), out.pointer());
    const auto found = download(out, stream);
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(found[i] == x[i ^ 1]);
  });
}

TEST_CASE_TEMPLATE("votes and shuffles", T, float, double) {
  in_every_order([] {
    Stream stream;
    const auto x = values<T>(32);
    const auto device_x = upload(x, stream);
    DeviceBuffer<unsigned> bits(3);
    DeviceBuffer<T> shifted(32), first(32);
    launch(votes<T>, {1, 32, 0, stream, "votes"}, device_x.pointer(), bits.pointer(), shifted.pointer(),
           first.pointer());
    unsigned expected = 0;
    for (std::size_t i = 0; i < 32; ++i) expected |= (x[i] > 0 ? 1u : 0u) << i;
    REQUIRE((expected != 0 && expected != 0xFFFFFFFFu));
    CHECK(download(bits, stream) == std::vector<unsigned>{expected, 1, 0});
    const auto found = download(shifted, stream);
    for (std::size_t i = 0; i < 32; ++i) CHECK(found[i] == (i + 5 < 32 ? x[i + 5] : x[i]));
    CHECK(download(first, stream) == std::vector<T>(32, x[3]));
  });
}

TEST_CASE("vector accesses and DevicePointer in a kernel") {
  in_every_order([] {
    for (const Index n : kUgly) {
      CAPTURE(n);
      Stream stream;
      const auto x = values<float>(n);
      const auto device_x = upload(x, stream);
      DeviceBuffer<float> y(n);
      launch(twice<float>, {2, 32, 0, stream, "twice"}, n, device_x.pointer(), y.pointer());
      const auto found = download(y, stream);
      for (std::size_t i = 0; i < x.size(); ++i) CHECK(found[i] == 2 * x[i]);
    }
  });
}

TEST_CASE("atomic maximum and count") {
  in_every_order([] {
    Stream stream;
    const auto x = values<double>(257);
    const auto device_x = upload(x, stream);
    auto result = upload(std::vector<int>{-1000, 0}, stream);
    launch(count_positive<double>, {3, 64, 0, stream, "count_positive"}, Index{257}, device_x.pointer(),
           result.pointer(), result.pointer(1));
    const auto found = download(result, stream);
    CHECK(found[0] == static_cast<int>(*std::max_element(x.begin(), x.end())));
    CHECK(found[1] == std::count_if(x.begin(), x.end(), [](double v) { return v > 0; }));
  });
}

TEST_CASE_TEMPLATE("elementary functions", T, float, double) {
  Stream stream;
  const std::vector<T> x = {T(0.001), T(0.5), T(1), T(2), T(7.25)};
  const auto device_x = upload(x, stream);
  DeviceBuffer<T> out(40);
  launch(elementary<T>, {1, 32, 0, stream, "elementary"}, Index{5}, device_x.pointer(), out.pointer());
  const auto found = download(out, stream);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = static_cast<double>(x[i]);
    const double expected[] = {1 / std::sqrt(v),
                               std::exp(v),
                               std::log(v),
                               std::log1p(v) + std::expm1(v),
                               std::tanh(v),
                               std::sin(v) * std::cos(v),
                               v * std::sqrt(v) + std::sqrt(v),
                               v};
    for (std::size_t j = 0; j < 8; ++j) CHECK_REL(found[8 * i + j], expected[j], tol<T>(16));
  }
}

TEST_CASE_TEMPLATE("gemm: row-major, both transpositions, padded rows, beta", T, float, double) {
  using device::Transpose;
  const int m = 7, n = 5, k = 3;
  Stream stream;
  device::Blas blas;
  for (const Transpose ta : {Transpose::no, Transpose::yes}) {
    for (const Transpose tb : {Transpose::no, Transpose::yes}) {
      CAPTURE(static_cast<int>(ta));
      CAPTURE(static_cast<int>(tb));
      const int lda = (ta == Transpose::no ? k : m) + 2;
      const int ldb = (tb == Transpose::no ? n : k) + 1;
      const auto a = values<T>(Index{lda} * (ta == Transpose::no ? m : k));
      const auto b = values<T>(Index{ldb} * (tb == Transpose::no ? k : n));
      const auto c = values<T>(Index{m} * (n + 3));
      auto expected = c;
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
          T sum = 0;
          for (int l = 0; l < k; ++l)
            sum += a[static_cast<std::size_t>(ta == Transpose::no ? i * lda + l : l * lda + i)] *
                   b[static_cast<std::size_t>(tb == Transpose::no ? l * ldb + j : j * ldb + l)];
          T& entry = expected[static_cast<std::size_t>(i * (n + 3) + j)];
          entry = 2 * sum - entry;
        }
      }
      const auto device_a = upload(a, stream), device_b = upload(b, stream);
      auto device_c = upload(c, stream);
      device::gemm<T>(blas, stream,
                      {m,
                       n,
                       k,
                       {device_a.pointer(), lda, ta},
                       {device_b.pointer(), ldb, tb},
                       device_c.pointer(),
                       n + 3,
                       2,
                       -1});
      CHECK(download(device_c, stream) == expected);  // small multiples of 1/64: exact
    }
  }
  // beta = 0 does not read C, which may be NaN
  const auto one = upload(std::vector<T>{2}, stream);
  DeviceBuffer<T> fresh(1);
  device::gemm<T>(blas, stream, {1, 1, 1, {one.pointer(), 1}, {one.pointer(), 1}, fresh.pointer(), 1, 3});
  CHECK(download(fresh, stream)[0] == 12);
}

TEST_CASE("a graph replays kernels, fills, copies and products without the host") {
  in_every_order([] {
    Stream stream;
    device::Blas blas;
    const Index n = 33;
    const auto x = upload(std::vector<double>(33, 1.0), stream);
    DeviceBuffer<double> y(n), z(n), square(1);
    y.fill_zero(stream);
    stream.synchronise();
    auto graph = device::Graph::capture(stream, [&] {
      CHECK(stream.capturing());
      z.fill_zero(stream);
      launch(axpy<double>, {2, 32, 0, stream, "axpy"}, n, 0.5, x.pointer(), y.pointer());
      device::copy_on_device<double>(z.pointer(), y.pointer(), n, stream);
      device::gemm<double>(blas, stream,
                           {1, 1, 33, {z.pointer(), 33}, {x.pointer(), 1}, square.pointer(), 1});
    });
    CHECK_FALSE(stream.capturing());
    CHECK(graph.nodes() >= 4);
    CHECK(download(y, stream) == std::vector<double>(33, 0.0));  // recorded, not run

    const auto before = device::host_synchronisations();
    for (int i = 0; i < 4; ++i) graph.launch(stream);
    CHECK(device::host_synchronisations() == before);
    CHECK(download(z, stream) == std::vector<double>(33, 2.0));
    CHECK(download(square, stream) == std::vector<double>{66.0});
    CHECK(device::host_synchronisations() == before + 2);
  });
}

TEST_CASE("calls that make the host wait are counted, the others are not") {
  const auto counted = [](const auto& call) {
    const auto before = device::host_synchronisations();
    call();
    return device::host_synchronisations() - before;
  };
  Stream stream;
  Stream checked(device::StreamOptions{.synchronise_launches = true});
  std::vector<float> host(7, 1.0f);
  DeviceBuffer<float> buffer(7), other(7);
  device::Event start, end;
  CHECK(counted([&] { buffer.copy_to_device(host, stream); }) == 1);
  CHECK(counted([&] { buffer.copy_to_host(host, stream); }) == 1);
  CHECK(counted([&] { stream.synchronise(); }) == 1);
  CHECK(counted([&] { DeviceBuffer<float> temporary(3); }) == 2);  // allocation and release
  CHECK(counted([&] { other = DeviceBuffer<float>(); }) == 1);
  CHECK(counted([&] { start.record(stream); }) == 0);
  CHECK(counted([&] { buffer.fill_zero(stream); }) == 0);
  CHECK(counted([&] { stream.wait(start); }) == 0);
  const auto work = [&](Stream& on) {
    launch(axpy<float>, {1, 32, 0, on, "axpy"}, Index{7}, 1.0f, buffer.pointer(), buffer.pointer());
  };
  CHECK(counted([&] { work(stream); }) == 0);
  stream.synchronise();
  CHECK(counted([&] { work(checked); }) == 1);
  end.record(stream);
  CHECK(counted([&] { end.synchronise(); }) == 1);
  CHECK(end.milliseconds_since(start) >= 0);
}

TEST_CASE("copies of nothing wait, and touch nothing") {
  Stream stream;
  DeviceBuffer<float> none(0), some(3);
  some.fill_zero(stream);
  none.fill_zero(stream);
  none.copy_to_device({}, stream);
  CHECK(download(none, stream).empty());
  device::copy_on_device<float>(none.pointer(), DevicePointer<const float>(nullptr), 0, stream);
  CHECK(download(some, stream) == std::vector<float>(3, 0.0f));
}

TEST_CASE("a stream waits for the event of another one") {
  in_every_order([] {
    Stream first, second;
    const Index n = 33;
    auto x = upload(values<double>(n), first);
    DeviceBuffer<double> y(n), z(n);
    device::Event written;
    y.fill_zero(first);
    launch(axpy<double>, {1, 32, 0, first, "axpy"}, n, 1.0, x.pointer(), y.pointer());
    written.record(first);
    launch(axpy<double>, {1, 32, 0, first, "axpy"}, n, 1.0, x.pointer(), x.pointer());  // not waited for
    second.wait(written);
    device::copy_on_device<double>(z.pointer(), y.pointer(), n, second);
    CHECK(download(z, second) == values<double>(n));
    first.synchronise();
  });
}

TEST_CASE("which device an address is of") {
  const DeviceBuffer<float> some(10);
  const auto at = [&](Index k) { return reinterpret_cast<const void*>(some.pointer(k).address()); };
  CHECK(device::device_of(at(0)) == device::current_device());
  CHECK(device::device_of(at(9)) == device::current_device());
  const float here = 0;
  CHECK(device::device_of(&here) == -1);
  CHECK(device::device_of(nullptr) == -1);
  CHECK(device::device_of(at(Index{1} << 45)) == -1);
  const std::vector<float> heap(1000);
  CHECK(device::device_of(heap.data()) == -1);
}

TEST_CASE("a stream waits for another one as it is, and lets it wait") {
  DeviceBuffer<float> x(1000), y(1000);
  Stream first, second;
  x.copy_to_device(std::vector<float>(1000, 1.0f), first);
  y.fill_zero(first);
  second.follow(first.native());
  launch(axpy<float>, {2, 64, 0, second, "axpy"}, Index{1000}, 2.0f, x.pointer(), y.pointer());
  second.lead(first.native());
  launch(axpy<float>, {2, 64, 0, first, "axpy"}, Index{1000}, 2.0f, y.pointer(), x.pointer());
  std::vector<float> found(1000);
  x.copy_to_host(found, first);
  CHECK(found == std::vector<float>(1000, 5.0f));
  second.follow(nullptr);  // the default stream, which has nothing
  second.lead(nullptr);
  second.synchronise();
}

TEST_CASE("handles of matrix products are used again, one at a time") {
  device::Blas first;
  const auto made = [](const auto& work) {
#if BRENIER_CUDA
    const auto count = [] { return device::host_synchronisations(); };  // of their workspaces
#else
    const auto count = [] { return device::emulator::handles_made(); };
#endif
    const auto before = count();
    work();
    return count() - before;
  };
  CHECK(made([] { device::Blas second; }) >= 1);            // the first one is in use
  CHECK(made([] { device::Blas third; }) <= BRENIER_CUDA);  // on a device: it waits when it goes
  device::Blas third;
  CHECK(made([] { device::Blas fourth; }) >= 1);
}

TEST_CASE("the limit of shared memory is asked for once, and holds for graphs of earlier launches") {
  Stream stream;
  const auto x = upload(values<float>(33), stream);
  DeviceBuffer<float> y(33);
  y.fill_zero(stream);
  const auto with = [&](std::size_t shared) {
    launch(axpy<float>, {1, 64, shared, stream, "axpy"}, Index{33}, 1.0f, x.pointer(), y.pointer());
  };
  const std::size_t most = device::most_shared_bytes();
  auto graph = device::Graph::capture(stream, [&] { with(most); });
  with(49 * 1024);
  graph.launch(stream);
  const auto found = download(y, stream);
  for (std::size_t i = 0; i < found.size(); ++i) CHECK(found[i] == 2 * values<float>(33)[i]);
  CHECK(device::most_shared_bytes(1) == most);
  CHECK(2 * device::most_shared_bytes(2) < device::properties().shared_per_multiprocessor);
  CHECK(device::most_shared_bytes(2) < most);
}

#if !BRENIER_CUDA
TEST_CASE("delayed work runs when something waits for it, with its errors") {
  const device::emulator::ScopedOptions late({.delay = true});
  const auto ran = [before = device::emulator::device_launches(0)] {
    return static_cast<int>(device::emulator::device_launches(0) - before);
  };
  const Index n = 33;
  Stream stream, other;
  const auto x = upload(values<double>(n), stream);
  auto y = std::make_unique<DeviceBuffer<double>>(n);
  y->fill_zero(stream);
  const auto work = [&](Stream& on) {
    launch(axpy<double>, {1, 32, 0, on, "axpy"}, n, 1.0, x.pointer(), y->pointer());
  };
  work(stream);
  CHECK(ran() == 0);
  other.synchronise();
  CHECK(ran() == 0);
  stream.synchronise();
  CHECK(ran() == 1);

  device::Event middle;
  work(stream);
  middle.record(stream);
  work(stream);
  middle.synchronise();
  CHECK(ran() == 2);
  CHECK(download(*y, stream)[0] == 3 * values<double>(n)[0]);
  CHECK(ran() == 3);

  auto graph = device::Graph::capture(stream, [&] { work(stream); });
  graph.launch(stream);
  CHECK(ran() == 3);
  { const DeviceBuffer<float> released(1); }  // as cudaFree: waits for the device
  CHECK(ran() == 4);
  {
    Stream gone;
    work(gone);
  }
  CHECK(ran() == 4);

  launch(block_sums<double>, {1, 32, 0, stream, "no shared memory"}, n, x.pointer(), y->pointer());
  work(stream);
  CHECK_ERROR(stream.synchronise(), DeviceError, "\"no shared memory\"");
  stream.synchronise();  // what stood behind it is gone, and so is the error
  CHECK(ran() == 5);
  y.reset();
  CHECK(ran() == 6);  // the stream that was destroyed
}
#endif

TEST_CASE("buffers move, and refuse what does not fit") {
  Stream stream;
  auto a = upload(std::vector<double>{1, 2, 3}, stream);
  const auto address = a.pointer().address();
  DeviceBuffer<double> b(std::move(a));
  CHECK(a.size() == 0);
  CHECK_FALSE(static_cast<bool>(a.pointer()));
  CHECK(b.pointer().address() == address);
  CHECK(address % 256 == 0);
  CHECK((b.pointer() + 2).address() == b.pointer(2).address());
  b = DeviceBuffer<double>(2);
  CHECK(b.size() == 2);
  const DeviceBuffer<float> none(0);
  CHECK(download(none, stream).empty());
  std::vector<double> three(3);
  CHECK_ERROR(b.copy_to_device(three, stream), ShapeError, "2 elements and 3 on the host");
  CHECK_ERROR(b.copy_to_host(three, stream), ShapeError, "2 elements and 3 on the host");
  CHECK_ERROR(DeviceBuffer<double>(-1), ValueError, "-1 is negative");
}

TEST_CASE("launches that no device runs are refused") {
  Stream stream;
  DeviceBuffer<float> x(32);
  const auto with = [&](int grid, int block, std::size_t shared) {
    launch(axpy<float>, {grid, block, shared, stream, "axpy"}, Index{0}, 1.0f, x.pointer(), x.pointer());
  };
  CHECK_ERROR(with(0, 32, 0), ValueError, "kernel \"axpy\" (grid 0, block 32, shared 0 bytes)");
  CHECK_ERROR(with(1, 0, 0), ValueError, "multiple of 32");
  CHECK_ERROR(with(1, 33, 0), ValueError, "multiple of 32");
  CHECK_ERROR(with(1, 1056, 0), ValueError, "from 32 to 1024");
  const std::size_t most = device::properties().shared_per_block_opt_in;
  with(1, 32, most);
  stream.synchronise();
  CHECK_ERROR(with(1, 32, most + 1), DeviceError, "shared " + std::to_string(most + 1) + " bytes");
  with(1, 32, 0);  // the error did not stick
  stream.synchronise();
}

TEST_CASE("properties are plausible") {
  CHECK(device::device_count() >= 1);
  const auto p = device::properties();
  CHECK_FALSE(p.name.empty());
  CHECK(p.compute_major >= 8);
  CHECK(p.multiprocessors > 0);
  CHECK(p.max_threads_per_block == 1024);
  CHECK(p.max_grid == 0x7FFFFFFF);
  CHECK(p.shared_per_block == 48 * 1024);
  CHECK(p.shared_per_block_opt_in > p.shared_per_block);
  CHECK(p.memory_free <= p.memory_total);
  CHECK_ERROR(device::use_device(99), NotAvailable, "99");
}
