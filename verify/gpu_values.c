/*
 * gpu_values.c: what a GPU promises of lengths, pages and query offsets that break the rules, and that the
 * checked mode reports them.
 *
 * SPDX-License-Identifier: MIT
 */
#include "gpu_steps.h"

#include "guard.h"

#include <stdio.h>

/* ---- Lengths and pages -------------------------------------------------------------------------- */

/* A step with values of any kind, and the legal one that it stands for. */
typedef struct wild_step {
  verify_gpu_step legal; /* of its own: table, lengths, cache */
  int32_t *table, *lengths;
  int32_t zeros; /* the number of a page of zeros */
} wild_step;

static int32_t any_of(verify_random *random, const int32_t *values, int32_t count) {
  return values[verify_random_int(random, 0, count - 1)];
}

/* The tokens that a sequence can have. */
static int32_t longest_allowed(const fmla_decode_params *p) {
  const int32_t by_table = p->max_pages_per_seq * p->page_size;
  return p->max_seqlen_k > 0 && p->max_seqlen_k < by_table ? p->max_seqlen_k : by_table;
}

static void draw_wild_values(const fmla_decode_params *p, wild_step *w, verify_random *random) {
  const int32_t most = longest_allowed(p);
  const int32_t lengths[] = {0, -1, INT32_MIN, INT32_MAX, most + 1, most, 1, INT32_MAX - 63};
  const int32_t pages[] = {-1, 2147480000, INT32_MAX, INT32_MIN, -2147480000, (int32_t)p->num_pages};
  for (int32_t i = 0; i < p->batch_size; i++) {
    w->lengths[i] = verify_random_once_in(random, 2) ? any_of(random, lengths, sizeof lengths / sizeof *lengths)
                                                     : verify_random_int(random, 0, most);
    for (int32_t k = 0; k < p->max_pages_per_seq; k++) {
      int32_t *page = &w->table[(int64_t)i * p->max_pages_per_seq + k];
      if (verify_random_once_in(random, 3) || i == 0) /* sequence 0 has no page at all */
        *page = any_of(random, pages, sizeof pages / sizeof *pages);
    }
  }
}

/* As flash_mla.h says: lengths are clamped, and pages that are none count as zeros. */
static void make_legal(verify_step *legal, const wild_step *w) {
  const fmla_decode_params *p = &legal->params;
  int32_t *lengths = legal->tensors[VERIFY_CACHE_SEQLENS].data,
          *table = legal->tensors[VERIFY_BLOCK_TABLE].data;
  const int32_t most = longest_allowed(p);
  for (int32_t i = 0; i < p->batch_size; i++)
    lengths[i] = w->lengths[i] < 0 ? 0 : w->lengths[i] > most ? most : w->lengths[i];
  for (int64_t i = 0; i < (int64_t)p->batch_size * p->max_pages_per_seq; i++)
    table[i] = w->table[i] >= 0 && w->table[i] < p->num_pages ? w->table[i] : w->zeros;
}

/* Replaces an input by a copy, with which it is freed. */
static verify_outcome own(verify_step *step, verify_tensor_id id) {
  void *given = step->tensors[id].data;
  const int result = verify_step_own(step, id);
  verify_guard_free(given);
  return result == 0 ? VERIFY_PASSED : VERIFY_NO_MEMORY;
}

/* The last sequence's first page becomes the one of zeros. */
static verify_outcome build_wild_step(const verify_case *c, wild_step *w, verify_random *random) {
  verify_step *host = &w->legal.host;
  const fmla_decode_params *p = &host->params;
  if (verify_step_build(c, host) != 0)
    return VERIFY_NO_MEMORY;
  TRY(own(host, VERIFY_BLOCK_TABLE));
  TRY(own(host, VERIFY_CACHE_SEQLENS));
  TRY(own(host, VERIFY_KV_CACHE));
  const verify_tensor *table = &host->tensors[VERIFY_BLOCK_TABLE],
                      *lengths = &host->tensors[VERIFY_CACHE_SEQLENS];
  const size_t page_bytes = host->tensors[VERIFY_KV_CACHE].bytes / (size_t)p->num_pages;
  w->zeros = p->block_table[(int64_t)(p->batch_size - 1) * p->max_pages_per_seq];
  memset((char *)host->tensors[VERIFY_KV_CACHE].data + (size_t)w->zeros * page_bytes, 0, page_bytes);
  w->table = verify_guard_alloc(table->bytes, VERIFY_GUARD_BEHIND);
  w->lengths = verify_guard_alloc(lengths->bytes, VERIFY_GUARD_BEHIND);
  if (w->table == NULL || w->lengths == NULL)
    return VERIFY_NO_MEMORY;
  memcpy(w->table, table->data, table->bytes);
  draw_wild_values(p, w, random);
  make_legal(host, w);
  return VERIFY_PASSED;
}

