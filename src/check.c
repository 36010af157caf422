#include "check.h"

#include "kv_cache.h"
#include "numeric.h"
#include "status.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>

#define REQUIRE(condition, ...)                                                                                \
  do {                                                                                                         \
    if (!(condition))                                                                                          \
      return FMLAI_FAIL(FMLA_ERROR_INVALID_ARGUMENT, __VA_ARGS__);                                             \
  } while (0)

/* ---- Sized structs ----------------------------------------------------------------------------- */

fmla_status fmlai_check_struct_size(const char *name, size_t given, size_t least) {
  REQUIRE(given >= least, "%s.struct_size is %zu, but must be sizeof(%s), at least %zu", name, given, name,
          least);
  return FMLA_OK;
}

/* A struct that the caller fills in: an older header's is shorter; a newer one's may ask for what is unknown
 * here. */
static fmla_status check_input_struct(const char *name, size_t given, size_t least, size_t known) {
  FMLAI_TRY(fmlai_check_struct_size(name, given, least));
  REQUIRE(given <= known,
          "%s.struct_size is %zu, but this library knows only %zu bytes: the program was built against a newer "
          "flash_mla.h",
          name, given, known);
  return FMLA_OK;
}

/* ---- Rules that several calls share -------------------------------------------------------------- */

static fmla_status check_range(const char *name, int64_t value, int64_t low, int64_t high) {
  REQUIRE(value >= low && value <= high, "%s is %" PRId64 ", but must be %" PRId64 " to %" PRId64, name, value,
          low, high);
  return FMLA_OK;
}

static fmla_status check_at_least(const char *name, int64_t value, int64_t low) {
  REQUIRE(value >= low, "%s is %" PRId64 ", but must be at least %" PRId64, name, value, low);
  return FMLA_OK;
}

fmla_status fmlai_check_given(const char *name, const void *pointer) {
  REQUIRE(pointer != NULL, "%s is NULL, but must be given", name);
  return FMLA_OK;
}

static fmla_status check_float_dtype(const char *name, int32_t dtype) {
  REQUIRE(dtype == FMLA_DTYPE_BF16 || dtype == FMLA_DTYPE_FP16 || dtype == FMLA_DTYPE_FP32,
          "%s is %" PRId32 ", but must be FMLA_DTYPE_BF16 (%d), FMLA_DTYPE_FP16 (%d) or FMLA_DTYPE_FP32 (%d)",
          name, dtype, FMLA_DTYPE_BF16, FMLA_DTYPE_FP16, FMLA_DTYPE_FP32);
  return FMLA_OK;
}

static fmla_status check_flags(const char *name, uint32_t flags, uint32_t known) {
  REQUIRE((flags & ~known) == 0, "%s has the unknown bits 0x%" PRIx32 "; known are 0x%" PRIx32, name,
          flags & ~known, known);
  return FMLA_OK;
}

static fmla_status check_pointer(const char *name, const void *pointer, bool needed, size_t alignment) {
  REQUIRE(pointer != NULL || !needed, "%s is NULL, but its tensor has elements", name);
  REQUIRE((uintptr_t)pointer % alignment == 0, "%s is %p, but must be aligned to %zu bytes, its elements' size",
          name, pointer, alignment);
  return FMLA_OK;
}

/* ---- Strides --------------------------------------------------------------------------------------- */

typedef struct dimension {
  const char *stride_name;
  int64_t extent;
  int64_t *stride; /* NULL: the call does not have this dimension */
} dimension;

enum { INPUT, OUTPUT };

/* No dimension of a tensor spans more on any machine, and the sum over four of them still fits int64_t. */
static const int64_t max_span_bytes = INT64_C(1) << 60;

/*
 * Resolves and checks the strides of a tensor, whose dimensions are given slowest first; `last` elements are
 * contiguous behind them. In outputs, elements must not overlap: sorted by stride, each dimension must step
 * over all that the faster ones reach.
 */
