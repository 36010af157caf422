#include "file_step.h"

#include "common.h"
#include "convert.h"
#include "cost.h"
#include "file.h"
#include "options.h"
#include "safetensors.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tensors of the file; NULL where it has none of that name. */
typedef struct step_tensors {
  const st_tensor *q, *q_nope, *q_rope, *kv_cache, *block_table, *cache_seqlens, *cu_seqlens_q, *sink;
} step_tensors;

/* ---- Sentences ---------------------------------------------------------------------------------- */

/* "tensor 'q' is BF16 [4, 8, 576], but must be ..." */
__attribute__((format(printf, 2, 3))) static void describe_refusal(const st_tensor *tensor, const char *wanted,
                                                                   ...) {
  char shape[160] = "", want[240];
  size_t used = 0;
  for (size_t i = 0; i < tensor->rank && used < sizeof shape; i++)
    used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%lld", i > 0 ? ", " : "",
                             (long long)tensor->shape[i]);
  va_list arguments;
  va_start(arguments, wanted);
  vsnprintf(want, sizeof want, wanted, arguments);
  va_end(arguments);
  fail(EXIT_INPUT, "tensor '%s' is %s [%s], but must be %s", tensor->name, st_dtype_name(tensor->dtype), shape,
       want);
}

/* The code is a constant, for analyzers to follow. */
#define REFUSE(tensor, ...) (describe_refusal(tensor, __VA_ARGS__), EXIT_INPUT)

/* ---- Which tensors there are -------------------------------------------------------------------- */

static int find_tensors(const safetensors *file, step_tensors *t) {
  const struct {
    const char *name;
    const st_tensor **tensor;
    bool needed;
  } names[] = {
      {"kv_cache", &t->kv_cache, true},
      {"block_table", &t->block_table, true},
      {"cache_seqlens", &t->cache_seqlens, true},
      {"q", &t->q, false},
      {"q_nope", &t->q_nope, false},
      {"q_rope", &t->q_rope, false},
      {"cu_seqlens_q", &t->cu_seqlens_q, false},
      {"sink", &t->sink, false},
  };
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const st_tensor *found = *names[i].tensor = safetensors_find(file, names[i].name);
    if (found == NULL && names[i].needed) {
      fail(EXIT_INPUT, "tensor '%s' is missing", names[i].name);
      return EXIT_INPUT;
    }
    for (size_t d = 0; found != NULL && d < found->rank; d++)
      if (found->shape[d] > INT32_MAX)
        return REFUSE(found, "no larger than %d in any dimension", INT32_MAX);
  }
  if (t->q != NULL && (t->q_nope != NULL || t->q_rope != NULL))
    return fail(EXIT_INPUT, "tensor 'q' must not stand beside 'q_nope' or 'q_rope'");
  if (t->q == NULL && (t->q_nope == NULL || t->q_rope == NULL))
    return fail(EXIT_INPUT, "tensor 'q', or both of 'q_nope' and 'q_rope', must be there");
  return EXIT_OK;
}

/* ---- Types and shapes --------------------------------------------------------------------------- */

/* The type to compute in: that of q and kv_cache, or for F32 the one asked for. */
static int resolve_dtypes(const step_tensors *t, int32_t dtype, int32_t out_dtype, fmla_decode_params *p) {
  const st_tensor *kv = t->kv_cache, *queries[] = {t->q, t->q_nope, t->q_rope};
  if (kv->dtype != ST_BF16 && kv->dtype != ST_F16 && kv->dtype != ST_F32)
    return REFUSE(kv, "BF16, F16 or F32");
  for (int i = 0; i < 3; i++)
    if (queries[i] != NULL && queries[i]->dtype != kv->dtype)
      return REFUSE(queries[i], "%s, as kv_cache is", st_dtype_name(kv->dtype));
  if (kv->dtype == ST_F32) {
    p->q_dtype = dtype != 0 ? dtype : FMLA_DTYPE_BF16;
    p->out_dtype = FMLA_DTYPE_FP32;
  } else {
    p->q_dtype = p->out_dtype = kv->dtype == ST_BF16 ? FMLA_DTYPE_BF16 : FMLA_DTYPE_FP16;
    if (dtype != 0 && dtype != p->q_dtype)
      return REFUSE(kv, "F32 for --dtype %s to round it", dtype_name(dtype));
  }
  p->kv_format = p->q_dtype == FMLA_DTYPE_BF16 ? FMLA_KV_BF16 : FMLA_KV_FP16;
  if (out_dtype != 0)
    p->out_dtype = out_dtype;
  return EXIT_OK;
}

