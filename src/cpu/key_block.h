/* Where a run of keys lies: the paged cache as a list of addresses, and which of the keys a row sees. */
#ifndef FMLAI_CPU_KEY_BLOCK_H
#define FMLAI_CPU_KEY_BLOCK_H

#include "plan.h"

#include "flash_mla.h"

enum { FMLAI_MAX_BLOCK_KEYS = 128 };

typedef struct fmlai_key_block {
  int64_t begin;
  int32_t count;  /* keys of the sequence */
  int32_t padded; /* count rounded up; the last key stands for those behind it */
  const void *keys[FMLAI_MAX_BLOCK_KEYS];
} fmlai_key_block;

/* Keys begin .. begin + block_keys - 1 of the tile's sequence, those below `end`; none if begin >= end. The
   count is rounded up to a multiple of `granularity`, which block_keys is. */
void fmlai_find_keys(fmlai_key_block *block, const fmla_decode_params *params, const fmlai_plan_tile *tile,
                     int64_t begin, int64_t end, int32_t block_keys, int32_t granularity);

/* The end of the keys of an item that any of its rows sees. */
int64_t fmlai_visible_end(const fmla_decode_params *params, const fmlai_plan_item *item);

/* limits[r] = how many of the block's first keys row `first_row` + r sees, for `count` rows; all of them for
   rows behind the tile's. Returns the smallest. */
int32_t fmlai_key_limits(float *limits, const fmla_decode_params *params, const fmlai_plan_tile *tile,
                         const fmlai_key_block *block, int32_t first_row, int32_t count);

#endif
