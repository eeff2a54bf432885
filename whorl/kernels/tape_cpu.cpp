// Kernels called one after the other from a list, without Python between them.

#include <cstdint>

// tape: for each call the address of its `_words` form, the number of its arguments, and these.
extern "C" void whorl_play(const int64_t* tape, int64_t words) {
  for (const int64_t* at = tape; at < tape + words; at += 2 + at[1])
    reinterpret_cast<void (*)(const int64_t*)>(at[0])(at + 2);
}
