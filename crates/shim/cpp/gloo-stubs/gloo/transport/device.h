#pragma once

namespace gloo::transport {

// Held by pointer alone.
class Device;
class UnboundBuffer;

}  // namespace gloo::transport
