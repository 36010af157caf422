/* Rows on their way in and out: q and keys to shared memory, results to out, lse and partial results. */
#ifndef FMLAI_CUDA_ROWS_CUH
#define FMLAI_CUDA_ROWS_CUH

#include "ptx.cuh"
#include "schedule.cuh"

enum { DTYPE_BF16 = 1, DTYPE_FP16 = 2, DTYPE_FP32 = 3 };

/* ---- In -------------------------------------------------------------------------------------------- */

/* A piece's rows: `first` of the KV head's rows, `count` of them, and where they lie in q, out and lse. */
typedef struct piece_rows {
  int32_t first;
  int32_t count;
  int32_t kv_head;
} piece_rows;

static __device__ __forceinline__ piece_rows rows_of_piece(const decode_args *a, const piece *part, int max_rows) {
  piece_rows r;
  r.kv_head = part->kv_head;
  r.first = part->row_tile * max_rows;
  r.count = min(part->seq.seqlen_q * a->group_heads - r.first, max_rows);
  return r;
}

typedef struct row_place {
  int64_t batch, token, head;
} row_place;

static __device__ __forceinline__ row_place place_of_row(const decode_args *a, const piece *part, const piece_rows *rows,
                                                         int r) {
  const int32_t row = rows->first + r, token = row / a->group_heads;
  row_place p;
  p.batch = part->batch;
  p.token = part->seq.q_begin + token;
  p.head = rows->kv_head * a->group_heads + row - token * a->group_heads;
  return p;
}

/* A row of q: its latent part, and its RoPE part, which begins behind it where q is not split. */
typedef struct q_row {
  const uint16_t *nope, *rope;
} q_row;

static __device__ __forceinline__ q_row find_q_row(const decode_args *a, row_place p) {
  q_row row;
  row.nope = (const uint16_t *)a->q + p.batch * a->q_stride_batch + p.token * a->q_stride_token +
             p.head * a->q_stride_head;
  row.rope = a->q_rope ? (const uint16_t *)a->q_rope + p.batch * a->q_rope_stride_batch +
                             p.token * a->q_rope_stride_token + p.head * a->q_rope_stride_head
                       : row.nope;
  return row;
}

/* The piece's rows of q to shared memory, eight threads a row; zeros for rows up to max_rows. */
static __device__ __forceinline__ void load_q_rows(const decode_args *a, const piece *part, const piece_rows *rows,
                                                   int max_rows, uint32_t to, int pitch, int thread, int num_threads) {
  const int nope_chunks = (a->head_dim_k - a->head_dim_rope) / 8; /* of 16 bytes */
  const int chunks = a->head_dim_k / 8;
  for (int r = thread / 8; r < max_rows; r += num_threads / 8) {
    const bool valid = r < rows->count;
    const q_row row = find_q_row(a, place_of_row(a, part, rows, valid ? r : 0));
    for (int c = thread % 8; c < chunks; c += 8)
      cp_async_16(to + (uint32_t)(r * pitch + c * 8) * 2, c < nope_chunks ? row.nope + c * 8 : row.rope + (c - nope_chunks) * 8,
                  valid ? 16 : 0);
  }
}

/* The page that holds a key; -1 for none: the key is not before `end`, or the table names no page there is. */
static __device__ __forceinline__ int32_t page_of_key(const decode_args *a, int32_t batch, int32_t key, int32_t end) {
  if (key >= end)
    return -1;
  const int32_t page = a->block_table[batch * a->block_table_stride + key / a->page_size];
  return page >= 0 && page < a->num_pages ? page : -1;
}

/* A line of the block table to the L2, if there are so many: while lengths are read, and nobody knows yet who needs it. */
static __device__ __forceinline__ void prefetch_table(const decode_args *a, int32_t line) {
  enum { LINE_PAGES = 32 };
  const int32_t lines = max(ceil_div(ceil_div(a->max_seqlen_k, a->page_size), LINE_PAGES), 1), batch = quotient(line, lines);
  if (batch < a->batch_size)
    prefetch_line(a->block_table + batch * a->block_table_stride + (line - batch * lines) * LINE_PAGES);
}

/*
 * One key to row `row` of a stage, by eight threads of which this is `part`: its elements, and zeros to the
 * pitch's end; zeros alone without a page. The page was looked up an iteration before, so that nobody waits for it.
 */
