#include "worker.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace dmdkit_native {
namespace {

// Bytes of `channels` channels and `ld` steps, in fours.
std::size_t byte_count(int channels, std::ptrdiff_t ld) { return static_cast<std::size_t>((channels + 3) / 4) * ld * 4; }

// A vector of one step, with room for what a kernel writes beyond its end.
std::size_t roomy(int count) { return static_cast<std::size_t>(count) + 2 * kMostLanes; }

float unit_length(const float* x, int count) {
  float sum = kNormEps;
  for (int i = 0; i < count; ++i) sum += x[i] * x[i];
  return 1.0F / std::sqrt(sum);
}

}  // namespace

Sample::Sample(const Weights& weights) {
  const int e = weights.plan.width;
  for (int m = 0; m < kModalityCount; ++m) {
    Embedded& found = modalities[m];
    found.steps = weights.plan.inputs[m].projected();
    found.last = found.steps - 1;
    found.ld = weights.padded(found.steps);
    found.vectors = static_cast<int>(found.ld) / weights.kernels.lanes;
    found.x = arena_.make<float>(2 * e * found.ld);
    found.inverse = arena_.make<float>(found.ld);
    found.present = arena_.make<float>(found.ld);
    if (weights.int8) {
      found.bytes = arena_.make<std::uint8_t>(byte_count(e, found.ld));
      found.scale = arena_.make<float>(found.ld);
    }
    found.crossed = arena_.make<float>(2 * e * found.ld);
    found.memory = arena_.make<float>(roomy(2 * e));
  }
  self = arena_.make<float>(roomy(3 * e));
}

Worker::Worker(const Weights& weights) : weights_(weights), kernels_(weights.kernels) {
  const Plan& plan = weights_.plan;
  const int e = plan.width;
  std::size_t raw = 0, raw_bytes = 0, rows = 0;
  std::ptrdiff_t most = 0, most_raw = 0;
  for (int m = 0; m < kModalityCount; ++m) {
    const Plan::Input& input = plan.inputs[m];
    const std::ptrdiff_t ld = weights_.padded(input.projected());
    const std::ptrdiff_t ld_raw = weights_.padded(static_cast<int>(ld) + input.kernel);
    raw = std::max<std::size_t>(raw, static_cast<std::size_t>(input.features) * ld_raw);
    raw_bytes = std::max(raw_bytes, byte_count(input.features, ld_raw));
    if (weights_.front[m].mean != nullptr) rows = std::max(rows, static_cast<std::size_t>(input.features) * input.steps);
    most = std::max(most, ld);
    most_raw = std::max(most_raw, ld_raw);
  }
  raw_ = scratch_.make<float>(raw);
  projected_ = scratch_.make<float>(e * most);
  raw_present_ = scratch_.make<float>(most_raw);
  ones_ = scratch_.make<float>(most);
  const std::size_t widest = 2 * static_cast<std::size_t>(e) * most;
  for (float** buffer : {&x_, &q_, &k_, &v_, &mixed_}) *buffer = scratch_.make<float>(widest);
  for (float** buffer : {&inverse_, &scale_, &hidden_scale_, &step_maximum_}) *buffer = scratch_.make<float>(most);
  scores_ = scratch_.make<float>(std::max<std::size_t>(most * kMostLanes, static_cast<std::size_t>(plan.heads) * most));
  const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(kernels_.most_vectors) * kernels_.lanes;
  hidden_ = scratch_.make<float>(8 * e * block);
  if (weights_.int8) {
    standardised_ = scratch_.make<float>(rows);
    raw_bytes_ = scratch_.make<std::uint8_t>(raw_bytes);
    bytes_ = scratch_.make<std::uint8_t>(byte_count(2 * e, most));
    hidden_bytes_ = scratch_.make<std::uint8_t>(byte_count(8 * e, block));
  }
  const int panels = (plan.heads + kernels_.rows - 1) / kernels_.rows;
  last_queries_ = scratch_.make<float>(static_cast<std::size_t>(panels) * kernels_.rows * 2 * e);
  head_query_ = scratch_.make<float>(roomy(2 * e));
  last_ = scratch_.make<float>(5 * roomy(8 * e));
  gates_ = scratch_.make<float>(roomy(18 * e));
}

