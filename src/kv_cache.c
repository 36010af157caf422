#include "kv_cache.h"

#include "numeric.h"

const void *fmlai_kv_entry(const fmla_decode_params *p, int32_t batch, int32_t kv_head, int64_t token,
                           int64_t *run) {
  const int64_t column = token / p->page_size;
  const int64_t slot = token % p->page_size;
  const int64_t page = p->block_table[batch * p->block_table_stride + column];
  *run = p->page_size - slot;
  return fmlai_at(p->kv_cache, fmlai_kv_dtype(p->kv_format),
                  page * p->kv_stride_page + slot * p->kv_stride_token + kv_head * p->kv_stride_head);
}
