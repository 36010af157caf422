#include "cost.h"

#include <stdbool.h>

enum { HALF_BYTES = 2 };

tensor_bytes count_tensor_bytes(const fmla_decode_params *p) {
  const size_t batch = (size_t)p->batch_size;
  const size_t queries = p->cu_seqlens_q != NULL ? (size_t)p->total_q : batch * (size_t)p->max_seqlen_q;
  const size_t rows = queries * (size_t)p->num_q_heads;
  const size_t rope = p->q_rope != NULL ? (size_t)p->head_dim_rope : 0;
  const size_t head_dim_k = (size_t)p->head_dim_k;
  const size_t tokens = (size_t)p->num_pages * (size_t)p->page_size;
  return (tensor_bytes){
      .q = rows * (head_dim_k - rope) * HALF_BYTES,
      .q_rope = rows * rope * HALF_BYTES,
      .kv_cache = tokens * (size_t)p->num_kv_heads * head_dim_k * HALF_BYTES,
      .block_table = batch * (size_t)p->max_pages_per_seq * sizeof(int32_t),
      .cache_seqlens = batch * sizeof(int32_t),
      .cu_seqlens_q = p->cu_seqlens_q != NULL ? (batch + 1) * sizeof(int32_t) : 0,
      .sink = p->sink != NULL ? (size_t)p->num_q_heads * sizeof(float) : 0,
      .out = rows * (size_t)p->head_dim_v * (p->out_dtype == FMLA_DTYPE_FP32 ? sizeof(float) : HALF_BYTES),
      .lse = rows * sizeof(float),
  };
}

/* The pairs of a query token and a key that it sees. With the causal mask, the last of n queries sees all keys,
   the one before it one less, and so on down to none. */
static double count_pairs(int64_t queries, int64_t keys, bool causal) {
  if (!causal)
    return (double)queries * (double)keys;
  const int64_t seeing = queries < keys ? queries : keys;
  return (double)seeing * (double)(2 * keys - seeing + 1) / 2;
}

step_cost count_cost(const fmla_decode_params *p) {
  double pairs = 0, keys_read = 0;
  for (int32_t i = 0; i < p->batch_size; i++) {
    const int32_t *cu = p->cu_seqlens_q;
    const int64_t queries = cu != NULL ? (int64_t)cu[i + 1] - cu[i] : p->max_seqlen_q;
    pairs += count_pairs(queries, p->cache_seqlens[i], (p->flags & FMLA_CAUSAL) != 0);
    keys_read += queries > 0 ? p->cache_seqlens[i] : 0;
  }
  const tensor_bytes bytes = count_tensor_bytes(p);
  return (step_cost){
      .operations = 2 * pairs * p->num_q_heads * (p->head_dim_k + p->head_dim_v),
      .bytes = keys_read * p->num_kv_heads * p->head_dim_k * HALF_BYTES +
               (double)(bytes.q + bytes.q_rope + bytes.out),
  };
}
