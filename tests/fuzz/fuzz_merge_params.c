/*
 * fuzz_merge_params.c: merges with any number in any field; see fuzz_decode_params.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_contexts.h"
#include "fuzz_tensor.h"

enum { MAX_TENSOR_BYTES = 1 << 16, MAX_WORK = 1 << 21 };

#define F(name) FUZZ_FIELD(fmla_merge_params, name)
static const fuzz_field fields[] = {
    F(struct_size),
    F(num_parts),
    F(batch_size),
    F(seqlen_q),
    F(num_q_heads),
    F(head_dim_v),
    F(flags),
    F(part_dtype),
    F(out_dtype),
    F(out_parts_stride_part),
    F(out_parts_stride_batch),
    F(out_parts_stride_token),
    F(out_parts_stride_head),
    F(lse_parts_stride_part),
    F(lse_parts_stride_batch),
    F(lse_parts_stride_token),
    F(lse_parts_stride_head),
    F(out_stride_batch),
    F(out_stride_token),
    F(out_stride_head),
    F(lse_stride_batch),
    F(lse_stride_token),
    F(lse_stride_head),
};

enum { OUT_PARTS, LSE_PARTS, SINK, OUT, LSE, NUM_TENSORS };

static size_t bytes_of(int32_t dtype) {
  return dtype == FMLA_DTYPE_FP32 ? 4 : 2;
}

/* False if they are too large to try. */
static bool describe_tensors(const fmla_merge_params *p, fuzz_tensor tensors[NUM_TENSORS]) {
  const int64_t heads = p->num_q_heads, tokens = p->seqlen_q;
  const fuzz_dim out_parts[] = {{p->num_parts, p->out_parts_stride_part},
                                {p->batch_size, p->out_parts_stride_batch},
                                {tokens, p->out_parts_stride_token},
                                {heads, p->out_parts_stride_head}};
  const fuzz_dim lse_parts[] = {{p->num_parts, p->lse_parts_stride_part},
                                {p->batch_size, p->lse_parts_stride_batch},
                                {heads, p->lse_parts_stride_head},
                                {tokens, p->lse_parts_stride_token}};
  const fuzz_dim out[] = {
      {p->batch_size, p->out_stride_batch}, {tokens, p->out_stride_token}, {heads, p->out_stride_head}};
  const fuzz_dim lse[] = {
      {p->batch_size, p->lse_stride_batch}, {heads, p->lse_stride_head}, {tokens, p->lse_stride_token}};
  const fuzz_dim one[] = {{1, 0}};
  tensors[OUT_PARTS] = fuzz_tensor_of(out_parts, 4, p->head_dim_v, bytes_of(p->part_dtype));
  tensors[LSE_PARTS] = fuzz_tensor_of(lse_parts, 4, 1, sizeof(float));
  tensors[SINK] = fuzz_tensor_of(one, 1, heads, sizeof(float));
  tensors[OUT] = fuzz_tensor_of(out, 3, p->head_dim_v, bytes_of(p->out_dtype));
  tensors[LSE] = fuzz_tensor_of(lse, 3, 1, sizeof(float));
  for (int i = 0; i < NUM_TENSORS; i++)
    if (tensors[i].bytes > MAX_TENSOR_BYTES)
      return false;
  /* Strides of 0 make much work of few bytes; rows are at most MAX_TENSOR_BYTES as lse has them all. */
  const int64_t rows = fuzz_tensor_is_empty(&tensors[LSE]) ? 0 : (int64_t)p->batch_size * tokens * heads;
  return rows == 0 || p->num_parts <= MAX_WORK / rows / p->head_dim_v;
}

static void choose_params(fmla_merge_params *p, fuzz_data *data) {
  *p = FMLA_MERGE_PARAMS_INIT;
  p->num_parts = fuzz_between(data, 0, 9);
  p->batch_size = fuzz_between(data, 0, 4);
  p->seqlen_q = fuzz_between(data, 0, 4);
  p->num_q_heads = fuzz_between(data, 1, 6);
  p->head_dim_v = fuzz_between(data, 1, 40);
  p->flags = fuzz_byte(data) % 2 ? FMLA_EMPTY_LSE_POS_INF : 0;
  p->part_dtype = fuzz_between(data, FMLA_DTYPE_BF16, FMLA_DTYPE_FP32);
  p->out_dtype = fuzz_between(data, FMLA_DTYPE_BF16, FMLA_DTYPE_FP32);
  fuzz_change_fields(data, p, fields, sizeof fields / sizeof *fields);
}

