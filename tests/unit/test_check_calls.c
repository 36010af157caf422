/*
 * test_check_calls.c: the rules on everything but the decode and merge structs: opening, enumeration,
 * workspaces, streams, buffers, and arguments that may not be NULL.
 *
 * SPDX-License-Identifier: MIT
 */
#include "refusal.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define INVALID    FMLA_ERROR_INVALID_ARGUMENT
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL, NULL, NULL})

static const struct {
  fmla_config config;
  size_t size_off_by;
  fmla_status status;
  const char *words[3];
} config_rules[] = {
    {{.num_threads = -1}, 0, INVALID, {"num_threads is -1", "0 to 1024"}},
    {{.num_threads = 1025}, 0, INVALID, {"num_threads is 1025", "0 to 1024"}},
    {{.num_threads = 0}, 1, INVALID, {"fmla_config.struct_size is", "newer flash_mla.h"}},
    {{.num_threads = 0}, (size_t)-1, INVALID, {"fmla_config.struct_size is", "at least"}},
    {{.reserved = 7}, 0, INVALID, {"fmla_config.reserved is 7", "must be 0"}},
    {{.device = "gpu"}, 0, INVALID, {"device is \"gpu\"", "\"cuda:N\"", "\"auto\""}},
    {{.device = ""}, 0, INVALID, {"device is \"\"", "\"cuda:N\""}},
    {{.device = "CPU"}, 0, INVALID, {"device is \"CPU\"", "\"cuda:N\""}},
    {{.device = "cpu "}, 0, INVALID, {"device is \"cpu \"", "\"cuda:N\""}},
    {{.device = "cuda:4095"}, 0, FMLA_ERROR_NO_DEVICE, {"device is \"cuda:4095\""}},
    {{.device = "cpu", .kernel = "fast"}, 0, FMLA_ERROR_UNSUPPORTED, {"kernel is \"fast\"", "_kernel_info"}},
    {{.device = "cpu", .kernel = ""}, 0, FMLA_ERROR_UNSUPPORTED, {"kernel is \"\"", "fmla_get_kernel_info"}},
};

static void test_open(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof config_rules / sizeof *config_rules; i++) {
    fmla_config config = config_rules[i].config;
    config.struct_size = sizeof config + config_rules[i].size_off_by;
    fmla_context *context = (fmla_context *)&config;
    assert_refused(fmla_open(&config, &context), config_rules[i].status, config_rules[i].words);
    assert_null(context);
  }
  assert_refused(fmla_open(NULL, NULL), INVALID, WORDS("context is NULL", "must be given"));
}

/* A name of any length leaves a whole sentence. */
static void test_open_with_long_names(void **state) {
  (void)state;
  char name[3000];
  memset(name, 'x', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  fmla_context *context;
  fmla_config config = FMLA_CONFIG_INIT;
  config.device = name;
  assert_refused(fmla_open(&config, &context), INVALID, WORDS("device is \"xxx", "\"auto\""));
  config.device = "cpu";
  config.kernel = name;
  assert_refused(fmla_open(&config, &context), FMLA_ERROR_UNSUPPORTED, WORDS("kernel is \"xxx", "lists"));
}

static void test_open_accepts(void **state) {
  (void)state;
  static const fmla_config configs[] = {
      {.device = NULL}, {.device = "auto"}, {.device = "cpu", .kernel = "portable"}, {.num_threads = 3}};
  for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
    fmla_config config = configs[i];
    config.struct_size = sizeof config;
    fmla_context *context = NULL;
    assert_int_equal(fmla_open(&config, &context), FMLA_OK);
    fmla_context_info info = {.struct_size = sizeof info};
    assert_int_equal(fmla_get_context_info(context, &info), FMLA_OK);
    assert_string_equal(info.device, "cpu");
    assert_true(config.num_threads > 0 ? info.num_threads == config.num_threads : info.num_threads > 0);
    assert_int_equal(info.num_sms, 0);
    fmla_close(context);
  }
  fmla_close(NULL);
}

