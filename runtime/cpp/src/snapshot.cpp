#include "snapshot.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "failure.hpp"
#include "json_fields.hpp"
#include "sha256.hpp"

namespace dmdkit {
namespace {

constexpr char kMagic[] = "dmdkitS1";
constexpr std::size_t kMagicBytes = 8;
constexpr std::size_t kHashBytes = 32;
constexpr std::uint64_t kMaxHeard = std::uint64_t{1} << 62;
constexpr std::uint64_t kNoTime = 0x7FF8000000000000U;  // a NaN stands for a time that there is none of

std::uint64_t little_endian(const std::uint8_t* bytes, std::size_t size) noexcept {
  std::uint64_t value = 0;
  for (std::size_t i = size; i-- > 0;) value = value << 8U | bytes[i];
  return value;
}

float float_at(const std::uint8_t* bytes) noexcept {
  const auto bits = static_cast<std::uint32_t>(little_endian(bytes, sizeof(float)));
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::vector<std::uint8_t> bytes_of_hex(const std::string& text) {
  const auto digit = [](char c) { return static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10); };
  std::vector<std::uint8_t> bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<std::uint8_t>(digit(text[i]) << 4U | digit(text[i + 1])));
  }
  return bytes;
}

std::vector<std::uint8_t> sha256_of(const std::uint8_t* data, std::size_t size) {
  Sha256 hash;
  hash.update(data, size);
  return bytes_of_hex(hash.hex_digest());
}

class Reader {
 public:
  explicit Reader(Snapshot::Bytes data) : data_(data) {}

  Snapshot::Bytes take(std::size_t count, std::size_t size) {
    // Every count is below 2^31 and every size below 2^34, so that the product does not overflow.
    if (count * size > data_.size() - at_) throw Malformed("", "it is too short");
    at_ += count * size;
    return {data_.data() + (at_ - count * size), count * size};
  }

  std::uint64_t integer(std::uint64_t least, std::uint64_t most) {
    const std::uint64_t value = little_endian(take(1, 8).data(), 8);
    if (value < least || value > most) {
      throw Malformed("", "it holds " + std::to_string(static_cast<std::int64_t>(value)) + " where " + std::to_string(least) +
                              " to " + std::to_string(most) + " is possible");
    }
    return value;
  }

  Snapshot::Bytes floats(std::size_t rows, std::size_t width) {
    const Snapshot::Bytes found = take(rows, width * sizeof(float));
    for (std::size_t at = 0; at < found.size(); at += sizeof(float)) {
      if (!std::isfinite(float_at(found.data() + at))) throw Malformed("", "it holds a value that is not finite");
    }
    return found;
  }

  std::optional<double> time() {
    const std::uint64_t bits = little_endian(take(1, 8).data(), 8);
    double value;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isinf(value)) throw Malformed("", "it holds a time that is not finite");
    return std::isnan(value) ? std::nullopt : std::optional(value);
  }

  void end() const {
    if (at_ != data_.size()) throw Malformed("", "it is too long");
  }

 private:
  Snapshot::Bytes data_;
  std::size_t at_ = 0;
};

Snapshot::State read_state(Reader& reader, const SnapshotSizes& sizes, std::uint64_t heard) {
  Snapshot::State state;
  state.start = reader.integer(0, heard);
  state.steps = reader.integer(0, sizes.limit);
  const std::size_t kept = std::min(state.steps, sizes.kernel - 1);
  for (std::size_t i = 0; i < kModalities; ++i) state.recent[i] = reader.floats(kept, sizes.widths[i]);
  for (const std::size_t channels : sizes.channels) state.tensors.push_back(reader.floats(state.steps - kept, channels));
  return state;
}

}  // namespace

SnapshotSizes::SnapshotSizes(const Manifest& manifest) {
  for (std::size_t i = 0; i < kModalities; ++i) widths[i] = manifest.inputs[i].info.features;
  for (const StateRecord& tensor : manifest.stream->state) channels.push_back(tensor.heads * tensor.width);
  kernel = manifest.stream->kernel;
  limit = manifest.stream->capacity + kernel - 1;
}

Snapshot parse_snapshot_body(Snapshot::Bytes body, const SnapshotSizes& sizes) {
  Reader reader(body);
  Snapshot snapshot;
  snapshot.heard = reader.integer(0, kMaxHeard);
  const std::uint64_t states = reader.integer(1, 2);
  for (std::uint64_t i = 0; i < states; ++i) snapshot.states.push_back(read_state(reader, sizes, snapshot.heard));
  const Snapshot::State& last = snapshot.states.back();
  const std::uint64_t fed = last.start + last.steps;
  if (snapshot.states[0].start + snapshot.states[0].steps != snapshot.heard || fed > snapshot.heard) {
    throw Malformed("", "its counts of steps do not go together");
  }
  snapshot.waiting = reader.integer(0, states == 2 ? std::min<std::uint64_t>(snapshot.heard - fed, sizes.limit) : 0);
  for (std::size_t i = 0; i < kModalities; ++i) {
    snapshot.waiting_rows[i] = reader.floats(snapshot.waiting, sizes.widths[i]);
  }
  StepClock& clock = snapshot.clock;
  clock.now = reader.time();
  for (auto& time : clock.last) time = reader.time();
  for (bool& holds : clock.holds) holds = reader.integer(0, 1) != 0;
  for (std::size_t i = 0; i < kModalities; ++i) {
    clock.held[i].resize(sizes.widths[i]);
    if (clock.holds[i]) read_floats(reader.floats(1, sizes.widths[i]), clock.held[i].data());
  }
  reader.end();
  return snapshot;
}

