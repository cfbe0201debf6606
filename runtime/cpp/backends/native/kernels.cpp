// The kernels of one instruction set, DMDKIT_ISA.
#include "kernels.hpp"

#include "attention.hpp"
#include "products.hpp"
#include "rates.hpp"
#include "single_steps.hpp"
#include "steps.hpp"
#include "vector.hpp"

#define DMDKIT_TEXT_OF(name) #name
#define DMDKIT_TEXT(name) DMDKIT_TEXT_OF(name)

namespace dmdkit_native {
namespace DMDKIT_ISA {

extern const Kernels kKernels;
const Kernels kKernels = {
    DMDKIT_TEXT(DMDKIT_ISA),
    kBits,
    kLanes,
    kRows,
    kVectors,
    linear,
    linear_int8,
    quantise,
    quantise_rows,
    attend,
    inverse_norm,
    scale_steps,
    add_positions,
    dense,
    softmax,
    mix,
    presence,
    transpose,
    step_product,
    step_product_int8,
    spread,
    quantise_step,
    inverse_norm_step,
    attend_step,
    dense_steps,
    dense_transposed,
    sigmoid,
    exp2_all,
    fma_peak,
    dot_peak,
};

}  // namespace DMDKIT_ISA
}  // namespace dmdkit_native