static void test_enumeration(void **state) {
  (void)state;
  const int32_t devices = fmla_device_count(), kernels = fmla_kernel_count();
  assert_true(devices >= 1);
  assert_true(kernels >= 1);
  for (int32_t i = 0; i < devices; i++) {
    fmla_device_info info = {.struct_size = sizeof info};
    assert_int_equal(fmla_get_device_info(i, &info), FMLA_OK);
    assert_true(info.name[0] != '\0' && info.description[0] != '\0');
    assert_true(info.num_units >= 1 && info.memory_bytes > 0);
    fmla_config config = FMLA_CONFIG_INIT;
    config.device = info.name;
    fmla_context *context = NULL;
    assert_int_equal(fmla_open(&config, &context), FMLA_OK);
    fmla_close(context);
  }
  for (int32_t i = 0; i < kernels; i++) {
    fmla_kernel_info info = {.struct_size = sizeof info};
    assert_int_equal(fmla_get_kernel_info(i, &info), FMLA_OK);
    assert_true(info.name[0] != '\0' && info.backend[0] != '\0' && info.needs[0] != '\0' &&
                info.takes[0] != '\0');
    assert_true(info.probability_dtype == FMLA_DTYPE_FP32 || info.probability_dtype == FMLA_DTYPE_BF16);
    assert_true(info.available == 0 || info.available == 1);
  }
}

static void test_enumeration_out_of_range(void **state) {
  (void)state;
  const int32_t wrong[] = {-1, INT32_MIN, INT32_MAX, fmla_device_count(), fmla_kernel_count()};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    char words[32];
    snprintf(words, sizeof words, "index is %d,", (int)wrong[i]);
    fmla_device_info device = {.struct_size = sizeof device};
    if (wrong[i] < 0 || wrong[i] >= fmla_device_count())
      assert_refused(fmla_get_device_info(wrong[i], &device), INVALID, WORDS(words, "must be 0 to"));
    assert_int_equal(device.name[0], '\0');
    fmla_kernel_info kernel = {.struct_size = sizeof kernel};
    if (wrong[i] < 0 || wrong[i] >= fmla_kernel_count())
      assert_refused(fmla_get_kernel_info(wrong[i], &kernel), INVALID, WORDS(words, "must be 0 to"));
    assert_null(kernel.name);
  }
  assert_refused(fmla_get_device_info(0, NULL), INVALID, WORDS("info is NULL"));
  assert_refused(fmla_get_kernel_info(0, NULL), INVALID, WORDS("info is NULL"));
}

/* ---- With an open context ------------------------------------------------------------------------------- */

static void test_workspace(void **state) {
  (void)state;
  sample s = sample_new(&sample_tiny);
  size_t bytes = 0;
  assert_int_equal(fmla_decode_workspace(sample_context, &s.params, &bytes), FMLA_OK);
  char *workspace = malloc(bytes);
  assert_non_null(workspace);
  char given[64], needed[64];
  snprintf(given, sizeof given, "workspace_bytes is %zu", bytes - 1);
  snprintf(needed, sizeof needed, "needs %zu", bytes);
  assert_refused(fmla_decode(sample_context, &s.params, workspace, bytes - 1, NULL), INVALID,
                 WORDS(given, needed));
  assert_refused(fmla_decode(sample_context, &s.params, workspace, 0, NULL), INVALID,
                 WORDS("_bytes is 0", needed));
  assert_refused(fmla_decode(sample_context, &s.params, NULL, bytes, NULL), INVALID,
                 WORDS("workspace is NULL", needed));
  assert_refused(fmla_decode(sample_context, &s.params, workspace, bytes, &s), INVALID,
                 WORDS("stream is 0x", "must be NULL"));
  assert_true(sample_outputs_spoilt(&s));
  assert_int_equal(fmla_decode(sample_context, &s.params, workspace, bytes, NULL), FMLA_OK);
  assert_false(sample_outputs_spoilt(&s));
  free(workspace);
  sample_free(&s);
}

/* Extents that are each allowed, but whose partial results no address space holds. */
static void test_unsupported_workspace(void **state) {
  (void)state;
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.batch_size = p.max_seqlen_q = 1 << 24;
  p.num_q_heads = 1024;
  p.head_dim_k = p.head_dim_v = 2;
  p.max_pages_per_seq = 1 << 20;
  p.softmax_scale = 1;
  p.flags = FMLA_BATCH_INVARIANT;
  size_t bytes = 7;
  assert_refused(fmla_decode_workspace(sample_context, &p, &bytes), FMLA_ERROR_UNSUPPORTED,
                 WORDS("batch_size of 16777216", "max_seqlen_q 16777216", "workspace"));
  assert_int_equal(bytes, 0);
}

