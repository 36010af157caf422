/* The paged view of the KV cache: which memory holds a token. */
#ifndef FMLAI_KV_CACHE_H
#define FMLAI_KV_CACHE_H

#include "flash_mla.h"

/* The fmla_dtype of a plain format's elements. */
static inline int32_t fmlai_kv_dtype(int32_t kv_format) {
  return kv_format == FMLA_KV_FP16 ? FMLA_DTYPE_FP16 : FMLA_DTYPE_BF16;
}

static inline int64_t fmlai_kv_capacity(const fmla_decode_params *p) {
  return (int64_t)p->max_pages_per_seq * p->page_size;
}

/* The longest sequence that this call may have: what the table holds, or less if the caller says so. */
static inline int64_t fmlai_kv_max_seqlen(const fmla_decode_params *p) {
  const int64_t capacity = fmlai_kv_capacity(p);
  return p->max_seqlen_k > 0 && p->max_seqlen_k < capacity ? p->max_seqlen_k : capacity;
}

/*
 * The entry of token `token` of sequence `batch`. `*run` gets the number of tokens from it to the end of its
 * page; they follow at kv_stride_token. The token must be in the sequence and its page number valid.
 */
const void *fmlai_kv_entry(const fmla_decode_params *p, int32_t batch, int32_t kv_head, int64_t token,
                           int64_t *run);

#endif
