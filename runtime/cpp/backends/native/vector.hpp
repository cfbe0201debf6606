// Vectors of one instruction set: compiler vector types and the few operations that need an intrinsic. Included by kernels.cpp
// alone, which is compiled once for each set with DMDKIT_ISA its name and the compiler's flags for it.
//
// Every operation rounds once and alike on all sets, so answers differ between them only where one lacks a fused
// multiply-add (portable) or has fewer bits for an activation (avx2).
#ifndef DMDKIT_BACKENDS_NATIVE_VECTOR_HPP_
#define DMDKIT_BACKENDS_NATIVE_VECTOR_HPP_

#include <stddef.h>
#include <stdint.h>

#if defined(DMDKIT_X86)
#include <immintrin.h>
#elif defined(DMDKIT_NEON)
#include <arm_neon.h>
#else
#include <math.h>
#endif

namespace dmdkit_native {
namespace DMDKIT_ISA {
namespace {

// Rows and vectors of a tile of a product: as many sums as fit into the registers beside what they are made of.
#if defined(DMDKIT_AVX512)
constexpr int kLanes = 16, kRows = 8, kVectors = 3;
#elif defined(DMDKIT_X86)
constexpr int kLanes = 8, kRows = 4, kVectors = 3;
#elif defined(DMDKIT_NEON)
constexpr int kLanes = 4, kRows = 4, kVectors = 6;
#else
constexpr int kLanes = 4, kRows = 4, kVectors = 2;
#endif
// Sums of a product of single steps that are held at once.
#if defined(DMDKIT_AVX512)
constexpr int kStepSums = 16;
#else
constexpr int kStepSums = 8;
#endif
// The levels of an activation: unsigned bytes around kZero, kTop to each side, or 0 to kPositiveTop.
#if defined(DMDKIT_7BIT)
constexpr int kBits = 7, kZero = 64, kTop = 63, kPositiveTop = 127;
#else
constexpr int kBits = 8, kZero = 128, kTop = 127, kPositiveTop = 255;
#endif
// Sets whose products take two signed operands store a byte less this.
#if defined(DMDKIT_NEON)
constexpr int kStored = 128;
#else
constexpr int kStored = 0;
#endif

using F = float __attribute__((vector_size(kLanes * 4)));
using I = int32_t __attribute__((vector_size(kLanes * 4)));
// Of any alignment. As typedefs: clang takes no notice of an alignment that stands in a using.
typedef float FLoose __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t ILoose __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
static_assert(alignof(FLoose) == 4 && alignof(ILoose) == 4, "what is loaded and stored has any address");

inline F load(const float* p) { return *reinterpret_cast<const FLoose*>(p); }
inline void store(float* p, F v) { *reinterpret_cast<FLoose*>(p) = v; }
inline I load_bytes(const uint8_t* p) { return *reinterpret_cast<const ILoose*>(p); }
inline void store_bytes(uint8_t* p, I v) { *reinterpret_cast<ILoose*>(p) = v; }

#if defined(DMDKIT_AVX512)
inline F splat(float x) { return _mm512_set1_ps(x); }
inline I splat_int(int32_t x) { return (I)_mm512_set1_epi32(x); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F maximum(F a, F b) { return _mm512_max_ps(a, b); }
inline F minimum(F a, F b) { return _mm512_min_ps(a, b); }
inline F magnitude(F a) { return _mm512_abs_ps(a); }
inline F root(F a) { return _mm512_sqrt_ps(a); }
inline I rounded(F a) { return (I)_mm512_cvtps_epi32(a); }
inline F float_of(I a) { return _mm512_cvtepi32_ps((__m512i)a); }
inline F where_at_least(I a, I b, F yes, F no) {
  return _mm512_mask_blend_ps(_mm512_cmpge_epi32_mask((__m512i)a, (__m512i)b), no, yes);
}
inline F where_not_zero(F a, F yes) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ), yes);
}
inline F load_levels(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline I dot4(I sum, I bytes, I levels) { return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)bytes, (__m512i)levels); }
inline void store_folded(float* p, F v) {
  _mm256_storeu_ps(p, _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}
inline void store_folded(int32_t* p, I v) {
  const __m256i upper = _mm512_extracti64x4_epi64((__m512i)v, 1);
  _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(p), _mm256_add_epi32(_mm512_castsi512_si256((__m512i)v), upper));
}
inline F load_lower(const float* p) { return _mm512_zextps256_ps512(_mm256_loadu_ps(p)); }
inline float across_sum(F a) { return _mm512_reduce_add_ps(a); }
inline float across_largest(F a) { return _mm512_reduce_max_ps(a); }
#elif defined(DMDKIT_X86)
inline F splat(float x) { return _mm256_set1_ps(x); }
inline I splat_int(int32_t x) { return (I)_mm256_set1_epi32(x); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F maximum(F a, F b) { return _mm256_max_ps(a, b); }
inline F minimum(F a, F b) { return _mm256_min_ps(a, b); }
inline F magnitude(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
inline F root(F a) { return _mm256_sqrt_ps(a); }
inline I rounded(F a) { return (I)_mm256_cvtps_epi32(a); }
inline F float_of(I a) { return _mm256_cvtepi32_ps((__m256i)a); }
inline F where_at_least(I a, I b, F yes, F no) {
  return _mm256_blendv_ps(yes, no, (__m256)_mm256_cmpgt_epi32((__m256i)b, (__m256i)a));
}
inline F where_not_zero(F a, F yes) { return _mm256_and_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ), yes); }
inline F load_levels(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline I dot4(I sum, I bytes, I levels) {
#if defined(DMDKIT_VNNI_EVEX)
  return (I)_mm256_dpbusd_epi32((__m256i)sum, (__m256i)bytes, (__m256i)levels);
#elif defined(DMDKIT_VNNI_VEX)
  return (I)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)bytes, (__m256i)levels);