static void assert_needs(const char *argument, fmla_status status) {
  char words[64];
  snprintf(words, sizeof words, "%s is NULL, but must be given", argument);
  assert_refused(status, INVALID, WORDS(words));
}

static void test_arguments_that_must_be_given(void **state) {
  (void)state;
  sample s = sample_new(&sample_tiny);
  const fmla_merge_params merge = FMLA_MERGE_PARAMS_INIT;
  fmla_context_info info = {.struct_size = sizeof info};
  size_t bytes = 0;
  const char *kernel = NULL;
  char host[4] = {0};
  void *pointer = host;

  assert_needs("context", fmla_get_context_info(NULL, &info));
  assert_needs("context", fmla_decode_workspace(NULL, &s.params, &bytes));
  assert_needs("context", fmla_decode_kernel(NULL, &s.params, &kernel, NULL));
  assert_needs("context", fmla_decode(NULL, &s.params, host, sizeof host, NULL));
  assert_needs("context", fmla_merge(NULL, &merge, NULL));
  assert_needs("context", fmla_buffer_alloc(NULL, sizeof host, &pointer));
  assert_needs("context", fmla_buffer_free(NULL, host));
  assert_needs("context", fmla_buffer_upload(NULL, host, host, sizeof host, NULL));
  assert_needs("context", fmla_buffer_download(NULL, host, host, sizeof host, NULL));
  assert_needs("context", fmla_stream_create(NULL, &pointer));
  assert_needs("context", fmla_stream_destroy(NULL, NULL));
  assert_needs("context", fmla_stream_synchronize(NULL, NULL));

  assert_needs("info", fmla_get_context_info(sample_context, NULL));
  assert_needs("params", fmla_decode_workspace(sample_context, NULL, &bytes));
  assert_needs("workspace_bytes", fmla_decode_workspace(sample_context, &s.params, NULL));
  assert_needs("params", fmla_decode_kernel(sample_context, NULL, &kernel, NULL));
  assert_needs("kernel", fmla_decode_kernel(sample_context, &s.params, NULL, NULL));
  assert_needs("params", fmla_decode(sample_context, NULL, host, sizeof host, NULL));
  assert_needs("params", fmla_merge(sample_context, NULL, NULL));
  assert_needs("buffer", fmla_buffer_alloc(sample_context, sizeof host, NULL));
  assert_needs("buffer", fmla_buffer_upload(sample_context, NULL, host, sizeof host, NULL));
  assert_needs("host", fmla_buffer_upload(sample_context, host, NULL, sizeof host, NULL));
  assert_needs("host", fmla_buffer_download(sample_context, NULL, host, sizeof host, NULL));
  assert_needs("buffer", fmla_buffer_download(sample_context, host, NULL, sizeof host, NULL));
  assert_needs("stream", fmla_stream_create(sample_context, NULL));
  assert_true(sample_outputs_spoilt(&s));
  sample_free(&s);
}

static void test_kernel_choice(void **state) {
  (void)state;
  sample s = sample_new(&sample_tiny);
  const char *kernel = NULL, *reason = NULL, *again = NULL;
  assert_int_equal(fmla_decode_kernel(sample_context, &s.params, &kernel, &reason), FMLA_OK);
  assert_true(strlen(reason) > 0);
  assert_int_equal(fmla_decode_kernel(sample_context, &s.params, &again, NULL), FMLA_OK);
  assert_string_equal(again, kernel);

  fmla_config config = FMLA_CONFIG_INIT;
  config.kernel = "portable";
  fmla_context *portable = NULL;
  assert_int_equal(fmla_open(&config, &portable), FMLA_OK);
  assert_int_equal(fmla_decode_kernel(portable, &s.params, &kernel, &reason), FMLA_OK);
  assert_string_equal(kernel, "portable");
  assert_non_null(strstr(reason, "opened with"));
  fmla_close(portable);
  sample_free(&s);
}

