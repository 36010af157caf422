/*
 * test_context.c: opening and closing: which CUcontext is bound, what is loaded, and that all of it is given
 * back.
 *
 * SPDX-License-Identifier: MIT
 */
#include "cuda/image.h"
#include "support.h"

#include "cuda/variant.h"

/* Hopper's two are not for this device. */
enum { NUM_IMAGES = FMLAI_CUDA_MAX_IMAGES - 2 };

static fake_balance before;

/* The linker leads the library's calloc here; it is visible for the linker's sake, as libraries call calloc,
 * too. */
static bool no_memory;
void *__real_calloc(size_t count, size_t bytes);
__attribute__((visibility("default"))) void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes) {
  return no_memory ? NULL : __real_calloc(count, bytes);
}

static int set_up(void **state) {
  (void)state;
  fake_set_current(NULL);
  fake_start(-1, CUDA_SUCCESS);
  before = fake_now();
  return 0;
}

/* The CUcontext that the context's calls are made in. */
static CUcontext bound_context(fmla_context *context) {
  const fmla_merge_params p = valid_merge();
  fake_start(-1, CUDA_SUCCESS);
  assert_int_equal(fmla_merge(context, &p, NULL), FMLA_OK);
  return fake_launch_at(0)->context;
}

static void test_primary(void **state) {
  (void)state;
  fmla_context *context = open_device("cuda:1", NULL);
  fmla_context_info info = {.struct_size = sizeof info};
  assert_int_equal(fmla_get_context_info(context, &info), FMLA_OK);
  assert_string_equal(info.device, "cuda:1");
  assert_int_equal(info.num_sms, 128);
  assert_int_equal(info.num_threads, 0);
  assert_null(fake_current());
  assert_int_equal(fake_now().retained, before.retained + 1);
  assert_int_equal(fake_now().modules, before.modules + NUM_IMAGES);
  assert_non_null(bound_context(context));
  assert_null(fake_current());
  fmla_close(context);
  assert_balanced(&before);
}

static void test_current_of_the_device(void **state) {
  (void)state;
  const CUcontext own = fake_context(1), other = fake_context(0);
  fake_set_current(own);
  fmla_context *context = open_device("cuda:1", NULL);
  assert_int_equal(fake_now().retained, before.retained);
  assert_ptr_equal(fake_current(), own);
  /* It stays bound, whatever is current later. */
  fake_set_current(other);
  assert_ptr_equal(bound_context(context), own);
  assert_ptr_equal(fake_current(), other);
  fake_set_current(NULL);
  assert_ptr_equal(bound_context(context), own);
  fmla_close(context);
  assert_balanced(&before);
}

static void test_current_of_another_device(void **state) {
  (void)state;
  const CUcontext other = fake_context(0);
  fake_set_current(other);
  fmla_context *context = open_device("cuda:1", NULL);
  assert_int_equal(fake_now().retained, before.retained + 1);
  assert_ptr_not_equal(bound_context(context), other);
  assert_ptr_equal(fake_current(), other);
  fmla_close(context);
  assert_ptr_equal(fake_current(), other);
  fake_set_current(NULL);
  assert_balanced(&before);
}

static void test_several(void **state) {
  (void)state;
  fmla_context *first = open_device(NULL, NULL), *second = open_device("cuda:1", NULL);
  fmla_context *third = open_device("auto", NULL);
  assert_ptr_equal(bound_context(first), bound_context(third));
  assert_ptr_not_equal(bound_context(first), bound_context(second));
  fmla_close(first);
  assert_non_null(bound_context(third));
  fmla_close(third);
  fmla_close(second);
  assert_balanced(&before);
}

static void test_kernels(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  for (int i = 0; i < FMLAI_CUDA_NUM_PORTABLE; i++) {
    const char *kernel, *reason;
    fmla_context *context = open_device("cuda:0", fmlai_cuda_variants[i].name);
    assert_int_equal(fmla_decode_kernel(context, &p, &kernel, &reason), FMLA_OK);
    assert_string_equal(kernel, fmlai_cuda_variants[i].name);
    assert_string_equal(reason, "the context was opened with it");
    fmla_close(context);
  }
  fmla_context *context = NULL;
  fmla_config config = FMLA_CONFIG_INIT;
  config.device = "cuda:0";
  config.kernel = "portable";
  assert_fails(fmla_open(&config, &context), FMLA_ERROR_UNSUPPORTED,
               "kernel is \"portable\", but GPUs have no");
  assert_null(context);
  config.kernel = "hopper_rows64";
  assert_fails(fmla_open(&config, &context), FMLA_ERROR_UNSUPPORTED, "this device cannot run");
  assert_balanced(&before);
}

