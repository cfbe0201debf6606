#include "instruction_sets.hpp"

#include <cstdlib>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "../plugin.hpp"

namespace dmdkit_native {

#define DMDKIT_DECLARE(isa)      \
  namespace isa {                \
  extern const Kernels kKernels; \
  }
DMDKIT_DECLARE(portable)
#if defined(__x86_64__)
DMDKIT_DECLARE(avx512_vnni)
DMDKIT_DECLARE(avx512vl_vnni)
DMDKIT_DECLARE(avx_vnni)
DMDKIT_DECLARE(avx2)
#elif defined(__aarch64__)
DMDKIT_DECLARE(neon_dotprod)
DMDKIT_DECLARE(neon)
#endif

namespace {

#if defined(__x86_64__)
// CPUID leaf 7, sub-leaf 1: GCC 12 has no name for it that __builtin_cpu_supports knows.
bool has_avx_vnni() {
  unsigned a = 7, b = 0, c = 1, d = 0;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  if (a == 0 && b == 0 && c == 0 && d == 0) return false;
  return (a >> 4 & 1) != 0;
}

bool cpu_has(const Kernels& kernels) {
  // These also ask whether the operating system saves the registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (&kernels == &avx2::kKernels) return avx2;
  if (&kernels == &avx_vnni::kKernels) return avx2 && has_avx_vnni();
  const bool vnni = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vnni");
  if (&kernels == &avx512_vnni::kKernels || &kernels == &avx512vl_vnni::kKernels) return vnni;
  return true;
}
constexpr const Kernels* kBuilt[] = {&avx512_vnni::kKernels, &avx512vl_vnni::kKernels, &avx_vnni::kKernels, &avx2::kKernels,
                                     &portable::kKernels};
#elif defined(__aarch64__)
bool cpu_has(const Kernels& kernels) {
  if (&kernels == &neon_dotprod::kKernels) return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  return true;  // every 64-bit ARM CPU that runs Linux has NEON
}
constexpr const Kernels* kBuilt[] = {&neon_dotprod::kKernels, &neon::kKernels, &portable::kKernels};
#else
bool cpu_has(const Kernels&) { return true; }
constexpr const Kernels* kBuilt[] = {&portable::kKernels};
#endif

}  // namespace

std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable;
  for (const Kernels* kernels : kBuilt) {
    if (cpu_has(*kernels)) usable.push_back(kernels);
  }
  return usable;
}

const Kernels& chosen_kernels() {
  const std::vector<const Kernels*> usable = usable_kernels();
  const char* wanted = std::getenv("DMDKIT_NATIVE_ISA");
  if (wanted == nullptr || *wanted == '\0') return *usable.front();
  std::string names;
  for (const Kernels* kernels : usable) {
    if (std::string(wanted) == kernels->isa) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->isa);
  }
  throw dmdkit_plugin::Problem(DMDKIT_BACKEND_NO_DEVICE,
                               std::string("DMDKIT_NATIVE_ISA=") + wanted + ": this CPU can use " + names);
}

}  // namespace dmdkit_native
