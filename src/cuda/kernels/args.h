/*
 * What the host hands to the kernels: plain structs, passed by value, the same in C and in CUDA C.
 */
#ifndef FMLAI_CUDA_ARGS_H
#define FMLAI_CUDA_ARGS_H

#include <stdint.h>

/* A CUtensorMap. */
typedef struct fmlai_cuda_tensor_map {
#ifdef __cplusplus
  alignas(64) uint64_t opaque[16];
#else
  _Alignas(64) uint64_t opaque[16];
#endif
} fmlai_cuda_tensor_map;

/* The kernel that merges its splits; two CTAs have loads enough under way for all of a GPU's bandwidth. */
#define FMLAI_CUDA_MERGE_SPLITS_THREADS     256
#define FMLAI_CUDA_MERGE_SPLITS_CTAS_PER_SM 2

/* Items of a CTA at most, outside of the batch-invariant mode (schedule.cuh). */
#define FMLAI_CUDA_MAX_ROUNDS 4

/* A row tile whose keys are split, as the merge gets to know it from the CTA that has its first keys: its
   partial results are slots first_slot, next_slot, and on from there in steps of tiles_together. */
typedef struct fmlai_cuda_split_tile {
#ifdef __cplusplus
  alignas(16) int32_t batch;
#else
  _Alignas(16) int32_t batch;
#endif
  int32_t kv_head;
  int32_t row_tile;          /* of the KV head's rows */
  int32_t q_begin, seqlen_q; /* of the sequence */
  int32_t num_splits;        /* 0: there is no such tile */
  int32_t first_slot, next_slot;
} fmlai_cuda_split_tile;

/* A decode step. Strides in elements; all that the host checked or clamped is right, the values that pointers
   lead to may be anything. */
typedef struct fmlai_cuda_decode_args {
  const void *q;
  const void *q_rope; /* or NULL */
  const void *kv_cache;
  const int32_t *block_table;
  const int32_t *cache_seqlens;
  const int32_t *cu_seqlens_q; /* or NULL */
  const float *sink;           /* or NULL */
  void *out;
  float *lse; /* or NULL */

  /* Workspace */
  float *partial_o;                   /* [slots, tile_rows, head_dim_v], normalised */
  float *partial_lse;                 /* [slots, tile_rows] */
  int32_t *num_rounds;                /* of CTAs' items; on the line 1 */
  fmlai_cuda_split_tile *split_tiles; /* [num_rounds, num_ctas] */

  int64_t q_stride_batch, q_stride_token, q_stride_head;
  int64_t q_rope_stride_batch, q_rope_stride_token, q_rope_stride_head;
  int64_t kv_stride_page, kv_stride_token, kv_stride_head;
  int64_t block_table_stride;
  int64_t out_stride_batch, out_stride_token, out_stride_head;
  int64_t lse_stride_batch, lse_stride_token, lse_stride_head;
  int64_t total_q;

  int32_t batch_size;
  int32_t num_kv_heads;
  int32_t group_heads; /* query heads of a KV head */
  int32_t head_dim_k, head_dim_v, head_dim_rope;
  int32_t max_seqlen_q;
  int32_t max_seqlen_k; /* lengths are clamped to it */
  int32_t page_size;
  int32_t num_pages;
  int32_t out_dtype; /* fmla_dtype */
  uint32_t flags;    /* FMLA_CAUSAL, FMLA_BATCH_INVARIANT, FMLA_EMPTY_LSE_POS_INF */
  float softmax_scale;

  int32_t num_slots;      /* of partial results */
  int32_t num_ctas;       /* of the decode kernel: tiles_together for each share */
  int32_t tiles_together; /* row tiles of a KV head over the same keys, a CTA for each: 1, 2 or 4 */
  int32_t tiles_together_log2;
  int32_t min_share;  /* blocks of keys: no share is shorter */
  int32_t idle_32nds; /* of a step in which CTAs may idle, where that saves pieces and their merge */
  int32_t tile_rows;  /* of the kernel's variant, a power of 2 */
  int32_t tile_rows_log2;
  int32_t num_stages; /* tiles of keys in shared memory, where that is not the variant's to say */
  int32_t box_keys;   /* Hopper: keys that one copy brings, a divisor of page_size and of 64 */
} fmlai_cuda_decode_args;

#endif
