/*
 * test_failures.c: memory and threads that cannot be had. The linker leads the library's calls here (--wrap).
 *
 * SPDX-License-Identifier: MIT
 */
#include "sample.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- Calls that fail on demand -------------------------------------------------------------------------- */

enum { NEVER = -1 };

static struct {
  int allocations, live, threads; /* calls so far; allocations not yet freed */
  int failing_allocation;         /* fails, counted from 0; NEVER */
  int failing_thread;
} faults = {.failing_allocation = NEVER, .failing_thread = NEVER};

static void start_counting(int failing_allocation, int failing_thread) {
  faults.allocations = faults.live = faults.threads = 0;
  faults.failing_allocation = failing_allocation;
  faults.failing_thread = failing_thread;
}

static void stop_failing(void) {
  faults.failing_allocation = faults.failing_thread = NEVER;
}

static bool allocation_fails(void) {
  return faults.allocations++ == faults.failing_allocation;
}

static void *count_live(void *memory) {
  faults.live += memory != NULL;
  return memory;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);
void __real_free(void *memory);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                          void *argument);

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
void __wrap_free(void *memory);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                          void *argument);

void *__wrap_malloc(size_t bytes) {
  return allocation_fails() ? NULL : count_live(__real_malloc(bytes));
}

void *__wrap_calloc(size_t count, size_t bytes) {
  return allocation_fails() ? NULL : count_live(__real_calloc(count, bytes));
}

void *__wrap_realloc(void *memory, size_t bytes) {
  if (allocation_fails())
    return NULL;
  void *moved = __real_realloc(memory, bytes);
  return memory == NULL ? count_live(moved) : moved;
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return allocation_fails() ? NULL : count_live(__real_aligned_alloc(alignment, bytes));
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes) {
  if (allocation_fails())
    return ENOMEM;
  const int result = __real_posix_memalign(memory, alignment, bytes);
  faults.live += result == 0;
  return result;
}

void __wrap_free(void *memory) {
  faults.live -= memory != NULL;
  __real_free(memory);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                          void *argument) {
  /* Once one thread cannot be created, no further one can. */
  if (faults.failing_thread != NEVER && faults.threads >= faults.failing_thread)
    return EAGAIN;
  faults.threads++;
  return __real_pthread_create(thread, attributes, start, argument);
}

/* ---- Tests ---------------------------------------------------------------------------------------------- */

static sample step, expected;

static void assert_decodes(fmla_context *context) {
  sample_spoil_outputs(&step);
  assert_int_equal(sample_decode(context, &step), FMLA_OK);
  assert_true(sample_same_outputs(&step, &expected));
}

static int32_t num_threads_of(const fmla_context *context) {
  fmla_context_info info = {.struct_size = sizeof info};
  assert_int_equal(fmla_get_context_info(context, &info), FMLA_OK);
  return info.num_threads;
}

static void test_open_without_memory(void **state) {
  (void)state;
  const fmla_config config = {.struct_size = sizeof config, .num_threads = 3};
  int failures = 0;
  for (;; failures++) {
    fmla_context *context = (fmla_context *)&step;
    start_counting(failures, NEVER);
    const fmla_status status = fmla_open(&config, &context);
    stop_failing();
    if (status == FMLA_OK) {
      assert_true(faults.allocations <= failures); /* it did not go on without what it asked for */
      assert_int_equal(num_threads_of(context), 3);
      assert_decodes(context);
      fmla_close(context);
      assert_int_equal(faults.live, 0);
      break;
    }
    assert_int_equal(status, FMLA_ERROR_OUT_OF_MEMORY);
    assert_non_null(strstr(fmla_last_error(), "no memory for a"));
    assert_null(context);
    assert_int_equal(faults.live, 0);
    assert_int_equal(faults.threads, 0);
  }
  assert_true(failures >= 1);
}

static void test_open_without_threads(void **state) {
  (void)state;
  enum { THREADS = 6 };
  const fmla_config config = {.struct_size = sizeof config, .num_threads = THREADS};
  for (int failing = 0; failing < THREADS; failing++) {
    fmla_context *context = NULL;
    start_counting(NEVER, failing);
    assert_int_equal(fmla_open(&config, &context), FMLA_OK);
    stop_failing();
    assert_int_equal(num_threads_of(context), failing + 1);
    assert_decodes(context);
    fmla_close(context);
    assert_int_equal(faults.live, 0);
  }
}

static void test_buffer_without_memory(void **state) {
  void *buffer = &step;
  start_counting(0, NEVER);
  assert_int_equal(fmla_buffer_alloc(*state, 1234, &buffer), FMLA_ERROR_OUT_OF_MEMORY);
  stop_failing();
  assert_null(buffer);
  assert_non_null(strstr(fmla_last_error(), "1234 bytes"));
  assert_int_equal(fmla_buffer_alloc(*state, 1234, &buffer), FMLA_OK);
  assert_int_equal(fmla_buffer_free(*state, buffer), FMLA_OK);
  assert_int_equal(faults.live, 0);
}

/* Neither a call that serves nor one that refuses allocates, or creates a thread. */
static void test_decoding_allocates_nothing(void **state) {
  const float parts[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}}, lse_parts[2] = {0, 1};
  float merged[4], lse;
  fmla_merge_params merge = FMLA_MERGE_PARAMS_INIT;
  merge.num_parts = 2;
  merge.batch_size = merge.num_q_heads = 1;
  merge.head_dim_v = 4;
  merge.out_dtype = FMLA_DTYPE_FP32;
  merge.out_parts = parts;
  merge.lse_parts = lse_parts;
  merge.out = merged;
  merge.lse = &lse;
  size_t bytes = 0;
  const char *kernel = NULL;
  assert_int_equal(fmla_decode_workspace(*state, &step.params, &bytes), FMLA_OK);
  void *workspace = malloc(bytes);
  assert_non_null(workspace);
  start_counting(NEVER, NEVER);
  assert_int_equal(fmla_decode_workspace(*state, &step.params, &bytes), FMLA_OK);
  assert_int_equal(fmla_decode_kernel(*state, &step.params, &kernel, NULL), FMLA_OK);
  assert_int_equal(fmla_decode(*state, &step.params, workspace, bytes, NULL), FMLA_OK);
  assert_int_equal(fmla_decode(*state, &step.params, workspace, 0, NULL), FMLA_ERROR_INVALID_ARGUMENT);
  assert_int_equal(fmla_merge(*state, &merge, NULL), FMLA_OK);
  assert_int_equal(faults.allocations, 0);
  assert_int_equal(faults.threads, 0);
  assert_int_equal(faults.live, 0);
  free(workspace);
}

static int set_up(void **state) {
  const fmla_config alone = {.struct_size = sizeof alone, .num_threads = 1};
  const fmla_config several = {.struct_size = sizeof several, .num_threads = 4};
  fmla_context *context = NULL;
  step = sample_new(&sample_long);
  expected = sample_new(&sample_long);
  if (fmla_open(&alone, &context) != FMLA_OK || sample_decode(context, &expected) != FMLA_OK)
    return -1;
  fmla_close(context);
  return fmla_open(&several, (fmla_context **)state) == FMLA_OK ? 0 : -1;
}

static int tear_down(void **state) {
  fmla_close(*state);
  sample_free(&step);
  sample_free(&expected);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_open_without_memory),
      cmocka_unit_test(test_open_without_threads),
      cmocka_unit_test(test_buffer_without_memory),
      cmocka_unit_test(test_decoding_allocates_nothing),
  };
  return cmocka_run_group_tests_name("failures", tests, set_up, tear_down);
}
