// Every kernel of every instruction set that this CPU has, against plain double-precision or integer references, over tails of
// all sizes. Buffers end where a page ends that may not be touched.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../backends/native/instruction_sets.hpp"
#include "../backends/native/kernels.hpp"
#include "../backends/plugin.hpp"

namespace dmdkit_native {
namespace {

// `count` values before a page that faults.
template <typename T>
class Guarded {
 public:
  explicit Guarded(std::size_t count) : count_(count) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    bytes_ = (count * sizeof(T) + page - 1) / page * page + page;
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(memory_, MAP_FAILED);
    auto* end = static_cast<unsigned char*>(memory_) + bytes_ - page;
    EXPECT_EQ(mprotect(end, page, PROT_NONE), 0);
    values_ = reinterpret_cast<T*>(end - count * sizeof(T));
  }
  ~Guarded() { munmap(memory_, bytes_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return values_; }
  T& operator[](std::size_t i) { return values_[i]; }
  std::size_t size() const { return count_; }

 private:
  std::size_t count_;
  std::size_t bytes_ = 0;
  void* memory_ = nullptr;
  T* values_ = nullptr;
};

class KernelsTest : public testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& k = *GetParam();
  std::mt19937 random{1};

  float normal() { return std::normal_distribution<float>()(random); }
  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }
  template <typename Buffer>
  void fill(Buffer& buffer) {
    for (std::size_t i = 0; i < buffer.size(); ++i) buffer[i] = normal();
  }
  int panels(int rows) const { return (rows + k.rows - 1) / k.rows; }
};

TEST_P(KernelsTest, LinearIsTheProductOverAllTails) {
  for (int trial = 0; trial < 300; ++trial) {
    const int rows = between(1, 20), depth = between(1, 30), taps = trial % 3 == 0 ? between(2, 5) : 1, vectors = between(1, 7);
    const int steps = vectors * k.lanes, ld_x = steps + taps - 1 + between(0, 5), ld_y = steps + between(0, 5);
    std::vector<float> w(static_cast<std::size_t>(rows) * depth * taps);
    fill(w);
    Guarded<float> packed(static_cast<std::size_t>(panels(rows)) * k.rows * depth * taps), bias(rows), inverse(steps);
    Guarded<float> x(static_cast<std::size_t>(depth) * ld_x), y(static_cast<std::size_t>(rows - 1) * ld_y + steps);
    fill(bias);
    fill(inverse);
    fill(x);
    fill(y);
    for (int o = 0; o < rows; ++o) {
      for (int c = 0; c < depth * taps; ++c) {
        packed[(static_cast<std::size_t>(o / k.rows) * depth * taps + c) * k.rows + o % k.rows] = w[o * depth * taps + c];
      }
    }
    Matrix matrix;
    matrix.rows = rows;
    matrix.depth = depth;
    matrix.taps = taps;
    matrix.weights = packed.data();
    if (trial % 2 == 0) matrix.bias = bias.data();
    LinearCall call{};
    call.x = x.data();
    call.ld_x = ld_x;
    call.y = y.data();
    call.ld_y = ld_y;
    call.vectors = vectors;
    call.step_scale = trial % 4 == 0 ? inverse.data() : nullptr;
    call.relu = trial % 5 == 0;
    call.add = trial % 7 == 0;
    std::vector<float> before(y.data(), y.data() + y.size());
    k.linear(matrix, call);
    for (int o = 0; o < rows; ++o) {
      for (int t = 0; t < steps; ++t) {
        double sum = 0, size = 1;
        for (int c = 0; c < depth; ++c) {
          for (int tap = 0; tap < taps; ++tap) {
            const double term = static_cast<double>(w[(o * depth + c) * taps + tap]) * x[c * ld_x + t + tap];
            sum += term;
            size += std::abs(term);
          }
        }
        if (call.step_scale != nullptr) sum *= inverse[t];
        if (matrix.bias != nullptr) sum += bias[o];
        if (call.add) sum += before[o * ld_y + t];
        if (call.relu) sum = std::max(sum, 0.0);
        ASSERT_NEAR(y[o * ld_y + t], sum, 4e-6 * size) << rows << "x" << depth << "x" << taps << ", " << vectors << " vectors";
      }
    }
  }
}

