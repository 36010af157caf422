/*
 * fuzz_decode_params.c: decode steps with any number in any field, length and table entry. A call is refused
 * without touching memory, or it is served from tensors of exactly the size that the header says, with the
 * same bits from one thread and from several.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_contexts.h"
#include "fuzz_tensor.h"

enum { MAX_TENSOR_BYTES = 1 << 16, MAX_WORKSPACE_BYTES = 1 << 25, MAX_WORK = 1 << 21 };

#define F(name) FUZZ_FIELD(fmla_decode_params, name)
static const fuzz_field fields[] = {
    F(struct_size),
    F(batch_size),
    F(num_q_heads),
    F(num_kv_heads),
    F(head_dim_k),
    F(head_dim_v),
    F(head_dim_rope),
    F(max_seqlen_q),
    F(page_size),
    F(total_q),
    F(num_pages),
    F(max_pages_per_seq),
    F(max_seqlen_k),
    F(softmax_scale),
    F(flags),
    F(max_sms),
    F(q_dtype),
    F(kv_format),
    F(out_dtype),
    F(q_stride_batch),
    F(q_stride_token),
    F(q_stride_head),
    F(q_rope_stride_batch),
    F(q_rope_stride_token),
    F(q_rope_stride_head),
    F(kv_stride_page),
    F(kv_stride_token),
    F(kv_stride_head),
    F(block_table_stride),
    F(out_stride_batch),
    F(out_stride_token),
    F(out_stride_head),
    F(lse_stride_batch),
    F(lse_stride_token),
    F(lse_stride_head),
};

enum { Q, Q_ROPE, KV_CACHE, BLOCK_TABLE, CACHE_SEQLENS, CU_SEQLENS_Q, SINK, OUT, LSE, NUM_TENSORS };

typedef struct step {
  fmla_decode_params params;
  bool split_q, ragged, sink, lse;
  fuzz_tensor tensors[NUM_TENSORS];
} step;

static void set_pointers(step *s, void *const pointers[NUM_TENSORS]) {
  fmla_decode_params *p = &s->params;
  p->q = pointers[Q];
  p->q_rope = s->split_q ? pointers[Q_ROPE] : NULL;
  p->kv_cache = pointers[KV_CACHE];
  p->block_table = pointers[BLOCK_TABLE];
  p->cache_seqlens = pointers[CACHE_SEQLENS];
  p->cu_seqlens_q = s->ragged ? pointers[CU_SEQLENS_Q] : NULL;
  p->sink = s->sink ? pointers[SINK] : NULL;
  p->out = pointers[OUT];
  p->lse = s->lse ? pointers[LSE] : NULL;
}

/* Memory that ends where the pointers point to: a call that must not touch any points all of them here. */
static void point_to_nothing(step *s) {
  static char *memory;
  if (memory == NULL)
    memory = malloc(64);
  fuzz_require(memory != NULL, "no memory");
  void *pointers[NUM_TENSORS];
  for (int i = 0; i < NUM_TENSORS; i++)
    pointers[i] = memory + 64;
  set_pointers(s, pointers);
}

static void choose_params(step *s, fuzz_data *data) {
  fmla_decode_params *p = &s->params;
  *p = FMLA_DECODE_PARAMS_INIT;
  const uint8_t choices = fuzz_byte(data);
  s->split_q = choices & 1;
  s->ragged = choices & 2;
  s->sink = choices & 4;
  s->lse = choices & 8;
  p->flags = choices >> 4;
  p->batch_size = fuzz_between(data, 0, 4);
  p->num_kv_heads = fuzz_between(data, 1, 3);
  p->num_q_heads = p->num_kv_heads * fuzz_between(data, 1, 3);
  p->head_dim_k = fuzz_between(data, 1, 24);
  p->head_dim_v = fuzz_between(data, 1, p->head_dim_k);
  p->head_dim_rope = fuzz_between(data, 1, 8);
  p->max_seqlen_q = fuzz_between(data, 0, 3);
  p->total_q = s->ragged ? fuzz_between(data, 0, 12) : 0;
  p->page_size = fuzz_between(data, 1, 70);
  p->num_pages = fuzz_between(data, 0, 6);
  p->max_pages_per_seq = fuzz_between(data, 0, 12);
  p->softmax_scale = 0.125f;
  p->q_dtype = p->kv_format = fuzz_between(data, FMLA_DTYPE_BF16, FMLA_DTYPE_FP16);
  p->out_dtype = fuzz_between(data, FMLA_DTYPE_BF16, FMLA_DTYPE_FP32);
  fuzz_change_fields(data, p, fields, sizeof fields / sizeof *fields);
}

