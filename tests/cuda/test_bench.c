/*
 * test_bench.c: what bench does on a GPU: opening it, its ceilings, a row. Each call of the driver fails in
 * turn.
 *
 * SPDX-License-Identifier: MIT
 */
#include "bench_device.h"
#include "common.h"
#include "cuda/image.h"
#include "support.h"

#include <stdio.h>

static fake_balance before;

/* The linker leads the probe's pauses here. */
struct timespec;
int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left);
int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left) {
  (void)wanted, (void)left;
  return 0;
}

static void assert_near(double got, double expected) {
  if (!(got > 0.999 * expected && got < 1.001 * expected))
    fail_msg("%g instead of %g", got, expected);
}

static int set_up(void **state) {
  (void)state;
  fake_set_current(NULL);
  fake_start(-1, CUDA_SUCCESS);
  fake.free_bytes = (size_t)1 << 30;
  before = fake_now();
  return 0;
}

static const bench_shape small = {
    .batch = 3, .heads = 16, .seqlen_q = 1, .seqlen = 100, .page_size = 64, .dtype = FMLA_DTYPE_BF16};

static int open_gpu(bench_device *device) {
  fmla_config config = FMLA_CONFIG_INIT;
  config.device = "cuda:0";
  return bench_device_open(&config, device);
}

static void test_ceilings(void **state) {
  (void)state;
  bench_device device;
  assert_int_equal(open_gpu(&device), EXIT_OK);
  assert_true(device.is_gpu);
  assert_string_equal(device.description, "Fake A100");
  fake.milliseconds = 20;
  assert_int_equal(bench_device_measure_ceilings(&device), EXIT_OK);
  fake.milliseconds = 10;
  /* Half of the memory, eight times over; one CTA an SM. */
  const double page = 73728, pages = 7281;
  assert_near(device.gpu_ceilings.read_bytes, 8 * pages * page / 0.02);
  const fake_launch *last = fake_launch_at(fake_num_launches() - 1);
  assert_string_equal(last->name, "probe_multiply_fp16");
  assert_int_equal(last->grid, 132);
  assert_true(device.gpu_ceilings.operations[PROBE_FP16] >= device.gpu_ceilings.burst_operations[PROBE_FP16]);
  assert_true(device.gpu_ceilings.is_for_90);

  json_t *described = bench_device_describe(&device);
  const json_t *rates = json_object_get(described, "ceilings");
  assert_string_equal(json_string_value(json_object_get(described, "description")), "Fake A100");
  assert_non_null(strstr(json_string_value(json_object_get(described, "driver")), " for CUDA 13.0"));
  assert_int_equal(json_integer_value(json_object_get(described, "sms")), 132);
  assert_near(json_real_value(json_object_get(rates, "read_gb_per_s")), 1e-9 * device.gpu_ceilings.read_bytes);
  assert_near(json_real_value(json_object_get(rates, "fp16_tflops")),
              1e-12 * device.gpu_ceilings.operations[PROBE_FP16]);
  assert_string_equal(json_string_value(json_object_get(rates, "matrix_instruction")), "wgmma");
  json_decref(described);
  bench_device_print(&device);
  bench_device_close(&device);
  assert_balanced(&before);
}

/* 16 sets of 1.8 MiB do not keep apart as much as is wanted; each is decoded once in the graph. */
static void test_row(void **state) {
  (void)state;
  bench_device device;
  bench_row row;
  assert_int_equal(open_gpu(&device), EXIT_OK);
  fake_start(-1, CUDA_SUCCESS);
  assert_int_equal(bench_device_measure_row(&device, &small, &row), EXIT_OK);
  assert_string_equal(row.kernel, "portable_rows16");
  assert_near(row.time.median, 0.01 / 3 / 16); /* three replays of 16 steps between two events */
  assert_int_equal(row.time.runs, 5 * 3 * 16);
  /* Two fills for each set; then two launches a step, once beforehand and in 17 replays. */
  assert_int_equal(fake_num_launches(), 16 * 2 + 16 * 2 * (1 + 2 + 5 * 3));

  device.gpu_ceilings = (probe_ceilings){.read_bytes = 1e12, .operations = {1e15, 2e15}};
  const bench_floor floor = bench_device_floor(&device, FMLA_DTYPE_FP16, &(step_cost){4e12, 1e9});
  assert_near(floor.seconds, 2e-3);
  assert_false(floor.memory_bound);
  bench_device_close(&device);
  assert_balanced(&before);
}

