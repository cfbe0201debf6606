#include "stepper.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "../plugin.hpp"

namespace dmdkit_native {
namespace {

constexpr int kStreams = 9;  // six cross-modal ones and three self streams
constexpr int kCrossed = 6;
constexpr float kEdgeTemperature = 1.0F / 8;  // toolkit/model/gd_unit.py

// A vector of one step, with room for what a kernel writes beyond its end.
std::ptrdiff_t roomy(int count) { return static_cast<std::ptrdiff_t>(count) + 2 * kMostLanes; }

// Heads side by side to heads in lanes, and back.
void to_lanes(const float* from, int heads, int width, float* to) {
  for (int h = 0; h < heads; ++h) {
    for (int i = 0; i < width; ++i) to[i * heads + h] = from[h * width + i];
  }
}

void from_lanes(const float* from, int heads, int width, float* to) {
  for (int h = 0; h < heads; ++h) {
    for (int i = 0; i < width; ++i) to[h * width + i] = from[i * heads + h];
  }
}

}  // namespace

Stepper::Stepper(std::shared_ptr<const Weights> weights, std::shared_ptr<const Heads> heads)
    : weights_(std::move(weights)), heads_(std::move(heads)), kernels_(weights_->kernels) {
  const Plan& plan = weights_->plan;
  const int e = plan.width;
  kernel_ = plan.inputs[0].kernel;
  capacity_ = plan.inputs[0].projected();
  int widest = 8 * e, features = 0;
  for (int m = 0; m < kModalityCount; ++m) {
    const Plan::Input& input = plan.inputs[m];
    if (input.kernel != kernel_ || input.projected() != capacity_) {
      throw dmdkit_plugin::Problem(DMDKIT_BACKEND_FAILED,
                                   "this model cannot stream: its modalities differ in steps or in kernels");
    }
    features = std::max(features, input.features);
    widest = std::max(widest, (input.features + 3) / 4 * 4 * kernel_);
  }
  const auto levels_of = [&](int count, int streams, int width, std::vector<Level>& levels) {
    const std::size_t size = static_cast<std::size_t>(streams) * capacity_ * width + 2 * kMostLanes;
    for (int level = 0; level < count; ++level) {
      float* keys = arena_.make<float>(size);
      levels.push_back({keys, arena_.make<float>(size)});
    }
  };
  levels_of(plan.levels, kStreams, e, levels_);
  levels_of(plan.memory_levels, kModalityCount, 2 * e, memory_);
  for (int m = 0; m < kModalityCount; ++m) {
    embedded_[m] = rows_of(2 * e);
    source_[m] = operand_of(e);
    crossed_[m] = rows_of(2 * e);
    last_[m] = rows_of(2 * e);
  }
  self_ = rows_of(3 * e);
  standard_ = {arena_.make<float>(static_cast<std::size_t>(kMostSteps + kernel_ - 1) * features + kMostLanes), features};
  window_ = rows_of(widest);
  projected_ = rows_of(e);
  for (Rows* rows : {&x_, &q_, &k_, &v_, &mixed_, &unit_}) *rows = rows_of(2 * e);
  hidden_ = rows_of(std::max({8 * e, 4 * heads_->unit_width, plan.outputs}));
  gated_ = rows_of(9 * e);
  joined_ = rows_of(std::max(18 * e, 6 * heads_->unit_width));
  own_ = operand_of(widest);
  present_ = arena_.make<float>(kMostSteps + kernel_);
  inverse_ = arena_.make<float>(kMostSteps);
  permuted_ = arena_.make<float>(roomy(2 * e));
  permuted_query_ = arena_.make<float>(roomy(2 * e));
  scores_ = arena_.make<float>(static_cast<std::size_t>(capacity_) * kMostLanes);
  sums_ = arena_.make<float>(kMostSteps * roomy(8 * e + kMostRows));
  bytes_ = arena_.make<std::uint8_t>(roomy(widest));
}

Stepper::Rows Stepper::rows_of(int channels) { return {arena_.make<float>(kMostSteps * roomy(channels)), roomy(channels)}; }

// For fp32 values or INT8 levels, whichever a product asks for: levels take a quarter of it.
Stepper::Operand Stepper::operand_of(int channels) {
  const std::ptrdiff_t ld = static_cast<std::ptrdiff_t>(channels) * kernels_.rows + 2 * kMostLanes;
  return {arena_.make<float>(kMostSteps * ld), ld, arena_.make<float>(kMostSteps), nullptr, false};
}

void Stepper::spread(const Rows& x, int channels, const float* inverse, bool positive, bool int8, Operand& to) const {
  to.positive = positive;
  to.scale = int8 ? to.own_scale : inverse;
  for (int s = 0; s < count_; ++s) {
    if (int8) {
      auto* levels = reinterpret_cast<std::uint8_t*>(to.x + s * to.ld);
      const float factor = inverse != nullptr ? inverse[s] : 1.0F;
      to.own_scale[s] = kernels_.quantise_step(x.row(s), channels, factor, positive, bytes_, levels);
    } else {
      kernels_.spread(x.row(s), channels, to.x + s * to.ld);
    }
  }
}

void Stepper::product(const Matrix& matrix, const Operand& operand, const Rows& y, bool relu, bool add) const {
  const StepCall call{operand.x, operand.ld, y.at, y.ld, count_, operand.scale, relu, add, operand.positive, sums_};
  (matrix.levels != nullptr ? kernels_.step_product_int8 : kernels_.step_product)(matrix, call);
}

void Stepper::norms(const Rows& x, int channels) const {
  for (int s = 0; s < count_; ++s) inverse_[s] = kernels_.inverse_norm_step(x.row(s), channels);
}

void Stepper::unit_vectors(const Rows& x, int channels) const {
  norms(x, channels);
  for (int s = 0; s < count_; ++s) {
    for (int c = 0; c < channels; ++c) x.row(s)[c] *= inverse_[s];
  }
}

// `rows`: the raw steps under the kernels of the steps at hand.
void Stepper::embed(int modality, const float* rows) {
  const Plan::Input& input = weights_->plan.inputs[modality];
  const Front& front = weights_->front[modality];
  const Rows& x = embedded_[modality];
  const int e = weights_->plan.width, features = input.features, raw = count_ + kernel_ - 1;
  kernels_.presence(rows, raw, features, present_);
  if (front.mean != nullptr) {
    for (int t = 0; t < raw; ++t) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(t) * features;
      for (int c = 0; c < features; ++c) {
        standard_.at[at + c] = (rows[at + c] - front.mean[c]) * front.inverse_scale[c] * present_[t];
      }
    }
    rows = standard_.at;
  }
  const Matrix& first = front.projects ? front.project : front.encode;
  const bool int8 = first.levels != nullptr;
  // In the order of a panel: INT8 levels of four features stand together.
  const int group = int8 ? 4 : 1, groups = (features + group - 1) / group;
  for (int s = 0; s < count_; ++s) {
    float* to = window_.row(s);
    for (int g = 0; g < groups; ++g) {
      for (int t = 0; t < kernel_; ++t) {
        const float* from = rows + static_cast<std::ptrdiff_t>(s + t) * features + g * group;
        for (int i = 0; i < group; ++i) *to++ = g * group + i < features ? from[i] : 0.0F;
      }
    }
  }
  spread(window_, groups * group * kernel_, nullptr, false, int8, own_);
  if (front.projects) {
    product(front.project, own_, projected_);
    spread(projected_, e, nullptr, false, false, own_);
  }
  product(front.encode, own_, x);
  const std::ptrdiff_t ld = weights_->padded(capacity_);
  for (int s = 0; s < count_; ++s) {
    // A projected step is padding where every raw step under its kernel is (MODEL.md section 10).
    if (*std::max_element(present_ + s, present_ + s + kernel_) == 0.0F) continue;
    for (int c = 0; c < 2 * e; ++c) x.row(s)[c] += front.positions[c * ld + place_ + s];
  }
  norms(x, e);
  // What the source keeps of the norms must outlive them.
  Operand& source = source_[modality];
  spread(x, e, inverse_, false, weights_->int8, source);
  if (!weights_->int8) {
    std::copy(inverse_, inverse_ + count_, source.own_scale);
    source.scale = source.own_scale;
  }
}

