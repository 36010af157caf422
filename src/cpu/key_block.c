#include "cpu/key_block.h"

#include "cpu/kernel.h"
#include "kv_cache.h"
#include "numeric.h"

void fmlai_find_keys(fmlai_key_block *block, const fmla_decode_params *p, const fmlai_plan_tile *tile,
                     int64_t begin, int64_t end, int32_t block_keys, int32_t granularity) {
  const int64_t stride = p->kv_stride_token * (int64_t)fmlai_dtype_bytes(fmlai_kv_dtype(p->kv_format));
  const int64_t left = end > begin ? end - begin : 0;
  block->begin = begin;
  block->count = left < block_keys ? (int32_t)left : block_keys;
  block->padded = (block->count + granularity - 1) / granularity * granularity;
  for (int32_t t = 0; t < block->count;) {
    int64_t run;
    const char *entry = fmlai_kv_entry(p, tile->batch, tile->kv_head, begin + t, &run);
    const int32_t run_end = run < block->count - t ? t + (int32_t)run : block->count;
    for (; t < run_end; t++, entry += stride)
      block->keys[t] = entry;
  }
  for (int32_t t = block->count; t < block->padded; t++)
    block->keys[t] = block->keys[block->count - 1];
}

int64_t fmlai_visible_end(const fmla_decode_params *p, const fmlai_plan_item *item) {
  const int64_t visible = fmlai_visible_keys(p, &item->tile, item->tile.num_rows - 1);
  return visible < item->kv_end ? visible : item->kv_end;
}

int32_t fmlai_key_limits(float *limits, const fmla_decode_params *p, const fmlai_plan_tile *tile,
                         const fmlai_key_block *block, int32_t first_row, int32_t count) {
  int32_t smallest = block->count;
  for (int32_t r = 0; r < count; r++) {
    int64_t limit = block->count;
    if (first_row + r < tile->num_rows) {
      limit = fmlai_visible_keys(p, tile, first_row + r) - block->begin;
      limit = limit < 0 ? 0 : limit < block->count ? limit : block->count;
    }
    limits[r] = (float)limit;
    smallest = limit < smallest ? (int32_t)limit : smallest;
  }
  return smallest;
}
