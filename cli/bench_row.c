#include "bench_row.h"

#include "cache_size.h"
#include "common.h"
#include "convert.h"
#include "device_step.h"
#include "random.h"

#include <math.h>
#include <stdlib.h>

/* ---- Random inputs on the host ------------------------------------------------------------------ */

/* The step but for its KV cache: the block table names every page of one cache once, in random order. */
typedef struct host_step {
  fmla_decode_params params;
  uint16_t *q;
  int32_t *block_table;
  int32_t *cache_seqlens;
} host_step;

static void fill_random(uint16_t *values, size_t count, int32_t dtype, verify_random *random) {
  for (size_t i = 0; i < count; i++) {
    const float value = verify_random_normal(random);
    round_floats(&values[i], dtype, &value, 1);
  }
}

static int32_t pages_of(const fmla_decode_params *p, int32_t seqlen) {
  return (int32_t)(((int64_t)seqlen + p->page_size - 1) / p->page_size);
}

static void draw_lengths(const bench_shape *shape, host_step *step, verify_random *random) {
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
static int draw_block_table(host_step *step, verify_random *random) {
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

static void free_host_step(host_step *step) {
  free(step->q);
  free(step->block_table);
  free(step->cache_seqlens);
}

static int build_host_step(const bench_shape *shape, verify_random *random, host_step *step) {
  *step = (host_step){.params = FMLA_DECODE_PARAMS_INIT};
  fmla_decode_params *p = &step->params;
  p->batch_size = shape->batch;
  p->num_q_heads = shape->heads;
  p->max_seqlen_q = shape->seqlen_q;
  p->page_size = shape->page_size;
  p->q_dtype = p->out_dtype = shape->dtype;
  p->kv_format = shape->dtype == FMLA_DTYPE_BF16 ? FMLA_KV_BF16 : FMLA_KV_FP16;
  p->softmax_scale = 1 / sqrtf((float)p->head_dim_k);
  p->flags = shape->causal ? FMLA_CAUSAL : 0;

  const size_t q_bytes = count_tensor_bytes(p).q;
  step->q = malloc(q_bytes);
  step->cache_seqlens = calloc((size_t)shape->batch, sizeof *step->cache_seqlens);
  if (step->q == NULL || step->cache_seqlens == NULL)
    return fail_memory();
  fill_random(step->q, q_bytes / sizeof *step->q, shape->dtype, random);
  draw_lengths(shape, step, random);
  if (p->num_pages < 1 || p->num_pages > INT32_MAX) {
    fail(EXIT_USAGE, "the sequences have %lld pages, but must have 1 to %d", (long long)p->num_pages,
         INT32_MAX);
    return EXIT_USAGE;
  }
  const int code = draw_block_table(step, random);
  p->q = step->q;
  p->block_table = step->block_table;
  p->cache_seqlens = step->cache_seqlens;
  return code;
}

/* ---- Caches on the device ----------------------------------------------------------------------- */

typedef struct rotation {
  device_step device;
  const char *caches; /* num_caches of them, one after the other */
  size_t cache_bytes;
  int num_caches;
} rotation;

/* Fills the caches with one block of random values, over and over. The block's size is no multiple of a
   token's, so that the same values come to lie in other dimensions. */
static int fill_caches(rotation *r, verify_random *random) {
  const size_t block_bytes = (size_t)8 << 20, total = r->cache_bytes * (size_t)r->num_caches;
  const fmla_decode_params *p = &r->device.params;
  uint16_t *block = malloc(block_bytes);
  if (block == NULL)
    return fail_memory();
  fill_random(block, block_bytes / sizeof *block, p->q_dtype, random);
  fmla_status status = FMLA_OK;
  for (size_t done = 0; status == FMLA_OK && done < total; done += block_bytes) {
    const size_t bytes = total - done < block_bytes ? total - done : block_bytes;
    char *to = (char *)p->kv_cache + done;
    status = fmla_buffer_upload(r->device.context, to, block, bytes, r->device.stream);
  }
  free(block);
  return fail_status(status);
}

/* Places as many caches as outgrow `outgrow` bytes, all of one size, for one block table to serve each. */
static int place_rotation(fmla_context *context, const fmla_decode_params *host, size_t outgrow,
                          verify_random *random, rotation *r) {
  *r = (rotation){.cache_bytes = count_tensor_bytes(host).kv_cache};
  int64_t caches = (int64_t)(outgrow / r->cache_bytes) + 1;
  if (caches > INT32_MAX / host->num_pages)
    caches = INT32_MAX / host->num_pages;
  r->num_caches = (int)caches;

  fmla_decode_params all = *host;
  all.num_pages *= r->num_caches;
  const int code = device_step_place(context, &all, &r->device);
  r->caches = r->device.params.kv_cache;
  r->device.params.num_pages = host->num_pages;
  return code == EXIT_OK ? fill_caches(r, random) : code;
}

static fmla_status run_rotated(void *argument, int index) {
  rotation *r = argument;
  r->device.params.kv_cache = r->caches + r->cache_bytes * (size_t)(index % r->num_caches);
  return device_step_run(&r->device);
}

int measure_row(fmla_context *context, const bench_shape *shape, size_t cache_bytes, bench_row *row) {
  verify_random random = {1};
  host_step host;
  rotation r = {0};
  int code = build_host_step(shape, &random, &host);
  if (code == EXIT_OK)
    code = place_rotation(context, &host.params, CACHES_OUTGROWN * cache_bytes, &random, &r);
  if (code == EXIT_OK)
    code = fail_status(time_runs(run_rotated, &r, &row->time));
  if (code == EXIT_OK)
    code = fail_status(fmla_decode_kernel(context, &r.device.params, &row->kernel, NULL));
  if (code == EXIT_OK)
    row->cost = count_cost(&host.params);
  device_step_free(&r.device);
  free_host_step(&host);
  return code;
}