Snapshot parse_snapshot(Snapshot::Bytes bytes, const std::string& graph_sha256, const SnapshotSizes& sizes) {
  const auto refuse = [](const std::string& why) -> Failure { return {StatusCode::kInvalidInput, why}; };
  constexpr std::size_t kLeast = kMagicBytes + 2 * kHashBytes;
  if (bytes.data() == nullptr || bytes.size() < kLeast || std::memcmp(bytes.data(), kMagic, kMagicBytes - 1) != 0) {
    throw refuse("these bytes are no snapshot of a stream");
  }
  const auto version = static_cast<char>(bytes[kMagicBytes - 1]);
  if (version != kMagic[kMagicBytes - 1]) {
    throw refuse("the snapshot has version " + in_quotes(std::string(1, version)) + ", this dmdkit reads '" +
                 std::string(1, kMagic[kMagicBytes - 1]) + "'");
  }
  const std::size_t size = bytes.size() - kHashBytes;
  const std::vector<std::uint8_t> checksum = sha256_of(bytes.data(), size);
  if (std::memcmp(checksum.data(), bytes.data() + size, kHashBytes) != 0) {
    throw refuse("the snapshot is damaged: its checksum differs");
  }
  if (std::memcmp(bytes_of_hex(graph_sha256).data(), bytes.data() + kMagicBytes, kHashBytes) != 0) {
    throw refuse("the snapshot is of another bundle, or of another precision of this one");
  }
  try {
    constexpr std::size_t kBody = kMagicBytes + kHashBytes;
    return parse_snapshot_body({bytes.data() + kBody, size - kBody}, sizes);
  } catch (const Malformed& cause) {
    throw refuse(std::string("the snapshot is damaged: ") + cause.what());
  }
}

void read_floats(Snapshot::Bytes from, float* to) noexcept {
  for (std::size_t at = 0; at < from.size(); at += sizeof(float)) *to++ = float_at(from.data() + at);
}

void read_columns(Snapshot::Bytes from, std::size_t channels, std::size_t capacity, float* to) noexcept {
  const std::size_t columns = from.size() / (channels * sizeof(float));
  for (std::size_t column = 0; column < columns; ++column) {
    for (std::size_t channel = 0; channel < channels; ++channel) {
      to[channel * capacity + column] = float_at(from.data() + (column * channels + channel) * sizeof(float));
    }
  }
}

SnapshotWriter::SnapshotWriter(const std::string& graph_sha256) : bytes_(kMagic, kMagic + kMagicBytes) {
  const std::vector<std::uint8_t> hash = bytes_of_hex(graph_sha256);
  bytes_.insert(bytes_.end(), hash.begin(), hash.end());
}

void SnapshotWriter::number(std::uint64_t bits, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) bytes_.push_back(static_cast<std::uint8_t>(bits >> (8 * i) & 0xFFU));
}

void SnapshotWriter::integer(std::uint64_t value) { number(value, sizeof value); }

void SnapshotWriter::floats(const float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    number(bits, sizeof bits);
  }
}

void SnapshotWriter::columns(const float* values, std::size_t channels, std::size_t capacity, std::size_t columns) {
  for (std::size_t column = 0; column < columns; ++column) {
    for (std::size_t channel = 0; channel < channels; ++channel) floats(values + channel * capacity + column, 1);
  }
}

void SnapshotWriter::clock(const StepClock& clock) {
  const auto time = [&](const std::optional<double>& value) {
    std::uint64_t bits = kNoTime;
    if (value) std::memcpy(&bits, &*value, sizeof bits);
    number(bits, sizeof bits);
  };
  time(clock.now);
  for (const auto& last : clock.last) time(last);
  for (const bool holds : clock.holds) integer(holds ? 1 : 0);
  for (std::size_t i = 0; i < kModalities; ++i) {
    if (clock.holds[i]) floats(clock.held[i].data(), clock.held[i].size());
  }
}

std::vector<std::uint8_t> SnapshotWriter::finish() {
  const std::vector<std::uint8_t> checksum = sha256_of(bytes_.data(), bytes_.size());
  bytes_.insert(bytes_.end(), checksum.begin(), checksum.end());
  return std::move(bytes_);
}

}  // namespace dmdkit
