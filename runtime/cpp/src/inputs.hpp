// Checks on what an application hands in: sizes, finiteness, absence, and the training range. The hot path: no allocation.
#ifndef DMDKIT_SRC_INPUTS_HPP_
#define DMDKIT_SRC_INPUTS_HPP_

#include <array>
#include <cstdint>
#include <vector>

#include "dmdkit/result.hpp"
#include "dmdkit/types.hpp"
#include "manifest.hpp"

namespace dmdkit {

// A value counts as outside when it leaves the training range of its column by more than this part of the range's width
// (docs/bundle.md, as in Python).
inline constexpr double kRangeMargin = 0.5;

// A column that was constant in training has no width; this part of its value is allowed to differ, for other rounding.
inline constexpr double kRounding = 1e-4;

// A modality is reported when in any sample at least this share of its values (padding left out) lies outside.
inline constexpr double kOutOfRangeShare = 0.02;

using InputRecords = std::array<InputRecord, kModalities>;

// Whether sentences or their token ids stand in the place of text features.
inline bool has_words(const Inputs& inputs) noexcept { return inputs.words.has_value() || inputs.token_ids.has_value(); }

// Checks sizes, values and absence of `inputs`; allocates only to say what is wrong. What words hold is left to the encoder.
Status check_inputs(const Inputs& inputs, const InputRecords& records, bool has_text_encoder = false);

// Copies `inputs` to one buffer per modality, zeros where a modality is absent, nothing where words are to be encoded. They must
// have passed check_inputs.
void copy_inputs(const Inputs& inputs, const InputRecords& records, const std::array<float*, kModalities>& buffers) noexcept;

// Notices features unlike the training data's; a modality without a recorded range is not guarded.
class RangeGuard {
 public:
  explicit RangeGuard(const InputRecords& records);

  // The share of values outside in the sample where it is largest, padding steps left out; 0 where it is not worth a report.
  //
  // Samples are judged one by one, so that a strange one is not hidden by a batch of ordinary ones. One without any step counts
  // as wholly outside where the modality was not trained absent: zeros are absence by another name.
  double alarm(std::size_t modality, const float* values, std::size_t batch) const noexcept;

  // What some steps hold: values outside the training range, and steps that are no padding.
  struct Counts {
    std::uint64_t outside = 0;
    std::uint64_t present = 0;
  };

  // Those of one step, and the share that such totals are worth; 0 where it is not worth a report.
  Counts count_step(std::size_t modality, const float* values) const noexcept;
  double share(std::size_t modality, const Counts& counts) const noexcept;

 private:
  struct Limits {
    std::size_t steps = 0;
    bool may_be_empty = false;
    std::vector<float> low;
    std::vector<float> high;
  };
  std::array<Limits, kModalities> limits_;
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_INPUTS_HPP_
