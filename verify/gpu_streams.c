/*
 * gpu_streams.c: calls at the same time give what each gives alone.
 *
 * SPDX-License-Identifier: MIT
 */
#include "gpu_steps.h"

#include <pthread.h>
#include <stdio.h>

enum { CALLERS = 2, ROUNDS = 20, CALLS_OF_A_ROUND = 5 };

/* A step that is decoded beside others, on a stream of its own. */
typedef struct gpu_caller {
  verify_gpu gpu; /* with the context to call, and a message of its own; no probe */
  verify_gpu_step step;
  void *stream;
  pthread_t thread;
  verify_outcome outcome;
} gpu_caller;

/* Some short and many long splits, and one that fills the GPU. */
static verify_case case_of_caller(int index) {
  verify_case c = verify_gpu_case((uint64_t)index);
  c.batch_size = index == 0 ? 3 : 40;
  c.longest = index == 0 ? 5000 : 600;
  c.lengths = index == 0 ? VERIFY_LENGTHS_ONE_HUGE : VERIFY_LENGTHS_RANDOM;
  return c;
}

static verify_outcome prepare(gpu_caller *caller, int index) {
  const verify_case c = case_of_caller(index);
  TRY(verify_gpu_step_make(&caller->gpu, &c, &caller->step));
  TRY_CALL(&caller->gpu, "fmla_stream_create", fmla_stream_create(caller->gpu.target.context, &caller->stream));
  return VERIFY_PASSED;
}

static void clean_up(gpu_caller *caller) {
  if (caller->stream != NULL)
    fmla_stream_destroy(caller->gpu.target.context, caller->stream);
  verify_gpu_step_free(&caller->step);
}

static verify_outcome check(gpu_caller *caller) {
  return verify_gpu_check_bits(&caller->gpu, &caller->step, &caller->step.placed, caller->stream,
                               "decoding beside another call");
}

static verify_outcome enqueue(gpu_caller *caller) {
  TRY_CALL(&caller->gpu, "decoding beside another call",
           verify_placed_decode(&caller->step.placed, caller->stream));
  return VERIFY_PASSED;
}

/* One thread, which gives both work before it waits for either. */
static verify_outcome run_in_turn(gpu_caller callers[CALLERS]) {
  for (int round = 0; round < verify_gpu_times(&callers[0].gpu, ROUNDS); round++) {
    for (int call = 0; call < CALLS_OF_A_ROUND; call++)
      for (int i = 0; i < CALLERS; i++)
        TRY(callers[i].outcome = enqueue(&callers[i]));
    for (int i = 0; i < CALLERS; i++)
      TRY(callers[i].outcome = check(&callers[i]));
  }
  return VERIFY_PASSED;
}

static verify_outcome run_alone(gpu_caller *caller) {
  for (int round = 0; round < verify_gpu_times(&caller->gpu, ROUNDS); round++) {
    for (int call = 0; call < CALLS_OF_A_ROUND; call++)
      TRY(enqueue(caller));
    TRY(check(caller));
  }
  return VERIFY_PASSED;
}

static void *run_thread(void *argument) {
  gpu_caller *caller = argument;
  caller->outcome = run_alone(caller);
  return NULL;
}

static verify_outcome run_threads(gpu_caller callers[CALLERS]) {
  int started = 0;
  while (started < CALLERS &&
         pthread_create(&callers[started].thread, NULL, run_thread, &callers[started]) == 0)
    started++;
  for (int i = 0; i < started; i++)
    pthread_join(callers[i].thread, NULL);
  return started == CALLERS ? VERIFY_PASSED : VERIFY_NO_MEMORY;
}

/* The worst that came of it; the message goes to `gpu`. */
static verify_outcome run_callers(verify_gpu *gpu, fmla_context *const contexts[CALLERS],
                                  verify_outcome (*run)(gpu_caller callers[CALLERS])) {
  gpu_caller callers[CALLERS] = {0};
  verify_outcome outcome = VERIFY_PASSED;
  for (int i = 0; i < CALLERS; i++) {
    callers[i].gpu.divisor = gpu->divisor;
    callers[i].gpu.target = (verify_target){.is_gpu = true, .context = contexts[i]};
    if (outcome == VERIFY_PASSED)
      outcome = callers[i].outcome = prepare(&callers[i], i);
  }
  if (outcome == VERIFY_PASSED)
    outcome = run(callers);
  for (int i = 0; i < CALLERS; i++) {
    if (callers[i].outcome != VERIFY_PASSED) {
      outcome = callers[i].outcome;
      snprintf(gpu->message, sizeof gpu->message, "%s", callers[i].gpu.message);
    }
    clean_up(&callers[i]);
  }
  return outcome;
}

verify_outcome verify_gpu_two_contexts(verify_gpu *gpu) {
  fmla_context *other = NULL;
  TRY_CALL(gpu, "fmla_open", fmla_open(&gpu->config, &other));
  const verify_outcome outcome =
      run_callers(gpu, (fmla_context *const[]){gpu->target.context, other}, run_in_turn);
  fmla_close(other);
  return outcome;
}

verify_outcome verify_gpu_two_threads(verify_gpu *gpu) {
  return run_callers(gpu, (fmla_context *const[]){gpu->target.context, gpu->target.context}, run_threads);
}