static __device__ __forceinline__ void load_key(const decode_args *a, int32_t kv_head, int32_t key, int32_t page,
                                                uint32_t stage, int row, int pitch, int part) {
  const int chunks = (pitch - 8) / 8;
  const int valid_chunks = page < 0 ? 0 : a->head_dim_k / 8;
  const int64_t slot = key % a->page_size;
  const uint16_t *from = (const uint16_t *)a->kv_cache + (page < 0 ? 0 : page) * a->kv_stride_page +
                         slot * a->kv_stride_token + kv_head * a->kv_stride_head;
  const uint32_t to = stage + (uint32_t)(row * pitch) * 2;
#pragma unroll 3
  for (int c = part; c < chunks; c += 8)
    cp_async_16(to + (uint32_t)c * 16, from + c * 8, c < valid_chunks ? 16 : 0);
}

/* ---- Out ------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void store_pair(void *row, int32_t dtype, int column, float x, float y) {
  if (dtype == DTYPE_BF16)
    *(uint32_t *)((uint16_t *)row + column) = pack_bf16(x, y);
  else if (dtype == DTYPE_FP16)
    *(uint32_t *)((uint16_t *)row + column) = pack_fp16(x, y);
  else
    *(float2 *)((float *)row + column) = make_float2(x, y);
}

static __device__ __forceinline__ float empty_lse(uint32_t flags) {
  return flags & FLAG_EMPTY_LSE_POS_INF ? INFINITY : -INFINITY;
}

/* The share of the softmax that the sink leaves to the keys. */
static __device__ __forceinline__ float sink_scale(const float *sink, int64_t head, float lse) {
  return sink ? 1.0f / (1.0f + expf(sink[head] - lse)) : 1.0f;
}

static __device__ __forceinline__ void *out_row(const decode_args *a, int64_t batch, int64_t token, int64_t head) {
  const int64_t at = batch * a->out_stride_batch + token * a->out_stride_token + head * a->out_stride_head;
  return (char *)a->out + at * (a->out_dtype == DTYPE_FP32 ? 4 : 2);
}

static __device__ __forceinline__ float *lse_row(const decode_args *a, int64_t batch, int64_t token, int64_t head) {
  return a->lse ? a->lse + batch * a->lse_stride_batch + token * a->lse_stride_token + head * a->lse_stride_head
                : (float *)0;
}

/* Where row `r` of a piece goes: to out, or to the piece's partial result. */
static __device__ __forceinline__ void *row_target(const decode_args *a, const piece *part, const piece_rows *rows, int r,
                                                   int max_rows, int32_t *dtype) {
  if (part->slot >= 0) {
    *dtype = DTYPE_FP32;
    return a->partial_o + ((int64_t)part->slot * max_rows + r) * a->head_dim_v;
  }
  const row_place p = place_of_row(a, part, rows, r);
  *dtype = a->out_dtype;
  return out_row(a, p.batch, p.token, p.head);
}

/* Returns the factor of the row's output, and writes its lse if this thread is to; row_max is in base 2. */
static __device__ __forceinline__ float end_row(const decode_args *a, const piece *part, const piece_rows *rows, int r,
                                                int max_rows, float row_max, float row_sum, bool writes_lse) {
  const bool empty = row_sum == 0;
  const float lse = empty ? -INFINITY : row_max * 0.6931471805599453f + logf(row_sum);
  if (part->slot >= 0) {
    if (writes_lse)
      a->partial_lse[(int64_t)part->slot * max_rows + r] = lse;
    return empty ? 0 : 1 / row_sum;
  }
  const row_place p = place_of_row(a, part, rows, r);
  float *lse_at = lse_row(a, p.batch, p.token, p.head);
  if (lse_at && writes_lse)
    *lse_at = empty ? empty_lse(a->flags) : lse;
  return empty ? 0 : sink_scale(a->sink, p.head, lse) / row_sum;
}

/* Rows of q that belong to no sequence: zeros. */
static __device__ __forceinline__ void write_unowned_rows(const decode_args *a, int thread, int num_threads) {
  if (!a->cu_seqlens_q)
    return;
  const int64_t first = clamp(a->cu_seqlens_q[a->batch_size], 0, (int32_t)a->total_q);
  const int64_t heads = (int64_t)a->num_kv_heads * a->group_heads;
  for (int64_t row = first * heads + blockIdx.x; row < a->total_q * heads; row += gridDim.x) {
    void *out = out_row(a, 0, row / heads, row % heads);
    for (int column = thread * 2; column < a->head_dim_v; column += num_threads * 2)
      store_pair(out, a->out_dtype, column, 0, 0);
    float *lse = lse_row(a, 0, row / heads, row % heads);
    if (thread == 0 && lse)
      *lse = empty_lse(a->flags);
  }
}

#endif