TEST_P(KernelsTest, WhatIsNoNumberIsNoneBehindRectifiersAndGates) {
  constexpr int kDepth = 2;
  const int steps = k.lanes;
  std::vector<float> packed(static_cast<std::size_t>(kDepth) * k.rows);
  packed[0] = 1.0F;
  packed[k.rows] = -1.0F;
  Guarded<float> x(static_cast<std::size_t>(kDepth) * steps), y(steps);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::numeric_limits<float>::infinity();
  Matrix matrix;
  matrix.rows = 1;
  matrix.depth = kDepth;
  matrix.taps = 1;
  matrix.weights = packed.data();
  LinearCall call{};
  call.x = x.data();
  call.ld_x = steps;
  call.y = y.data();
  call.ld_y = steps;
  call.vectors = 1;
  call.relu = true;
  k.linear(matrix, call);
  for (int t = 0; t < steps; ++t) ASSERT_TRUE(std::isnan(y[t])) << y[t];
  k.sigmoid(y.data(), steps);
  for (int t = 0; t < steps; ++t) ASSERT_TRUE(std::isnan(y[t])) << y[t];
}

// The same arithmetic in plain integers: levels, their sum, and the rounding of what follows.
TEST_P(KernelsTest, Int8ProductsAreBitEqualToIntegerArithmetic) {
  const int zero = k.bits == 8 ? 128 : 64, top = k.bits == 8 ? 127 : 63, positive_top = k.bits == 8 ? 255 : 127;
  for (int trial = 0; trial < 300; ++trial) {
    const int rows = between(1, 20), depth = between(1, 30), vectors = between(1, 7), steps = vectors * k.lanes;
    const int quads = (depth + 3) / 4, ld = steps + between(0, 3), ld_y = steps;
    const bool positive = trial % 3 == 0, extreme = trial % 5 == 0;
    Guarded<float> x(static_cast<std::size_t>(depth) * ld), y(static_cast<std::size_t>(rows) * ld_y), worth(steps), most(steps);
    Guarded<std::uint8_t> q(static_cast<std::size_t>(quads) * ld * 4);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = extreme ? (between(0, 1) != 0 ? 3.0F : -3.0F) : normal();
      if (positive) x[i] = std::max(x[i], 0.0F);
    }
    k.quantise({x.data(), ld, depth, vectors, q.data(), ld, nullptr, nullptr, positive, worth.data()});

    const std::size_t room = static_cast<std::size_t>(panels(rows)) * k.rows;
    Guarded<std::int8_t> levels(room * quads * 4);
    Guarded<std::int32_t> sums(room);
    Guarded<float> scale(room), bias(room);
    std::vector<int> w(static_cast<std::size_t>(rows) * depth);
    for (int o = 0; o < rows; ++o) {
      scale[o] = std::abs(normal()) / 100;
      bias[o] = normal();
      for (int c = 0; c < depth; ++c) {
        const int level = extreme ? (between(0, 1) != 0 ? 127 : -127) : between(-127, 127);
        w[o * depth + c] = level;
        sums[o] += level;
        levels[((static_cast<std::size_t>(o / k.rows) * quads + c / 4) * k.rows + o % k.rows) * 4 + c % 4] =
            static_cast<std::int8_t>(level);
      }
    }
    Matrix matrix;
    matrix.rows = rows;
    matrix.depth = depth;
    matrix.levels = levels.data();
    matrix.sums = sums.data();
    matrix.scale = scale.data();
    matrix.bias = bias.data();
    LinearCall call{};
    call.x = q.data();
    call.ld_x = ld;
    call.y = y.data();
    call.ld_y = ld_y;
    call.vectors = vectors;
    call.step_scale = worth.data();
    call.positive = positive;
    call.step_maximum = most.data();
    k.linear_int8(matrix, call);

    for (int t = 0; t < steps; ++t) {
      float largest = 1e-20F, highest = 0.0F;
      for (int c = 0; c < depth; ++c) largest = std::max(largest, std::abs(x[c * ld + t]));
      const int levels_each = positive ? positive_top : top;
      const float to_level = static_cast<float>(levels_each) / largest;
      ASSERT_EQ(worth[t], largest * (1.0F / static_cast<float>(levels_each)));
      for (int o = 0; o < rows; ++o) {
        std::int32_t sum = 0;
        for (int c = 0; c < depth; ++c) {
          // Rounded after the zero point is added.
          const float level = x[c * ld + t] * to_level;
          sum += static_cast<int>(std::nearbyint(level + static_cast<float>(positive ? 0 : zero))) * w[o * depth + c];
        }
        if (!positive) sum -= zero * sums[o];
        const float expected = static_cast<float>(sum) * scale[o] * worth[t] + bias[o];
        ASSERT_EQ(y[o * ld_y + t], expected) << rows << "x" << depth << ", " << vectors << " vectors, positive " << positive;
        highest = std::max(highest, std::abs(expected));
      }
      ASSERT_EQ(most[t], highest);
    }
  }
}