static fmla_status resolve_strides(dimension *dims, int num_dims, int64_t last, size_t element_bytes,
                                   int direction) {
  int64_t packed = last;
  bool empty = false; /* without elements, none overlap */
  for (int i = num_dims - 1; i >= 0; i--) {
    if (dims[i].stride == NULL)
      continue;
    if (*dims[i].stride == FMLA_PACKED)
      *dims[i].stride = packed;
    REQUIRE(*dims[i].stride >= 0, "%s is %" PRId64 ", but must be at least 0, or FMLA_PACKED",
            dims[i].stride_name, *dims[i].stride);
    empty = empty || dims[i].extent == 0;
    const int64_t steps = dims[i].extent > 1 ? dims[i].extent : 1;
    REQUIRE(!__builtin_mul_overflow(*dims[i].stride, steps, &packed) &&
                packed <= max_span_bytes / (int64_t)element_bytes,
            "%s is %" PRId64 ", which with its extent of %" PRId64 " is more than 2^60 bytes",
            dims[i].stride_name, *dims[i].stride, dims[i].extent);
  }
  if (direction == INPUT || empty)
    return FMLA_OK;

  int64_t reached = last;
  bool done[4] = {false};
  for (int round = 0; round < num_dims; round++) {
    int next = -1;
    for (int i = num_dims - 1; i >= 0; i--) /* of equal strides the fastest dimension's is named */
      if (dims[i].stride && !done[i] && dims[i].extent > 1 &&
          (next < 0 || *dims[i].stride < *dims[next].stride))
        next = i;
    if (next < 0)
      break;
    done[next] = true;
    REQUIRE(*dims[next].stride >= reached,
            "%s is %" PRId64 ", but must be at least %" PRId64 " so that elements do not overlap",
            dims[next].stride_name, *dims[next].stride, reached);
    reached += (dims[next].extent - 1) * *dims[next].stride;
  }
  return FMLA_OK;
}

/* ---- Open ------------------------------------------------------------------------------------------ */

fmla_status fmlai_check_config(const fmla_config *given, fmla_config *config) {
  *config = fmla_config_default();
  if (given == NULL)
    return FMLA_OK;
  FMLAI_TRY(check_input_struct("fmla_config", given->struct_size, sizeof *given, sizeof *config));
  memcpy(config, given, given->struct_size);
  REQUIRE(config->reserved == 0, "fmla_config.reserved is %" PRId32 ", but must be 0", config->reserved);
  return check_range("fmla_config.num_threads", config->num_threads, 0, FMLA_MAX_THREADS);
}

/* ---- Decode ---------------------------------------------------------------------------------------- */

static fmla_status check_decode_ranges(const fmla_decode_params *p) {
  FMLAI_TRY(check_at_least("batch_size", p->batch_size, 0));
  FMLAI_TRY(check_range("num_q_heads", p->num_q_heads, 1, FMLA_MAX_HEADS));
  FMLAI_TRY(check_range("num_kv_heads", p->num_kv_heads, 1, FMLA_MAX_HEADS));
  REQUIRE(p->num_q_heads % p->num_kv_heads == 0,
          "num_q_heads is %" PRId32 ", but must be a multiple of num_kv_heads, which is %" PRId32,
          p->num_q_heads, p->num_kv_heads);
  FMLAI_TRY(check_range("head_dim_k", p->head_dim_k, 1, FMLA_MAX_HEAD_DIM));
  REQUIRE(p->head_dim_v >= 1 && p->head_dim_v <= p->head_dim_k,
          "head_dim_v is %" PRId32 ", but must be 1 to head_dim_k, which is %" PRId32, p->head_dim_v,
          p->head_dim_k);
  if (p->q_rope != NULL)
    REQUIRE(p->head_dim_rope >= 1 && p->head_dim_rope < p->head_dim_k,
            "head_dim_rope is %" PRId32
            ", but with q_rope must be 1 to head_dim_k - 1, and head_dim_k is %" PRId32,
            p->head_dim_rope, p->head_dim_k);
  FMLAI_TRY(check_at_least("max_seqlen_q", p->max_seqlen_q, 0));
  FMLAI_TRY(check_at_least("page_size", p->page_size, 1));
  FMLAI_TRY(check_range("num_pages", p->num_pages, 0, INT32_MAX));
  FMLAI_TRY(check_at_least("max_pages_per_seq", p->max_pages_per_seq, 0));
  FMLAI_TRY(check_at_least("max_seqlen_k", p->max_seqlen_k, 0));
  FMLAI_TRY(check_at_least("max_sms", p->max_sms, 0));
  REQUIRE(isfinite(p->softmax_scale) && p->softmax_scale > 0,
          "softmax_scale is %g, but must be finite and greater than 0", (double)p->softmax_scale);
  FMLAI_TRY(check_flags("flags", p->flags,
                        FMLA_CAUSAL | FMLA_BATCH_INVARIANT | FMLA_EMPTY_LSE_POS_INF | FMLA_CHECKED));
  return FMLA_OK;
}

