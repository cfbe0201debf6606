#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "json_fields.hpp"
#include "refused.hpp"
#include "snapshot.hpp"

// Any bytes give a snapshot or Malformed, and what was accepted fits the sizes it was read for. The checksum and the graph's
// hash stand around these bytes and are compared before; a fuzzer would find neither. As in seeds.py: a kernel of 2, room for 3
// steps.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  dmdkit::SnapshotSizes sizes;
  sizes.widths = {2, 1, 3};
  sizes.channels = {4, 4, 2};
  sizes.kernel = 2;
  sizes.limit = 3;
  try {
    const dmdkit::Snapshot snapshot = dmdkit::parse_snapshot_body({data, size}, sizes);
    for (const dmdkit::Snapshot::State& state : snapshot.states) {
      if (state.steps > sizes.limit || state.start + state.steps > snapshot.heard) std::abort();
      for (std::size_t i = 0; i < sizes.channels.size(); ++i) {
        std::vector<float> tensor(sizes.channels[i] * (sizes.limit - sizes.kernel + 1));
        dmdkit::read_columns(state.tensors[i], sizes.channels[i], sizes.limit - sizes.kernel + 1, tensor.data());
      }
      std::vector<float> recent(sizes.widths[2] * (sizes.kernel - 1));
      dmdkit::read_floats(state.recent[2], recent.data());
    }
    if (snapshot.waiting > sizes.limit) std::abort();
  } catch (const dmdkit::Malformed& cause) {
    refused(cause);
  }
  return 0;
}