/* Some log-sum-exps become the fuzzer's: infinities, NaN, huge ones. */
static void fill_lse_parts(const fuzz_tensor *t, fuzz_data *data) {
  for (size_t i = 0; i < t->bytes / sizeof(float) && data->left > 0; i++)
    if (fuzz_byte(data) % 4 == 0) {
      static const uint32_t special[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f7fffff, 0xff7fffff, 0};
      const uint32_t bits = special[fuzz_byte(data) % 6];
      memcpy(t->data + i * sizeof bits, &bits, sizeof bits);
    }
}

/* The bytes of both outputs, from one thread or several. */
static unsigned char *merge(const fmla_merge_params *p, const fuzz_tensor tensors[NUM_TENSORS], bool threads) {
  const fuzz_tensor *out = &tensors[OUT], *lse = &tensors[LSE];
  fuzz_tensor_spoil(out);
  fuzz_tensor_spoil(lse);
  fuzz_require(fmla_merge(fuzz_context(threads), p, NULL) == FMLA_OK, "accepted extents were refused");
  fuzz_tensor_require_gaps(out);
  fuzz_tensor_require_gaps(lse);
  unsigned char *copy = malloc(out->bytes + lse->bytes + 1);
  fuzz_require(copy != NULL, "no memory");
  memcpy(copy, out->data, out->bytes);
  memcpy(copy + out->bytes, lse->data, lse->bytes);
  return copy;
}

static void try_tensors(fmla_merge_params *p, fuzz_tensor tensors[NUM_TENSORS], fuzz_data *data) {
  const uint8_t choices = fuzz_byte(data);
  for (int i = 0; i < NUM_TENSORS; i++)
    fuzz_tensor_allocate(&tensors[i], (uint32_t)i);
  fill_lse_parts(&tensors[LSE_PARTS], data);
  for (int i = OUT_PARTS; i < OUT; i++) {
    fuzz_tensor_hide(&tensors[i]);
    fuzz_tensor_show_rows(&tensors[i]);
  }
#define DATA(id) ((void *)(tensors[id].bytes > 0 ? tensors[id].data : NULL))
  p->out_parts = DATA(OUT_PARTS);
  p->lse_parts = DATA(LSE_PARTS);
  p->sink = choices & 1 ? DATA(SINK) : NULL;
  p->out = DATA(OUT);
  p->lse = choices & 2 ? DATA(LSE) : NULL;
  unsigned char *alone = merge(p, tensors, false), *together = merge(p, tensors, true);
  fuzz_require(memcmp(alone, together, tensors[OUT].bytes + tensors[LSE].bytes) == 0,
               "bits depend on the threads");
  free(alone);
  free(together);
  for (int i = 0; i < NUM_TENSORS; i++)
    fuzz_tensor_free(&tensors[i]);
}

/*
 * There is no call that checks extents alone. Pointers that are all misaligned are refused, but only behind
 * the extents: the sentence tells which it was.
 */
static bool extents_are_accepted(fmla_merge_params p) {
  static _Alignas(16) unsigned char memory[64];
  unsigned char *misaligned = memory + 1;
  memcpy(&p.out_parts, &misaligned, sizeof misaligned);
  memcpy(&p.lse_parts, &misaligned, sizeof misaligned);
  memcpy(&p.out, &misaligned, sizeof misaligned);
  const fmla_status status = fmla_merge(fuzz_context(false), &p, NULL);
  fuzz_require(status != FMLA_OK, "misaligned pointers were accepted");
  fuzz_require_sentence(status);
  return strstr(fmla_last_error(), "must be aligned") != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  fuzz_data data = {bytes, size};
  fmla_merge_params p;
  fuzz_tensor tensors[NUM_TENSORS];
  choose_params(&p, &data);
  if (extents_are_accepted(p) && describe_tensors(&p, tensors))
    try_tensors(&p, tensors, &data);
  return 0;
}
