#include "cpu_features.h"

#include <cstdlib>
#include <stdexcept>

namespace maxcrops {

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::kScalar: return "scalar";
        case Isa::kAvx2: return "avx2";
        case Isa::kAvx512: return "avx512";
    }
    return "";
}

std::vector<Isa> available_isas() {
    std::vector<Isa> isas{Isa::kScalar};
#if defined(MAXCROPS_X86_KERNELS)
    // Every CPU with AVX2 has F16C. AVX-512 is what Ice Lake and Zen 4 have: byte permutations came with them.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back(Isa::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vbmi")) {
        isas.push_back(Isa::kAvx512);
    }
#endif
    return isas;
}

Isa active_isa() {
    const std::vector<Isa> isas = available_isas();
    const char* forced = std::getenv("MAXCROPS_CPU_ISA");
    if (forced == nullptr || *forced == '\0') return isas.back();
    std::string known;
    for (const Isa isa : isas) {
        if (std::string(forced) == isa_name(isa)) return isa;
        known += (known.empty() ? "" : ", ") + std::string(isa_name(isa));
    }
    throw std::invalid_argument("[cpu] MAXCROPS_CPU_ISA must be one of " + known + " on this machine, got " + forced);
}

}  // namespace maxcrops
