// What the engine asks of an instruction set: a table of functions, filled once for each set by kernels.cpp.
//
// Layout: a stream of e channels and T steps is channel-major, row c at x + c * ld. Rows start on a 64-byte boundary and hold
// whole vectors; steps after the last are padding: finite, and read by nobody. Functions take a number of vectors, not steps.
//
// Nothing here may be an inline function of the standard library: the same text is compiled for each set, the linker keeps one
// copy of such a function, and that one may use instructions this CPU lacks.
#ifndef DMDKIT_BACKENDS_NATIVE_KERNELS_HPP_
#define DMDKIT_BACKENDS_NATIVE_KERNELS_HPP_

#include <stddef.h>
#include <stdint.h>

namespace dmdkit_native {

// Bytes that every row, table and scratch buffer is aligned to, and the most floats that a vector of any set holds.
constexpr size_t kAlignment = 64;
constexpr int kMostLanes = 16;
constexpr int kMostRows = 8;

// A linear layer over steps (taps = 1) or a convolution, packed in panels of Kernels::rows rows: fp32 weights
// [panel][depth][tap][row] or INT8 levels [panel][depth / 4][tap][row][4]. The last panel and the last four are filled with
// zeros.
struct Matrix {
  int rows = 0;
  int depth = 0;
  int taps = 1;
  const float* weights = nullptr;
  const int8_t* levels = nullptr;
  const float* scale = nullptr;   // INT8: of each row
  const int32_t* sums = nullptr;  // INT8: sum of the levels of each row
  const float* bias = nullptr;    // of each row
};

// A linear layer on one vector, rows in lanes: fp32 weights or INT8 levels [panel][depth][panel's rows], where a panel has
// kDenseVectors vectors of rows and the last one as many as are left.
constexpr int kDenseVectors = 4;
struct Dense {
  int rows = 0;
  int depth = 0;
  const float* weights = nullptr;
  const int8_t* levels = nullptr;
  const float* scale = nullptr;
  const float* bias = nullptr;  // padded to whole vectors; null: none
};

// y = matrix * x over `vectors` vectors of steps. fp32: x is float [depth][ld_x]. INT8: x is bytes [depth / 4][ld_x][4].
struct LinearCall {
  const void* x;
  ptrdiff_t ld_x;
  float* y;
  ptrdiff_t ld_y;
  int vectors;
  const float* step_scale;  // what each step of the product is multiplied with; null: nothing (fp32 only)
  bool relu;
  bool add;             // to what y holds
  bool positive;        // INT8: x was quantised without a zero point
  float* step_maximum;  // INT8: raised to the largest |y| of each step; null: not asked
};

// Bytes [channels / 4][ld_q][4] from floats, each step by its own largest value; what is left over of the last four is zero.
struct QuantiseCall {
  const float* x;
  ptrdiff_t ld_x;
  int channels;
  int vectors;
  uint8_t* q;
  ptrdiff_t ld_q;           // in steps
  const float* step_scale;  // what each step of x is to be multiplied with; null: nothing
  const float* maximum;     // of each step; null: found here
  bool positive;            // x >= 0: all levels are used for it
  float* scale;             // result: what a level of each step is worth
};

// Attention of the heads of one stream, queries in lanes: query i sees keys j <= i + shift. Scores are powers of two:
// queries come multiplied by log2(e) / sqrt(head_width).
struct AttendCall {
  const float* q;
  ptrdiff_t ld_q;
  const float* k;
  const float* v;
  ptrdiff_t ld_k;
  float* y;
  ptrdiff_t ld_y;
  int heads;
  int head_width;
  int query_vectors;
  int keys;
  int shift;
  float* scores;  // scratch: keys vectors
};

// Single steps of a stream lie the other way round: a step's channels side by side, so that a product is of a matrix and a
// vector. What such a product reads is spread out: every value (INT8: every four bytes) Kernels::rows times, zeros up to a
// whole vector at the end. Rows of results have room for kMostLanes more values than they hold. A step's result is the same to
// the last bit however many are computed at once.
constexpr int kMostSteps = 8;  // at once

// y = matrix * x for `count` steps.
struct StepCall {
  const void* x;  // spread out: of each step `ld_x` values of four bytes
  ptrdiff_t ld_x;
  float* y;
  ptrdiff_t ld_y;
  int count;
  const float* step_scale;  // what each step of the product is multiplied with; null: nothing (fp32 only)
  bool relu;
  bool add;       // to what y holds
  bool positive;  // INT8: x was quantised without a zero point
  float* sums;    // scratch: kMostSteps times rows and kMostLanes
};

// Attention of one query over the steps of a state, heads in lanes: channel i of head h of a step is at i * heads + h, and a
// step of keys or values is heads * head_width values. Reads kMostLanes values beyond them, writes as many beyond y.
struct AttendStepCall {
  const float* q;  // carries log2(e) / sqrt(head_width)
  const float* k;
  const float* v;
  float* y;
  int heads;
  int head_width;
  int steps;
  float* scores;  // scratch: steps * kMostLanes
};

struct Kernels {
  const char* isa;
  int bits;          // of an activation in INT8: 8, or 7 where products of 8 would saturate
  int lanes;         // floats in a vector
  int rows;          // in a panel of a Matrix
  int most_vectors;  // that a tile spans: the step count to feed at a time

