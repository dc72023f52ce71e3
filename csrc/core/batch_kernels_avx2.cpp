#define MAXCROPS_ISA avx2
#include "batch_kernels.inl"