static fmla_status check_decode_dtypes(const fmla_decode_params *p) {
  REQUIRE(p->kv_format == FMLA_KV_BF16 || p->kv_format == FMLA_KV_FP16,
          "kv_format is %" PRId32 ", but must be FMLA_KV_BF16 (%d) or FMLA_KV_FP16 (%d)", p->kv_format,
          FMLA_KV_BF16, FMLA_KV_FP16);
  REQUIRE(p->q_dtype == fmlai_kv_dtype(p->kv_format),
          "q_dtype is %" PRId32 ", but must be the type of kv_format's elements, fmla_dtype %" PRId32,
          p->q_dtype, fmlai_kv_dtype(p->kv_format));
  return check_float_dtype("out_dtype", p->out_dtype);
}

static fmla_status resolve_total_q(fmla_decode_params *p) {
  const int64_t uniform = (int64_t)p->batch_size * p->max_seqlen_q;
  if (p->cu_seqlens_q != NULL)
    return check_at_least("total_q", p->total_q, 0);
  REQUIRE(p->total_q == 0 || p->total_q == uniform,
          "total_q is %" PRId64
          ", but without cu_seqlens_q must be 0 or batch_size * max_seqlen_q, which is %" PRId64,
          p->total_q, uniform);
  p->total_q = uniform;
  return FMLA_OK;
}

static fmla_status resolve_decode_strides(fmla_decode_params *p) {
  const bool ragged = p->cu_seqlens_q != NULL;
  const int64_t tokens = ragged ? p->total_q : p->max_seqlen_q;
  const int64_t heads = p->num_q_heads;
  if (ragged) {
    p->q_stride_batch = p->q_rope_stride_batch = p->out_stride_batch = p->lse_stride_batch = 0;
  }
  dimension q[] = {{"q_stride_batch", p->batch_size, ragged ? NULL : &p->q_stride_batch},
                   {"q_stride_token", tokens, &p->q_stride_token},
                   {"q_stride_head", heads, &p->q_stride_head}};
  if (p->q_rope == NULL)
    p->q_rope_stride_batch = p->q_rope_stride_token = p->q_rope_stride_head = 0;
  dimension q_rope[] = {{"q_rope_stride_batch", p->batch_size, ragged ? NULL : &p->q_rope_stride_batch},
                        {"q_rope_stride_token", tokens, &p->q_rope_stride_token},
                        {"q_rope_stride_head", heads, &p->q_rope_stride_head}};
  dimension kv[] = {{"kv_stride_page", p->num_pages, &p->kv_stride_page},
                    {"kv_stride_token", p->page_size, &p->kv_stride_token},
                    {"kv_stride_head", p->num_kv_heads, &p->kv_stride_head}};
  dimension table[] = {{"block_table_stride", p->batch_size, &p->block_table_stride}};
  dimension out[] = {{"out_stride_batch", p->batch_size, ragged ? NULL : &p->out_stride_batch},
                     {"out_stride_token", tokens, &p->out_stride_token},
                     {"out_stride_head", heads, &p->out_stride_head}};
  dimension lse[] = {{"lse_stride_batch", p->batch_size, ragged ? NULL : &p->lse_stride_batch},
                     {"lse_stride_head", heads, &p->lse_stride_head},
                     {"lse_stride_token", tokens, &p->lse_stride_token}};
  const size_t half = sizeof(uint16_t);
  FMLAI_TRY(resolve_strides(q, 3, p->head_dim_k - p->head_dim_rope, half, INPUT));
  FMLAI_TRY(resolve_strides(q_rope, 3, p->head_dim_rope, half, INPUT));
  FMLAI_TRY(resolve_strides(kv, 3, p->head_dim_k, half, INPUT));
  FMLAI_TRY(resolve_strides(table, 1, p->max_pages_per_seq, sizeof(int32_t), INPUT));
  FMLAI_TRY(resolve_strides(out, 3, p->head_dim_v, fmlai_dtype_bytes(p->out_dtype), OUTPUT));
  return resolve_strides(lse, 3, 1, sizeof(float), OUTPUT);
}

fmla_status fmlai_check_decode_extents(const fmla_decode_params *given, fmla_decode_params *params) {
  FMLAI_TRY(fmlai_check_given("params", given));
  FMLAI_TRY(check_input_struct("fmla_decode_params", given->struct_size, sizeof *given, sizeof *params));
  *params = fmla_decode_params_default();
  memcpy(params, given, given->struct_size);
  if (params->q_rope == NULL)
    params->head_dim_rope = 0;
  FMLAI_TRY(check_decode_ranges(params));
  FMLAI_TRY(check_decode_dtypes(params));
  FMLAI_TRY(resolve_total_q(params));
  FMLAI_TRY(resolve_decode_strides(params));
  const int64_t longest = fmlai_kv_max_seqlen(params);
  params->max_seqlen_k = longest < INT32_MAX ? (int32_t)longest : INT32_MAX;
  return FMLA_OK;
}