/* Fewer sets where memory is short, and a sentence where there is too little for one. */
static void test_memory(void **state) {
  (void)state;
  bench_device device;
  bench_row row;
  bench_shape large = small;
  assert_int_equal(open_gpu(&device), EXIT_OK);
  large.seqlen = 20000; /* 66 MiB of cache */
  fake.free_bytes = ((size_t)512 + 220) << 20;
  assert_int_equal(bench_device_measure_row(&device, &large, &row), EXIT_OK);
  assert_int_equal(row.time.runs % 2, 0); /* two sets, twice */
  fake.free_bytes = (size_t)512 << 20;
  assert_int_equal(bench_device_measure_row(&device, &large, &row), EXIT_ENVIRONMENT);
  assert_non_null(strstr(failure_sentence(), "3 sequences of 16 heads with up to 20032 tokens take"));
  assert_non_null(strstr(failure_sentence(), "0.0 GiB can be had"));
  bench_device_close(&device);
  assert_balanced(&before);
}

/* ---- Failures ------------------------------------------------------------------------------------------ */

static int use_all(void) {
  bench_device device;
  bench_row row;
  int code = open_gpu(&device);
  if (code == EXIT_OK)
    code = bench_device_measure_ceilings(&device);
  if (code == EXIT_OK)
    code = bench_device_measure_row(&device, &small, &row);
  bench_device_close(&device);
  return code;
}

static bool starts_with(const char *text, const char *start) {
  return strncmp(text, start, strlen(start)) == 0;
}

static void assert_lost(int now, int then, bool may_be_lost) {
  if (may_be_lost)
    assert_in_range(now, then, then + FMLAI_CUDA_MAX_IMAGES);
  else
    assert_int_equal(now, then);
}

/* What could not be given back is still there, and nobody is told. The library needs its context for that. */
static void assert_only_lost(const char *failed) {
  const fake_balance now = fake_now();
  const bool cannot_enter = strcmp(failed, "cuCtxPushCurrent") == 0;
  const bool is_destroy = strstr(failed, "Destroy") != NULL;
  assert_lost(now.allocations, before.allocations, cannot_enter || starts_with(failed, "cuMemFree"));
  assert_lost(now.streams, before.streams, cannot_enter || strcmp(failed, "cuStreamDestroy") == 0);
  assert_lost(now.modules, before.modules, cannot_enter || strcmp(failed, "cuModuleUnload") == 0);
  assert_lost(now.events, before.events, is_destroy && starts_with(failed, "cuEvent"));
  assert_lost(now.graphs, before.graphs, is_destroy && starts_with(failed, "cuGraph"));
  assert_lost(now.retained, before.retained, strcmp(failed, "cuDevicePrimaryCtxRelease") == 0);
}

static void test_failures(void **state) {
  (void)state;
  const size_t for_two_sets = (size_t)(512 + 45) << 20;
  fake.free_bytes = for_two_sets;
  assert_int_equal(use_all(), EXIT_OK);
  const int num_calls = fake_num_calls();
  assert_in_range(num_calls, 200, 1000);
  int told = 0;
  for (int i = 0; i < num_calls; i++) {
    char start[96];
    fake_set_current(NULL);
    fake.free_bytes = for_two_sets;
    before = fake_now();
    fake_start(i, 12345);
    const int code = use_all();
    snprintf(start, sizeof start, "%s failed: error 12345 (", fake_failed_call());
    if (code != EXIT_OK) {
      assert_int_equal(code, EXIT_ENVIRONMENT);
      if (!starts_with(failure_sentence(), start))
        fail_msg("call %d: \"%s\" does not start with \"%s\"", i, failure_sentence(), start);
      told++;
    } else if (strstr(
                   "cuMemFree cuStreamDestroy cuEventDestroy cuGraphDestroy cuGraphExecDestroy cuModuleUnload "
                   "cuDevicePrimaryCtxRelease cuCtxPopCurrent cuCtxPushCurrent",
                   fake_failed_call()) == NULL) {
      fail_msg("call %d, %s, failed and nobody was told", i, fake_failed_call());
    }
    assert_only_lost(fake_failed_call());
  }
  assert_true(told > num_calls / 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_ceilings, set_up),
      cmocka_unit_test_setup(test_row, set_up),
      cmocka_unit_test_setup(test_memory, set_up),
      cmocka_unit_test_setup(test_failures, set_up),
  };
  use_fake_driver();
  return cmocka_run_group_tests_name("cuda bench", tests, NULL, NULL);
}