// Takes k_ and v_ into the state of a stream and gives what q_ finds there as mixed_.
void Stepper::attend(const Level& level, int stream, int channels) const {
  const int heads = weights_->plan.heads, width = channels / heads;
  const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(stream) * capacity_ * channels;
  float* keys = level.keys + first;
  float* values = level.values + first;
  for (int s = 0; s < count_; ++s) {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(place_ + s) * channels;
    to_lanes(k_.row(s), heads, width, keys + at);
    to_lanes(v_.row(s), heads, width, values + at);
    to_lanes(q_.row(s), heads, width, permuted_query_);
    kernels_.attend_step({permuted_query_, keys, values, permuted_, heads, width, place_ + s + 1, scores_});
    from_lanes(permuted_, heads, width, mixed_.row(s));
  }
}

// One layer of a stream, in place. `source` null: it attends to itself.
void Stepper::run_layer(const Layer& layer, int channels, const Rows& x, const Operand* source, const Level& level,
                        int stream) {
  const bool int8 = weights_->int8;
  norms(x, channels);
  spread(x, channels, inverse_, false, int8, own_);
  product(layer.query, own_, q_);
  product(layer.key, source != nullptr ? *source : own_, k_);
  product(layer.value, source != nullptr ? *source : own_, v_);
  attend(level, stream, channels);
  spread(mixed_, channels, nullptr, false, int8, own_);
  product(layer.out, own_, x, /*relu=*/false, /*add=*/true);
  norms(x, channels);
  spread(x, channels, inverse_, false, int8, own_);
  product(layer.fc1, own_, hidden_, /*relu=*/true);
  spread(hidden_, 4 * channels, nullptr, /*positive=*/true, int8, own_);
  product(layer.fc2, own_, x, /*relu=*/false, /*add=*/true);
}