fmla_status fmlai_check_decode_pointers(const fmla_decode_params *p) {
  const bool has_rows = p->total_q > 0;
  const bool has_keys = p->batch_size > 0 && p->max_pages_per_seq > 0 && p->num_pages > 0;
  const size_t half = sizeof(uint16_t), word = sizeof(int32_t);
  FMLAI_TRY(check_pointer("q", p->q, has_rows, half));
  FMLAI_TRY(check_pointer("q_rope", p->q_rope, false, half));
  FMLAI_TRY(check_pointer("kv_cache", p->kv_cache, has_keys, half));
  FMLAI_TRY(check_pointer("block_table", p->block_table, p->batch_size > 0 && p->max_pages_per_seq > 0, word));
  FMLAI_TRY(check_pointer("cache_seqlens", p->cache_seqlens, p->batch_size > 0, word));
  FMLAI_TRY(check_pointer("cu_seqlens_q", p->cu_seqlens_q, false, word));
  FMLAI_TRY(check_pointer("sink", p->sink, false, sizeof(float)));
  FMLAI_TRY(check_pointer("out", p->out, has_rows, fmlai_dtype_bytes(p->out_dtype)));
  return check_pointer("lse", p->lse, false, sizeof(float));
}

fmla_status fmlai_check_first_query(int32_t value) {
  REQUIRE(value == 0, "cu_seqlens_q[0] is %" PRId32 ", but must be 0", value);
  return FMLA_OK;
}

fmla_status fmlai_check_queries(const fmla_decode_params *p, int32_t batch, int32_t begin, int32_t end) {
  const int64_t seqlen_q = (int64_t)end - begin;
  REQUIRE(seqlen_q >= 0,
          "cu_seqlens_q[%" PRId32 "] is %" PRId32 ", but must be at least the entry before, %" PRId32,
          batch + 1, end, begin);
  REQUIRE(seqlen_q <= p->max_seqlen_q,
          "cu_seqlens_q gives sequence %" PRId32 " %" PRId64 " query tokens, but max_seqlen_q is %" PRId32,
          batch, seqlen_q, p->max_seqlen_q);
  return FMLA_OK;
}

fmla_status fmlai_check_last_query(const fmla_decode_params *p, int32_t value) {
  REQUIRE(value <= p->total_q,
          "cu_seqlens_q[%" PRId32 "] is %" PRId32 ", but must be at most total_q, which is %" PRId64,
          p->batch_size, value, p->total_q);
  return FMLA_OK;
}

fmla_status fmlai_check_cache_seqlen(const fmla_decode_params *p, int32_t batch, int32_t value) {
  REQUIRE(value >= 0 && value <= p->max_seqlen_k,
          "cache_seqlens[%" PRId32 "] is %" PRId32 ", but must be 0 to %" PRId32
          ", which is max_pages_per_seq * page_size, or max_seqlen_k if that is set and smaller",
          batch, value, p->max_seqlen_k);
  return FMLA_OK;
}

fmla_status fmlai_check_page(const fmla_decode_params *p, int32_t batch, int64_t column, int32_t value) {
  REQUIRE(value >= 0 && value < p->num_pages,
          "block_table[%" PRId32 "][%" PRId64 "] is %" PRId32
          ", but must be 0 to num_pages - 1, and num_pages is %" PRId64,
          batch, column, value, p->num_pages);
  return FMLA_OK;
}

static fmla_status check_cu_seqlens_q(const fmla_decode_params *p) {
  const int32_t *cu = p->cu_seqlens_q;
  FMLAI_TRY(fmlai_check_first_query(cu[0]));
  for (int32_t i = 0; i < p->batch_size; i++)
    FMLAI_TRY(fmlai_check_queries(p, i, cu[i], cu[i + 1]));
  return fmlai_check_last_query(p, cu[p->batch_size]);
}

fmla_status fmlai_check_decode_values(const fmla_decode_params *p) {
  if (p->cu_seqlens_q != NULL)
    FMLAI_TRY(check_cu_seqlens_q(p));
  for (int32_t i = 0; i < p->batch_size; i++) {
    const int32_t seqlen_k = p->cache_seqlens[i];
    FMLAI_TRY(fmlai_check_cache_seqlen(p, i, seqlen_k));
    const int64_t num_used = ((int64_t)seqlen_k + p->page_size - 1) / p->page_size;
    for (int64_t j = 0; j < num_used; j++)
      FMLAI_TRY(fmlai_check_page(p, i, j, p->block_table[i * p->block_table_stride + j]));
  }
  return FMLA_OK;
}