static verify_outcome try_wild_step(verify_gpu *gpu, const verify_case *c, wild_step *w,
                                    verify_random *random) {
  verify_gpu_step *step = &w->legal;
  TRY(build_wild_step(c, w, random));
  TRY(verify_gpu_step_place(gpu, step));
  TRY_CALL(gpu, "writing lengths", verify_placed_write(&step->placed, VERIFY_CACHE_SEQLENS, w->lengths));
  TRY_CALL(gpu, "writing the table", verify_placed_write(&step->placed, VERIFY_BLOCK_TABLE, w->table));
  TRY_CALL(gpu, "decoding wild values", verify_placed_decode(&step->placed, NULL));
  return verify_gpu_check_bits(gpu, step, &step->placed, NULL, "decoding wild values");
}

verify_outcome verify_gpu_wild_values(verify_gpu *gpu) {
  enum { ROUNDS = 12 };
  verify_outcome outcome = VERIFY_PASSED;
  for (uint64_t seed = 0; seed < ROUNDS && outcome == VERIFY_PASSED; seed++) {
    verify_random random = {seed};
    verify_case c = verify_gpu_case(seed);
    c.batch_size = 12;
    c.longest = 5 * c.page_size;
    c.lengths = VERIFY_LENGTHS_FULL; /* a table full of pages, all of them filled */
    c.flags = (seed % 3 == 1 ? FMLA_BATCH_INVARIANT : 0) | (seed % 2 == 1 ? FMLA_CAUSAL : 0);
    c.max_seqlen_q = seed % 2 == 1 ? 2 : 1;
    wild_step w = {0};
    outcome = try_wild_step(gpu, &c, &w, &random);
    verify_guard_free(w.table);
    verify_guard_free(w.lengths);
    verify_gpu_step_free(&w.legal);
  }
  return outcome;
}

/* ---- Query offsets ------------------------------------------------------------------------------ */

/* Nothing is promised of the results; but that nothing else is written, and that the device lives on. */
static verify_outcome try_wild_queries(verify_gpu *gpu, verify_gpu_step *step) {
  enum { ROUNDS = 20 };
  verify_case c = verify_gpu_case(3);
  verify_random random = {3};
  int32_t starts[10];
  c.batch_size = sizeof starts / sizeof *starts - 1;
  c.max_seqlen_q = 3;
  c.varlen = true;
  c.flags = FMLA_CAUSAL;
  TRY(verify_gpu_step_make(gpu, &c, step));
  const int32_t rows = (int32_t)step->host.params.total_q;
  const int32_t values[] = {-1, INT32_MIN, INT32_MAX, rows, rows + 1, 0, 1, INT32_MAX - 1, -2147480000};
  for (int round = 0; round < verify_gpu_times(gpu, ROUNDS); round++) {
    bool intact;
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
      starts[i] = any_of(&random, values, sizeof values / sizeof *values);
    TRY_CALL(gpu, "writing query offsets", verify_placed_write(&step->placed, VERIFY_CU_SEQLENS_Q, starts));
    TRY_CALL(gpu, "decoding wild query offsets", verify_placed_decode(&step->placed, NULL));
    TRY_CALL(gpu, "decoding wild query offsets", verify_placed_read(&step->placed, &step->again, NULL));
    TRY_CALL(gpu, "decoding wild query offsets", verify_placed_look(&step->placed, &intact));
    if (!intact)
      return verify_gpu_fail(gpu, "decoding wild query offsets wrote beside the outputs or the workspace");
  }
  TRY_CALL(gpu, "writing query offsets",
           verify_placed_write(&step->placed, VERIFY_CU_SEQLENS_Q, step->host.params.cu_seqlens_q));
  TRY_CALL(gpu, "decoding again", verify_placed_decode(&step->placed, NULL));
  return verify_gpu_check_bits(gpu, step, &step->placed, NULL, "decoding after wild query offsets");
}