// The last layer, whose weights are those of a window's last step: keys are asked for the other way round there. `unit` becomes
// the unit vectors.
void Stepper::run_last(const LastLayer& layer, int channels, const Rows& x, const Rows& unit, const Level& level, int stream) {
  const int heads = weights_->plan.heads, width = channels / heads;
  const Rows own = unit_;
  norms(x, channels);
  for (int s = 0; s < count_; ++s) {
    for (int c = 0; c < channels; ++c) own.row(s)[c] = x.row(s)[c] * inverse_[s];
    std::fill(own.row(s) + channels, own.row(s) + channels + kMostLanes, 0.0F);  // read by whole vectors
  }
  kernels_.dense_steps(layer.query, own.at, own.ld, q_.at, q_.ld, count_);
  for (int head = 0; head < heads; ++head) {
    for (int s = 0; s < count_; ++s)
      kernels_.dense_transposed(layer.query_for_source[head], own.row(s), k_.row(s) + head * width);
    kernels_.dense_steps(layer.value[head], own.at, own.ld, v_.at + head * width, v_.ld, count_);
  }
  attend(level, stream, channels);
  kernels_.dense_steps(layer.out, mixed_.at, mixed_.ld, unit.at, unit.ld, count_);
  for (int s = 0; s < count_; ++s) {
    for (int c = 0; c < channels; ++c) unit.row(s)[c] += x.row(s)[c];
    inverse_[s] = kernels_.inverse_norm_step(unit.row(s), channels);
    for (int c = 0; c < channels; ++c) own.row(s)[c] = unit.row(s)[c] * inverse_[s];
  }
  kernels_.dense_steps(layer.fc1, own.at, own.ld, hidden_.at, hidden_.ld, count_);
  for (int s = 0; s < count_; ++s) {
    for (int c = 0; c < 4 * channels; ++c) hidden_.row(s)[c] = std::max(hidden_.row(s)[c], 0.0F);
  }
  kernels_.dense_steps(layer.fc2, hidden_.at, hidden_.ld, q_.at, q_.ld, count_);
  for (int s = 0; s < count_; ++s) {
    for (int c = 0; c < channels; ++c) unit.row(s)[c] += q_.row(s)[c];
  }
  unit_vectors(unit, channels);
}