TEST_P(KernelsTest, RowsOfFeaturesAreQuantisedWithOneScale) {
  const int zero = k.bits == 8 ? 128 : 64, top = k.bits == 8 ? 127 : 63;
  for (int trial = 0; trial < 60; ++trial) {
    const int steps = between(1, 9), features = between(1, 40), kernel = between(1, 4), quads = (features + 3) / 4;
    const int ld = (steps + k.lanes + kernel) / k.lanes * k.lanes + k.lanes;
    Guarded<float> x(static_cast<std::size_t>(steps) * features);
    fill(x);
    Guarded<std::uint8_t> q(static_cast<std::size_t>(quads) * ld * 4);
    const float worth = k.quantise_rows(x.data(), steps, features, q.data(), ld);
    float largest = 0;
    for (std::size_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::abs(x[i]));
    EXPECT_EQ(worth, largest * (1.0F / static_cast<float>(top)));
    // One row of ones, which sums the levels of each step.
    std::vector<std::int8_t> ones(static_cast<std::size_t>(k.rows) * quads * 4, 0);
    for (int c = 0; c < features; ++c) ones[static_cast<std::size_t>(c / 4) * k.rows * 4 + c % 4] = 1;
    std::vector<std::int32_t> sums(k.rows, features);
    std::vector<float> unit(k.rows, 1.0F), each(k.lanes, 1.0F), y(k.lanes);
    Matrix matrix;
    matrix.rows = 1;
    matrix.depth = features;
    matrix.levels = ones.data();
    matrix.sums = sums.data();
    matrix.scale = unit.data();
    LinearCall call{};
    call.x = q.data();
    call.ld_x = ld;
    call.y = y.data();
    call.ld_y = k.lanes;
    call.vectors = 1;
    call.step_scale = each.data();
    k.linear_int8(matrix, call);
    for (int t = 0; t < std::min(steps, k.lanes); ++t) {
      float sum = 0;
      for (int c = 0; c < features; ++c) {
        sum += std::nearbyint(x[t * features + c] * (static_cast<float>(top) / largest) + static_cast<float>(zero)) -
               static_cast<float>(zero);
      }
      ASSERT_EQ(y[t], sum);
    }
  }
}

struct Attention {
  int queries, keys, shift, width, heads;
};

std::vector<double> attention_reference(const Attention& a, float* q, int ld_q, float* key, float* value, int ld_k) {
  std::vector<double> y(static_cast<std::size_t>(a.heads) * a.width * a.queries);
  for (int head = 0; head < a.heads; ++head) {
    for (int i = 0; i < a.queries; ++i) {
      const int seen = std::min(a.keys, i + a.shift + 1);
      std::vector<double> score(seen);
      double largest = -std::numeric_limits<double>::infinity(), total = 0;
      for (int j = 0; j < seen; ++j) {
        for (int c = head * a.width; c < (head + 1) * a.width; ++c) {
          score[j] += static_cast<double>(q[c * ld_q + i]) * key[c * ld_k + j];
        }
        largest = std::max(largest, score[j]);
      }
      for (double& s : score) total += s = std::exp2(s - largest);
      for (int c = head * a.width; c < (head + 1) * a.width; ++c) {
        double sum = 0;
        for (int j = 0; j < seen; ++j) sum += score[j] * value[c * ld_k + j];
        y[static_cast<std::size_t>(c) * a.queries + i] = sum / total;
      }
    }
  }
  return y;
}

TEST_P(KernelsTest, AttentionSeesTheKeysItMay) {
  for (int trial = 0; trial < 120; ++trial) {
    Attention a{between(1, 50), between(1, 50), 0, between(1, 20), between(1, 3)};
    a.shift = std::abs(a.queries - a.keys);
    const int query_vectors = (a.queries + k.lanes - 1) / k.lanes, ld_q = query_vectors * k.lanes,
              ld_k = a.keys + between(0, 3);
    const std::size_t channels = static_cast<std::size_t>(a.heads) * a.width;
    Guarded<float> q(channels * ld_q), key(channels * ld_k), value(channels * ld_k), y(channels * ld_q);
    Guarded<float> scores(static_cast<std::size_t>(a.keys) * k.lanes);
    fill(q);
    fill(key);
    fill(value);
    if (trial % 6 == 0) {
      for (std::size_t i = 0; i < q.size(); ++i) q[i] *= 1e4F;  // scores far beyond what a power could hold
    }
    if (trial % 6 == 1) {
      for (std::size_t i = 0; i < key.size(); ++i) key[i] *= 1e-38F;  // denormal scores
    }
    k.attend({q.data(), ld_q, key.data(), value.data(), ld_k, y.data(), ld_q, a.heads, a.width, query_vectors, a.keys, a.shift,
              scores.data()});
    const std::vector<double> expected = attention_reference(a, q.data(), ld_q, key.data(), value.data(), ld_k);
    // A score's own rounding grows with its size and becomes a relative error of its power.
    const double tolerance = trial % 6 == 0 ? 0.3 : 2e-5;
    for (std::size_t c = 0; c < channels; ++c) {
      for (int i = 0; i < a.queries; ++i) {
        ASSERT_TRUE(std::isfinite(y[c * ld_q + i]));
        ASSERT_NEAR(y[c * ld_q + i], expected[c * a.queries + i], tolerance) << a.queries << " queries, " << a.keys << " keys";
      }
    }
  }
}

