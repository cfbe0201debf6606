// Kernels for single steps of a stream: products of a matrix and a vector, and attention of one query. Every weight is read
// once for all the steps at hand; the panels are those of whole windows. Included by kernels.cpp alone.
#ifndef DMDKIT_BACKENDS_NATIVE_SINGLE_STEPS_HPP_
#define DMDKIT_BACKENDS_NATIVE_SINGLE_STEPS_HPP_

#include <float.h>

#include "attention.hpp"
#include "kernels.hpp"
#include "products.hpp"
#include "steps.hpp"
#include "vector.hpp"

namespace dmdkit_native {
namespace DMDKIT_ISA {
namespace {

// Values of four bytes that one panel has: floats, or fours of levels.
inline ptrdiff_t panel_size(const Matrix& m, bool int8) {
  return (ptrdiff_t)(int8 ? (m.depth + 3) / 4 : m.depth) * m.taps * kRows;
}

// Sums of kP panels and kM steps, rows in lanes, into call.sums: a step's rows side by side, `ld` from one to the next.
template <int kP, int kM>
inline void step_panels(const Matrix& m, const StepCall& call, int panel, int first, ptrdiff_t ld) {
  F sum[kP][kM];
  DMDKIT_UNROLL for (int p = 0; p < kP; ++p) { DMDKIT_UNROLL for (int s = 0; s < kM; ++s) sum[p][s] = F{}; }
  const ptrdiff_t size = panel_size(m, false);
  const float* w = m.weights + panel * size;
  const float* x = static_cast<const float*>(call.x) + first * call.ld_x;
  ptrdiff_t at = 0;
  for (; at + kLanes <= size; at += kLanes) {
    F a[kM];
    DMDKIT_UNROLL for (int s = 0; s < kM; ++s) a[s] = load(x + s * call.ld_x + at);
    DMDKIT_UNROLL for (int p = 0; p < kP; ++p) {
      __builtin_prefetch(w + p * size + at + kAhead / 4, 0, 2);
      const F weights = load(w + p * size + at);
      DMDKIT_UNROLL for (int s = 0; s < kM; ++s) sum[p][s] = fma(weights, a[s], sum[p][s]);
    }
  }
  if (at < size) {  // what lies behind a panel of half vectors is not a number of ours
    F a[kM];
    DMDKIT_UNROLL for (int s = 0; s < kM; ++s) a[s] = load(x + s * call.ld_x + at);
    DMDKIT_UNROLL for (int p = 0; p < kP; ++p) {
      const F weights = load_lower(w + p * size + at);
      DMDKIT_UNROLL for (int s = 0; s < kM; ++s) sum[p][s] = fma(weights, a[s], sum[p][s]);
    }
  }
  DMDKIT_UNROLL for (int p = 0; p < kP; ++p) {
    DMDKIT_UNROLL for (int s = 0; s < kM; ++s) store_folded(call.sums + (first + s) * ld + (panel + p) * kRows, sum[p][s]);
  }
}

template <int kP, int kM>
inline void step_panels_int8(const Matrix& m, const StepCall& call, int panel, int first, ptrdiff_t ld) {
  I sum[kP][kM];
  DMDKIT_UNROLL for (int p = 0; p < kP; ++p) { DMDKIT_UNROLL for (int s = 0; s < kM; ++s) sum[p][s] = I{}; }
  const ptrdiff_t size = panel_size(m, true) * 4;
  const int8_t* w = m.levels + panel * size;
  const uint8_t* x = static_cast<const uint8_t*>(call.x) + first * call.ld_x * 4;
  // A last vector may reach into the next panel: what is spread out is zero there.
  for (ptrdiff_t at = 0; at < size; at += kLanes * 4) {
    I a[kM];
    DMDKIT_UNROLL for (int s = 0; s < kM; ++s) a[s] = load_bytes(x + s * call.ld_x * 4 + at);
    DMDKIT_UNROLL for (int p = 0; p < kP; ++p) {
      __builtin_prefetch(w + p * size + at + kAhead, 0, 2);
      const I levels = load_bytes(reinterpret_cast<const uint8_t*>(w + p * size + at));
      DMDKIT_UNROLL for (int s = 0; s < kM; ++s) sum[p][s] = dot4(sum[p][s], a[s], levels);
    }
  }
  int32_t* sums = reinterpret_cast<int32_t*>(call.sums);
  DMDKIT_UNROLL for (int p = 0; p < kP; ++p) {
    DMDKIT_UNROLL for (int s = 0; s < kM; ++s) store_folded(sums + (first + s) * ld + (panel + p) * kRows, sum[p][s]);
  }
}

// All panels for kM steps, as many panels at once as there are registers for their sums.
template <int kP, int kM, bool kInt8>
inline void step_rows(const Matrix& m, const StepCall& call, int panel, int panels, int first, ptrdiff_t ld) {
  for (; panel + kP <= panels; panel += kP) {
    if constexpr (kInt8) {
      step_panels_int8<kP, kM>(m, call, panel, first, ld);
    } else {
      step_panels<kP, kM>(m, call, panel, first, ld);
    }
  }
  if constexpr (kP > 1) step_rows<kP / 2, kM, kInt8>(m, call, panel, panels, first, ld);
}

template <int kM, bool kInt8>
inline int step_block(const Matrix& m, const StepCall& call, int first, ptrdiff_t ld) {
  constexpr int kP = kStepSums / kM > 8 ? 8 : kStepSums / kM;
  const int panels = (m.rows + kRows - 1) / kRows;
  for (; first + kM <= call.count; first += kM) step_rows<kP, kM, kInt8>(m, call, 0, panels, first, ld);
  if constexpr (kM > 1) return step_block<kM / 2, kInt8>(m, call, first, ld);
  return first;
}

// What follows the sums of one step, as `finished` in products.hpp does it.
template <bool kInt8>
inline void finish_step(const Matrix& m, const StepCall& call, int step, const float* sums) {
  float* y = call.y + step * call.ld_y;
  const int32_t zero = kStored - (call.positive ? 0 : kZero);
  for (int o = 0; o < m.rows; o += kLanes) {
    F found;
    if constexpr (kInt8) {
      const I levels =
          *reinterpret_cast<const ILoose*>(sums + o) + splat_int(zero) * *reinterpret_cast<const ILoose*>(m.sums + o);
      found = float_of(levels) * load(m.scale + o) * splat(call.step_scale[step]);
    } else {
      found = load(sums + o);
      if (call.step_scale != nullptr) found = found * splat(call.step_scale[step]);
    }
    if (m.bias != nullptr) found = found + load(m.bias + o);
    if (call.add) found = found + load(y + o);
    if (call.relu) found = at_least(found, 0.0F);
    store(y + o, found);
  }
}

template <bool kInt8>
inline void step_product_of(const Matrix& m, const StepCall& call) {
  const ptrdiff_t ld = (ptrdiff_t)(m.rows + kRows - 1) / kRows * kRows + kMostLanes;
  step_block<kMostSteps, kInt8>(m, call, 0, ld);
  for (int step = 0; step < call.count; ++step) finish_step<kInt8>(m, call, step, call.sums + step * ld);
}

void step_product(const Matrix& m, const StepCall& call) { step_product_of<false>(m, call); }
void step_product_int8(const Matrix& m, const StepCall& call) { step_product_of<true>(m, call); }

void spread(const float* x, int count, float* y) {
  for (int i = 0; i < count; ++i) store(y + (ptrdiff_t)i * kRows, splat(x[i]));
  store(y + (ptrdiff_t)count * kRows, F{});
}

float quantise_step(const float* x, int count, float factor, bool positive, uint8_t* levels, uint8_t* spread_out) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes), aligned(1), may_alias));
  F most = splat(kLeast);
  int c = 0;
  for (; c + kLanes <= count; c += kLanes) most = maximum(magnitude(load(x + c)), most);
  float largest = across_largest(most);
  for (; c < count; ++c) {
    const float a = x[c] < 0.0F ? -x[c] : x[c];
    largest = a > largest ? a : largest;
  }
  const int top = positive ? kPositiveTop : kTop;
  const F to_level = splat((float)top) / splat(largest), zero = splat((float)(positive ? 0 : kZero));
  for (c = 0; c < count; c += kLanes) {
    *reinterpret_cast<Bytes*>(levels + c) =
        __builtin_convertvector(stored_level(load(x + c) * to_level + zero) & splat_int(255), Bytes);
  }
  const int quads = (count + 3) / 4;
  for (int q = 0; q < quads; ++q) {
    int32_t four;
    __builtin_memcpy(&four, levels + q * 4, 4);
    store_bytes(spread_out + (ptrdiff_t)q * kRows * 4, splat_int(four));
  }
  store_bytes(spread_out + (ptrdiff_t)quads * kRows * 4, I{});
  return largest * (1.0F / (float)top) * factor;
}

