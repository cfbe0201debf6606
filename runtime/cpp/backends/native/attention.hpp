// Attention with queries in lanes: scores of one key are a vector, its value is added with one weight a lane. Included by
// kernels.cpp alone.
#ifndef DMDKIT_BACKENDS_NATIVE_ATTENTION_HPP_
#define DMDKIT_BACKENDS_NATIVE_ATTENTION_HPP_

#include <float.h>

#include "kernels.hpp"
#include "products.hpp"
#include "vector.hpp"

namespace dmdkit_native {
namespace DMDKIT_ISA {
namespace {

constexpr int kMostHeadWidth = 16;  // of the heads whose queries and results are held in registers

inline I lane_numbers() {
  I lane = {};
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane;
}

inline int smaller(int a, int b) { return a < b ? a : b; }

// Two passes over the keys, because a score may be anything: the largest one is found before a power is taken. kD 0: any width.
template <int kD>
inline void attend_block(const AttendCall& call, const float* q, const float* k, const float* v, float* y, int width,
                         int block) {
  constexpr int kHeld = kD == 0 ? 1 : kD;
  const int first = block * kLanes;
  // Keys before `open` are seen by every query of the block, those from `seen` on by none.
  const int open = smaller(call.keys, first + call.shift + 1);
  const int seen = smaller(call.keys, first + kLanes + call.shift);
  const I lane = lane_numbers();
  float* scores = call.scores;
  F query[kHeld];
  if constexpr (kD > 0) {
    DMDKIT_UNROLL for (int c = 0; c < kD; ++c) query[c] = load(q + c * call.ld_q + first);
  }
  const auto score_of = [&](int j) {
    F score = F{};
    if constexpr (kD > 0) {
      score = query[0] * splat(k[j]);
      DMDKIT_UNROLL for (int c = 1; c < kD; ++c) score = fma(query[c], splat(k[c * call.ld_k + j]), score);
    } else {
      for (int c = 0; c < width; ++c) score = fma(load(q + c * call.ld_q + first), splat(k[c * call.ld_k + j]), score);
    }
    return score;
  };
  F largest = splat(-FLT_MAX);
  for (int j = 0; j < open; ++j) {
    const F score = score_of(j);
    store(scores + j * kLanes, score);
    largest = maximum(score, largest);
  }
  for (int j = open; j < seen; ++j) {
    const F score = where_at_least(lane, splat_int(j - first - call.shift), score_of(j), splat(-FLT_MAX));
    store(scores + j * kLanes, score);
    largest = maximum(score, largest);
  }
  F total = F{};
  F sum[kHeld];
  DMDKIT_UNROLL for (int c = 0; c < kHeld; ++c) sum[c] = F{};
  const auto add = [&](int j, F weight) {
    total = total + weight;
    if constexpr (kD > 0) {
      DMDKIT_UNROLL for (int c = 0; c < kD; ++c) sum[c] = fma(weight, splat(v[c * call.ld_k + j]), sum[c]);
    } else {
      store(scores + j * kLanes, weight);
    }
  };
  for (int j = 0; j < open; ++j) add(j, exp2(load(scores + j * kLanes) - largest));
  for (int j = open; j < seen; ++j) {
    const F weight = exp2(load(scores + j * kLanes) - largest);
    add(j, where_at_least(lane, splat_int(j - first - call.shift), weight, F{}));
  }
  const F share = splat(1.0F) / total;
  if constexpr (kD > 0) {
    DMDKIT_UNROLL for (int c = 0; c < kD; ++c) store(y + c * call.ld_y + first, sum[c] * share);
  } else {
    for (int c = 0; c < width; ++c) {
      F mixed = F{};
      for (int j = 0; j < seen; ++j) mixed = fma(load(scores + j * kLanes), splat(v[c * call.ld_k + j]), mixed);
      store(y + c * call.ld_y + first, mixed * share);
    }
  }
}

template <int kD>
void attend_heads(const AttendCall& call) {
  const int width = call.head_width;
  for (int head = 0; head < call.heads; ++head) {
    const ptrdiff_t channel = (ptrdiff_t)head * width;
    for (int block = 0; block < call.query_vectors; ++block) {
      attend_block<kD>(call, call.q + channel * call.ld_q, call.k + channel * call.ld_k, call.v + channel * call.ld_k,
                       call.y + channel * call.ld_y, width, block);
    }
  }
}

template <int kD>
inline void attend_width(const AttendCall& call) {
  if (kD == 0 || call.head_width == kD) {
    attend_heads<kD>(call);
  } else {
    if constexpr (kD > 0) attend_width<kD - 1>(call);
  }
}

void attend(const AttendCall& call) { attend_width<kMostHeadWidth>(call); }

void softmax(float* p, int steps, int vectors) {
  float largest = p[0];
  for (int t = 1; t < steps; ++t) largest = p[t] > largest ? p[t] : largest;
  for (int t = steps; t < vectors * kLanes; ++t) p[t] = -FLT_MAX;
  const I lane = lane_numbers();
  F total = F{};
  for (int n = 0; n < vectors; ++n) {
    const F power = exp2(load(p + n * kLanes) - splat(largest));
    const F weight = where_at_least(splat_int(steps - 1 - n * kLanes), lane, power, F{});
    store(p + n * kLanes, weight);
    total = total + weight;
  }
  const F share = splat(1.0F) / splat(sum_of(total));
  for (int n = 0; n < vectors; ++n) store(p + n * kLanes, load(p + n * kLanes) * share);
}

void mix(const float* x, ptrdiff_t ld, int channels, int vectors, const float* p, float* y) {
  for (int c = 0; c < channels; ++c) {
    F sum = F{};
    for (int n = 0; n < vectors; ++n) sum = fma(load(p + n * kLanes), load(x + c * ld + n * kLanes), sum);
    y[c] = sum_of(sum);
  }
}

}  // namespace
}  // namespace DMDKIT_ISA
}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_ATTENTION_HPP_