static int resolve_cache(const step_tensors *t, fmla_decode_params *p) {
  const st_tensor *kv = t->kv_cache, *table = t->block_table, *lengths = t->cache_seqlens;
  if (kv->rank != 3 && kv->rank != 4)
    return REFUSE(kv, "[pages, page_size, head_dim_k] or [pages, page_size, kv_heads, head_dim_k]");
  p->num_pages = kv->shape[0];
  p->page_size = (int32_t)kv->shape[1];
  p->num_kv_heads = kv->rank == 4 ? (int32_t)kv->shape[2] : 1;
  p->head_dim_k = (int32_t)kv->shape[kv->rank - 1];
  if (lengths->dtype != ST_I32 || lengths->rank != 1)
    return REFUSE(lengths, "I32 [sequences]");
  p->batch_size = (int32_t)lengths->shape[0];
  if (table->dtype != ST_I32 || table->rank != 2 || table->shape[0] != p->batch_size)
    return REFUSE(table, "I32 [%d, pages of a sequence], as cache_seqlens is [%d]", p->batch_size,
                  p->batch_size);
  p->max_pages_per_seq = (int32_t)table->shape[1];
  return EXIT_OK;
}

static int resolve_queries(const step_tensors *t, fmla_decode_params *p) {
  const st_tensor *q = t->q != NULL ? t->q : t->q_nope, *cu = t->cu_seqlens_q;
  if (cu != NULL) {
    if (cu->dtype != ST_I32 || cu->rank != 1 || cu->shape[0] != (int64_t)p->batch_size + 1)
      return REFUSE(cu, "I32 [%lld], one more than the sequences of cache_seqlens",
                    (long long)p->batch_size + 1);
    if (q->rank != 3)
      return REFUSE(q, "[queries, heads, head_dim], as there is cu_seqlens_q");
    p->total_q = q->shape[0];
  } else {
    if (q->rank != 4 || q->shape[0] != p->batch_size)
      return REFUSE(q, "[%d, queries of a sequence, heads, head_dim], as cache_seqlens is [%d]", p->batch_size,
                    p->batch_size);
    p->max_seqlen_q = (int32_t)q->shape[1];
  }
  p->num_q_heads = (int32_t)q->shape[q->rank - 2];
  int64_t head_dim = q->shape[q->rank - 1];
  if (t->q_rope != NULL) {
    const size_t same = (q->rank - 1) * sizeof *q->shape;
    if (t->q_rope->rank != q->rank || memcmp(t->q_rope->shape, q->shape, same) != 0)
      return REFUSE(t->q_rope, "of q_nope's shape but for the last dimension");
    p->head_dim_rope = (int32_t)t->q_rope->shape[q->rank - 1];
    head_dim += p->head_dim_rope;
  }
  if (head_dim != p->head_dim_k)
    return REFUSE(q, "of head_dim %d%s, as kv_cache's is %d", p->head_dim_k,
                  t->q_rope != NULL ? " together with q_rope" : "", p->head_dim_k);
  if (t->sink != NULL &&
      (t->sink->dtype != ST_F32 || t->sink->rank != 1 || t->sink->shape[0] != p->num_q_heads))
    return REFUSE(t->sink, "F32 [%d], one for each head of '%s'", p->num_q_heads, q->name);
  return EXIT_OK;
}

/* ---- Metadata ----------------------------------------------------------------------------------- */

static int resolve_metadata(const safetensors *file, fmla_decode_params *p) {
  const char *head_dim_v = safetensors_metadata(file, "head_dim_v");
  const char *scale = safetensors_metadata(file, "softmax_scale");
  const char *causal = safetensors_metadata(file, "causal");
  int64_t number = p->head_dim_k < 512 ? p->head_dim_k : 512;
  if (head_dim_v != NULL && parse_int("metadata head_dim_v", head_dim_v, 1, p->head_dim_k, &number) != EXIT_OK)
    return EXIT_INPUT;
  p->head_dim_v = (int32_t)number;

  p->softmax_scale = (float)(1 / sqrt(p->head_dim_k));
  if (scale != NULL) {
    char *end;
    p->softmax_scale = strtof(scale, &end);
    if (end == scale || *end != '\0' || !isfinite(p->softmax_scale) || p->softmax_scale <= 0)
      return fail(EXIT_INPUT, "metadata softmax_scale is '%s', but must be a finite number above 0", scale);
  }

  number = 0;
  if (causal != NULL && parse_int("metadata causal", causal, 0, 1, &number) != EXIT_OK)
    return EXIT_INPUT;
  p->flags = number != 0 ? FMLA_CAUSAL : 0;
  return EXIT_OK;
}

/* ---- Memory ------------------------------------------------------------------------------------- */

static void *allocate(file_step *step, size_t bytes) {
  enum { ALIGNMENT = 64 };
  void *memory =
      bytes < SIZE_MAX - ALIGNMENT ? aligned_alloc(ALIGNMENT, (bytes / ALIGNMENT + 1) * ALIGNMENT) : NULL;
  if (memory != NULL)
    step->owned[step->num_owned++] = memory;
  return memory;
}

