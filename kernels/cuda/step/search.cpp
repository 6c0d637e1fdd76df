// SPDX-License-Identifier: MIT
// Compiled once, as CUDA into the library, and by the host compiler for the emulated device.
#include "kernels/cuda/step/search_kernel.hpp"

namespace brenier::cuda {

template <class T>
void launch_search(const SearchArgs<T>& args, Stream& stream) {
  launch(search_kernel<T>, {1, kSearchThreads, sizeof(SearchShared), stream, "L-BFGS"}, args);
}

template void launch_search(const SearchArgs<float>&, Stream&);
template void launch_search(const SearchArgs<double>&, Stream&);

}  // namespace brenier::cuda
