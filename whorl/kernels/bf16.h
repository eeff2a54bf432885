// bf16 as its bits, to and from fp32.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

using bits = uint16_t;

inline float widen(float x) { return x; }
inline float widen(bits x) {
  const uint32_t wide = uint32_t(x) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

inline bits narrow_finite(float value) {  // round to nearest even; no branch, for vectors
  uint32_t wide;
  std::memcpy(&wide, &value, 4);
  return bits((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

inline bits narrow(float value) {  // NaN stays NaN
  uint32_t wide;
  std::memcpy(&wide, &value, 4);
  if (value != value) return bits(wide >> 16 | 0x40);
  return narrow_finite(value);
}

}  // namespace
