// Windows of models trained on real steps: those come first, zeros behind, and the graphs take how many there are.
#ifndef DMDKIT_SRC_REAL_STEPS_HPP_
#define DMDKIT_SRC_REAL_STEPS_HPP_

#include <array>
#include <cstddef>

#include "inputs.hpp"

namespace dmdkit {

inline constexpr char kStepsInput[] = "steps";

// Moves the steps of each sample in front: steps before the first that holds anything in any modality are padding, as those
// behind the last are.
void move_own_steps_in_front(const std::array<float*, kModalities>& features, const InputRecords& inputs, std::size_t batch);

// Writes how many steps of each sample are real: up to the last that holds anything in any modality, all where none does
// and `kernel` is 0. The modalities have equally many steps. Fails for a sample of fewer than `kernel`, of which nothing can be
// answered.
Status count_steps(const std::array<const float*, kModalities>& features, const InputRecords& inputs, std::size_t batch,
                   std::size_t kernel, float* steps);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_REAL_STEPS_HPP_