void Worker::product(const Matrix& matrix, const Operand& operand, int vectors, float* y, std::ptrdiff_t ld_y,
                     const Epilogue& epilogue) const {
  const bool int8 = matrix.levels != nullptr;
  const void* x = int8 ? static_cast<const void*>(operand.bytes) : operand.x;
  const LinearCall call{
      x, operand.ld, y, ld_y, vectors, operand.scale, epilogue.relu, epilogue.add, epilogue.positive, epilogue.step_maximum};
  (int8 ? kernels_.linear_int8 : kernels_.linear)(matrix, call);
}

void Worker::embed(Sample& sample, int modality, const float* features) {
  const Plan::Input& input = weights_.plan.inputs[modality];
  const Front& front = weights_.front[modality];
  const Sample::Embedded& found = sample.modalities[modality];
  const int e = weights_.plan.width;
  kernels_.presence(features, input.steps, input.features, raw_present_);
  // A projected step is padding where every raw step under its kernel is (MODEL.md section 10).
  for (int t = 0; t < found.steps; ++t) found.present[t] = *std::max_element(raw_present_ + t, raw_present_ + t + input.kernel);

  const std::ptrdiff_t ld_raw = weights_.padded(static_cast<int>(found.ld) + input.kernel);
  Operand encoded{raw_, nullptr, ld_raw, nullptr};
  if (front.projects && front.project.levels != nullptr) {
    const float* rows = features;
    if (front.mean != nullptr) {
      for (int t = 0; t < input.steps; ++t) {
        for (int c = 0; c < input.features; ++c) {
          const std::size_t i = static_cast<std::size_t>(t) * input.features + c;
          standardised_[i] = (features[i] - front.mean[c]) * front.inverse_scale[c] * raw_present_[t];
        }
      }
      rows = standardised_;
    }
    // One scale for all steps: a kernel mixes them.
    const float worth = kernels_.quantise_rows(rows, input.steps, input.features, raw_bytes_, ld_raw);
    std::fill(ones_, ones_ + found.ld, worth);
    encoded.bytes = raw_bytes_;
    encoded.scale = ones_;
  } else {
    // What an earlier modality left behind the last step would be read as steps of this one.
    for (int c = 0; c < input.features; ++c) std::fill(raw_ + c * ld_raw + input.steps, raw_ + (c + 1) * ld_raw, 0.0F);
    kernels_.transpose(features, input.steps, input.features, front.mean, front.inverse_scale, raw_present_, raw_, ld_raw);
  }
  if (front.projects) {
    product(front.project, encoded, found.vectors, projected_, found.ld);
    encoded = {projected_, nullptr, found.ld, nullptr};
  }
  product(front.encode, encoded, found.vectors, found.x, found.ld);
  kernels_.add_positions(found.x, found.ld, 2 * e, found.vectors, front.positions, found.ld, found.present);
  kernels_.inverse_norm(found.x, found.ld, e, found.vectors, found.inverse);
  if (weights_.int8)
    kernels_.quantise({found.x, found.ld, e, found.vectors, found.bytes, found.ld, found.inverse, nullptr, false, found.scale});
}

// One layer of a stream of `channels` channels, in place. `source` null: it attends to itself.
void Worker::run_layer(const Layer& layer, int channels, float* x, const Sample::Embedded& target, const Source* source) {
  const bool int8 = weights_.int8;
  const std::ptrdiff_t ld = target.ld;
  const int vectors = target.vectors;
  kernels_.inverse_norm(x, ld, channels, vectors, inverse_);
  if (int8) kernels_.quantise({x, ld, channels, vectors, bytes_, ld, inverse_, nullptr, false, scale_});
  const Source own{x, inverse_, bytes_, scale_, target.steps, vectors, ld};
  if (source == nullptr) source = &own;
  const Operand keys{source->x, source->bytes, source->ld, int8 ? source->scale : source->inverse};
  product(layer.query, {x, bytes_, ld, int8 ? scale_ : inverse_}, vectors, q_, ld);
  product(layer.key, keys, source->vectors, k_, source->ld);
  product(layer.value, keys, source->vectors, v_, source->ld);
  const int shift = std::abs(source->steps - target.steps);
  const int heads = weights_.plan.heads;
  kernels_.attend({q_, ld, k_, v_, source->ld, mixed_, ld, heads, channels / heads, vectors, source->steps, shift, scores_});
  if (int8) kernels_.quantise({mixed_, ld, channels, vectors, bytes_, ld, nullptr, nullptr, false, scale_});
  product(layer.out, {mixed_, bytes_, ld, int8 ? scale_ : nullptr}, vectors, x, ld, {/*relu=*/false, /*add=*/true});
  feed_forward(layer, channels, x, target);
}