/* Each call of the driver that opening makes fails in turn. */
static void fail_each_call_of_open(CUcontext current) {
  for (int r = 0; r < NUM_RESULTS; r++)
    for (int i = 0;; i++) {
      fmla_config config = FMLA_CONFIG_INIT;
      fmla_context *context = NULL;
      config.device = "cuda:0";
      fake_set_current(current);
      before = fake_now();
      fake_start(i, results[r]);
      const fmla_status status = fmla_open(&config, &context);
      if (status == FMLA_OK) {
        assert_null(fake_failed_call());
        assert_true(i > 20);
        fake_start(-1, CUDA_SUCCESS);
        fmla_close(context);
        assert_balanced(&before);
        break;
      }
      assert_driver_failure(status, results[r]);
      assert_null(context);
      assert_balanced(&before);
    }
}

static void test_open_fails(void **state) {
  (void)state;
  fail_each_call_of_open(NULL);
  fail_each_call_of_open(fake_context(0));
  fail_each_call_of_open(fake_context(1));
}

static void test_open_without_memory(void **state) {
  (void)state;
  fmla_config config = FMLA_CONFIG_INIT;
  fmla_context *context = NULL;
  config.device = "cuda:0";
  assert_true(fmla_device_count() > 1);
  no_memory = true;
  const fmla_status status = fmla_open(&config, &context);
  no_memory = false;
  assert_fails(status, FMLA_ERROR_OUT_OF_MEMORY, "no memory for a context");
  assert_null(context);
  assert_balanced(&before);
}

/* A close that fails goes on to the end. */
static void test_close_fails(void **state) {
  (void)state;
  static const char *const calls[] = {"cuCtxPushCurrent", "cuModuleUnload",  "cuModuleUnload",
                                      "cuModuleUnload",   "cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"};
  for (int i = 0; i < (int)(sizeof calls / sizeof calls[0]); i++) {
    fake_set_current(NULL);
    before = fake_now();
    fmla_context *context = open_device("cuda:0", NULL);
    fake_start(i, CUDA_ERROR_ILLEGAL_ADDRESS);
    fmla_close(context);
    assert_string_equal(fake_failed_call(), calls[i]);
    if (i == 0) /* where the context cannot be entered, its modules go with it */
      before.modules += NUM_IMAGES;
    assert_balanced(&before);
  }
}

/* The GPU is too new for the machine code, and the driver too old for the PTX. */
static void test_old_compiler(void **state) {
  (void)state;
  fmla_config config = FMLA_CONFIG_INIT;
  fmla_context *context = NULL;
  config.device = "cuda:0";
  fake_start(-1, CUDA_SUCCESS);
  fmla_close(open_device("cuda:0", NULL));
  int index = 0;
  while (strcmp(fake_call(index), "cuModuleLoadData") != 0)
    index++;
  before = fake_now();
  fake_start(index, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
  assert_fails(fmla_open(&config, &context), FMLA_ERROR_NO_DEVICE, "compute capability 8.0");
  assert_fails(FMLA_ERROR_NO_DEVICE, FMLA_ERROR_NO_DEVICE, "needed is one for CUDA 13.0 or newer");
  assert_balanced(&before);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_primary, set_up),
      cmocka_unit_test_setup(test_current_of_the_device, set_up),
      cmocka_unit_test_setup(test_current_of_another_device, set_up),
      cmocka_unit_test_setup(test_several, set_up),
      cmocka_unit_test_setup(test_kernels, set_up),
      cmocka_unit_test_setup(test_open_fails, set_up),
      cmocka_unit_test_setup(test_open_without_memory, set_up),
      cmocka_unit_test_setup(test_close_fails, set_up),
      cmocka_unit_test_setup(test_old_compiler, set_up),
  };
  use_fake_driver();
  return cmocka_run_group_tests_name("cuda context", tests, NULL, NULL);
}