#else
  // Two products of a 7-bit activation fit into 16 bits: 2 * 127 * 127 < 32768.
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)bytes, (__m256i)levels);
  return (I)_mm256_add_epi32((__m256i)sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}
inline void store_folded(float* p, F v) {
  _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)));
}
inline void store_folded(int32_t* p, I v) {
  const __m128i upper = _mm256_extracti128_si256((__m256i)v, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(p), _mm_add_epi32(_mm256_castsi256_si128((__m256i)v), upper));
}
inline F load_lower(const float* p) { return _mm256_zextps128_ps256(_mm_loadu_ps(p)); }
inline float across_sum(F a) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
inline float across_largest(F a) {
  __m128 most = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}
#elif defined(DMDKIT_NEON)
inline F splat(float x) { return (F)vdupq_n_f32(x); }
inline I splat_int(int32_t x) { return (I)vdupq_n_s32(x); }
inline F fma(F a, F b, F c) { return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
// The "number" forms answer as x86 does where b is a number and a is not.
inline F maximum(F a, F b) { return (F)vmaxnmq_f32((float32x4_t)a, (float32x4_t)b); }
inline F minimum(F a, F b) { return (F)vminnmq_f32((float32x4_t)a, (float32x4_t)b); }
inline F magnitude(F a) { return (F)vabsq_f32((float32x4_t)a); }
inline F root(F a) { return (F)vsqrtq_f32((float32x4_t)a); }
inline I rounded(F a) { return (I)vcvtnq_s32_f32((float32x4_t)a); }
inline F float_of(I a) { return (F)vcvtq_f32_s32((int32x4_t)a); }
inline F where_at_least(I a, I b, F yes, F no) {
  return (F)vbslq_f32(vcgeq_s32((int32x4_t)a, (int32x4_t)b), (float32x4_t)yes, (float32x4_t)no);
}
inline F where_not_zero(F a, F yes) { return (F)vbslq_f32(vceqzq_f32((float32x4_t)a), vdupq_n_f32(0.0F), (float32x4_t)yes); }
inline F load_levels(const int8_t* p) {
  const int8_t eight[8] = {p[0], p[1], p[2], p[3]};
  return (F)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(eight)))));
}
inline I dot4(I sum, I bytes, I levels) {
#if defined(__ARM_FEATURE_DOTPROD)
  return (I)vdotq_s32((int32x4_t)sum, (int8x16_t)bytes, (int8x16_t)levels);
#else
  // Two products of -128..127 and -127..127 fit into 16 bits.
  const int8x16_t a = (int8x16_t)bytes, b = (int8x16_t)levels;
  const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
  return (I)vpadalq_s16((int32x4_t)sum, pairs);
#endif
}
#else
inline F splat(float x) { return F{x, x, x, x}; }
inline I splat_int(int32_t x) { return I{x, x, x, x}; }
inline F fma(F a, F b, F c) { return a * b + c; }
inline F maximum(F a, F b) { return a > b ? a : b; }
inline F minimum(F a, F b) { return a < b ? a : b; }
inline F magnitude(F a) { return (F)((I)a & splat_int(0x7fffffff)); }
inline F root(F a) { return F{sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
inline I rounded(F a) {
  // Adding and taking away 1.5 * 2^23 rounds to nearest even; all that is rounded here is smaller than 2^22.
  return __builtin_convertvector((a + splat(12582912.0F)) - splat(12582912.0F), I);
}
inline F float_of(I a) { return __builtin_convertvector(a, F); }
inline F where_at_least(I a, I b, F yes, F no) { return a >= b ? yes : no; }
inline F where_not_zero(F a, F yes) { return a != splat(0.0F) ? yes : splat(0.0F); }
inline F load_levels(const int8_t* p) { return F{(float)p[0], (float)p[1], (float)p[2], (float)p[3]}; }
inline I dot4(I sum, I bytes, I levels) {
  for (int byte = 0; byte < 32; byte += 8) {
    const I unsigned_byte = (bytes >> byte) & 255;
    const I signed_byte = (levels << (24 - byte)) >> 24;
    sum += unsigned_byte * signed_byte;
  }
  return sum;
}
#endif

// A vector holds the rows of a panel once or twice: store_folded adds the two, load_lower reads one and zeros.
#if !defined(DMDKIT_X86)
inline void store_folded(float* p, F v) { store(p, v); }
inline void store_folded(int32_t* p, I v) { *reinterpret_cast<ILoose*>(p) = v; }
inline F load_lower(const float* p) { return load(p); }
inline float across_sum(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }
inline float across_largest(F a) {
  const float one = a[0] > a[2] ? a[0] : a[2], other = a[1] > a[3] ? a[1] : a[3];
  return one > other ? one : other;
}
#endif
static_assert(kLanes == kRows || kLanes == 2 * kRows, "a vector holds the rows of a panel once or twice");

// The larger of x and `least`; not a number where x is none: an overflow must reach the score, which is then refused.
inline F at_least(F x, float least) {
#if defined(DMDKIT_NEON)
  return (F)vmaxq_f32((float32x4_t)x, (float32x4_t)splat(least));
#else
  return maximum(splat(least), x);  // which answers its second operand where one is no number
#endif
}

// 2^x for x <= 0, relative error below 2e-7 (the polynomial's own is 9.2e-8); below -126 it stays 2^-126.
inline F exp2(F x) {
  x = at_least(x, -126.0F);
#if defined(DMDKIT_AVX512)
  const F whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const F part = x - whole;
#else
  // The bits of x + 1.5 * 2^23 end with the nearest whole number.
  const F shifted = x + splat(12582912.0F);
  const F part = x - (shifted - splat(12582912.0F));
#endif
  F p = fma(splat(1.326472731e-03F), part, splat(9.671512991e-03F));
  p = fma(p, part, splat(5.550733581e-02F));
  p = fma(p, part, splat(2.402224243e-01F));
  p = fma(p, part, splat(6.931470037e-01F));
  p = fma(p, part, splat(1.0F));
#if defined(DMDKIT_AVX512)
  return _mm512_scalef_ps(p, whole);
#else
  return (F)((I)p + ((I)shifted << 23));
#endif
}

inline float sum_of(F a) {
  float total = 0.0F;
  for (int lane = 0; lane < kLanes; ++lane) total += a[lane];
  return total;
}

inline float largest_of(F a) {
  float largest = a[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = a[lane] > largest ? a[lane] : largest;
  return largest;
}

}  // namespace
}  // namespace DMDKIT_ISA
}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_VECTOR_HPP_
