// SPDX-License-Identifier: MIT
// The host's side of the device by the CUDA runtime and cuBLAS. The only file that calls them.
#include <cublas_v2.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/device/device.hpp"

namespace brenier::device {
inline namespace BRENIER_DIALECT {
namespace {

std::atomic<std::uint64_t> synchronisations{0};
std::atomic<std::uint64_t> traffic{0};

/// Throws DeviceError in CUDA's words. Clears the error, so that the next call does not meet it again.
void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw DeviceError(what + ": " + cudaGetErrorName(status) + ": " + cudaGetErrorString(status));
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string(what) + ": " + cublasGetStatusName(status) + ": " +
                    cublasGetStatusString(status));
}

cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}
void* pointer(detail::Address address) {
  return reinterpret_cast<void*>(address);
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

struct Stream::State {
  StreamOptions options;
  cudaStream_t stream = nullptr;
};
struct Event::State {
  cudaEvent_t event = nullptr;
};
struct Graph::State {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
};
struct Blas::State {
  struct Handle {
    cublasHandle_t value = nullptr;
    ~Handle() {
      if (value) cublasDestroy(value);
    }
  };
  int device = 0;
  DeviceBuffer<unsigned char> workspace{};
  Handle handle{};
};

// --- devices -----------------------------------------------------------------------------------------------

int device_count() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());
  return 0;
}

std::string device_trouble() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return count > 0 ? "" : "CUDA finds no device";
  static_cast<void>(cudaGetLastError());
  return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
}

namespace {
void check_device(int k) {
  const int count = device_count();
  if (count == 0)
    throw NotAvailable("no CUDA device on this machine (" + device_trouble() + "); use the device \"cpu\"");
  if (k < 0 || k >= count)
    throw NotAvailable("CUDA device " + std::to_string(k) + " does not exist: this machine has " +
                       std::to_string(count) + ", numbered from 0");
}
}  // namespace

void use_device(int k) {
  check_device(k);
  check(cudaSetDevice(k), "cudaSetDevice(" + std::to_string(k) + ")");
}

int current_device() {
  if (device_count() == 0) return 0;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

DeviceProperties properties() {
  DeviceProperties p = properties_of(current_device());
  check(cudaMemGetInfo(&p.memory_free, &p.memory_total), "cudaMemGetInfo");
  return p;
}

DeviceProperties properties_of(int device) {
  check_device(device);
  cudaDeviceProp all{};
  check(cudaGetDeviceProperties(&all, device), "cudaGetDeviceProperties");
  DeviceProperties p;
  p.name = all.name;
  p.compute_major = all.major;
  p.compute_minor = all.minor;
  p.multiprocessors = all.multiProcessorCount;
  p.max_threads_per_block = all.maxThreadsPerBlock;
  p.max_grid = attribute(cudaDevAttrMaxGridDimX, device);
  p.shared_per_block = all.sharedMemPerBlock;
  p.shared_per_block_opt_in = all.sharedMemPerBlockOptin;
  p.shared_per_multiprocessor = all.sharedMemPerMultiprocessor;
  p.memory_total = all.totalGlobalMem;
  return p;
}

std::size_t most_shared_bytes() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
}

std::size_t most_shared_bytes(int blocks) {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const int all = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  const int reserved = attribute(cudaDevAttrReservedSharedMemoryPerBlock, device);
  return std::min(most_shared_bytes(), static_cast<std::size_t>(std::max(all / blocks - reserved, 0)));
}

int device_of(const void* address) {
  cudaPointerAttributes found{};
  const cudaError_t status = cudaPointerGetAttributes(&found, address);
  if (status == cudaErrorInvalidValue) {  // what CUDA before 11 said of other memory
    static_cast<void>(cudaGetLastError());
    return -1;
  }
  check(status, "cudaPointerGetAttributes");
  if (found.type == cudaMemoryTypeManaged) return current_device();
  return found.type == cudaMemoryTypeDevice ? found.device : -1;
}

std::uint64_t host_synchronisations() noexcept {
  return synchronisations;
}
std::uint64_t host_traffic() noexcept {
  return traffic;
}

// --- streams and events ------------------------------------------------------------------------------------

Stream::Stream(StreamOptions options) : state_(new State{options}) {
  if (MemoryProbe::active()) return;
  check(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking), "cudaStreamCreate");
}
void Stream::Delete::operator()(State* state) const noexcept {
  if (state->stream) cudaStreamDestroy(state->stream);
  delete state;
}
void Stream::synchronise() {
  if (MemoryProbe::active()) return;
  ++synchronisations;
  check(cudaStreamSynchronize(state_->stream), "cudaStreamSynchronize");
}
void Stream::wait(const Event& event) {
  if (MemoryProbe::active()) return;
  check(cudaStreamWaitEvent(state_->stream, event.state().event), "cudaStreamWaitEvent");
}
namespace {
/// Later work of `then` starts after all that `first` has been given so far.
void order(cudaStream_t first, cudaStream_t then) {
  if (MemoryProbe::active()) return;
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  const cudaError_t recorded = cudaEventRecord(event, first);
  const cudaError_t waits = recorded == cudaSuccess ? cudaStreamWaitEvent(then, event) : cudaSuccess;
  cudaEventDestroy(event);  // what waits for it goes on waiting
  check(recorded, "cudaEventRecord in a stream of the host program");
  check(waits, "cudaStreamWaitEvent by a stream of the host program");
}
}  // namespace