fmla_status fmlai_check_workspace(const void *workspace, size_t given_bytes, size_t needed_bytes) {
  REQUIRE(given_bytes >= needed_bytes,
          "workspace_bytes is %zu, but this call needs %zu, as fmla_decode_workspace tells", given_bytes,
          needed_bytes);
  REQUIRE(workspace != NULL || needed_bytes == 0, "workspace is NULL, but this call needs %zu bytes",
          needed_bytes);
  return FMLA_OK;
}

/* ---- Merge ----------------------------------------------------------------------------------------- */

static fmla_status resolve_merge_strides(fmla_merge_params *p) {
  dimension out_parts[] = {{"out_parts_stride_part", p->num_parts, &p->out_parts_stride_part},
                           {"out_parts_stride_batch", p->batch_size, &p->out_parts_stride_batch},
                           {"out_parts_stride_token", p->seqlen_q, &p->out_parts_stride_token},
                           {"out_parts_stride_head", p->num_q_heads, &p->out_parts_stride_head}};
  dimension lse_parts[] = {{"lse_parts_stride_part", p->num_parts, &p->lse_parts_stride_part},
                           {"lse_parts_stride_batch", p->batch_size, &p->lse_parts_stride_batch},
                           {"lse_parts_stride_head", p->num_q_heads, &p->lse_parts_stride_head},
                           {"lse_parts_stride_token", p->seqlen_q, &p->lse_parts_stride_token}};
  dimension out[] = {{"out_stride_batch", p->batch_size, &p->out_stride_batch},
                     {"out_stride_token", p->seqlen_q, &p->out_stride_token},
                     {"out_stride_head", p->num_q_heads, &p->out_stride_head}};
  dimension lse[] = {{"lse_stride_batch", p->batch_size, &p->lse_stride_batch},
                     {"lse_stride_head", p->num_q_heads, &p->lse_stride_head},
                     {"lse_stride_token", p->seqlen_q, &p->lse_stride_token}};
  FMLAI_TRY(resolve_strides(out_parts, 4, p->head_dim_v, fmlai_dtype_bytes(p->part_dtype), INPUT));
  FMLAI_TRY(resolve_strides(lse_parts, 4, 1, sizeof(float), INPUT));
  FMLAI_TRY(resolve_strides(out, 3, p->head_dim_v, fmlai_dtype_bytes(p->out_dtype), OUTPUT));
  return resolve_strides(lse, 3, 1, sizeof(float), OUTPUT);
}

fmla_status fmlai_check_merge(const fmla_merge_params *given, fmla_merge_params *p) {
  FMLAI_TRY(fmlai_check_given("params", given));
  FMLAI_TRY(check_input_struct("fmla_merge_params", given->struct_size, sizeof *given, sizeof *p));
  *p = fmla_merge_params_default();
  memcpy(p, given, given->struct_size);
  FMLAI_TRY(check_at_least("num_parts", p->num_parts, 0));
  FMLAI_TRY(check_at_least("batch_size", p->batch_size, 0));
  FMLAI_TRY(check_at_least("seqlen_q", p->seqlen_q, 0));
  FMLAI_TRY(check_range("num_q_heads", p->num_q_heads, 1, FMLA_MAX_HEADS));
  FMLAI_TRY(check_range("head_dim_v", p->head_dim_v, 1, FMLA_MAX_HEAD_DIM));
  FMLAI_TRY(check_flags("flags", p->flags, FMLA_EMPTY_LSE_POS_INF));
  FMLAI_TRY(check_float_dtype("part_dtype", p->part_dtype));
  FMLAI_TRY(check_float_dtype("out_dtype", p->out_dtype));
  FMLAI_TRY(resolve_merge_strides(p));
  const bool has_rows = p->batch_size > 0 && p->seqlen_q > 0;
  const bool has_parts = has_rows && p->num_parts > 0;
  FMLAI_TRY(check_pointer("out_parts", p->out_parts, has_parts, fmlai_dtype_bytes(p->part_dtype)));
  FMLAI_TRY(check_pointer("lse_parts", p->lse_parts, has_parts, sizeof(float)));
  FMLAI_TRY(check_pointer("sink", p->sink, false, sizeof(float)));
  FMLAI_TRY(check_pointer("out", p->out, has_rows, fmlai_dtype_bytes(p->out_dtype)));
  return check_pointer("lse", p->lse, false, sizeof(float));
}
