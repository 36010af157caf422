/*
 * test_threads.c: several threads open, share and close contexts, each with a current CUcontext of its own.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support.h"

#include <pthread.h>
#include <stdio.h>

enum { THREADS = 6, ROUNDS = 40 };

typedef struct worker {
  pthread_t thread;
  fmla_context *shared; /* NULL: it opens its own */
  CUcontext current;
  const char *failed;
} worker;

#define EXPECT(w, condition)                                                                                   \
  do {                                                                                                         \
    if (!(condition))                                                                                          \
      (w)->failed = #condition;                                                                                \
  } while (0)

static void use(worker *w, fmla_context *context) {
  fmla_decode_params p = valid_step();
  const fmla_merge_params m = valid_merge();
  size_t bytes = 0;
  void *workspace = NULL, *stream = NULL;
  int there = 42, back = 0;
  EXPECT(w, fmla_stream_create(context, &stream) == FMLA_OK);
  EXPECT(w, fmla_decode_workspace(context, &p, &bytes) == FMLA_OK);
  EXPECT(w, fmla_buffer_alloc(context, bytes, &workspace) == FMLA_OK);
  EXPECT(w, fmla_decode(context, &p, workspace, bytes, stream) == FMLA_OK);
  p.flags = FMLA_CHECKED;
  EXPECT(w, fmla_decode(context, &p, workspace, bytes, stream) == FMLA_OK);
  p.head_dim_k = 568;
  EXPECT(w, fmla_decode(context, &p, workspace, bytes, stream) == FMLA_ERROR_UNSUPPORTED);
  EXPECT(w, strstr(fmla_last_error(), "head_dim_k is 568") != NULL);
  EXPECT(w, fmla_merge(context, &m, stream) == FMLA_OK);
  EXPECT(w, fmla_buffer_upload(context, workspace, &there, sizeof there, stream) == FMLA_OK);
  EXPECT(w, fmla_buffer_download(context, &back, workspace, sizeof back, stream) == FMLA_OK && back == 42);
  EXPECT(w, fmla_buffer_free(context, workspace) == FMLA_OK);
  EXPECT(w, fmla_stream_destroy(context, stream) == FMLA_OK);
  EXPECT(w, fake_current() == w->current);
}

static void *work(void *argument) {
  worker *w = argument;
  fake_set_current(w->current);
  for (int i = 0; i < ROUNDS; i++) {
    fmla_context *context = w->shared;
    fmla_config config = FMLA_CONFIG_INIT;
    config.device = i % 2 == 0 ? "cuda:0" : "cuda:1";
    if (context == NULL && fmla_open(&config, &context) != FMLA_OK) {
      w->failed = "fmla_open";
      break;
    }
    use(w, context);
    if (w->shared == NULL)
      fmla_close(context);
  }
  return NULL;
}

static void run(fmla_context *shared) {
  worker workers[THREADS] = {{0}};
  CUcontext own[] = {NULL, fake_context(0), fake_context(1)};
  for (int i = 0; i < THREADS; i++) {
    workers[i].shared = shared;
    workers[i].current = own[i % 3];
    assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(workers[i].thread, NULL);
    if (workers[i].failed != NULL)
      fail_msg("thread %d: %s", i, workers[i].failed);
  }
}

/* The driver is not open yet: they open it together. */
static void test_own_contexts(void **state) {
  (void)state;
  const fake_balance before = fake_now();
  run(NULL);
  assert_balanced(&before);
}

static void test_shared_context(void **state) {
  (void)state;
  fmla_context *context = open_device("cuda:0", NULL);
  const fake_balance before = fake_now();
  run(context);
  assert_balanced(&before);
  fmla_close(context);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_own_contexts),
      cmocka_unit_test(test_shared_context),
  };
  use_fake_driver();
  return cmocka_run_group_tests_name("cuda threads", tests, NULL, NULL);
}
