// Products of a matrix and a stream: register tiles with exact tails, everything that follows a product in its epilogue.
// Included by kernels.cpp alone.
#ifndef DMDKIT_BACKENDS_NATIVE_PRODUCTS_HPP_
#define DMDKIT_BACKENDS_NATIVE_PRODUCTS_HPP_

#include <string.h>

#include "kernels.hpp"
#include "vector.hpp"

namespace dmdkit_native {
namespace DMDKIT_ISA {
namespace {

#if defined(__clang__)
#define DMDKIT_UNROLL _Pragma("unroll")
#else
#define DMDKIT_UNROLL _Pragma("GCC unroll 32")
#endif

// How far ahead weights are asked for, in bytes: between two calls other work may have pushed them out of the caches.
constexpr int kAhead = 4096;

// What follows the sums of row `o`: scale, bias, residual, ReLU.
template <bool kInt8>
inline F finished(F y, const Matrix& m, const LinearCall& call, int o, ptrdiff_t step, const float* y_row) {
  if (kInt8) {
    y = y * splat(m.scale[o]) * load(call.step_scale + step);
  } else if (call.step_scale != nullptr) {
    y = y * load(call.step_scale + step);
  }
  if (m.bias != nullptr) y = y + splat(m.bias[o]);
  if (call.add) y = y + load(y_row + step);
  if (call.relu) y = at_least(y, 0.0F);
  return y;
}

// `rows`: how many of the tile's kR are there; the others' weights are zero and nothing is stored of them.
template <int kR, int kN, bool kTaps>
inline void tile(const Matrix& m, const LinearCall& call, int panel, ptrdiff_t step, int rows) {
  F sum[kR][kN];
  DMDKIT_UNROLL for (int r = 0; r < kR; ++r) { DMDKIT_UNROLL for (int n = 0; n < kN; ++n) sum[r][n] = F{}; }
  const int taps = kTaps ? m.taps : 1;
  const float* w = m.weights + (ptrdiff_t)panel * m.depth * taps * kRows;
  const float* x = static_cast<const float*>(call.x) + step;
  for (int k = 0; k < m.depth; ++k, x += call.ld_x) {
    for (int tap = 0; tap < taps; ++tap, w += kRows) {
      __builtin_prefetch(w + kAhead / 4, 0, 2);
      F a[kN];
      DMDKIT_UNROLL for (int n = 0; n < kN; ++n) a[n] = load(x + tap + n * kLanes);
      DMDKIT_UNROLL for (int r = 0; r < kR; ++r) {
        const F s = splat(w[r]);
        DMDKIT_UNROLL for (int n = 0; n < kN; ++n) sum[r][n] = fma(s, a[n], sum[r][n]);
      }
    }
  }
  DMDKIT_UNROLL for (int r = 0; r < kR; ++r) {
    if (r == rows) return;
    const int o = panel * kRows + r;
    float* row = call.y + o * call.ld_y;
    DMDKIT_UNROLL for (int n = 0; n < kN; ++n) {
      store(row + step + n * kLanes, finished<false>(sum[r][n], m, call, o, step + n * kLanes, row));
    }
  }
}

template <int kR, int kN, bool kTaps>
inline void tile_int8(const Matrix& m, const LinearCall& call, int panel, ptrdiff_t step, int rows) {
  const int taps = kTaps ? m.taps : 1, quads = (m.depth + 3) / 4;
  // Levels stand for (byte - zero): what the zero adds to every sum is known beforehand.
  const int32_t zero = kStored - (call.positive ? 0 : kZero);
  I sum[kR][kN];
  DMDKIT_UNROLL for (int r = 0; r < kR; ++r) {
    const I start = splat_int(zero * m.sums[panel * kRows + r]);
    DMDKIT_UNROLL for (int n = 0; n < kN; ++n) sum[r][n] = start;
  }
  const int8_t* w = m.levels + (ptrdiff_t)panel * quads * taps * kRows * 4;
  const uint8_t* x = static_cast<const uint8_t*>(call.x) + step * 4;
  for (int k = 0; k < quads; ++k, x += call.ld_x * 4) {
    for (int tap = 0; tap < taps; ++tap, w += kRows * 4) {
      __builtin_prefetch(w + kAhead, 0, 2);
      I a[kN];
      DMDKIT_UNROLL for (int n = 0; n < kN; ++n) a[n] = load_bytes(x + 4 * (tap + n * kLanes));
      DMDKIT_UNROLL for (int r = 0; r < kR; ++r) {
        int32_t four;
        memcpy(&four, w + r * 4, 4);
        const I s = splat_int(four);
        DMDKIT_UNROLL for (int n = 0; n < kN; ++n) sum[r][n] = dot4(sum[r][n], a[n], s);
      }
    }
  }
  DMDKIT_UNROLL for (int r = 0; r < kR; ++r) {
    if (r == rows) return;
    const int o = panel * kRows + r;
    float* row = call.y + o * call.ld_y;
    DMDKIT_UNROLL for (int n = 0; n < kN; ++n) {
      const ptrdiff_t at = step + n * kLanes;
      const F y = finished<true>(float_of(sum[r][n]), m, call, o, at, row);
      store(row + at, y);
      if (call.step_maximum != nullptr) {
        store(call.step_maximum + at, maximum(load(call.step_maximum + at), magnitude(y)));
      }
    }
  }
}

template <int kR, int kN, bool kInt8, bool kTaps>
inline void any_tile(const Matrix& m, const LinearCall& call, int panel, ptrdiff_t step, int rows) {
  if constexpr (kInt8) {
    tile_int8<kR, kN, kTaps>(m, call, panel, step, rows);
  } else {
    tile<kR, kN, kTaps>(m, call, panel, step, rows);
  }
}

// The rows that the last panel really has, or one more: a tile for each number of rows would take twice as long to compile.
template <int kR, int kN, bool kInt8, bool kTaps>
inline void last_tile(const Matrix& m, const LinearCall& call, int panel, ptrdiff_t step, int rows) {
  if constexpr (kR > 0) {
    if (rows > kR - 2) {
      any_tile<kR, kN, kInt8, kTaps>(m, call, panel, step, rows);
    } else {
      last_tile<kR - 2, kN, kInt8, kTaps>(m, call, panel, step, rows);
    }
  }
}

// One block of columns: every panel over the same activations, which stay in the nearest cache.
template <int kN, bool kInt8, bool kTaps>
inline void columns(const Matrix& m, const LinearCall& call, ptrdiff_t step, int vectors) {
  if constexpr (kN > 0) {
    if (vectors != kN) {
      columns<kN - 1, kInt8, kTaps>(m, call, step, vectors);
      return;
    }
    const int panels = m.rows / kRows, left = m.rows % kRows;
    for (int panel = 0; panel < panels; ++panel) any_tile<kRows, kN, kInt8, kTaps>(m, call, panel, step, kRows);
    if (left != 0) last_tile<kRows, kN, kInt8, kTaps>(m, call, panels, step, left);
  }
}

template <bool kInt8, bool kTaps>
void product(const Matrix& m, const LinearCall& call) {
  // Blocks as even as can be: 4 vectors are two of 2 rather than 3 and 1.
  int blocks = (call.vectors + kVectors - 1) / kVectors, left = call.vectors;
  for (ptrdiff_t step = 0; blocks > 0; --blocks) {
    const int vectors = (left + blocks - 1) / blocks;
    columns<kVectors, kInt8, kTaps>(m, call, step, vectors);
    step += vectors * kLanes;
    left -= vectors;
  }
}

void linear(const Matrix& m, const LinearCall& call) {
  if (m.taps == 1) {
    product<false, false>(m, call);
  } else {
    product<false, true>(m, call);
  }
}

void linear_int8(const Matrix& m, const LinearCall& call) {
  if (m.taps == 1) {
    product<true, false>(m, call);
  } else {
    product<true, true>(m, call);
  }
}

// A vector of rows at a time, as many side by side as hide the latency of an addition, for kM vectors x.
template <int kN, int kM, bool kInt8>
inline void dense_panel(const Dense& m, const float* x, ptrdiff_t ld_x, float* y, ptrdiff_t ld_y, int first) {
  F sum[kM][kN];
  DMDKIT_UNROLL for (int s = 0; s < kM; ++s) { DMDKIT_UNROLL for (int n = 0; n < kN; ++n) sum[s][n] = F{}; }
  const ptrdiff_t start = (ptrdiff_t)first * m.depth;
  for (int k = 0; k < m.depth; ++k) {
    F w[kN];
    DMDKIT_UNROLL for (int n = 0; n < kN; ++n) {
      const ptrdiff_t at = start + ((ptrdiff_t)k * kN + n) * kLanes;
      w[n] = kInt8 ? load_levels(m.levels + at) : load(m.weights + at);
    }
    DMDKIT_UNROLL for (int s = 0; s < kM; ++s) {
      const F a = splat(x[s * ld_x + k]);
      DMDKIT_UNROLL for (int n = 0; n < kN; ++n) sum[s][n] = fma(a, w[n], sum[s][n]);
    }
    if (kInt8) {
      __builtin_prefetch(m.levels + start + (ptrdiff_t)k * kN * kLanes + kAhead, 0, 2);
    } else {
      __builtin_prefetch(m.weights + start + (ptrdiff_t)k * kN * kLanes + kAhead / 4, 0, 2);
    }
  }
  DMDKIT_UNROLL for (int s = 0; s < kM; ++s) {
    DMDKIT_UNROLL for (int n = 0; n < kN; ++n) {
      const int o = first + n * kLanes;
      F found = sum[s][n];
      if (kInt8) found = found * load(m.scale + o);
      if (m.bias != nullptr) found = found + load(m.bias + o);
      store(y + s * ld_y + o, found);
    }
  }
}

template <bool kInt8>
inline void dense_of(const Dense& m, const float* x, float* y) {
  int left = (m.rows + kLanes - 1) / kLanes, first = 0;
  for (; left >= kDenseVectors; left -= kDenseVectors, first += kDenseVectors * kLanes) {
    dense_panel<kDenseVectors, 1, kInt8>(m, x, 0, y, 0, first);
  }
  if (left == 3) dense_panel<3, 1, kInt8>(m, x, 0, y, 0, first);
  if (left == 2) dense_panel<2, 1, kInt8>(m, x, 0, y, 0, first);
  if (left == 1) dense_panel<1, 1, kInt8>(m, x, 0, y, 0, first);
}

void dense(const Dense& m, const float* x, float* y) {
  if (m.levels != nullptr) {
    dense_of<true>(m, x, y);
  } else {
    dense_of<false>(m, x, y);
  }
}

}  // namespace
}  // namespace DMDKIT_ISA
}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_PRODUCTS_HPP_