TEST_P(KernelsTest, PowersOfTwoAreRightToTwoUnitsInTheLastPlace) {
  std::vector<float> x(1 << 16), y(x.size());
  double worst = 0;
  for (float low = -126.0F; low < 0.0F; low += 6.0F) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = low + 6.0F * static_cast<float>(i) / static_cast<float>(x.size());
    k.exp2(x.data(), y.data(), static_cast<int>(x.size()) / k.lanes);
    for (std::size_t i = 0; i < x.size(); ++i)
      worst = std::max(worst, std::abs(y[i] / std::exp2(static_cast<double>(x[i])) - 1));
  }
  EXPECT_LT(worst, 2.0 * std::numeric_limits<float>::epsilon());
  x.assign(k.lanes, 0.0F);
  k.exp2(x.data(), y.data(), 1);
  EXPECT_EQ(y[0], 1.0F);
  x.assign(k.lanes, -std::numeric_limits<float>::max());
  k.exp2(x.data(), y.data(), 1);
  EXPECT_EQ(y[0], std::exp2(-126.0F));
}

TEST_P(KernelsTest, LayersOfOneVectorAreTheProductOverAllTails) {
  for (int trial = 0; trial < 200; ++trial) {
    const int rows = between(1, 9 * k.lanes), depth = between(1, 40), vectors = (rows + k.lanes - 1) / k.lanes;
    const std::size_t room = static_cast<std::size_t>(vectors) * k.lanes;
    const bool int8 = trial % 2 == 0;
    Guarded<float> weights(room * depth), x(depth), y(room), bias(room), scale(room);
    Guarded<std::int8_t> levels(room * depth);
    fill(x);
    fill(bias);
    std::vector<double> expected(rows);
    for (int o = 0; o < rows; ++o) {
      const int panel = o / (kDenseVectors * k.lanes) * kDenseVectors * k.lanes;
      const int width = std::min(static_cast<int>(room) - panel, kDenseVectors * k.lanes);
      scale[o] = std::abs(normal()) / 127;
      for (int c = 0; c < depth; ++c) {
        const std::size_t at = static_cast<std::size_t>(panel) * depth + static_cast<std::size_t>(c) * width + o - panel;
        levels[at] = static_cast<std::int8_t>(between(-127, 127));
        weights[at] = normal();
        expected[o] += static_cast<double>(x[c]) * (int8 ? levels[at] * static_cast<double>(scale[o]) : weights[at]);
      }
      expected[o] += bias[o];
    }
    Dense layer;
    layer.rows = rows;
    layer.depth = depth;
    layer.bias = bias.data();
    if (int8) {
      layer.levels = levels.data();
      layer.scale = scale.data();
    } else {
      layer.weights = weights.data();
    }
    k.dense(layer, x.data(), y.data());
    for (int o = 0; o < rows; ++o) ASSERT_NEAR(y[o], expected[o], 1e-4) << rows << "x" << depth << (int8 ? " int8" : "");
  }
}