void Stepper::run_streams() {
  const Weights& w = *weights_;
  const int e = w.plan.width;
  const std::size_t last = levels_.size() - 1;
  const auto begin = [&](const Rows& from, int at) {
    for (int s = 0; s < count_; ++s) std::memcpy(x_.row(s), from.row(s) + at, e * sizeof(float));
  };
  const auto keep = [&](const Rows& unit, const Rows& to, int at) {
    for (int s = 0; s < count_; ++s) std::memcpy(to.row(s) + at, unit.row(s), e * sizeof(float));
  };
  for (int stream = 0; stream < kCrossed; ++stream) {
    const Crossed& crossed = w.crossed[stream];
    begin(embedded_[crossed.target], 0);
    for (std::size_t i = 0; i < crossed.layers.size(); ++i) {
      run_layer(crossed.layers[i], e, x_, &source_[crossed.source], levels_[i], stream);
    }
    unit_vectors(x_, e);
    keep(x_, crossed_[crossed.target], stream % 2 * e);
  }
  for (int m = 0; m < kModalityCount; ++m) {
    begin(embedded_[m], e);
    for (std::size_t i = 0; i < last; ++i) run_layer(w.self[m].layers[i], e, x_, nullptr, levels_[i], kCrossed + m);
    run_last(w.self[m].last, e, x_, joined_, levels_[last], kCrossed + m);
    keep(joined_, self_, m * e);
  }
  const std::ptrdiff_t ld = w.padded(capacity_);
  for (int m = 0; m < kModalityCount; ++m) {
    const Alone& memory = w.memory[m];
    spread(crossed_[m], 2 * e, nullptr, false, w.int8, own_);
    product(memory.input, own_, x_);
    for (int s = 0; s < count_; ++s) {
      for (int c = 0; c < 2 * e; ++c) x_.row(s)[c] += memory.positions[c * ld + place_ + s];
    }
    for (std::size_t i = 0; i < memory.layers.size(); ++i) run_layer(memory.layers[i], 2 * e, x_, nullptr, memory_[i], m);
    run_last(memory.last, 2 * e, x_, last_[m], memory_.back(), m);
  }
}

void Stepper::read_out(std::size_t done, const StepAnswers& answers) {
  const Weights& w = *weights_;
  const int e = w.plan.width, outputs = w.plan.outputs;
  for (int m = 0; m < kModalityCount; ++m) {
    kernels_.dense_steps(w.gate[m], last_[m].at, last_[m].ld, gated_.at + m * 2 * e, gated_.ld, count_);
  }
  kernels_.dense_steps(w.common_gate, self_.at, self_.ld, gated_.at + 6 * e, gated_.ld, count_);
  for (int s = 0; s < count_; ++s) kernels_.sigmoid(gated_.row(s), 9 * e);
  // hidden, then the gates: the output layer reads both.
  kernels_.dense_steps(w.hidden, gated_.at, gated_.ld, joined_.at, joined_.ld, count_);
  for (int s = 0; s < count_; ++s) {
    for (int i = 0; i < 9 * e; ++i) joined_.row(s)[i] = std::max(joined_.row(s)[i], 0.0F);
    std::memcpy(joined_.row(s) + 9 * e, gated_.row(s), 9 * e * sizeof(float));
  }
  for (int s = 0; s < count_ && answers.score != nullptr; ++s) {
    kernels_.dense(w.out, joined_.row(s), hidden_.at);
    std::memcpy(answers.score + (done + s) * outputs, hidden_.at, outputs * sizeof(float));
  }
}

