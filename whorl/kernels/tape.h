// Kernels with their arguments as words of 8 bytes, so that a list of calls can be kept and played again.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace {

template <class T>
T from_word(const int64_t& word) {  // little-endian, as all CPUs with these kernels are
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

template <class Function>
struct CallOf;

template <class... Types>
struct CallOf<void(Types...)> {
  template <void (*function)(Types...), size_t... places>
  static void call(const int64_t* words, std::index_sequence<places...>) {
    function(from_word<Types>(words[places])...);
  }
};

template <auto function, class... Types>
void call_with(void (*)(Types...), const int64_t* words) {
  CallOf<void(Types...)>::template call<function>(words, std::index_sequence_for<Types...>{});
}

}  // namespace

// name_words(const int64_t*): the kernel `name` with its arguments from there.
#define WHORL_WORDS(name) \
  extern "C" void name##_words(const int64_t* words) { call_with<&name>(&name, words); }
