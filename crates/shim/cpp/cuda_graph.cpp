// CUDA graphs: a step's kernels, recorded once and launched at one go.
//
// The one file that needs CUDA's headers. It is compiled to a library of its own, which nothing is linked to: the
// program carries it and opens it once libtorch_cuda.so is there, whose symbols it then finds. So the program itself
// still starts where there is no CUDA.

#include "guarded.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <memory>
#include <optional>

namespace {

// All graphs of a process take their memory from one pool: they run one after the other, and what one leaves in it
// is read before the next runs.
at::cuda::MempoolId_t pool() {
  static const auto id = at::cuda::graph_pool_handle();
  return id;
}

struct Recording {
  at::cuda::CUDAGraph graph;
  // While it is recorded: graphs are recorded on a stream that is not the default one.
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