static void test_buffers_and_streams(void **state) {
  (void)state;
  char from[300], to[300] = {0};
  memset(from, 7, sizeof from);
  void *buffer = from, *stream = from;
  assert_int_equal(fmla_buffer_alloc(sample_context, 0, &buffer), FMLA_OK);
  assert_null(buffer);
  assert_int_equal(fmla_buffer_free(sample_context, NULL), FMLA_OK);
  assert_int_equal(fmla_buffer_upload(sample_context, NULL, NULL, 0, NULL), FMLA_OK);
  assert_int_equal(fmla_buffer_download(sample_context, NULL, NULL, 0, NULL), FMLA_OK);

  assert_int_equal(fmla_buffer_alloc(sample_context, sizeof from, &buffer), FMLA_OK);
  assert_int_equal((uintptr_t)buffer % 256, 0);
  assert_int_equal(fmla_buffer_upload(sample_context, buffer, from, sizeof from, NULL), FMLA_OK);
  assert_int_equal(fmla_buffer_download(sample_context, to, buffer, sizeof to, NULL), FMLA_OK);
  assert_memory_equal(from, to, sizeof from);

  const char *const *words = WORDS("stream is 0x", "must be NULL");
  assert_refused(fmla_buffer_upload(sample_context, buffer, from, sizeof from, to), INVALID, words);
  assert_refused(fmla_buffer_download(sample_context, to, buffer, sizeof to, to), INVALID, words);
  assert_refused(fmla_stream_destroy(sample_context, to), INVALID, words);
  assert_refused(fmla_stream_synchronize(sample_context, to), INVALID, words);
  assert_int_equal(fmla_buffer_free(sample_context, buffer), FMLA_OK);

  assert_int_equal(fmla_stream_create(sample_context, &stream), FMLA_OK);
  assert_null(stream);
  assert_int_equal(fmla_stream_synchronize(sample_context, stream), FMLA_OK);
  assert_int_equal(fmla_stream_destroy(sample_context, stream), FMLA_OK);
}

static void test_statuses_have_words(void **state) {
  (void)state;
  for (int i = FMLA_OK; i <= FMLA_ERROR_INTERNAL; i++) {
    assert_memory_equal(fmla_status_name((fmla_status)i), "FMLA_", 5);
    assert_true(strlen(fmla_status_text((fmla_status)i)) > 0);
    for (int j = FMLA_OK; j < i; j++) {
      assert_string_not_equal(fmla_status_name((fmla_status)i), fmla_status_name((fmla_status)j));
      assert_string_not_equal(fmla_status_text((fmla_status)i), fmla_status_text((fmla_status)j));
    }
  }
  assert_string_equal(fmla_status_name(FMLA_ERROR_NO_DEVICE), "FMLA_ERROR_NO_DEVICE");
  assert_string_equal(fmla_status_name((fmla_status)99), "FMLA_ERROR_UNKNOWN");
  assert_true(strlen(fmla_status_text((fmla_status)99)) > 0);
}

static void test_version(void **state) {
  (void)state;
  char text[64];
  snprintf(text, sizeof text, "%d.%d.%d", FMLA_VERSION_MAJOR, FMLA_VERSION_MINOR, FMLA_VERSION_PATCH);
  assert_string_equal(fmla_version_string(), text);
  assert_int_equal(fmla_version(),
                   FMLA_VERSION_MAJOR * 1000000 + FMLA_VERSION_MINOR * 1000 + FMLA_VERSION_PATCH);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_open),
      cmocka_unit_test(test_open_with_long_names),
      cmocka_unit_test(test_open_accepts),
      cmocka_unit_test(test_enumeration),
      cmocka_unit_test(test_enumeration_out_of_range),
      cmocka_unit_test(test_workspace),
      cmocka_unit_test(test_unsupported_workspace),
      cmocka_unit_test(test_arguments_that_must_be_given),
      cmocka_unit_test(test_kernel_choice),
      cmocka_unit_test(test_buffers_and_streams),
      cmocka_unit_test(test_statuses_have_words),
      cmocka_unit_test(test_version),
  };
  return cmocka_run_group_tests_name("check_calls", tests, open_sample_context, close_sample_context);
}
