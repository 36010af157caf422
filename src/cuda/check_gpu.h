/* The rules of GPUs on top of check.h: what the kernels read and write goes 16 bytes at a time. */
#ifndef FMLAI_CUDA_CHECK_GPU_H
#define FMLAI_CUDA_CHECK_GPU_H

#include "flash_mla.h"

/* Query tokens of the longest sequence: max_seqlen_q, or fewer where the whole batch has fewer. */
static inline int32_t fmlai_cuda_longest_q(const fmla_decode_params *params) {
  return params->total_q < params->max_seqlen_q ? (int32_t)params->total_q : params->max_seqlen_q;
}

/* Extents and strides. A dimension of one element has no stride to speak of. */
fmla_status fmlai_cuda_check_extents(const fmla_decode_params *params);

/* Addresses. */
fmla_status fmlai_cuda_check_pointers(const fmla_decode_params *params);

#endif
