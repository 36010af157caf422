/*
 * test_shares.c: into how many items a step is cut, and for how many threads.
 *
 * SPDX-License-Identifier: MIT
 */
#include "cpu/shares.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX_BATCH = 64, HEADS = 128, LONG = 1 << 20 };

/* As fast as matrix units, and as slow as plain C. */
static const fmlai_cpu_kernel fast = {.gflops = 2000}, slow = {.gflops = 20};

typedef struct step {
  fmla_decode_params params;
  fmlai_plan_shape shape;
  fmlai_cpu_costs costs;
  int32_t cache_seqlens[MAX_BATCH];
  int64_t memory[3 * (MAX_BATCH + 1)];
  fmlai_plan plan;
} step;

/* batch_size sequences of `seqlen` keys each, with `heads` rows each. */
static void set_step(step *s, const fmlai_cpu_kernel *kernel, int32_t batch_size, int32_t heads,
                     int32_t seqlen) {
  s->params = FMLA_DECODE_PARAMS_INIT;
  s->params.cache_seqlens = s->cache_seqlens;
  s->shape = (fmlai_plan_shape){.batch_size = batch_size,
                                .max_seqlen_q = 1,
                                .total_q = batch_size,
                                .max_seqlen_k = LONG,
                                .num_kv_heads = 1,
                                .group_heads = heads,
                                .max_tile_rows = 512};
  for (int32_t i = 0; i < batch_size; i++)
    s->cache_seqlens[i] = seqlen;
  s->costs = fmlai_cpu_costs_of(kernel, &s->params, heads);
}

/* Plans the step for so many processors; returns its items. */
static int64_t plan_for(step *s, int32_t num_processors) {
  const int32_t most = fmlai_cpu_max_target_items(num_processors, s->shape.group_heads);
  s->shape.target_items =
      fmlai_cpu_target_items(&s->shape, &s->params, &s->costs, num_processors, most, s->memory);
  assert_in_range(s->shape.target_items, 1, most);
  fmlai_plan_make(&s->plan, &s->shape, s->cache_seqlens, NULL, s->memory);
  assert_true(fmlai_plan_num_partials(&s->plan) * s->shape.group_heads <=
              fmlai_cpu_max_partial_rows(num_processors, s->shape.group_heads));
  return fmlai_plan_num_items(&s->plan);
}

/* Sequences that share out evenly as they are need no partial results. */
static void test_even_batches_are_not_split(void **state) {
  (void)state;
  static step s;
  for (int32_t processors = 1; processors <= 16; processors++)
    for (int32_t rounds = 1; rounds * processors <= MAX_BATCH; rounds++) {
      set_step(&s, &fast, rounds * processors, HEADS, 4096);
      assert_int_equal(plan_for(&s, processors), rounds * processors);
    }
}

/* A single sequence is work for all, and one more than there are processors does not take twice as long. */
static void test_all_processors_get_work(void **state) {
  (void)state;
  static step s;
  for (int32_t processors = 2; processors <= 128; processors++) {
    set_step(&s, processors % 2 ? &fast : &slow, 1, processors % 3 ? HEADS : 1, LONG);
    assert_true(plan_for(&s, processors) >= processors);
  }
  for (int32_t processors = 2; processors < MAX_BATCH; processors++) {
    set_step(&s, &fast, processors + 1, HEADS, 1 << 16);
    assert_true(plan_for(&s, processors) > processors + 1);
  }
}

/* One long sequence among short ones is cut, into parts that leave no processor waiting for long. */
static void test_long_among_short(void **state) {
  (void)state;
  static step s;
  set_step(&s, &fast, 9, HEADS, 500);
  s.cache_seqlens[8] = 100000;
  plan_for(&s, 4);
  const fmlai_plan_item last = fmlai_plan_item_at(&s.plan, fmlai_plan_num_items(&s.plan) - 1);
  assert_int_equal(last.tile.batch, 8);
  assert_true(last.tile.num_splits >= 4 && s.plan.split_tokens <= 100000 / 4 + 64);
}

static void test_partial_rows_are_bounded(void **state) {
  (void)state;
  for (int32_t processors = 1; processors <= FMLA_MAX_THREADS; processors *= 2) {
    int64_t before = 0;
    for (int32_t rows = 1; rows <= 1024; rows++) {
      const int64_t most = fmlai_cpu_max_partial_rows(processors, rows);
      assert_true(most >= before);
      assert_true(2 * (int64_t)fmlai_cpu_max_target_items(processors, rows) * rows <= most);
      before = most;
    }
  }
}

static void test_useful_threads(void **state) {
  (void)state;
  static step s;
  set_step(&s, &fast, 1, 16, 64);
  plan_for(&s, 8);
  assert_int_equal(fmlai_cpu_useful_threads(&s.plan, &s.costs), 1); /* 5 us */
  set_step(&s, &fast, 8, 16, 0);
  plan_for(&s, 8);
  assert_int_equal(fmlai_cpu_useful_threads(&s.plan, &s.costs), 1);
  set_step(&s, &slow, MAX_BATCH, HEADS, LONG);
  plan_for(&s, 8);
  assert_int_equal(fmlai_cpu_useful_threads(&s.plan, &s.costs), FMLA_MAX_THREADS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_even_batches_are_not_split),
      cmocka_unit_test(test_all_processors_get_work),
      cmocka_unit_test(test_long_among_short),
      cmocka_unit_test(test_partial_rows_are_bounded),
      cmocka_unit_test(test_useful_threads),
  };
  return cmocka_run_group_tests_name("shares", tests, NULL, NULL);
}
