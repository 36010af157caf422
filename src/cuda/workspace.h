/* The workspace of a decode step: what lies where in it. */
#ifndef FMLAI_CUDA_WORKSPACE_H
#define FMLAI_CUDA_WORKSPACE_H

#include "cuda/choice.h"

/* Offsets from its first aligned byte. */
typedef struct fmlai_cuda_layout {
  int32_t num_slots;   /* of partial results */
  size_t check_report; /* fmlai_cuda_check_report */
  size_t num_rounds;   /* int32_t */
  size_t split_tiles;  /* fmlai_cuda_split_tile [rounds, CTAs] */
  size_t partial_lse;  /* float [num_slots, rows of the variant] */
  size_t partial_o;    /* float [num_slots, rows of the variant, head_dim_v] */
} fmlai_cuda_layout;

/* What the choice's launch uses, and the bytes that serve it whatever the lengths. They do not shrink when an
   extent grows, though then another variant may be chosen. */
fmla_status fmlai_cuda_lay_out(const fmlai_cuda_context *c, const fmla_decode_params *params,
                               const fmlai_cuda_choice *choice, fmlai_cuda_layout *layout, size_t *bytes);

/* The first aligned byte. */
char *fmlai_cuda_align(void *workspace);

#endif
