// Which instruction sets this build has and this machine runs, and the one that is used.
#pragma once

#include <string>
#include <vector>

namespace maxcrops {

enum class Isa { kScalar, kAvx2, kAvx512 };

const char* isa_name(Isa isa);

// Weakest first; the scalar one is always there.
std::vector<Isa> available_isas();

// The strongest available one, or the one that the environment variable MAXCROPS_CPU_ISA names, read at every call.
// Throws std::invalid_argument when it names one that is not available.
Isa active_isa();

}  // namespace maxcrops
