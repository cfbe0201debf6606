// What is done to every step of a stream by itself: norms, quantisation, positions, and what turns raw features into a
// stream. Included by kernels.cpp alone.
#ifndef DMDKIT_BACKENDS_NATIVE_STEPS_HPP_
#define DMDKIT_BACKENDS_NATIVE_STEPS_HPP_

#include "kernels.hpp"
#include "vector.hpp"

namespace dmdkit_native {
namespace DMDKIT_ISA {
namespace {

// A step that holds nothing gets this as its largest value, so that nothing is divided by zero.
constexpr float kLeast = 1e-20F;

// A level as its byte is stored. It is rounded with its zero point added, on all sets alike: the sum has fewer bits behind the
// point, so rounding without it would now and then give another level.
inline I stored_level(F level) { return rounded(level) - splat_int(kStored); }

void inverse_norm(const float* x, ptrdiff_t ld, int channels, int vectors, float* inverse) {
  for (int n = 0; n < vectors; ++n) {
    F sum = F{};
    for (int c = 0; c < channels; ++c) {
      const F a = load(x + c * ld + n * kLanes);
      sum = fma(a, a, sum);
    }
    store(inverse + n * kLanes, splat(1.0F) / root(sum + splat(kNormEps)));
  }
}

void scale_steps(const float* x, ptrdiff_t ld_x, int channels, int vectors, const float* scale, float* y, ptrdiff_t ld_y) {
  for (int c = 0; c < channels; ++c) {
    for (int n = 0; n < vectors; ++n) {
      store(y + c * ld_y + n * kLanes, load(x + c * ld_x + n * kLanes) * load(scale + n * kLanes));
    }
  }
}

void add_positions(float* y, ptrdiff_t ld_y, int channels, int vectors, const float* positions, ptrdiff_t ld_p,
                   const float* present) {
  for (int c = 0; c < channels; ++c) {
    for (int n = 0; n < vectors; ++n) {
      F position = load(positions + c * ld_p + n * kLanes);
      if (present != nullptr) position = position * load(present + n * kLanes);
      store(y + c * ld_y + n * kLanes, load(y + c * ld_y + n * kLanes) + position);
    }
  }
}

void quantise(const QuantiseCall& call) {
  const int top = call.positive ? kPositiveTop : kTop;
  const F zero = splat((float)(call.positive ? 0 : kZero));
  for (int n = 0; n < call.vectors; ++n) {
    const float* x = call.x + n * kLanes;
    F largest = splat(kLeast);
    if (call.maximum != nullptr) {
      largest = maximum(load(call.maximum + n * kLanes), largest);
    } else {
      for (int c = 0; c < call.channels; ++c) largest = maximum(magnitude(load(x + c * call.ld_x)), largest);
    }
    const F to_level = splat((float)top) / largest;
    F worth = largest * splat(1.0F / (float)top);
    if (call.step_scale != nullptr) worth = worth * load(call.step_scale + n * kLanes);
    store(call.scale + n * kLanes, worth);
    uint8_t* q = call.q + n * kLanes * 4;
    int c = 0;
    for (; c + 4 <= call.channels; c += 4, q += call.ld_q * 4) {
      I four = I{};
      for (int i = 0; i < 4; ++i) {
        four |= (stored_level(load(x + (c + i) * call.ld_x) * to_level + zero) & splat_int(255)) << (8 * i);
      }
      store_bytes(q, four);
    }
    if (c < call.channels) {
      I four = I{};
      for (int i = 0; c + i < call.channels; ++i) {
        four |= (stored_level(load(x + (c + i) * call.ld_x) * to_level + zero) & splat_int(255)) << (8 * i);
      }
      store_bytes(q, four);  // what is left over meets weights that are zero
    }
  }
}

float quantise_rows(const float* x, int steps, int features, uint8_t* q, ptrdiff_t ld_q) {
  const ptrdiff_t count = (ptrdiff_t)steps * features;
  F most = splat(kLeast);
  ptrdiff_t i = 0;
  for (; i + kLanes <= count; i += kLanes) most = maximum(magnitude(load(x + i)), most);
  float largest = largest_of(most);
  for (; i < count; ++i) {
    const float a = x[i] < 0.0F ? -x[i] : x[i];
    largest = a > largest ? a : largest;
  }
  const float to_level = (float)kTop / largest;
  const F factor = splat(to_level), zero = splat((float)kZero);
  int32_t level[kLanes] __attribute__((aligned(64)));
  for (int t = 0; t < steps; ++t) {
    const float* row = x + (ptrdiff_t)t * features;
    int c = 0;
    for (; c < features; c += kLanes) {
      const int here = features - c < kLanes ? features - c : kLanes;
      F values = F{};
      if (here == kLanes) {
        values = load(row + c);
      } else {
        for (int lane = 0; lane < here; ++lane) values[lane] = row[c + lane];
      }
      *reinterpret_cast<I*>(level) = stored_level(values * factor + zero) & splat_int(255);
      for (int lane = 0; lane < kLanes && c + lane < features; lane += 4) {
        const int32_t four = level[lane] | level[lane + 1] << 8 | level[lane + 2] << 16 | level[lane + 3] << 24;
        __builtin_memcpy(q + ((c + lane) / 4 * ld_q + t) * 4, &four, 4);
      }
    }
  }
  return largest * (1.0F / (float)kTop);
}

void presence(const float* x, int steps, int features, float* present) {
  for (int t = 0; t < steps; ++t) {
    const float* row = x + (ptrdiff_t)t * features;
    bool any = false;
    for (int c = 0; c < features && !any; ++c) any = row[c] != 0.0F;
    present[t] = any ? 1.0F : 0.0F;
  }
}

// Sixteen channels at a time, so that every line of the result is written whole while it is in the nearest cache.
void transpose(const float* x, int steps, int features, const float* mean, const float* inverse_scale, const float* present,
               float* y, ptrdiff_t ld) {
  for (int first = 0; first < features; first += 16) {
    const int end = first + 16 < features ? first + 16 : features;
    for (int t = 0; t < steps; ++t) {
      const float* row = x + (ptrdiff_t)t * features;
      if (mean == nullptr) {
        for (int c = first; c < end; ++c) y[c * ld + t] = row[c];
      } else {
        for (int c = first; c < end; ++c) y[c * ld + t] = (row[c] - mean[c]) * inverse_scale[c] * present[t];
      }
    }
  }
}

void sigmoid(float* x, int count) {
  for (int i = 0; i < count; i += kLanes) {
    // Of -|x|, so that the power cannot overflow; log2(e) makes it one of two.
    const F a = load(x + i);
    const F power = exp2(magnitude(a) * splat(-1.44269504F));
    const F upper = splat(1.0F) / (splat(1.0F) + power);
    store(x + i, where_at_least((I)a, splat_int(0), upper, power * upper));
  }
}

void exp2_all(const float* x, float* y, int vectors) {
  for (int n = 0; n < vectors; ++n) store(y + n * kLanes, exp2(load(x + n * kLanes)));
}

}  // namespace
}  // namespace DMDKIT_ISA
}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_STEPS_HPP_
