#define MAXCROPS_ISA scalar
#include "batch_kernels.inl"
