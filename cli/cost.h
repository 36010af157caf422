/* cost.h: what a decode step takes: the bytes of its tensors, and the least work that it can be done with. */
#ifndef CLI_COST_H
#define CLI_COST_H

#include "flash_mla.h"

/* Of packed tensors, for extents that fmla_decode_workspace has accepted. Optional ones that are NULL have 0
 * bytes. */
typedef struct tensor_bytes {
  size_t q, q_rope, kv_cache, block_table, cache_seqlens, cu_seqlens_q, sink, out, lse;
} tensor_bytes;

tensor_bytes count_tensor_bytes(const fmla_decode_params *params);

typedef struct step_cost {
  double operations; /* two for every query head, key and dimension of k and v */
  double bytes;      /* each sequence's keys once, q and out */
} step_cost;

/* Reads the lengths, which must be in host memory. */
step_cost count_cost(const fmla_decode_params *params);

#endif