// A few steps at a time, so that the hidden layer stays in a near cache.
void Worker::feed_forward(const Layer& layer, int channels, float* x, const Sample::Embedded& target) {
  const std::ptrdiff_t ld = target.ld;
  const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(kernels_.most_vectors) * kernels_.lanes;
  int left = target.vectors;
  for (int blocks = (left + kernels_.most_vectors - 1) / kernels_.most_vectors; blocks > 0; --blocks) {
    const int vectors = (left + blocks - 1) / blocks;
    kernels_.inverse_norm(x, ld, channels, vectors, inverse_);
    if (weights_.int8) {
      kernels_.quantise({x, ld, channels, vectors, bytes_, block, inverse_, nullptr, false, scale_});
      std::fill(step_maximum_, step_maximum_ + vectors * kernels_.lanes, 0.0F);
      product(layer.fc1, {nullptr, bytes_, block, scale_}, vectors, hidden_, block,
              {/*relu=*/true, /*add=*/false, /*positive=*/false, step_maximum_});
      kernels_.quantise(
          {hidden_, block, 4 * channels, vectors, hidden_bytes_, block, nullptr, step_maximum_, true, hidden_scale_});
      product(layer.fc2, {nullptr, hidden_bytes_, block, hidden_scale_}, vectors, x, ld,
              {/*relu=*/false, /*add=*/true, /*positive=*/true});
    } else {
      product(layer.fc1, {x, nullptr, ld, inverse_}, vectors, hidden_, block, {/*relu=*/true});
      product(layer.fc2, {hidden_, nullptr, block, nullptr}, vectors, x, ld, {/*relu=*/false, /*add=*/true});
    }
    x += vectors * kernels_.lanes;
    left -= vectors;
  }
}

// The last layer for the last step alone: `unit` becomes that step's unit vector.
void Worker::run_last(const LastLayer& layer, int channels, const float* x, const Sample::Embedded& target, float* unit) {
  const int heads = weights_.plan.heads;
  const int width = channels / heads;
  const std::ptrdiff_t ld = target.ld;
  const std::ptrdiff_t last = target.last;
  const std::size_t room = roomy(8 * weights_.plan.width);
  float* own = last_;
  float* query = last_ + room;
  float* attended = last_ + 2 * room;
  float* hidden = last_ + 3 * room;
  float* mixed = last_ + 4 * room;
  kernels_.inverse_norm(x, ld, channels, target.vectors, inverse_);
  for (int c = 0; c < channels; ++c) own[c] = x[c * ld + last] * inverse_[last];
  kernels_.dense(layer.query, own, query);
  // Each head's query in terms of the stream itself; all heads are then one matrix over it.
  for (int head = 0; head < heads; ++head) {
    kernels_.dense(layer.query_for_source[head], query + head * width, head_query_);
    float* panel = last_queries_ + static_cast<std::size_t>(head / kernels_.rows) * channels * kernels_.rows;
    for (int c = 0; c < channels; ++c) panel[c * kernels_.rows + head % kernels_.rows] = head_query_[c];
  }
  Matrix queries;
  queries.rows = heads;
  queries.depth = channels;
  queries.weights = last_queries_;
  product(queries, {x, nullptr, ld, inverse_}, target.vectors, scores_, ld);
  for (int head = 0; head < heads; ++head) {
    float* weight = scores_ + head * ld;
    kernels_.softmax(weight, target.last + 1, target.vectors);
    kernels_.scale_steps(weight, ld, 1, target.vectors, inverse_, weight, ld);
    kernels_.mix(x, ld, channels, target.vectors, weight, mixed);
    kernels_.dense(layer.value[head], mixed, attended + head * width);
  }
  kernels_.dense(layer.out, attended, unit);
  for (int c = 0; c < channels; ++c) unit[c] += x[c * ld + last];
  float length = unit_length(unit, channels);
  for (int c = 0; c < channels; ++c) own[c] = unit[c] * length;
  kernels_.dense(layer.fc1, own, hidden);
  for (int c = 0; c < 4 * channels; ++c) hidden[c] = std::max(hidden[c], 0.0F);
  kernels_.dense(layer.fc2, hidden, query);
  for (int c = 0; c < channels; ++c) unit[c] += query[c];
  length = unit_length(unit, channels);
  for (int c = 0; c < channels; ++c) unit[c] *= length;
}

