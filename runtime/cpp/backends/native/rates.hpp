// What a core can do at best: fused multiply-adds and INT8 dot products on registers alone, as many side by side as a tile of a
// product has. Included by kernels.cpp alone.
#ifndef DMDKIT_BACKENDS_NATIVE_RATES_HPP_
#define DMDKIT_BACKENDS_NATIVE_RATES_HPP_

#include "kernels.hpp"
#include "products.hpp"
#include "vector.hpp"

namespace dmdkit_native {
namespace DMDKIT_ISA {
namespace {

constexpr int kChains = kRows * kVectors;

// Nothing is known of a vector after this, so nothing made of it can be computed beforehand.
#if defined(DMDKIT_X86)
#define DMDKIT_FORGET(v) __asm__ volatile("" : "+v"(v))
#elif defined(DMDKIT_NEON)
#define DMDKIT_FORGET(v) __asm__ volatile("" : "+w"(v))
#else
#define DMDKIT_FORGET(v) __asm__ volatile("" : "+m"(v))
#endif

float fma_peak(int rounds, double* multiply_adds) {
  F sum[kChains];
  DMDKIT_UNROLL for (int i = 0; i < kChains; ++i) sum[i] = splat((float)i);
  F factor = splat(0.999F), more = splat(1e-3F);
  for (int round = 0; round < rounds; ++round) {
    DMDKIT_UNROLL for (int repeat = 0; repeat < 8; ++repeat) {
      DMDKIT_UNROLL for (int i = 0; i < kChains; ++i) sum[i] = fma(sum[i], factor, more);
      DMDKIT_FORGET(factor);
    }
  }
  float total = 0.0F;
  for (int i = 0; i < kChains; ++i) total += sum_of(sum[i]);
  *multiply_adds = (double)rounds * 8 * kChains * kLanes;
  return total;
}

float dot_peak(int rounds, double* multiply_adds) {
  I sum[kChains];
  DMDKIT_UNROLL for (int i = 0; i < kChains; ++i) sum[i] = splat_int(i);
  I bytes = splat_int(0x01020304), levels = splat_int(0x01010101);
  for (int round = 0; round < rounds; ++round) {
    DMDKIT_UNROLL for (int repeat = 0; repeat < 8; ++repeat) {
      DMDKIT_UNROLL for (int i = 0; i < kChains; ++i) {
        sum[i] = dot4(sum[i], bytes, levels);
        DMDKIT_FORGET(bytes);
      }
    }
  }
  float total = 0.0F;
  for (int i = 0; i < kChains; ++i) total += sum_of(float_of(sum[i] & splat_int(255)));
  *multiply_adds = (double)rounds * 8 * kChains * kLanes * 4;
  return total;
}

}  // namespace
}  // namespace DMDKIT_ISA
}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_RATES_HPP_