verify_outcome verify_gpu_wild_queries(verify_gpu *gpu) {
  verify_gpu_step step = {0};
  const verify_outcome outcome = try_wild_queries(gpu, &step);
  verify_gpu_step_free(&step);
  return outcome;
}

/* ---- The checked mode --------------------------------------------------------------------------- */

/* Writes one bad value, and demands a sentence that starts with the words. */
static verify_outcome expect_report(verify_gpu *gpu, const verify_placed *placed, const verify_step *host,
                                    verify_tensor_id id, int32_t index, int32_t value, const char *words) {
  const verify_tensor *tensor = &host->tensors[id];
  int32_t *values = verify_guard_alloc(tensor->bytes, VERIFY_GUARD_BEHIND);
  if (values == NULL)
    return VERIFY_NO_MEMORY;
  memcpy(values, tensor->data, tensor->bytes);
  values[index] = value;
  fmla_status status = verify_placed_write(placed, id, values);
  verify_guard_free(values);
  TRY_CALL(gpu, "writing a bad value", status);
  status = verify_placed_decode(placed, NULL);
  if (status != FMLA_ERROR_INVALID_ARGUMENT || strncmp(fmla_last_error(), words, strlen(words)) != 0)
    return verify_gpu_fail(gpu, "where \"%s\" was to be reported there was %s: %s", words,
                           fmla_status_name(status), status != FMLA_OK ? fmla_last_error() : "");
  TRY_CALL(gpu, "writing the good value", verify_placed_write(placed, id, tensor->data));
  return VERIFY_PASSED;
}

static verify_outcome try_checked_mode(verify_gpu *gpu, verify_gpu_step *step) {
  verify_case c = verify_gpu_case(5);
  c.lengths = VERIFY_LENGTHS_FULL;
  c.varlen = true;
  c.max_seqlen_q = 2;
  TRY(verify_gpu_step_make(gpu, &c, step));
  verify_placed checked = step->placed;
  checked.params.flags |= FMLA_CHECKED;
  size_t bytes;
  TRY_CALL(gpu, "fmla_decode_workspace", fmla_decode_workspace(gpu->target.context, &checked.params, &bytes));
  if (bytes > checked.workspace_bytes)
    return verify_gpu_fail(gpu, "with FMLA_CHECKED the workspace is larger: %zu bytes instead of %zu", bytes,
                           checked.workspace_bytes);
  TRY_CALL(gpu, "the checked mode on good values", verify_placed_decode(&checked, NULL));
  TRY(verify_gpu_check_bits(gpu, step, &checked, NULL, "the checked mode"));

  const fmla_decode_params *p = &step->host.params;
  const int32_t last_page = (p->cache_seqlens[1] - 1) / p->page_size, last = c.batch_size;
  char words[64];
  snprintf(words, sizeof words, "block_table[1][%d] is -7", (int)last_page);
  TRY(expect_report(gpu, &checked, &step->host, VERIFY_CACHE_SEQLENS, 2, 999999, "cache_seqlens[2] is 999999"));
  TRY(expect_report(gpu, &checked, &step->host, VERIFY_CACHE_SEQLENS, 0, -1, "cache_seqlens[0] is -1"));
  TRY(expect_report(gpu, &checked, &step->host, VERIFY_BLOCK_TABLE, p->max_pages_per_seq + last_page, -7,
                    words));
  TRY(expect_report(gpu, &checked, &step->host, VERIFY_BLOCK_TABLE, 0, 2147480000,
                    "block_table[0][0] is 2147480000"));
  TRY(expect_report(gpu, &checked, &step->host, VERIFY_CU_SEQLENS_Q, 0, 1, "cu_seqlens_q[0] is 1"));
  TRY(expect_report(gpu, &checked, &step->host, VERIFY_CU_SEQLENS_Q, last, 99999,
                    "cu_seqlens_q gives sequence 3 "));
  TRY_CALL(gpu, "the checked mode after bad values", verify_placed_decode(&checked, NULL));
  return verify_gpu_check_bits(gpu, step, &checked, NULL, "the checked mode after bad values");
}

verify_outcome verify_gpu_checked_mode(verify_gpu *gpu) {
  verify_gpu_step step = {0};
  const verify_outcome outcome = try_checked_mode(gpu, &step);
  verify_gpu_step_free(&step);
  return outcome;
}
