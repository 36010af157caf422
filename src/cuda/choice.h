/* Which variant a decode step runs with and how it lies on the device: from extents and limits, by arithmetic
 * alone. */
#ifndef FMLAI_CUDA_CHOICE_H
#define FMLAI_CUDA_CHOICE_H

#include "cuda/context.h"

typedef struct fmlai_cuda_choice {
  int32_t variant; /* index into fmlai_cuda_variants */
  const char *reason;
  int32_t num_stages;
  int32_t shared_bytes; /* of a CTA */
  int32_t num_ctas;     /* of the decode kernel, a multiple of tiles_together */
  int32_t tiles_together;
} fmlai_cuda_choice;

/* Whether the device has it. */
bool fmlai_cuda_has_variant(const fmlai_cuda_context *c, int32_t variant);

/* The most CTAs that any step with this variant has, whatever its head dims. */
int32_t fmlai_cuda_max_ctas(const fmlai_cuda_context *c, const fmla_decode_params *params, int32_t variant);

/* CTAs that merge its splits. */
int32_t fmlai_cuda_merge_ctas(const fmlai_cuda_context *c, const fmla_decode_params *params);

/* The portable variant that is first choice for these rows, whatever the head dims; a choice among the portable
   ones is never behind it. */
int32_t fmlai_cuda_variant_of_rows(const fmla_decode_params *params);

/* The same of Hopper's; none but that is chosen, or hopper_rows64 in place of hopper_rows128. */
int32_t fmlai_cuda_hopper_variant_of_rows(const fmla_decode_params *params);

/* `params` passed fmlai_cuda_check_extents. */
fmla_status fmlai_cuda_choose(const fmlai_cuda_context *c, const fmla_decode_params *params,
                              fmlai_cuda_choice *choice);

#endif
