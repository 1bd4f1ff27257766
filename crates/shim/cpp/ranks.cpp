// Ranks: the processes that train one model together, as a store of keys and a group of collectives.
//
// The group is c10d's gloo, which libtorch_cpu.so has inside. This file is compiled to a separate library that nothing
// links to: the program embeds it and opens it where there is more than one rank. So the program runs with a libtorch
// that was built without distributed, as long as it trains in one process.

#define USE_C10D_GLOO

#include "guarded.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/version.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

static_assert(
    TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11,
    "gloo-stubs was checked with libtorch 2.11: run the tests of ranks with this one, then name it here");

namespace {

using Store = c10::intrusive_ptr<c10d::Store>;
using Group = c10::intrusive_ptr<c10d::Backend>;

Store& store_of(void* handle) {
  return *static_cast<Store*>(handle);
}

Group& group_of(void* handle) {
  return *static_cast<Group*>(handle);
}

const at::Tensor& read(const void* handle) {
  return *static_cast<const at::Tensor*>(handle);
}

std::mutex beginning;

// Begins an operation and waits for its end. libtorch's flight recorder adds each group to a map of the process before it
// takes its lock, so groups of one process, which ranks on threads have, begin one at a time.
template <typename Begin>
void finish(Begin&& begin) {
  std::unique_lock<std::mutex> one_at_a_time(beginning);
  const auto work = begin();
  one_at_a_time.unlock();
  work->wait();
}

}  // namespace

extern "C" {

// A `listener` of 0 or more is a bound socket for the server; -1 has it bind `port`.
char* sentune_store_open(
    const char* host,
    uint16_t port,
    bool is_server,
    int listener,
    const char* prefix,
    int64_t timeout_ms,
    void** store) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server;
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    if (is_server && listener >= 0) {
      options.masterListenFd = listener;
    }
    auto whole = c10::make_intrusive<c10d::TCPStore>(host, options);
    *store = new Store(c10::make_intrusive<c10d::PrefixStore>(prefix, whole));
  });
}

void sentune_store_close(void* store) {
  guarded([&] { delete &store_of(store); });
}

char* sentune_store_set(void* store, const char* key, const uint8_t* value, size_t n) {
  return guarded([&] { store_of(store)->set(key, std::vector<uint8_t>(value, value + n)); });
}

char* sentune_store_has(void* store, const char* key, bool* has) {
  return guarded([&] { *has = store_of(store)->check({key}); });
}

// The value is to be freed with `sentune_free`.
char* sentune_store_get(void* store, const char* key, char** value, size_t* n) {
  return guarded([&] {
    const auto found = store_of(store)->get(key);
    // Room for at least a byte: malloc may give nothing for none.
    *value = static_cast<char*>(std::malloc(found.size() + 1));
    if (*value == nullptr) {
      throw std::bad_alloc();
    }
    std::memcpy(*value, found.data(), found.size());
    *n = found.size();
  });
}

char* sentune_store_add(void* store, const char* key, int64_t amount, int64_t* sum) {
  return guarded([&] { *sum = store_of(store)->add(key, amount); });
}

// `address` is what this rank listens on. `interface`, where it is not empty, names a network interface instead.
char* sentune_ranks_connect(
    void* store,
    int rank,
    int size,
    const char* address,
    const char* interface,
    int64_t timeout_ms,
    void** group) {
  return guarded([&] {
    using Gloo = c10d::ProcessGroupGloo;
    auto options = Gloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->devices.push_back(
        *interface == '\0' ? Gloo::createDeviceForHostname(address)
                           : Gloo::createDeviceForInterface(interface));
    *group = new Group(c10::make_intrusive<Gloo>(store_of(store), rank, size, options));
  });
}

void sentune_ranks_leave(void* group) {
  guarded([&] { delete &group_of(group); });
}

char* sentune_ranks_mean(void* group, const void* tensor) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{read(tensor)};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::AVG;
    finish([&] { return group_of(group)->allreduce(tensors, options); });
  });
}

char* sentune_ranks_gather(void* group, const void* own, const void* all) {
  return guarded([&] {
    // Flat, since it is the first dimension that the group divides by ranks.
    auto input = read(own).view({-1});
    auto output = read(all).view({-1});
    finish([&] { return group_of(group)->_allgather_base(output, input, c10d::AllgatherOptions()); });
  });
}

char* sentune_ranks_scatter_sum(void* group, const void* all, const void* own) {
  return guarded([&] {
    auto input = read(all).view({-1});
    auto output = read(own).view({-1});
    finish([&] { return group_of(group)->_reduce_scatter_base(output, input, c10d::ReduceScatterOptions()); });
  });
}

char* sentune_ranks_broadcast(void* group, const void* tensor) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{read(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = 0;
    options.rootTensor = 0;
    finish([&] { return group_of(group)->broadcast(tensors, options); });
  });
}

char* sentune_ranks_barrier(void* group) {
  return guarded([&] {
    finish([&] { return group_of(group)->barrier(c10d::BarrierOptions()); });
  });
}

}  // extern "C"
