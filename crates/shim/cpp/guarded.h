// Conversion of C++ exceptions to texts, so that no exception leaves C++.

#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

// Runs the body. Returns nullptr, or the exception's message, to be freed with `sentune_free`.
template <typename Body>
char* guarded(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("libtorch threw something that is no exception");
  }
}
