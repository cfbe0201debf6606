// What a fuzz target does with bytes its reader refuses: nothing, except that a seed must be taken (run.py asks for that).
#ifndef DMDKIT_FUZZ_REFUSED_HPP_
#define DMDKIT_FUZZ_REFUSED_HPP_

#include <cstdio>
#include <cstdlib>
#include <exception>

inline void refused(const std::exception& cause) {
  static const bool must_be_taken = std::getenv("DMDKIT_FUZZ_SEEDS") != nullptr;
  if (!must_be_taken) return;
  std::fprintf(stderr, "a seed is refused: %s\n", cause.what());
  std::abort();
}

#endif  // DMDKIT_FUZZ_REFUSED_HPP_
