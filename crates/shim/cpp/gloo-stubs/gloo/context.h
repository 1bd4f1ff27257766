#pragma once

#include <chrono>

namespace gloo {

// Called by an inline function of c10d's header, which resolves to libtorch's own.
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
