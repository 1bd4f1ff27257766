// Functions of libtorch's C++ interface that a training step on a device needs and tch 0.24 lacks.
//
// Every function returns nullptr, or libtorch's error message, to be freed with `sentune_free`. A tensor is passed as in
// torch-sys: a pointer to an at::Tensor. Nothing here needs CUDA's headers or libraries, so one program serves all
// devices.

#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/_fused_adamw.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/GradMode.h>

#include <cstdint>
#include <cstdlib>

namespace {

const at::Tensor& read(const void* handle) {
  return *static_cast<const at::Tensor*>(handle);
}

c10::DeviceAllocator& allocator() {
  return *c10::getDeviceAllocator(c10::DeviceType::CUDA);
}

}  // namespace

extern "C" {

void sentune_free(char* text) {
  std::free(text);
}

char* sentune_fused_adamw(
    const void* parameters,
    const void* gradient,
    const void* exp_avg,
    const void* exp_avg_sq,
    const void* step,
    const void* learning_rate,
    double beta1,
    double beta2,
    double weight_decay,
    double eps,
    const void* grad_scale,
    const void* found_inf) {
  return guarded([&] {
    // Operators that change their arguments are recorded unless autograd is off.
    c10::NoGradGuard guard;
    at::_fused_adamw_(
        {read(parameters)},
        {read(gradient)},
        {read(exp_avg)},
        {read(exp_avg_sq)},
        {},
        {read(step)},
        read(learning_rate),
        beta1,
        beta2,
        weight_decay,
        eps,
        /*amsgrad=*/false,
        /*maximize=*/false,
        read(grad_scale),
        read(found_inf));
    // Operators on lists do not raise the version, which tells whether a copy of the weights is outdated.
    read(parameters).unsafeGetTensorImpl()->bump_version();
  });
}

char* sentune_amp_update_scale(
    const void* scale,
    const void* growth_tracker,
    const void* found_inf,
    double growth_factor,
    double backoff_factor,
    int64_t growth_interval) {
  return guarded([&] {
    c10::NoGradGuard guard;
    auto scale_ = read(scale);
    auto growth_tracker_ = read(growth_tracker);
    at::_amp_update_scale_(
        scale_, growth_tracker_, read(found_inf), growth_factor, backoff_factor, growth_interval);
  });
}

char* sentune_allow_tf32(bool allowed) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(allowed);
  });
}

char* sentune_deterministic(bool deterministic) {
  return guarded([&] {
    // cuBLAS reads this variable when its first handle is made, and cannot be deterministic without it.
    if (deterministic) {
      setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    }
    at::globalContext().setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
  });
}

char* sentune_memory(int8_t device, int64_t* allocated, int64_t* peak, int64_t* reserved) {
  return guarded([&] {
    const auto stats = allocator().getDeviceStats(device);
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *allocated = stats.allocated_bytes[all].current;
    *peak = stats.allocated_bytes[all].peak;
    *reserved = stats.reserved_bytes[all].current;
  });
}

char* sentune_empty_cache() {
  return guarded([&] { allocator().emptyCache(); });
}

}  // extern "C"