float inverse_norm_step(const float* x, int count) {
  F sum[2] = {F{}, F{}};
  int c = 0;
  for (; c + 2 * kLanes <= count; c += 2 * kLanes) {
    sum[0] = fma(load(x + c), load(x + c), sum[0]);
    sum[1] = fma(load(x + c + kLanes), load(x + c + kLanes), sum[1]);
  }
  for (; c + kLanes <= count; c += kLanes) sum[0] = fma(load(x + c), load(x + c), sum[0]);
  float total = kNormEps;
  for (; c < count; ++c) total += x[c] * x[c];
  return (splat(1.0F) / root(splat(total + across_sum(sum[0] + sum[1]))))[0];
}

// Heads `first` and on, a vector of them; lanes beyond the last head hold what is finite and read by nobody. kD 0: any width.
template <int kD>
inline void attend_step_heads(const AttendStepCall& call, int first) {
  constexpr int kHeld = kD == 0 ? 1 : kD;
  const int width = kD == 0 ? call.head_width : kD, heads = call.heads;
  const ptrdiff_t step = (ptrdiff_t)heads * width;
  const float* q = call.q + first;
  const float* k = call.k + first;
  const float* v = call.v + first;
  F query[kHeld];
  if constexpr (kD > 0) {
    DMDKIT_UNROLL for (int i = 0; i < kD; ++i) query[i] = load(q + i * heads);
  }
  F largest = splat(-FLT_MAX);
  for (int j = 0; j < call.steps; ++j, k += step) {
    F score = F{};
    if constexpr (kD > 0) {
      score = query[0] * load(k);
      DMDKIT_UNROLL for (int i = 1; i < kD; ++i) score = fma(query[i], load(k + i * heads), score);
    } else {
      for (int i = 0; i < width; ++i) score = fma(load(q + i * heads), load(k + i * heads), score);
    }
    store(call.scores + j * kLanes, score);
    largest = maximum(score, largest);
  }
  F total = F{};
  F sum[kHeld];
  DMDKIT_UNROLL for (int i = 0; i < kHeld; ++i) sum[i] = F{};
  for (int j = 0; j < call.steps; ++j, v += step) {
    const F weight = exp2(load(call.scores + j * kLanes) - largest);
    total = total + weight;
    if constexpr (kD > 0) {
      DMDKIT_UNROLL for (int i = 0; i < kD; ++i) sum[i] = fma(weight, load(v + i * heads), sum[i]);
    } else {
      store(call.scores + j * kLanes, weight);
    }
  }
  const F share = splat(1.0F) / total;
  float* y = call.y + first;
  if constexpr (kD > 0) {
    DMDKIT_UNROLL for (int i = 0; i < kD; ++i) store(y + i * heads, sum[i] * share);
  } else {
    for (int i = 0; i < width; ++i) {
      F mixed = F{};
      v = call.v + first + i * heads;
      for (int j = 0; j < call.steps; ++j, v += step) mixed = fma(load(call.scores + j * kLanes), load(v), mixed);
      store(y + i * heads, mixed * share);
    }
  }
}

