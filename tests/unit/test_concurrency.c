/*
 * test_concurrency.c: two contexts, each used by two threads at once, for everything that a program may do
 * at once. Results must be those of one thread alone. To be run under the thread sanitizer as well.
 *
 * SPDX-License-Identifier: MIT
 */
#include "sample.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { USERS = 4, ROUNDS = 3, PARTS = 5, ROWS = 12, DIM = 16 };

static float out_parts[PARTS][ROWS][DIM], lse_parts[PARTS][ROWS];

typedef struct results {
  sample steps[3]; /* normal, batch-invariant, small */
  float merged[ROWS][DIM], merged_lse[ROWS];
} results;

typedef struct user {
  fmla_context *context;
  int number;
  const results *expected;
  results own;
  char fault[256]; /* the first thing that went wrong; assertions are for the main thread */
} user;

static results new_results(void) {
  sample_shape shapes[3] = {sample_long, sample_long, sample_tiny};
  shapes[1].flags |= FMLA_BATCH_INVARIANT;
  results r = {0};
  for (int i = 0; i < 3; i++)
    r.steps[i] = sample_new(&shapes[i]);
  return r;
}

static void free_results(results *r) {
  for (int i = 0; i < 3; i++)
    sample_free(&r->steps[i]);
}

static fmla_status merge(fmla_context *context, results *r) {
  fmla_merge_params p = FMLA_MERGE_PARAMS_INIT;
  p.num_parts = PARTS;
  p.batch_size = 1;
  p.seqlen_q = ROWS;
  p.num_q_heads = 1;
  p.head_dim_v = DIM;
  p.out_dtype = FMLA_DTYPE_FP32;
  p.out_parts = out_parts;
  p.lse_parts = &lse_parts[0][0];
  p.out = r->merged;
  p.lse = r->merged_lse;
  return fmla_merge(context, &p, NULL);
}

static void expect(user *u, bool right, const char *what) {
  if (!right && u->fault[0] == '\0')
    snprintf(u->fault, sizeof u->fault, "user %d: %s; last error: %.120s", u->number, what, fmla_last_error());
}

static bool same_bytes(const void *a, const void *b, size_t bytes) {
  return memcmp(a, b, bytes) == 0;
}

static void use_results(user *u) {
  for (int i = 0; i < 3; i++) {
    sample_spoil_outputs(&u->own.steps[i]);
    expect(u, sample_decode(u->context, &u->own.steps[i]) == FMLA_OK, "decode");
    expect(u, sample_same_outputs(&u->own.steps[i], &u->expected->steps[i]), "decode gave other bits");
  }
  expect(u, merge(u->context, &u->own) == FMLA_OK, "merge");
  expect(u, same_bytes(u->own.merged, u->expected->merged, sizeof u->own.merged), "merge gave other bits");
}

static void use_information(user *u) {
  fmla_device_info device = {.struct_size = sizeof device};
  fmla_kernel_info kernel = {.struct_size = sizeof kernel};
  fmla_context_info info = {.struct_size = sizeof info};
  const char *name = NULL;
  expect(u, fmla_device_count() > 0 && fmla_get_device_info(0, &device) == FMLA_OK, "device");
  expect(u, fmla_kernel_count() > 0 && fmla_get_kernel_info(0, &kernel) == FMLA_OK, "kernel");
  expect(u, fmla_get_context_info(u->context, &info) == FMLA_OK && info.num_threads > 0, "context");
  expect(u, fmla_decode_kernel(u->context, &u->own.steps[0].params, &name, NULL) == FMLA_OK, "kernel choice");
}

/* Each user's mistake names a number of its own, and its sentence stays until its next mistake. */
static void use_errors(user *u) {
  fmla_decode_params wrong = u->own.steps[2].params;
  size_t bytes;
  char words[64];
  wrong.num_q_heads = -100 - u->number;
  snprintf(words, sizeof words, "num_q_heads is %d,", (int)wrong.num_q_heads);
  expect(u, fmla_decode_workspace(u->context, &wrong, &bytes) == FMLA_ERROR_INVALID_ARGUMENT, "no error");
  use_results(u);
  expect(u, strstr(fmla_last_error(), words) != NULL, "another thread's error");
}

static void *use(void *argument) {
  user *u = argument;
  expect(u, fmla_last_error()[0] == '\0', "a new thread has an error");
  for (int round = 0; round < ROUNDS; round++) {
    use_information(u);
    use_errors(u);
    fmla_context *own = NULL; /* opening and closing beside the others' work */
    expect(u, fmla_open(NULL, &own) == FMLA_OK, "open");
    fmla_close(own);
  }
  return NULL;
}

static fmla_context *open_with(int32_t num_threads) {
  fmla_config config = FMLA_CONFIG_INIT;
  config.num_threads = num_threads;
  fmla_context *context = NULL;
  assert_int_equal(fmla_open(&config, &context), FMLA_OK);
  return context;
}

static results expected_results(void) {
  fmla_context *alone = open_with(1);
  results r = new_results();
  for (int i = 0; i < 3; i++)
    assert_int_equal(sample_decode(alone, &r.steps[i]), FMLA_OK);
  assert_int_equal(merge(alone, &r), FMLA_OK);
  fmla_close(alone);
  return r;
}

static void test_two_contexts_four_threads(void **state) {
  (void)state;
  for (int part = 0; part < PARTS; part++)
    for (int row = 0; row < ROWS; row++) {
      lse_parts[part][row] = (float)((part * 7 + row * 3) % 10);
      for (int j = 0; j < DIM; j++)
        out_parts[part][row][j] = (float)(part + row * j);
    }
  results expected = expected_results();
  fmla_context *contexts[2] = {open_with(2), open_with(3)};
  static user users[USERS];
  pthread_t threads[USERS];
  for (int i = 0; i < USERS; i++) {
    users[i] = (user){.context = contexts[i % 2], .number = i, .expected = &expected, .own = new_results()};
    assert_int_equal(pthread_create(&threads[i], NULL, use, &users[i]), 0);
  }
  for (int i = 0; i < USERS; i++)
    assert_int_equal(pthread_join(threads[i], NULL), 0);
  for (int i = 0; i < USERS; i++) {
    assert_string_equal(users[i].fault, "");
    free_results(&users[i].own);
  }
  assert_string_equal(fmla_last_error(), ""); /* none of theirs is this thread's */
  free_results(&expected);
  fmla_close(contexts[0]);
  fmla_close(contexts[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_two_contexts_four_threads)};
  return cmocka_run_group_tests_name("concurrency", tests, NULL, NULL);
}
