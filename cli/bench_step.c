#include "bench_step.h"

#include "common.h"
#include "convert.h"

#include <math.h>
#include <stdlib.h>

void fill_random(uint16_t *values, size_t count, int32_t dtype, verify_random *random) {
  for (size_t i = 0; i < count; i++) {
    const float value = verify_random_normal(random);
    round_floats(&values[i], dtype, &value, 1);
  }
}

static int32_t pages_of(const fmla_decode_params *p, int32_t seqlen) {
  return (int32_t)(((int64_t)seqlen + p->page_size - 1) / p->page_size);
}

static void draw_lengths(const bench_shape *shape, bench_step *step, verify_random *random) {
  fmla_decode_params *p = &step->params;
  const int32_t slack = shape->varlen ? shape->seqlen / 2 : 0;
  for (int32_t i = 0; i < p->batch_size; i++) {
    const int32_t seqlen = verify_random_int(random, shape->seqlen - slack, shape->seqlen + slack);
    const int32_t pages = pages_of(p, seqlen);
    step->cache_seqlens[i] = seqlen;
    p->num_pages += pages;
    p->max_pages_per_seq = pages > p->max_pages_per_seq ? pages : p->max_pages_per_seq;
  }
}

/* Deals out a random permutation of the pages: page i goes to a random place among the first i + 1, and what
   was there to the end. */
static int draw_block_table(bench_step *step, verify_random *random) {
  const fmla_decode_params *p = &step->params;
  int32_t *order = calloc((size_t)p->num_pages, sizeof *order);
  step->block_table = calloc((size_t)p->batch_size * (size_t)p->max_pages_per_seq, sizeof *step->block_table);
  if (order == NULL || step->block_table == NULL) {
    free(order);
    return fail_memory();
  }
  for (int32_t i = 0; i < p->num_pages; i++) {
    const int32_t place = verify_random_int(random, 0, i);
    order[i] = order[place];
    order[place] = i;
  }
  int64_t next = 0;
  for (int32_t i = 0; i < p->batch_size; i++)
    for (int32_t j = 0; j < pages_of(p, step->cache_seqlens[i]); j++)
      step->block_table[(int64_t)i * p->max_pages_per_seq + j] = order[next++];
  free(order);
  return EXIT_OK;
}

void bench_step_free(bench_step *step) {
  free(step->q);
  free(step->block_table);
  free(step->cache_seqlens);
}

int bench_step_build(const bench_shape *shape, verify_random *random, bench_step *step) {
  *step = (bench_step){.params = FMLA_DECODE_PARAMS_INIT};
  fmla_decode_params *p = &step->params;
  p->batch_size = shape->batch;
  p->num_q_heads = shape->heads;
  p->max_seqlen_q = shape->seqlen_q;
  p->page_size = shape->page_size;
  p->q_dtype = p->out_dtype = shape->dtype;
  p->kv_format = shape->dtype == FMLA_DTYPE_BF16 ? FMLA_KV_BF16 : FMLA_KV_FP16;
  p->softmax_scale = 1 / sqrtf((float)p->head_dim_k);
  p->flags = (shape->causal ? FMLA_CAUSAL : 0) | (shape->batch_invariant ? FMLA_BATCH_INVARIANT : 0);

  step->cache_seqlens = calloc((size_t)shape->batch, sizeof *step->cache_seqlens);
  if (step->cache_seqlens == NULL)
    return fail_memory();
  draw_lengths(shape, step, random);
  if (p->num_pages < 1 || p->num_pages > INT32_MAX) {
    fail(EXIT_USAGE, "the sequences have %lld pages, but must have 1 to %d", (long long)p->num_pages,
         INT32_MAX);
    return EXIT_USAGE;
  }
  const int code = draw_block_table(step, random);
  p->block_table = step->block_table;
  p->cache_seqlens = step->cache_seqlens;
  return code;
}

int bench_step_fill_q(bench_step *step, verify_random *random) {
  fmla_decode_params *p = &step->params;
  const size_t bytes = count_tensor_bytes(p).q;
  step->q = malloc(bytes);
  if (step->q == NULL)
    return fail_memory();
  fill_random(step->q, bytes / sizeof *step->q, p->q_dtype, random);
  p->q = step->q;
  return EXIT_OK;
}
