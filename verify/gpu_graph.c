/*
 * gpu_graph.c: a graph captured once and replayed with other values in the same places.
 *
 * SPDX-License-Identifier: MIT
 */
#include "gpu_steps.h"

#include "graph.h"
#include "guard.h"

enum { REPLAYS = 200, SPOILS = 7 /* one replay in so many finds NaN in its workspace */ };

/* The step whose decode is captured, another place for fresh launches, and what both are given. */
typedef struct replay {
  verify_gpu_step step, fresh;
  verify_step other_q; /* a step of the same shape */
  probe_graph graph;
  void *stream;
  int32_t *lengths, *table;
} replay;

/* Other lengths, and pages drawn from those that the step names. */
static void draw_values(replay *r, verify_random *random) {
  const fmla_decode_params *p = &r->step.host.params;
  const int32_t columns = p->max_pages_per_seq, used = p->cache_seqlens[0] / p->page_size;
  for (int32_t i = 0; i < p->batch_size; i++)
    r->lengths[i] = verify_random_once_in(random, 8) ? 0 : verify_random_int(random, 0, p->cache_seqlens[i]);
  for (int64_t i = 0; i < (int64_t)p->batch_size * columns; i++) {
    const int32_t sequence = verify_random_int(random, 0, p->batch_size - 1);
    r->table[i] = p->block_table[(int64_t)sequence * columns + verify_random_int(random, 0, used - 1)];
  }
}

static verify_outcome write_values(verify_gpu *gpu, const replay *r, const verify_placed *placed,
                                   const void *q) {
  TRY_CALL(gpu, "writing lengths", verify_placed_write(placed, VERIFY_CACHE_SEQLENS, r->lengths));
  TRY_CALL(gpu, "writing the table", verify_placed_write(placed, VERIFY_BLOCK_TABLE, r->table));
  TRY_CALL(gpu, "writing q", verify_placed_write(placed, VERIFY_Q, q));
  return VERIFY_PASSED;
}

static verify_outcome compare_replay(verify_gpu *gpu, replay *r, int number, verify_random *random) {
  const void *q = (verify_random_once_in(random, 2) ? &r->step.host : &r->other_q)->tensors[VERIFY_Q].data;
  draw_values(r, random);
  TRY(write_values(gpu, r, &r->step.placed, q));
  TRY(write_values(gpu, r, &r->fresh.placed, q));
  if (number % SPOILS == 0)
    TRY_CALL(gpu, "spoiling the workspace", verify_placed_spoil_workspace(&r->step.placed));
  TRY_PROBE(gpu, probe_replay(&gpu->probe, &r->graph, r->stream));
  TRY_CALL(gpu, "a replay", verify_placed_read(&r->step.placed, &r->step.again, r->stream));
  TRY_CALL(gpu, "a fresh launch", verify_placed_decode(&r->fresh.placed, r->stream));
  TRY_CALL(gpu, "a fresh launch", verify_placed_read(&r->fresh.placed, &r->fresh.again, r->stream));
  return verify_step_same_outputs(&r->step.again, &r->fresh.again)
             ? VERIFY_PASSED
             : verify_gpu_fail(gpu, "replay %d gave other bits than a fresh launch", number);
}

static verify_outcome capture(verify_gpu *gpu, replay *r) {
  TRY_PROBE(gpu, probe_capture_begin(&gpu->probe, r->stream));
  const fmla_status status = verify_placed_decode(&r->step.placed, r->stream);
  const bool ended = probe_capture_end(&gpu->probe, r->stream, &r->graph);
  TRY_CALL(gpu, "fmla_decode while capturing", status);
  TRY_PROBE(gpu, ended);
  return VERIFY_PASSED;
}

static verify_outcome try_replays(verify_gpu *gpu, const verify_case *c, replay *r) {
  verify_random random = {c->seed};
  verify_case other = *c;
  other.seed++;
  other.longest /= gpu->divisor;
  bool intact;
  TRY(verify_gpu_step_make(gpu, c, &r->step));
  TRY(verify_gpu_step_make(gpu, c, &r->fresh));
  r->lengths = verify_guard_alloc(r->step.host.tensors[VERIFY_CACHE_SEQLENS].bytes, VERIFY_GUARD_BEHIND);
  r->table = verify_guard_alloc(r->step.host.tensors[VERIFY_BLOCK_TABLE].bytes, VERIFY_GUARD_BEHIND);
  if (r->lengths == NULL || r->table == NULL || verify_step_build(&other, &r->other_q) != 0)
    return VERIFY_NO_MEMORY;
  TRY_CALL(gpu, "fmla_stream_create", fmla_stream_create(gpu->target.context, &r->stream));
  TRY(capture(gpu, r));
  for (int number = 0; number < verify_gpu_times(gpu, REPLAYS); number++)
    TRY(compare_replay(gpu, r, number, &random));
  TRY_CALL(gpu, "a replay", verify_placed_look(&r->step.placed, &intact));
  return intact ? VERIFY_PASSED : verify_gpu_fail(gpu, "a replay wrote beside its outputs or its workspace");
}

verify_outcome verify_gpu_replayed_graph(verify_gpu *gpu) {
  static const uint32_t flags[] = {0, FMLA_BATCH_INVARIANT | FMLA_CAUSAL};
  verify_outcome outcome = VERIFY_PASSED;
  for (size_t f = 0; f < sizeof flags / sizeof *flags && outcome == VERIFY_PASSED; f++) {
    verify_case c = verify_gpu_case(11);
    c.batch_size = 6;
    c.longest = 32 * c.page_size;
    c.lengths = VERIFY_LENGTHS_FULL; /* every slot of the pages is filled */
    c.flags = flags[f];
    replay r = {0};
    outcome = try_replays(gpu, &c, &r);
    probe_graph_free(&gpu->probe, &r.graph);
    if (r.stream != NULL)
      fmla_stream_destroy(gpu->target.context, r.stream);
    verify_guard_free(r.lengths);
    verify_guard_free(r.table);
    verify_step_free(&r.other_q);
    verify_gpu_step_free(&r.fresh);
    verify_gpu_step_free(&r.step);
  }
  return outcome;
}
