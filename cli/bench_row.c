#include "bench_row.h"

#include "bench_step.h"
#include "cache_size.h"
#include "common.h"
#include "device_step.h"

#include <stdlib.h>

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
  bench_step host;
  rotation r = {0};
  int code = bench_step_build(shape, &random, &host);
  if (code == EXIT_OK)
    code = bench_step_fill_q(&host, &random);
  if (code == EXIT_OK)
    code = place_rotation(context, &host.params, CACHES_OUTGROWN * cache_bytes, &random, &r);
  if (code == EXIT_OK)
    code = fail_status(time_runs(run_rotated, &r, &row->time));
  if (code == EXIT_OK)
    code = fail_status(fmla_decode_kernel(context, &r.device.params, &row->kernel, NULL));
  if (code == EXIT_OK)
    row->cost = count_cost(&host.params);
  device_step_free(&r.device);
  bench_step_free(&host);
  return code;
}