  void (*linear)(const Matrix&, const LinearCall&);
  void (*linear_int8)(const Matrix&, const LinearCall&);
  void (*quantise)(const QuantiseCall&);
  // Bytes [depth / 4][ld_q][4] of a matrix of rows (steps, features), all with one scale, which is returned.
  float (*quantise_rows)(const float* x, int steps, int features, uint8_t* q, ptrdiff_t ld_q);
  void (*attend)(const AttendCall&);
  // 1 / sqrt(sum of squares + eps) of each step.
  void (*inverse_norm)(const float* x, ptrdiff_t ld, int channels, int vectors, float* inverse);
  // y = x * scale, step by step.
  void (*scale_steps)(const float* x, ptrdiff_t ld_x, int channels, int vectors, const float* scale, float* y, ptrdiff_t ld_y);
  // y += present * positions, step by step; present null: everywhere.
  void (*add_positions)(float* y, ptrdiff_t ld_y, int channels, int vectors, const float* positions, ptrdiff_t ld_p,
                        const float* present);
  void (*dense)(const Dense&, const float* x, float* y);
  // p = softmax of the scores (powers of two) of `steps` steps, zero in the rest of the row.
  void (*softmax)(float* p, int steps, int vectors);
  // y[c] = sum over steps of p * x[c].
  void (*mix)(const float* x, ptrdiff_t ld, int channels, int vectors, const float* p, float* y);
  // 1 where any feature of a step is not exactly 0.
  void (*presence)(const float* x, int steps, int features, float* present);
  // x (steps, features) to channel-major; mean and inverse_scale null: as it is.
  void (*transpose)(const float* x, int steps, int features, const float* mean, const float* inverse_scale,
                    const float* present, float* y, ptrdiff_t ld);
  // Of single steps: products, fp32 and INT8, and what they read, spread out from `count` values.
  void (*step_product)(const Matrix&, const StepCall&);
  void (*step_product_int8)(const Matrix&, const StepCall&);
  void (*spread)(const float* x, int count, float* y);
  // Levels of one step by its largest value, x times `factor` having been meant: the answer is what a level is worth.
  // `positive` as in QuantiseCall. `levels`: scratch of count and kMostLanes bytes.
  float (*quantise_step)(const float* x, int count, float factor, bool positive, uint8_t* levels, uint8_t* spread);
  // 1 / sqrt(sum of squares + eps) of one step.
  float (*inverse_norm_step)(const float* x, int count);
  void (*attend_step)(const AttendStepCall&);
  // A Dense layer on `count` steps, and one the other way round: y[i] = sum over rows o of W[o][i] x[o]. The latter reads x
  // up to whole vectors of rows, which must be finite.
  void (*dense_steps)(const Dense&, const float* x, ptrdiff_t ld_x, float* y, ptrdiff_t ld_y, int count);
  void (*dense_transposed)(const Dense&, const float* x, float* y);
  void (*sigmoid)(float* x, int count);  // count is rounded up to whole vectors
  // Powers of two, for tests: y = 2^x for x <= 0.
  void (*exp2)(const float* x, float* y, int vectors);
  // For the benchmark of products: does as many fp32 (or INT8) multiply-adds as it says, on registers alone.
  float (*fma_peak)(int rounds, double* multiply_adds);
  float (*dot_peak)(int rounds, double* multiply_adds);
};

constexpr float kNormEps = 1e-5F;  // of every LayerNorm of the model

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_KERNELS_HPP_
