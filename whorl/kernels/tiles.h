// The AMX tile registers of a thread.

#pragma once

#include <cstdint>

#if defined(__AMX_TILE__) && defined(__linux__)
#define WHORL_AMX
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

// Eight tiles; by itself each is 16 rows of 64 bytes. Kept in static memory: GCC before 13 believes that
// loading one reads 8 bytes, and drops the stores of the others to one on the stack.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline bool tiles_allowed() {  // Linux grants the registers to a process that asks
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18;
  static const bool granted = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
  return granted;
}

// This thread's tiles as we need them, and as oneDNN left them (it remembers what it set) afterwards.
class Tiles {
 public:
  explicit Tiles(const TileConfig& ours) {
    _tile_storeconfig(&before_);
    _tile_loadconfig(&ours);
  }
  ~Tiles() {
    if (before_.palette) _tile_loadconfig(&before_);
    else _tile_release();
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  TileConfig before_;
};

}  // namespace
#endif
