#include "cuda/check_gpu.h"

#include "cuda/kernels/variants.h"
#include "numeric.h"
#include "status.h"

#include <inttypes.h>

enum {
  VECTOR_BYTES = 16,
  HEAD_DIM_MULTIPLE = 16,
  MAX_COUNT = INT32_MAX - 1023 /* of tokens and rows: the kernels round them up in 32 bits */
};

#define REQUIRE(condition, ...)                                                                                \
  do {                                                                                                         \
    if (!(condition))                                                                                          \
      return FMLAI_FAIL(FMLA_ERROR_UNSUPPORTED, __VA_ARGS__);                                                  \
  } while (0)

static fmla_status check_head_dim(const char *name, int32_t value) {
  REQUIRE(value % HEAD_DIM_MULTIPLE == 0, "%s is %" PRId32 ", but on a GPU must be a multiple of %d", name,
          value, HEAD_DIM_MULTIPLE);
  return FMLA_OK;
}

static fmla_status check_stride(const char *name, int64_t extent, int64_t stride, int32_t dtype) {
  const int64_t multiple = VECTOR_BYTES / (int64_t)fmlai_dtype_bytes(dtype);
  REQUIRE(extent <= 1 || stride % multiple == 0,
          "%s is %" PRId64 ", but on a GPU must be a multiple of %" PRId64 " elements, which are %d bytes",
          name, stride, multiple, VECTOR_BYTES);
  return FMLA_OK;
}

fmla_status fmlai_cuda_check_extents(const fmla_decode_params *p) {
  REQUIRE(p->head_dim_k <= FMLAI_CUDA_MAX_HEAD_DIM_K,
          "head_dim_k is %" PRId32 ", but on a GPU must be at most %d", p->head_dim_k,
          FMLAI_CUDA_MAX_HEAD_DIM_K);
  FMLAI_TRY(check_head_dim("head_dim_k", p->head_dim_k));
  FMLAI_TRY(check_head_dim("head_dim_v", p->head_dim_v));
  FMLAI_TRY(check_head_dim("head_dim_rope", p->head_dim_rope));

  const int64_t rows = (int64_t)fmlai_cuda_longest_q(p) * (p->num_q_heads / p->num_kv_heads);
  REQUIRE(rows <= MAX_COUNT,
          "max_seqlen_q is %" PRId32 ", which makes %" PRId64
          " query rows of a KV head, but on a GPU they must be at most %d",
          p->max_seqlen_q, rows, MAX_COUNT);
  REQUIRE(p->max_seqlen_k <= MAX_COUNT,
          "max_seqlen_k, or what the table holds if that is less, is %" PRId32
          ", but on a GPU must be at most %d",
          p->max_seqlen_k, MAX_COUNT);

  const int64_t sequences = p->cu_seqlens_q != NULL ? 1 : p->batch_size;
  const int64_t tokens = p->cu_seqlens_q != NULL ? p->total_q : p->max_seqlen_q;
  const int64_t heads = p->num_q_heads;
  /* The fastest first: a slower one left FMLA_PACKED is its multiple. */
  const struct {
    const char *name;
    int64_t extent, stride;
    int32_t dtype;
  } strides[] = {
      {"q_stride_head", heads, p->q_stride_head, p->q_dtype},
      {"q_stride_token", tokens, p->q_stride_token, p->q_dtype},
      {"q_stride_batch", sequences, p->q_stride_batch, p->q_dtype},
      {"q_rope_stride_head", p->q_rope != NULL ? heads : 0, p->q_rope_stride_head, p->q_dtype},
      {"q_rope_stride_token", p->q_rope != NULL ? tokens : 0, p->q_rope_stride_token, p->q_dtype},
      {"q_rope_stride_batch", p->q_rope != NULL ? sequences : 0, p->q_rope_stride_batch, p->q_dtype},
      {"kv_stride_head", p->num_kv_heads, p->kv_stride_head, p->q_dtype},
      {"kv_stride_token", p->page_size, p->kv_stride_token, p->q_dtype},
      {"kv_stride_page", p->num_pages, p->kv_stride_page, p->q_dtype},
      {"out_stride_head", heads, p->out_stride_head, p->out_dtype},
      {"out_stride_token", tokens, p->out_stride_token, p->out_dtype},
      {"out_stride_batch", sequences, p->out_stride_batch, p->out_dtype},
  };
  for (size_t i = 0; i < sizeof strides / sizeof *strides; i++)
    FMLAI_TRY(check_stride(strides[i].name, strides[i].extent, strides[i].stride, strides[i].dtype));
  return FMLA_OK;
}

static fmla_status check_base(const char *name, const void *pointer) {
  REQUIRE((uintptr_t)pointer % VECTOR_BYTES == 0, "%s is %p, but on a GPU must be aligned to %d bytes", name,
          pointer, VECTOR_BYTES);
  return FMLA_OK;
}

fmla_status fmlai_cuda_check_pointers(const fmla_decode_params *p) {
  FMLAI_TRY(check_base("q", p->q));
  FMLAI_TRY(check_base("q_rope", p->q_rope));
  FMLAI_TRY(check_base("kv_cache", p->kv_cache));
  return check_base("out", p->out);
}