void Worker::run_self(Sample& sample, int modality) {
  const Sample::Embedded& target = sample.modalities[modality];
  const int e = weights_.plan.width;
  const std::size_t size = static_cast<std::size_t>(e) * target.ld;
  const Alone& stream = weights_.self[modality];
  std::memcpy(x_, target.x + size, size * sizeof(float));
  for (const Layer& layer : stream.layers) run_layer(layer, e, x_, target, nullptr);
  run_last(stream.last, e, x_, target, gates_);
  std::memcpy(sample.self + modality * e, gates_, e * sizeof(float));
}

void Worker::run_crossed(Sample& sample, int target_modality, int half) {
  const Sample::Embedded& target = sample.modalities[target_modality];
  const int e = weights_.plan.width;
  const std::size_t size = static_cast<std::size_t>(e) * target.ld;
  const Crossed& stream = weights_.crossed[2 * target_modality + half];
  const Source source = sample.modalities[stream.source].source();
  std::memcpy(x_, target.x, size * sizeof(float));
  for (const Layer& layer : stream.layers) run_layer(layer, e, x_, target, &source);
  kernels_.inverse_norm(x_, target.ld, e, target.vectors, inverse_);
  kernels_.scale_steps(x_, target.ld, e, target.vectors, inverse_, target.crossed + half * size, target.ld);
}

void Worker::run_memory(Sample& sample, int modality) {
  const Sample::Embedded& target = sample.modalities[modality];
  const int e = weights_.plan.width;
  const std::ptrdiff_t ld = target.ld;
  const Alone& memory = weights_.memory[modality];
  if (weights_.int8)
    kernels_.quantise({target.crossed, ld, 2 * e, target.vectors, bytes_, ld, nullptr, nullptr, false, scale_});
  product(memory.input, {target.crossed, bytes_, ld, weights_.int8 ? scale_ : nullptr}, target.vectors, x_, ld);
  kernels_.add_positions(x_, ld, 2 * e, target.vectors, memory.positions, ld, nullptr);
  for (const Layer& layer : memory.layers) run_layer(layer, 2 * e, x_, target, nullptr);
  run_last(memory.last, 2 * e, x_, target, target.memory);
}

void Worker::read_out(Sample& sample, float* score) {
  const Weights& w = weights_;
  const int e = w.plan.width;
  // hidden, then the gates: the output layer reads both.
  float* hidden = gates_;
  float* gates = gates_ + 9 * e;
  float* gated = last_;
  for (int m = 0; m < kModalityCount; ++m) kernels_.dense(w.gate[m], sample.modalities[m].memory, gated + m * 2 * e);
  kernels_.dense(w.common_gate, sample.self, gated + 6 * e);
  kernels_.sigmoid(gated, 9 * e);
  kernels_.dense(w.hidden, gated, hidden);
  for (int i = 0; i < 9 * e; ++i) hidden[i] = std::max(hidden[i], 0.0F);
  std::memcpy(gates, gated, 9 * e * sizeof(float));
  kernels_.dense(w.out, hidden, last_ + roomy(9 * e));
  std::memcpy(score, last_ + roomy(9 * e), w.plan.outputs * sizeof(float));
}

}  // namespace dmdkit_native