/* A tensor's elements at an address that fits them, rounded if they are F32 and `dtype` says to what. */
static const void *copy(file_step *step, const st_tensor *tensor, int32_t dtype) {
  const bool rounded = dtype != 0 && tensor->dtype == ST_F32;
  const size_t bytes = rounded ? tensor->bytes / 2 : tensor->bytes;
  void *memory = allocate(step, bytes);
  if (memory == NULL)
    return NULL;
  if (rounded)
    round_floats(memory, dtype, tensor->data, tensor->bytes / sizeof(float));
  else if (bytes > 0)
    memcpy(memory, tensor->data, bytes);
  return memory;
}

static int32_t longest_query(const int32_t *cu_seqlens_q, int32_t batch_size) {
  int64_t longest = 0;
  for (int32_t i = 0; i < batch_size; i++) {
    const int64_t length = (int64_t)cu_seqlens_q[i + 1] - cu_seqlens_q[i];
    longest = length > longest ? length : longest;
  }
  return longest < INT32_MAX ? (int32_t)longest : INT32_MAX;
}

static int copy_tensors(const step_tensors *t, file_step *step) {
  fmla_decode_params *p = &step->params;
  const int num_tensors = 4 + (t->q_rope != NULL) + (t->cu_seqlens_q != NULL) + (t->sink != NULL);
  p->q = copy(step, t->q != NULL ? t->q : t->q_nope, p->q_dtype);
  p->kv_cache = copy(step, t->kv_cache, p->q_dtype);
  p->block_table = copy(step, t->block_table, 0);
  p->cache_seqlens = copy(step, t->cache_seqlens, 0);
  if (t->q_rope != NULL)
    p->q_rope = copy(step, t->q_rope, p->q_dtype);
  if (t->cu_seqlens_q != NULL)
    p->cu_seqlens_q = copy(step, t->cu_seqlens_q, 0);
  if (t->sink != NULL)
    p->sink = copy(step, t->sink, 0);
  if (step->num_owned < num_tensors)
    return fail_memory();
  if (p->cu_seqlens_q != NULL)
    p->max_seqlen_q = longest_query(p->cu_seqlens_q, p->batch_size);
  return EXIT_OK;
}

void file_step_free(file_step *step) {
  for (int i = 0; i < step->num_owned; i++)
    free(step->owned[i]);
  step->num_owned = 0;
}

int file_step_parse(const uint8_t *data, size_t size, int32_t dtype, int32_t out_dtype, file_step *step) {
  *step = (file_step){.params = FMLA_DECODE_PARAMS_INIT};
  safetensors file;
  step_tensors tensors = {0};
  int code = safetensors_parse(data, size, &file);
  if (code != EXIT_OK)
    return code;
  if ((code = find_tensors(&file, &tensors)) == EXIT_OK &&
      (code = resolve_dtypes(&tensors, dtype, out_dtype, &step->params)) == EXIT_OK &&
      (code = resolve_cache(&tensors, &step->params)) == EXIT_OK &&
      (code = resolve_queries(&tensors, &step->params)) == EXIT_OK &&
      (code = resolve_metadata(&file, &step->params)) == EXIT_OK &&
      (code = copy_tensors(&tensors, step)) != EXIT_OK)
    file_step_free(step);
  safetensors_free(&file);
  return code;
}

int file_step_load(const char *path, int32_t dtype, int32_t out_dtype, file_step *step) {
  uint8_t *data;
  size_t size;
  int code = file_read(path, &data, &size);
  if (code != EXIT_OK)
    return code;
  code = file_step_parse(data, size, dtype, out_dtype, step);
  free(data);
  return code == EXIT_OK ? EXIT_OK : fail_about(path, code);
}

/* ---- Results ------------------------------------------------------------------------------------ */

int file_step_allocate_results(file_step *step) {
  const tensor_bytes bytes = count_tensor_bytes(&step->params);
  step->params.out = allocate(step, bytes.out);
  step->params.lse = allocate(step, bytes.lse);
  return step->params.out != NULL && step->params.lse != NULL ? EXIT_OK : fail_memory();
}

int file_step_save_results(const char *path, const file_step *step) {
  const fmla_decode_params *p = &step->params;
  const tensor_bytes bytes = count_tensor_bytes(p);
  static const st_dtype dtypes[] = {
      [FMLA_DTYPE_BF16] = ST_BF16, [FMLA_DTYPE_FP16] = ST_F16, [FMLA_DTYPE_FP32] = ST_F32};
  const bool ragged = p->cu_seqlens_q != NULL;
  const int64_t rows = ragged ? p->total_q : p->max_seqlen_q;
  const int64_t out_shape[] = {p->batch_size, rows, p->num_q_heads, p->head_dim_v};
  const int64_t lse_shape[] = {p->batch_size, p->num_q_heads, rows};
  const st_tensor results[] = {
      /* lse first, so that both are aligned in the file */
      {"lse", ST_F32, ragged ? 2 : 3, lse_shape + ragged, p->lse, bytes.lse},
      {"out", dtypes[p->out_dtype], ragged ? 3 : 4, out_shape + ragged, p->out, bytes.out},
  };
  return safetensors_write(path, results, 2);
}