/* The tensors of a call whose extents the library accepts; false if they are too large to try. */
static bool describe_tensors(step *s) {
  const fmla_decode_params *p = &s->params;
  const int64_t batch = s->ragged ? 1 : p->batch_size, tokens = s->ragged ? p->total_q : p->max_seqlen_q;
  const int64_t heads = p->num_q_heads, rope = s->split_q ? p->head_dim_rope : 0;
  const size_t half = 2, word = 4, out_bytes = p->out_dtype == FMLA_DTYPE_FP32 ? 4 : 2;
  /* With one batch of all tokens, a stride of it steps nowhere. */
  const int64_t of_batch = s->ragged ? 0 : 1;
#define BATCH_STRIDE(name) (of_batch != 0 ? p->name : 0)
  const fuzz_dim q[] = {
      {batch, BATCH_STRIDE(q_stride_batch)}, {tokens, p->q_stride_token}, {heads, p->q_stride_head}};
  const fuzz_dim q_rope[] = {{batch, BATCH_STRIDE(q_rope_stride_batch)},
                             {tokens, p->q_rope_stride_token},
                             {heads, p->q_rope_stride_head}};
  const fuzz_dim kv[] = {{p->num_pages, p->kv_stride_page},
                         {p->page_size, p->kv_stride_token},
                         {p->num_kv_heads, p->kv_stride_head}};
  const fuzz_dim table[] = {{p->batch_size, p->block_table_stride}};
  const fuzz_dim one[] = {{1, 0}};
  const fuzz_dim out[] = {
      {batch, BATCH_STRIDE(out_stride_batch)}, {tokens, p->out_stride_token}, {heads, p->out_stride_head}};
  const fuzz_dim lse[] = {
      {batch, BATCH_STRIDE(lse_stride_batch)}, {heads, p->lse_stride_head}, {tokens, p->lse_stride_token}};
  s->tensors[Q] = fuzz_tensor_of(q, 3, p->head_dim_k - rope, half);
  s->tensors[Q_ROPE] = fuzz_tensor_of(q_rope, 3, rope, half);
  s->tensors[KV_CACHE] = fuzz_tensor_of(kv, 3, p->head_dim_k, half);
  s->tensors[BLOCK_TABLE] = fuzz_tensor_of(table, 1, p->max_pages_per_seq, word);
  s->tensors[CACHE_SEQLENS] = fuzz_tensor_of(one, 1, p->batch_size, word);
  s->tensors[CU_SEQLENS_Q] = fuzz_tensor_of(one, 1, (int64_t)p->batch_size + 1, word);
  s->tensors[SINK] = fuzz_tensor_of(one, 1, heads, word);
  s->tensors[OUT] = fuzz_tensor_of(out, 3, p->head_dim_v, out_bytes);
  s->tensors[LSE] = fuzz_tensor_of(lse, 3, 1, word);
  for (int i = 0; i < NUM_TENSORS; i++)
    if (s->tensors[i].bytes > MAX_TENSOR_BYTES)
      return false;
  return true;
}

/* ---- Lengths, starts and tables: mostly valid ones ------------------------------------------------------ */

static int32_t entry(fuzz_data *data, bool wild, int64_t low, int64_t high) {
  if (wild && fuzz_byte(data) % 16 == 0)
    return (int32_t)(uint32_t)(uint64_t)fuzz_wild(data);
  if (high < low)
    return (int32_t)low;
  return (int32_t)(low + (int64_t)fuzz_bits(data, high - low > 255 ? 4 : 1) % (high - low + 1));
}

static int64_t longest(const fmla_decode_params *p) {
  const int64_t capacity = (int64_t)p->max_pages_per_seq * p->page_size;
  return p->max_seqlen_k > 0 && p->max_seqlen_k < capacity ? p->max_seqlen_k : capacity;
}

