#define MAXCROPS_ISA avx512
#include "batch_kernels.inl"