TEST_P(KernelsTest, WhatIsDoneStepByStepIsRight) {
  for (int trial = 0; trial < 60; ++trial) {
    const int channels = between(1, 30), vectors = between(1, 4), steps = vectors * k.lanes;
    const std::size_t size = static_cast<std::size_t>(channels) * steps;
    Guarded<float> x(size), y(size), positions(size), inverse(steps), present(steps);
    fill(x);
    fill(y);
    fill(positions);
    for (int t = 0; t < steps; ++t) present[t] = static_cast<float>(t % 2);
    k.inverse_norm(x.data(), steps, channels, vectors, inverse.data());
    std::vector<float> before(y.data(), y.data() + size);
    k.add_positions(y.data(), steps, channels, vectors, positions.data(), steps, trial % 2 == 0 ? present.data() : nullptr);
    for (int t = 0; t < steps; ++t) {
      double sum = 1e-5;
      for (int c = 0; c < channels; ++c) sum += static_cast<double>(x[c * steps + t]) * x[c * steps + t];
      ASSERT_NEAR(inverse[t] * std::sqrt(sum), 1.0, 1e-6);
      for (int c = 0; c < channels; ++c) {
        const float position = trial % 2 == 0 ? present[t] * positions[c * steps + t] : positions[c * steps + t];
        ASSERT_EQ(y[c * steps + t], before[c * steps + t] + position);
      }
    }
    k.scale_steps(x.data(), steps, channels, vectors, inverse.data(), y.data(), steps);
    for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(y[i], x[i] * inverse[i % steps]);

    const int held = between(1, steps);
    Guarded<float> p(steps), mixed(channels);
    fill(p);
    double total = 0, largest = -1e30;
    std::vector<double> powers(held);
    for (int t = 0; t < held; ++t) largest = std::max<double>(largest, p[t]);
    for (int t = 0; t < held; ++t) total += powers[t] = std::exp2(p[t] - largest);
    k.softmax(p.data(), held, vectors);
    for (int t = 0; t < steps; ++t) ASSERT_NEAR(p[t], t < held ? powers[t] / total : 0.0, 1e-6);
    k.mix(x.data(), steps, channels, vectors, p.data(), mixed.data());
    for (int c = 0; c < channels; ++c) {
      double sum = 0;
      for (int t = 0; t < steps; ++t) sum += static_cast<double>(p[t]) * x[c * steps + t];
      ASSERT_NEAR(mixed[c], sum, 1e-5);
    }
    k.sigmoid(y.data(), steps);
    for (int t = 0; t < steps; ++t) ASSERT_NEAR(y[t], 1 / (1 + std::exp(-static_cast<double>(x[t] * inverse[t]))), 1e-6);
  }
}

TEST_P(KernelsTest, FeaturesAreStandardisedAndTurnedAndEmptyStepsFound) {
  for (int trial = 0; trial < 40; ++trial) {
    const int steps = between(1, 20), features = between(1, 40), ld = steps + between(0, 9);
    Guarded<float> x(static_cast<std::size_t>(steps) * features), y(static_cast<std::size_t>(features) * ld), present(steps);
    Guarded<float> mean(features), factor(features);
    fill(x);
    fill(mean);
    fill(factor);
    const int empty = between(0, steps - 1);
    std::memset(x.data() + static_cast<std::size_t>(empty) * features, 0, features * sizeof(float));
    if (empty > 0) {  // a step is there if one value of it is, however small
      std::memset(x.data(), 0, features * sizeof(float));
      x[features - 1] = std::numeric_limits<float>::denorm_min();
    }
    k.presence(x.data(), steps, features, present.data());
    for (int t = 0; t < steps; ++t) ASSERT_EQ(present[t], t == empty ? 0.0F : 1.0F);
    const bool plain = trial % 2 == 0;
    k.transpose(x.data(), steps, features, plain ? nullptr : mean.data(), plain ? nullptr : factor.data(), present.data(),
                y.data(), ld);
    for (int t = 0; t < steps; ++t) {
      for (int c = 0; c < features; ++c) {
        const float value = x[t * features + c];
        ASSERT_EQ(y[c * ld + t], plain ? value : (value - mean[c]) * factor[c] * present[t]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, KernelsTest, testing::ValuesIn(usable_kernels()),
                         [](const auto& tested) { return std::string(tested.param->isa); });

TEST(InstructionSetsTest, TheEnvironmentForcesOneOrSaysWhatThereIs) {
  ASSERT_FALSE(usable_kernels().empty());
  ASSERT_EQ(setenv("DMDKIT_NATIVE_ISA", "portable", 1), 0);
  EXPECT_STREQ(chosen_kernels().isa, "portable");
  ASSERT_EQ(setenv("DMDKIT_NATIVE_ISA", "sse9", 1), 0);
  try {
    chosen_kernels();
    ADD_FAILURE() << "sse9 was accepted";
  } catch (const dmdkit_plugin::Problem& problem) {
    EXPECT_EQ(problem.code(), DMDKIT_BACKEND_NO_DEVICE);
    EXPECT_NE(std::string(problem.what()).find("portable"), std::string::npos);
  }
  ASSERT_EQ(unsetenv("DMDKIT_NATIVE_ISA"), 0);
  EXPECT_EQ(&chosen_kernels(), usable_kernels().front());
}

}  // namespace
}  // namespace dmdkit_native
