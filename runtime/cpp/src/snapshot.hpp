// A stream's state as bytes: the same for every language and backend, checked on the way in (docs/streaming.md has the layout).
#ifndef DMDKIT_SRC_SNAPSHOT_HPP_
#define DMDKIT_SRC_SNAPSHOT_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "arrivals.hpp"
#include "dmdkit/types.hpp"
#include "manifest.hpp"

namespace dmdkit {

// What a snapshot holds, beside the hash of its graph. Views show the bytes they were read from, which may lie at any address.
struct Snapshot {
  using Bytes = View<const std::uint8_t>;

  struct State {
    std::uint64_t start = 0;  // number of its first step
    std::size_t steps = 0;
    std::array<Bytes, kModalities> recent;  // min(steps, kernel - 1) rows
    std::vector<Bytes> tensors;             // (projected steps, heads * width) each
  };

  std::uint64_t heard = 0;
  std::vector<State> states;  // the one that answers and, while it is primed, the one after it
  std::size_t waiting = 0;
  std::array<Bytes, kModalities> waiting_rows;
  StepClock clock;
};

// What the sizes in a snapshot must fit.
struct SnapshotSizes {
  std::array<std::size_t, kModalities> widths{};
  std::vector<std::size_t> channels;  // of each tensor of a state
  std::size_t kernel = 0;
  std::size_t limit = 0;  // steps that a state holds

  explicit SnapshotSizes(const Manifest& manifest);
  SnapshotSizes() = default;
};

// The part of a snapshot between the graph's hash and the checksum. Throws Malformed for what is damaged.
Snapshot parse_snapshot_body(Snapshot::Bytes body, const SnapshotSizes& sizes);

// A whole snapshot of the graph whose file has this hash. Throws Failure.
Snapshot parse_snapshot(Snapshot::Bytes bytes, const std::string& graph_sha256, const SnapshotSizes& sizes);

// Writes one, in order: start, then the parts of the body, then finish.
class SnapshotWriter {
 public:
  explicit SnapshotWriter(const std::string& graph_sha256);
  void integer(std::uint64_t value);
  void floats(const float* values, std::size_t count);
  // A tensor (channels, capacity) as (columns, channels).
  void columns(const float* values, std::size_t channels, std::size_t capacity, std::size_t columns);
  void clock(const StepClock& clock);
  std::vector<std::uint8_t> finish();

 private:
  void number(std::uint64_t bits, std::size_t size);
  std::vector<std::uint8_t> bytes_;
};

// Little-endian float32 values to where they are used.
void read_floats(Snapshot::Bytes from, float* to) noexcept;
// (columns, channels) to the first columns of (channels, capacity).
void read_columns(Snapshot::Bytes from, std::size_t channels, std::size_t capacity, float* to) noexcept;

}  // namespace dmdkit

#endif  // DMDKIT_SRC_SNAPSHOT_HPP_
