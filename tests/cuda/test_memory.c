/*
 * test_memory.c: buffers and streams.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support.h"

static fmla_context *context;
static fake_balance before;

static int set_up(void **state) {
  (void)state;
  fake_set_current(NULL);
  fake_start(-1, CUDA_SUCCESS);
  before = fake_now();
  return 0;
}

static void test_round_trip(void **state) {
  (void)state;
  unsigned char there[1000], back[1000] = {0};
  void *buffer = NULL, *stream = NULL;
  for (size_t i = 0; i < sizeof there; i++)
    there[i] = (unsigned char)(i * 7);
  assert_int_equal(fmla_stream_create(context, &stream), FMLA_OK);
  assert_int_equal(fmla_buffer_alloc(context, sizeof there, &buffer), FMLA_OK);
  assert_int_equal((uintptr_t)buffer % 256, 0);
  fake_start(-1, CUDA_SUCCESS);
  assert_int_equal(fmla_buffer_upload(context, buffer, there, sizeof there, stream), FMLA_OK);
  ASSERT_CALLS("cuCtxPushCurrent", "cuMemcpyHtoDAsync", "cuStreamSynchronize", "cuCtxPopCurrent");
  fake_start(-1, CUDA_SUCCESS);
  assert_int_equal(fmla_buffer_download(context, back, buffer, sizeof back, stream), FMLA_OK);
  ASSERT_CALLS("cuCtxPushCurrent", "cuMemcpyDtoHAsync", "cuStreamSynchronize", "cuCtxPopCurrent");
  assert_memory_equal(there, back, sizeof there);
  assert_int_equal(fmla_stream_synchronize(context, stream), FMLA_OK);
  assert_int_equal(fmla_buffer_free(context, buffer), FMLA_OK);
  assert_int_equal(fmla_stream_destroy(context, stream), FMLA_OK);
  assert_balanced(&before);
}

/* NULL stands for the default stream, and nothing needs no driver. */
static void test_nothing(void **state) {
  (void)state;
  void *buffer = &state;
  assert_int_equal(fmla_buffer_alloc(context, 0, &buffer), FMLA_OK);
  assert_null(buffer);
  assert_int_equal(fmla_buffer_free(context, NULL), FMLA_OK);
  assert_int_equal(fmla_stream_destroy(context, NULL), FMLA_OK);
  assert_int_equal(fake_num_calls(), 0);
  assert_int_equal(fmla_stream_synchronize(context, NULL), FMLA_OK);
  ASSERT_CALLS("cuCtxPushCurrent", "cuStreamSynchronize", "cuCtxPopCurrent");
}

/* ---- Each call of the driver fails in turn ------------------------------------------------------------ */

static void *buffer, *stream;
static char host[64];

static fmla_status call_alloc(void) {
  void *other = &buffer;
  const fmla_status status = fmla_buffer_alloc(context, 100, &other);
  if (status != FMLA_OK)
    assert_null(other);
  else
    fmla_buffer_free(context, other);
  return status;
}

static fmla_status call_free(void) {
  const fmla_status status = fmla_buffer_free(context, buffer);
  if (status == FMLA_OK || strcmp(fake_failed_call(), "cuCtxPopCurrent") == 0)
    fmla_buffer_alloc(context, sizeof host, &buffer);
  return status;
}

static fmla_status call_upload(void) {
  return fmla_buffer_upload(context, buffer, host, sizeof host, stream);
}

static fmla_status call_download(void) {
  return fmla_buffer_download(context, host, buffer, sizeof host, stream);
}

static fmla_status call_stream_create(void) {
  void *other = &buffer;
  const fmla_status status = fmla_stream_create(context, &other);
  if (status != FMLA_OK)
    assert_null(other);
  else
    fmla_stream_destroy(context, other);
  return status;
}

static fmla_status call_stream_destroy(void) {
  const fmla_status status = fmla_stream_destroy(context, stream);
  if (status == FMLA_OK || strcmp(fake_failed_call(), "cuCtxPopCurrent") == 0)
    fmla_stream_create(context, &stream);
  return status;
}

static fmla_status call_stream_synchronize(void) {
  return fmla_stream_synchronize(context, stream);
}

static void test_failures(void **state) {
  (void)state;
  static const struct {
    fmla_status (*call)(void);
    int num_calls; /* of the driver */
  } calls[] = {{call_alloc, 3},
               {call_free, 3},
               {call_upload, 4},
               {call_download, 4},
               {call_stream_create, 3},
               {call_stream_destroy, 3},
               {call_stream_synchronize, 3}};
  assert_int_equal(fmla_buffer_alloc(context, sizeof host, &buffer), FMLA_OK);
  assert_int_equal(fmla_stream_create(context, &stream), FMLA_OK);
  for (size_t c = 0; c < sizeof calls / sizeof *calls; c++)
    for (int r = 0; r < NUM_RESULTS; r++)
      for (int i = 0; i < calls[c].num_calls; i++) {
        fake_set_current(NULL);
        before = fake_now();
        fake_start(i, results[r]);
        assert_driver_failure(calls[c].call(), results[r]);
        assert_balanced(&before);
      }
  fake_set_current(NULL);
  fake_start(-1, CUDA_SUCCESS);
  assert_int_equal(fmla_buffer_free(context, buffer), FMLA_OK);
  assert_int_equal(fmla_stream_destroy(context, stream), FMLA_OK);
}

static int open_context(void **state) {
  (void)state;
  use_fake_driver();
  context = open_device("cuda:0", NULL);
  return 0;
}

static int close_context(void **state) {
  (void)state;
  fmla_close(context);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_round_trip, set_up),
      cmocka_unit_test_setup(test_nothing, set_up),
      cmocka_unit_test_setup(test_failures, set_up),
  };
  return cmocka_run_group_tests_name("cuda memory", tests, open_context, close_context);
}
