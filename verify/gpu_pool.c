/*
 * gpu_pool.c: the same step with its pages at the far end of a pool of NaN, where neither 31 bits count the
 * bytes nor 32 bits the elements.
 *
 * SPDX-License-Identifier: MIT
 */
#include "gpu_steps.h"

#include "guard.h"

typedef struct pool {
  void *memory;
  int64_t num_pages;
  size_t page_bytes;
  int32_t *table; /* the step's, with the pool's numbers */
} pool;

/* Where page `page` of a step of `num_pages` lies: the first half at the end, the others all over the pool. */
static int64_t place_of_page(const pool *p, int64_t page, int64_t num_pages) {
  return page < num_pages / 2 ? p->num_pages - 1 - page : page * (p->num_pages / 2 / num_pages);
}

static verify_outcome fill_pool(verify_gpu *gpu, const verify_step *step, pool *p) {
  const int64_t num_pages = step->params.num_pages;
  TRY_CALL(gpu, "allocating the pool",
           fmla_buffer_alloc(gpu->target.context, (size_t)p->num_pages * p->page_bytes, &p->memory));
  TRY_PROBE(gpu, PROBE_CALL(&gpu->probe, cuMemsetD32Async, p->memory, 0xffffffffu,
                            (size_t)p->num_pages * p->page_bytes / sizeof(uint32_t), NULL));
  for (int64_t page = 0; page < num_pages; page++)
    TRY_CALL(
        gpu, "filling a page of the pool",
        fmla_buffer_upload(gpu->target.context,
                           (char *)p->memory + (size_t)place_of_page(p, page, num_pages) * p->page_bytes,
                           (const char *)step->tensors[VERIFY_KV_CACHE].data + (size_t)page * p->page_bytes,
                           p->page_bytes, NULL));
  const verify_tensor *table = &step->tensors[VERIFY_BLOCK_TABLE];
  p->table = verify_guard_alloc(table->bytes, VERIFY_GUARD_BEHIND);
  if (p->table == NULL)
    return VERIFY_NO_MEMORY;
  for (size_t i = 0; i < table->bytes / sizeof *p->table; i++) {
    const int32_t page = ((const int32_t *)table->data)[i];
    const bool is_one = page >= 0 && page < num_pages;
    p->table[i] = is_one ? (int32_t)place_of_page(p, page, num_pages) : page;
  }
  return VERIFY_PASSED;
}

static verify_outcome decode_from_pool(verify_gpu *gpu, verify_gpu_step *step, pool *p) {
  TRY(fill_pool(gpu, &step->host, p));
  verify_placed far = step->placed;
  far.params.kv_cache = p->memory;
  far.params.num_pages = p->num_pages;
  TRY_CALL(gpu, "writing the table", verify_placed_write(&far, VERIFY_BLOCK_TABLE, p->table));
  TRY_CALL(gpu, "decoding from the pool", verify_placed_decode(&far, NULL));
  return verify_gpu_check_bits(gpu, step, &far, NULL, "decoding from the pool");
}

static verify_outcome try_pool(verify_gpu *gpu, verify_gpu_step *step) {
  enum { PAGES_BEHIND = 64 };
  const size_t for_others = (size_t)256 << 20;
  verify_case c = verify_gpu_case(1);
  c.data = VERIFY_DATA_NEEDLE;
  size_t free_bytes;
  TRY(verify_gpu_step_make(gpu, &c, step));
  const uint64_t page_elements = (uint64_t)c.page_size * (uint64_t)c.head_dim_k;
  pool p = {.num_pages = (int64_t)(gpu->far_elements / page_elements) + PAGES_BEHIND,
            .page_bytes = page_elements * sizeof(uint16_t)};
  TRY_PROBE(gpu, probe_free_bytes(&gpu->probe, &free_bytes));
  if (free_bytes < (size_t)p.num_pages * p.page_bytes + for_others) {
    verify_gpu_fail(gpu, "the pool of %zu MiB does not fit the %zu MiB that are free",
                    (size_t)p.num_pages * p.page_bytes >> 20, free_bytes >> 20);
    return VERIFY_NOT_TAKEN;
  }
  const verify_outcome outcome = decode_from_pool(gpu, step, &p);
  verify_guard_free(p.table);
  fmla_buffer_free(gpu->target.context, p.memory);
  return outcome;
}

verify_outcome verify_gpu_far_pool(verify_gpu *gpu) {
  verify_gpu_step step = {0};
  const verify_outcome outcome = try_pool(gpu, &step);
  verify_gpu_step_free(&step);
  return outcome;
}