static void fill_integers(const step *s, fuzz_data *data) {
  const fmla_decode_params *p = &s->params;
  const bool wild = fuzz_byte(data) % 4 == 0;
  int32_t *lengths = (int32_t *)(void *)s->tensors[CACHE_SEQLENS].data;
  int32_t *starts = (int32_t *)(void *)s->tensors[CU_SEQLENS_Q].data;
  const int64_t capacity = longest(p) < 1000 ? longest(p) : 1000;
  starts[0] = entry(data, wild, 0, 0);
  for (int32_t i = 0; i < p->batch_size; i++) {
    lengths[i] = entry(data, wild, 0, p->num_pages > 0 ? capacity : 0);
    const int64_t left = p->total_q - starts[i];
    const int32_t count = entry(data, wild, 0, left < p->max_seqlen_q ? left : p->max_seqlen_q);
    starts[i + 1] = (int32_t)((uint32_t)starts[i] + (uint32_t)count);
  }
  const fuzz_tensor *table = &s->tensors[BLOCK_TABLE];
  for (size_t i = 0; i < table->bytes / sizeof(int32_t); i++)
    ((int32_t *)(void *)table->data)[i] = entry(data, wild, 0, p->num_pages - 1);
}

/* ---- What a call may touch ------------------------------------------------------------------------------ */

/* Shows the keys that one sequence names; false if one of its pages is out of range. */
static bool show_sequence(const step *s, int64_t batch, int64_t length) {
  const fmla_decode_params *p = &s->params;
  fuzz_tensor used = s->tensors[BLOCK_TABLE];
  used.row = (length + p->page_size - 1) / p->page_size;
  if (used.row == 0)
    return true;
  fuzz_tensor_show_row(&used, &batch);
  const int32_t *row = (const int32_t *)(void *)fuzz_tensor_row(&used, &batch);
  for (int64_t key = 0; key < length; key++)
    for (int64_t head = 0; head < p->num_kv_heads; head++) {
      const int64_t page = row[key / p->page_size];
      if (page < 0 || page >= p->num_pages)
        return false;
      fuzz_tensor_show_row(&s->tensors[KV_CACHE], (const int64_t[]){page, key % p->page_size, head});
    }
  return true;
}

/* Shows what the call names of its inputs and counts the keys. `valid`: lengths and pages break no rule. */
static int64_t show_inputs(const step *s, bool *valid) {
  const fmla_decode_params *p = &s->params;
  const int32_t *lengths = (const int32_t *)(void *)s->tensors[CACHE_SEQLENS].data;
  int64_t keys = 0;
  *valid = true;
  for (int i = Q; i < OUT; i++) {
    fuzz_tensor_hide(&s->tensors[i]);
    if (i != KV_CACHE && i != BLOCK_TABLE)
      fuzz_tensor_show_rows(&s->tensors[i]);
  }
  for (int32_t i = 0; i < p->batch_size && keys <= MAX_WORK; i++) {
    const bool fits = lengths[i] >= 0 && lengths[i] <= longest(p);
    keys += fits ? lengths[i] : 0;
    *valid = fits && keys <= MAX_WORK && show_sequence(s, i, lengths[i]) && *valid;
  }
  return keys;
}

static bool starts_are_valid(const step *s) {
  const fmla_decode_params *p = &s->params;
  const int32_t *starts = p->cu_seqlens_q;
  if (starts == NULL)
    return true;
  if (starts[0] != 0)
    return false;
  for (int32_t i = 0; i < p->batch_size; i++)
    if (starts[i + 1] < starts[i] || (int64_t)starts[i + 1] - starts[i] > p->max_seqlen_q)
      return false;
  return starts[p->batch_size] <= p->total_q;
}

/* ---- One call ------------------------------------------------------------------------------------------- */

/* The outputs' bytes, to compare those of two calls. */
static unsigned char *copy_bytes(const fuzz_tensor *t) {
  unsigned char *copy = malloc(t->bytes + 1);
  fuzz_require(copy != NULL, "no memory");
  memcpy(copy, t->data, t->bytes);
  return copy;
}

