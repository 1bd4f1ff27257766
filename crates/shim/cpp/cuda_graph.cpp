// CUDA graphs: a step's kernels, recorded once and launched as a whole.
//
// The only file that needs CUDA's headers. It is compiled to a separate library that nothing links to: the program
// embeds it and opens it after libtorch_cuda.so, whose symbols it needs. So the program still starts on machines
// without CUDA.

#include "guarded.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <memory>
#include <optional>

namespace {

// All graphs of a process share one memory pool: they run one after the other, and the results of one are read before
// the next runs.
at::cuda::MempoolId_t pool() {
  static const auto id = at::cuda::graph_pool_handle();
  return id;
}

struct Recording {
  at::cuda::CUDAGraph graph;
  // Stream during recording, which is not possible on the default stream.
  std::optional<c10::cuda::CUDAStreamGuard> on_stream;
};

}  // namespace

extern "C" {

char* sentune_graph_begin(void** recording) {
  return guarded([&] {
    auto made = std::make_unique<Recording>();
    c10::cuda::device_synchronize();
    made->on_stream.emplace(c10::cuda::getStreamFromPool());
    made->graph.capture_begin(pool());
    *recording = made.release();
  });
}

char* sentune_graph_end(void* recording) {
  return guarded([&] {
    auto& made = *static_cast<Recording*>(recording);
    try {
      made.graph.capture_end();
    } catch (...) {
      made.on_stream.reset();
      throw;
    }
    made.on_stream.reset();
  });
}

char* sentune_graph_replay(void* recording) {
  return guarded([&] { static_cast<Recording*>(recording)->graph.replay(); });
}

void sentune_graph_free(void* recording) {
  guarded([&] { delete static_cast<Recording*>(recording); });
}

}  // extern "C"