template <int kD>
inline void attend_step_width(const AttendStepCall& call) {
  if (kD == 0 || call.head_width == kD) {
    // The last vector of heads writes beyond them, where the first ones of the next channel are: those come after it.
    for (int first = (call.heads - 1) / kLanes * kLanes; first >= 0; first -= kLanes) attend_step_heads<kD>(call, first);
  } else {
    if constexpr (kD > 0) attend_step_width<kD - 1>(call);
  }
}

void attend_step(const AttendStepCall& call) { attend_step_width<kMostHeadWidth>(call); }

// As many steps at once as leave registers for kDenseVectors sums of each.
constexpr int kDenseSteps = kStepSums / kDenseVectors;

template <int kN, bool kInt8>
inline void dense_panel_steps(const Dense& m, const float* x, ptrdiff_t ld_x, float* y, ptrdiff_t ld_y, int count, int first) {
  int step = 0;
  for (; step + kDenseSteps <= count; step += kDenseSteps) {
    dense_panel<kN, kDenseSteps, kInt8>(m, x + step * ld_x, ld_x, y + step * ld_y, ld_y, first);
  }
  for (; step < count; ++step) dense_panel<kN, 1, kInt8>(m, x + step * ld_x, ld_x, y + step * ld_y, ld_y, first);
}