void Stepper::run_heads(std::size_t done, const StepAnswers& answers) {
  const Heads& h = *heads_;
  const int width = 2 * weights_->plan.width, outputs = weights_->plan.outputs, g = h.unit_width;
  if (answers.logits == nullptr) return;
  for (int m = 0; m < kModalityCount; ++m) {
    const Heads::Head& head = h.head[m];
    for (int s = 0; s < count_; ++s) {
      for (int c = 0; c < width; ++c) x_.row(s)[c] = last_[m].row(s)[c] * head.scale[c] + head.shift[c];
    }
    kernels_.dense_steps(head.first, x_.at, x_.ld, q_.at, q_.ld, count_);
    for (int s = 0; s < count_; ++s) {
      for (int c = 0; c < width; ++c) q_.row(s)[c] = std::max(q_.row(s)[c], 0.0F);
    }
    kernels_.dense_steps(head.second, q_.at, q_.ld, k_.at, k_.ld, count_);
    for (int s = 0; s < count_; ++s) {
      for (int c = 0; c < width; ++c) x_.row(s)[c] += k_.row(s)[c];
      kernels_.dense(head.out, x_.row(s), hidden_.at);
      float* logits = answers.logits + ((done + s) * kModalityCount + m) * outputs;
      std::memcpy(logits, hidden_.at, outputs * sizeof(float));
      if (g == 0) continue;
      float* unit = joined_.row(s) + static_cast<std::ptrdiff_t>(m) * 2 * g;
      kernels_.dense(h.unit_logit, logits, unit);
      kernels_.dense(h.unit_representation, x_.row(s), unit + g);
    }
  }
  if (g == 0 || answers.edges == nullptr) return;
  for (int s = 0; s < count_; ++s) {
    // Student and teacher of each edge in graph order; a softmax of the six.
    float* edges = answers.edges + (done + s) * kEdgeCount;
    float largest = 0.0F;
    for (int student = 0, edge = 0; student < kModalityCount; ++student) {
      for (int teacher = 0; teacher < kModalityCount; ++teacher) {
        if (teacher == student) continue;
        float* pair = hidden_.at;
        std::memcpy(pair, joined_.row(s) + student * 2 * g, 2 * g * sizeof(float));
        std::memcpy(pair + 2 * g, joined_.row(s) + teacher * 2 * g, 2 * g * sizeof(float));
        kernels_.dense(h.unit_edge, pair, mixed_.at);
        edges[edge] = kEdgeTemperature * mixed_.at[0];
        largest = edge == 0 ? edges[0] : std::max(largest, edges[edge]);
        ++edge;
      }
    }
    float total = 0.0F;
    for (int i = 0; i < kEdgeCount; ++i) total += edges[i] = std::exp(edges[i] - largest);
    for (int i = 0; i < kEdgeCount; ++i) edges[i] /= total;
  }
}

void Stepper::run(std::size_t place, std::size_t count, const std::array<const float*, kModalityCount>& rows,
                  const StepAnswers& answers) {
  for (std::size_t done = 0; done < count; done += count_) {
    place_ = static_cast<int>(place + done);
    count_ = static_cast<int>(std::min<std::size_t>(count - done, kMostSteps));
    for (int m = 0; m < kModalityCount; ++m) embed(m, rows[m] + done * weights_->plan.inputs[m].features);
    run_streams();
    read_out(done, answers);
    run_heads(done, answers);
  }
}

const float* Stepper::state_of(std::size_t tensor, int& width, int& streams) const {
  const bool memory = tensor >= 2 * levels_.size();
  const Level& level = memory ? memory_[tensor / 2 - levels_.size()] : levels_[tensor / 2];
  width = memory ? 2 * weights_->plan.width : weights_->plan.width;
  streams = memory ? kModalityCount : kStreams;
  return tensor % 2 == 0 ? level.keys : level.values;
}

std::size_t Stepper::channels(std::size_t tensor) const {
  int width = 0, streams = 0;
  state_of(tensor, width, streams);
  return static_cast<std::size_t>(width) * streams;
}

void Stepper::read(std::size_t tensor, std::size_t steps, float* to) const {
  int width = 0, streams = 0;
  const float* state = state_of(tensor, width, streams);
  for (std::size_t step = 0; step < steps; ++step) {
    for (int stream = 0; stream < streams; ++stream, to += width) {
      const float* at = state + (static_cast<std::size_t>(stream) * capacity_ + step) * width;
      from_lanes(at, weights_->plan.heads, width / weights_->plan.heads, to);
    }
  }
}

void Stepper::write(std::size_t tensor, std::size_t steps, const float* from) {
  int width = 0, streams = 0;
  auto* state = const_cast<float*>(state_of(tensor, width, streams));
  for (std::size_t step = 0; step < steps; ++step) {
    for (int stream = 0; stream < streams; ++stream, from += width) {
      float* at = state + (static_cast<std::size_t>(stream) * capacity_ + step) * width;
      to_lanes(from, weights_->plan.heads, width / weights_->plan.heads, at);
    }
  }
}

}  // namespace dmdkit_native