static fmla_status decode(const step *s, bool threads, void *workspace, size_t workspace_bytes) {
  fuzz_tensor_spoil(&s->tensors[OUT]);
  fuzz_tensor_spoil(&s->tensors[LSE]);
  memset(workspace, 0xff, workspace_bytes);
  const fmla_status status = fmla_decode(fuzz_context(threads), &s->params, workspace, workspace_bytes, NULL);
  fuzz_require_sentence(status);
  fuzz_tensor_require_gaps(&s->tensors[OUT]);
  fuzz_tensor_require_gaps(&s->tensors[LSE]);
  return status;
}

static void decode_twice(const step *s, bool valid) {
  size_t bytes = 0, bytes_alone = 0;
  fuzz_require(fmla_decode_workspace(fuzz_context(true), &s->params, &bytes) == FMLA_OK &&
                   fmla_decode_workspace(fuzz_context(false), &s->params, &bytes_alone) == FMLA_OK,
               "pointers change what fmla_decode_workspace accepts");
  if (bytes > MAX_WORKSPACE_BYTES)
    return;
  void *workspace = malloc(bytes), *workspace_alone = malloc(bytes_alone);
  fuzz_require(workspace != NULL && workspace_alone != NULL, "no memory");
  const fmla_status alone = decode(s, false, workspace_alone, bytes_alone);
  unsigned char *out = copy_bytes(&s->tensors[OUT]), *lse = copy_bytes(&s->tensors[LSE]);
  const fmla_status status = decode(s, true, workspace, bytes);
  fuzz_require(status == alone, "the status depends on the threads");
  fuzz_require((status == FMLA_OK) == valid, "bad values were accepted, or good ones refused");
  fuzz_require(memcmp(out, s->tensors[OUT].data, s->tensors[OUT].bytes) == 0, "out depends on the threads");
  fuzz_require(memcmp(lse, s->tensors[LSE].data, s->tensors[LSE].bytes) == 0, "lse depends on the threads");
  free(out);
  free(lse);
  free(workspace);
  free(workspace_alone);
}

static void try_tensors(step *s, fuzz_data *data) {
  void *pointers[NUM_TENSORS];
  for (int i = 0; i < NUM_TENSORS; i++) {
    fuzz_tensor_allocate(&s->tensors[i], (uint32_t)i);
    /* Whether q_rope is NULL has a meaning, with elements or without. */
    pointers[i] = s->tensors[i].bytes > 0 || i == Q_ROPE ? s->tensors[i].data : NULL;
  }
  fill_integers(s, data);
  set_pointers(s, pointers);
  const fmla_decode_params *p = &s->params;
  const int64_t queries = s->ragged ? p->total_q : (int64_t)p->batch_size * p->max_seqlen_q;
  const bool starts_valid = starts_are_valid(s);
  bool valid;
  const int64_t keys = show_inputs(s, &valid);
  if (keys * (queries + 1) * p->num_q_heads * p->head_dim_k <= MAX_WORK)
    decode_twice(s, valid && starts_valid);
  for (int i = 0; i < NUM_TENSORS; i++)
    fuzz_tensor_free(&s->tensors[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  fuzz_data data = {bytes, size};
  step s = {.params = {0}};
  choose_params(&s, &data);
  point_to_nothing(&s);
  size_t needed = 0;
  const char *kernel = NULL, *reason = NULL;
  const fmla_status status = fmla_decode_workspace(fuzz_context(false), &s.params, &needed);
  fuzz_require_sentence(status);
  if (status == FMLA_OK) {
    fuzz_require(fmla_decode_kernel(fuzz_context(false), &s.params, &kernel, &reason) == FMLA_OK, "no kernel");
    fuzz_require(fmla_decode(fuzz_context(false), &s.params, &s, needed - 1, NULL) ==
                     FMLA_ERROR_INVALID_ARGUMENT,
                 "too small a workspace was accepted");
    if (describe_tensors(&s))
      try_tensors(&s, &data);
  } else {
    fuzz_require(fmla_decode(fuzz_context(false), &s.params, &s, SIZE_MAX, NULL) == status,
                 "fmla_decode accepts what fmla_decode_workspace refuses");
  }
  return 0;
}