template <bool kInt8>
inline void dense_steps_of(const Dense& m, const float* x, ptrdiff_t ld_x, float* y, ptrdiff_t ld_y, int count) {
  int left = (m.rows + kLanes - 1) / kLanes, first = 0;
  for (; left >= kDenseVectors; left -= kDenseVectors, first += kDenseVectors * kLanes) {
    dense_panel_steps<kDenseVectors, kInt8>(m, x, ld_x, y, ld_y, count, first);
  }
  if (left == 3) dense_panel_steps<3, kInt8>(m, x, ld_x, y, ld_y, count, first);
  if (left == 2) dense_panel_steps<2, kInt8>(m, x, ld_x, y, ld_y, count, first);
  if (left == 1) dense_panel_steps<1, kInt8>(m, x, ld_x, y, ld_y, count, first);
}

void dense_steps(const Dense& m, const float* x, ptrdiff_t ld_x, float* y, ptrdiff_t ld_y, int count) {
  if (m.levels != nullptr) {
    dense_steps_of<true>(m, x, ld_x, y, ld_y, count);
  } else {
    dense_steps_of<false>(m, x, ld_x, y, ld_y, count);
  }
}

void dense_transposed(const Dense& m, const float* x, float* y) {
  for (int i = 0; i < m.depth; ++i) {
    F sum = F{};
    int left = (m.rows + kLanes - 1) / kLanes;
    for (int first = 0; left > 0; left -= kDenseVectors, first += kDenseVectors * kLanes) {
      const int vectors = smaller(left, kDenseVectors);
      const ptrdiff_t start = (ptrdiff_t)first * m.depth + (ptrdiff_t)i * vectors * kLanes;
      for (int n = 0; n < vectors; ++n) {
        const int o = first + n * kLanes;
        const F a = load(x + o);
        if (m.levels != nullptr) {
          sum = fma(load_levels(m.levels + start + n * kLanes), a * load(m.scale + o), sum);
        } else {
          sum = fma(load(m.weights + start + n * kLanes), a, sum);
        }
      }
    }
    y[i] = across_sum(sum);
  }
}

}  // namespace
}  // namespace DMDKIT_ISA
}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_SINGLE_STEPS_HPP_