void Stream::follow(void* other) {
  order(static_cast<cudaStream_t>(other), state_->stream);
}
void Stream::lead(void* other) {
  order(state_->stream, static_cast<cudaStream_t>(other));
}
bool Stream::capturing() const {
  if (MemoryProbe::active()) return false;
  cudaStreamCaptureStatus status{};
  check(cudaStreamIsCapturing(state_->stream, &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}
const StreamOptions& Stream::options() const {
  return state_->options;
}
void* Stream::native() const {
  return state_->stream;
}

Event::Event() : state_(new State) {
  check(cudaEventCreate(&state_->event), "cudaEventCreate");
}
void Event::Delete::operator()(State* state) const noexcept {
  if (state->event) cudaEventDestroy(state->event);
  delete state;
}
void Event::record(Stream& stream) {
  if (MemoryProbe::active()) return;
  check(cudaEventRecord(state_->event, device::native(stream)), "cudaEventRecord");
}
void Event::synchronise() {
  if (MemoryProbe::active()) return;
  ++synchronisations;
  check(cudaEventSynchronize(state_->event), "cudaEventSynchronize");
}
double Event::milliseconds_since(const Event& start) {
  if (MemoryProbe::active()) return 0;
  synchronise();
  float milliseconds = 0;
  const cudaError_t status = cudaEventElapsedTime(&milliseconds, start.state_->event, state_->event);
  if (status == cudaErrorInvalidResourceHandle) {
    static_cast<void>(cudaGetLastError());
    throw ValueError("milliseconds_since: both events must have been recorded");
  }
  check(status, "cudaEventElapsedTime");
  return static_cast<double>(milliseconds);
}

// --- graphs ------------------------------------------------------------------------------------------------

Graph Graph::capture(Stream& stream, const std::function<void()>& work) {
  if (stream.capturing()) throw DeviceError("Graph::capture: the stream is capturing already");
  Graph graph(new State);
  if (MemoryProbe::active()) return graph;
  check(cudaStreamBeginCapture(device::native(stream), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
  try {
    work();
  } catch (...) {
    cudaGraph_t abandoned = nullptr;
    if (cudaStreamEndCapture(device::native(stream), &abandoned) == cudaSuccess && abandoned)
      cudaGraphDestroy(abandoned);
    static_cast<void>(cudaGetLastError());
    throw;
  }
  check(cudaStreamEndCapture(device::native(stream), &graph.state_->graph),
        "Graph::capture (did the work wait, allocate, release or copy to or from the host?)");
  check(cudaGraphInstantiate(&graph.state_->executable, graph.state_->graph, 0), "cudaGraphInstantiate");
  return graph;
}

void Graph::Delete::operator()(State* state) const noexcept {
  if (state->executable) cudaGraphExecDestroy(state->executable);
  if (state->graph) cudaGraphDestroy(state->graph);
  delete state;
}

void Graph::launch(Stream& stream) {
  if (MemoryProbe::active()) return;
  if (stream.capturing()) throw DeviceError("Graph::launch into a stream that is capturing");
  check(cudaGraphLaunch(state_->executable, device::native(stream)), "cudaGraphLaunch");
  if (stream.options().synchronise_launches) stream.synchronise();
}

int Graph::nodes() const {
  if (!state_->graph) return 0;  // captured by a MemoryProbe
  std::size_t count = 0;
  check(cudaGraphGetNodes(state_->graph, nullptr, &count), "cudaGraphGetNodes");
  return static_cast<int>(count);
}

// --- matrix products ---------------------------------------------------------------------------------------

Blas::Blas() : state_(detail::idle<State>().take(current_device())) {
  if (state_) return;
  state_.reset(new State{.device = current_device()});
  // The sizes that cuBLAS recommends: 32 MiB from compute capability 9 on, 4 MiB before.
  const bool large = attribute(cudaDevAttrComputeCapabilityMajor, state_->device) >= 9;
  state_->workspace = DeviceBuffer<unsigned char>(Index{large ? 32 : 4} << 20);
  if (MemoryProbe::active()) return;
  check(cublasCreate(&state_->handle.value), "cublasCreate");
  check(cublasSetMathMode(state_->handle.value, CUBLAS_DEFAULT_MATH), "cublasSetMathMode");  // no TF32
}

void Blas::Delete::operator()(State* state) const noexcept {
  const bool counted = state->handle.value != nullptr;  // else of a MemoryProbe
  synchronisations += counted;
  int device = -1;
  // The workspace is free for another stream when the work of this one is over.
  const bool idle = counted && cudaGetDevice(&device) == cudaSuccess && device == state->device &&
                    cudaDeviceSynchronize() == cudaSuccess;
  detail::idle<State>().give(std::unique_ptr<State>(state), idle);
}

template <class T>
void gemm(Blas& blas, Stream& stream, const Product<T>& product) {
  if (MemoryProbe::active()) return;
  const cublasHandle_t handle = blas.state().handle.value;
  check(cublasSetStream(handle, native(stream)), "cublasSetStream");  // takes the workspace away
  const auto& workspace = blas.state().workspace;
  check(cublasSetWorkspace(handle, pointer(workspace.pointer().address()),
                           static_cast<std::size_t>(workspace.size())),
        "cublasSetWorkspace");
  // Row-major C = A B is column-major C^T = B^T A^T.
  const auto operation = [](Transpose t) { return t == Transpose::no ? CUBLAS_OP_N : CUBLAS_OP_T; };
  const auto& [m, n, k, a, b, c, ldc, alpha, beta] = product;
  const auto* a_at = static_cast<const T*>(pointer(a.data.address()));
  const auto* b_at = static_cast<const T*>(pointer(b.data.address()));
  auto* c_at = static_cast<T*>(pointer(c.address()));
  if constexpr (std::is_same_v<T, float>) {
    check(cublasSgemm(handle, operation(b.transpose), operation(a.transpose), n, m, k, &alpha, b_at, b.ld,
                      a_at, a.ld, &beta, c_at, ldc),
          "cublasSgemm");
  } else {
    check(cublasDgemm(handle, operation(b.transpose), operation(a.transpose), n, m, k, &alpha, b_at, b.ld,
                      a_at, a.ld, &beta, c_at, ldc),
          "cublasDgemm");
  }
}
template void gemm(Blas&, Stream&, const Product<float>&);
template void gemm(Blas&, Stream&, const Product<double>&);

// --- memory and launches -----------------------------------------------------------------------------------

namespace detail {

Address allocate(std::size_t bytes, const char* purpose) {
  if (MemoryProbe* probe = MemoryProbe::active()) return probe->allocate(bytes);
  ++synchronisations;
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    throw OutOfDeviceMemory(purpose, bytes, free, total);
  }
  check(status, "cudaMalloc of " + std::to_string(bytes) + " bytes");
  return reinterpret_cast<Address>(memory);
}

void release(Address address) noexcept {
  if (MemoryProbe* probe = MemoryProbe::active(); probe && probe->release(address)) return;
  ++synchronisations;
  cudaFree(pointer(address));  // a destructor cannot report; the next checked call will
}

// CUDA need not accept the null pointers of a copy of nothing.

void copy_to_device(Address to, const void* from, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active()) return;
  if (bytes > 0)
    check(cudaMemcpyAsync(pointer(to), from, bytes, cudaMemcpyHostToDevice, native(stream)),
          "copy_to_device");
  traffic += bytes;
  stream.synchronise();
}

void copy_to_host(void* to, Address from, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active()) {
    if (bytes > 0) std::memset(to, 0, bytes);
    return;
  }
  if (bytes > 0)
    check(cudaMemcpyAsync(to, pointer(from), bytes, cudaMemcpyDeviceToHost, native(stream)), "copy_to_host");
  traffic += bytes;
  stream.synchronise();
}

void copy_on_device(Address to, Address from, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active() || bytes == 0) return;
  check(cudaMemcpyAsync(pointer(to), pointer(from), bytes, cudaMemcpyDeviceToDevice, native(stream)),
        "copy_on_device");
}

void fill_zero(Address to, std::size_t bytes, Stream& stream) {
  if (MemoryProbe::active() || bytes == 0) return;
  check(cudaMemsetAsync(pointer(to), 0, bytes, native(stream)), "fill_zero");
}

void set_shared_limit(const void* kernel, std::size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncAttributeMaxDynamicSharedMemorySize of " + std::to_string(bytes) + " bytes");
  // A hint: memory that the cache of a multiprocessor takes is not there for a second block.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "cudaFuncAttributePreferredSharedMemoryCarveout");
}

bool prepare_launch(const void* kernel, const Launch& shape) {
  if (MemoryProbe::active()) return false;
  require_shared(kernel, shape.shared_bytes);
  return true;
}

void finish_launch(const Launch& shape) {
  check(cudaGetLastError(), describe(shape));
  if (!shape.stream.options().synchronise_launches || shape.stream.capturing()) return;
  ++synchronisations;
  check(cudaStreamSynchronize(native(shape.stream)), describe(shape));
}

}  // namespace detail
}  // namespace BRENIER_DIALECT
}  // namespace brenier::device
