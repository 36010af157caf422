/*
 * test_check.c: what check does on a GPU, on a driver whose kernels compute: it passes what is right, and finds
 * what is wrong.
 *
 * SPDX-License-Identifier: MIT
 */
#include "computing.h"
#include "gpu_properties.h"
#include "gpu_rules.h"
#include "run_case.h"
#include "step.h"
#include "support.h"

#include <stdio.h>

static fake_balance before;

static int set_up(void **state) {
  (void)state;
  fake_set_current(NULL);
  fake_start(-1, CUDA_SUCCESS);
  before = fake_now();
  return 0;
}

static fmla_config config_of(const char *kernel) {
  fmla_config config = FMLA_CONFIG_INIT;
  config.device = "cuda:0";
  config.kernel = kernel;
  return config;
}

/* ---- Cases --------------------------------------------------------------------------------------------- */

static verify_outcome run_case(const verify_target *target, verify_case c, char message[512]) {
  c = verify_case_for(target, &c);
  if (c.strides == VERIFY_STRIDES_FAR) /* it takes gigabytes */
    return VERIFY_REFUSED;
  if (c.longest > 700)
    c.longest = 700;
  return verify_run_case(target, &c, message, 512);
}

static void test_cases(void **state) {
  (void)state;
  enum { RANDOM = 30 };
  char message[512];
  verify_target target;
  const fmla_config config = config_of(NULL);
  compute_on_cpu(COMPUTING_RIGHT);
  assert_int_equal(verify_target_open(&config, &target), FMLA_OK);
  assert_true(target.is_gpu);
  int refused = 0;
  for (int i = 0; i < verify_num_extreme_cases() + RANDOM; i++) {
    const int extreme = verify_num_extreme_cases();
    const verify_case c = i < extreme ? verify_extreme_case(i) : verify_random_case((uint64_t)(i - extreme));
    const verify_outcome outcome = run_case(&target, c, message);
    if (outcome == VERIFY_REFUSED)
      refused++;
    else if (outcome != VERIFY_PASSED)
      fail_msg("case %d (%s): outcome %d, %s", i, c.name != NULL ? c.name : "random", outcome, message);
  }
  assert_in_range(refused, 2, 6); /* among them head dims of 4096 */
  verify_target_close(&target);
  assert_balanced(&before);
}

/* Cases as they are for CPUs break GPUs' rules: that they are refused is what is right. */
static void test_refusals(void **state) {
  (void)state;
  char message[512];
  verify_target target;
  const fmla_config config = config_of("portable_rows64");
  assert_int_equal(verify_target_open(&config, &target), FMLA_OK);
  verify_case c = verify_random_case(1);
  c.head_dim_k = c.head_dim_v = 72;
  c.head_dim_rope = 0;
  assert_int_equal(verify_run_case(&target, &c, message, sizeof message), VERIFY_REFUSED);
  c.head_dim_k = c.head_dim_v = 576; /* which that kernel does not take */
  c.strides = VERIFY_STRIDES_PACKED;
  assert_int_equal(verify_run_case(&target, &c, message, sizeof message), VERIFY_NOT_TAKEN);
  verify_target_close(&target);
  assert_balanced(&before);
}

/* The judge's reading of the rules is the library's, on cases as they are for CPUs and as GPUs take them. */
static bool is_taken(fmla_context *context, const verify_case *c) {
  verify_step step;
  size_t bytes;
  assert_int_equal(verify_step_build(c, &step), 0);
  const fmla_status status = fmla_decode_workspace(context, &step.params, &bytes);
  const bool obeys = verify_obeys_gpu_rules(&step.params);
  verify_step_free(&step);
  if (status != (obeys ? FMLA_OK : FMLA_ERROR_UNSUPPORTED))
    fail_msg("seed %d: %s %s, %s", (int)c->seed, obeys ? "obeys, but" : "breaks a rule, but",
             fmla_status_name(status), fmla_last_error());
  return obeys;
}

static void test_rules(void **state) {
  (void)state;
  enum { SEEDS = 150 };
  fmla_context *context = open_device("cuda:0", NULL);
  int taken = 0, taken_apt = 0, alike = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    verify_case c = verify_random_case(seed);
    c.longest = c.longest < 3 ? c.longest : 3;
    const verify_case apt = verify_case_for_gpus(&c);
    const bool as_is = is_taken(context, &c), rounded = is_taken(context, &apt);
    assert_true(rounded || apt.head_dim_k > 576);
    assert_true(!as_is || (apt.head_dim_k == c.head_dim_k && apt.head_dim_v == c.head_dim_v &&
                           apt.head_dim_rope == c.head_dim_rope));
    taken += as_is;
    taken_apt += rounded;
    alike += apt.head_dim_k == c.head_dim_k && apt.softmax_scale == c.softmax_scale;
  }
  assert_in_range(taken, SEEDS / 10, SEEDS / 2);
  assert_in_range(taken_apt, SEEDS * 9 / 10, SEEDS - 1);
  assert_in_range(alike, SEEDS / 3, SEEDS);
  fmla_close(context);
  assert_balanced(&before);
}

/* ---- Properties ------------------------------------------------------------------------------------------ */

static verify_gpu open_gpu(void) {
  verify_gpu gpu;
  const fmla_config config = config_of("portable_rows16");
  if (!verify_gpu_open(&config, &gpu))
    fail_msg("%s", gpu.message);
  verify_gpu_be_quick(&gpu);
  return gpu;
}

static void test_properties_hold(void **state) {
  (void)state;
  verify_gpu gpu = open_gpu();
  compute_on_cpu(COMPUTING_RIGHT);
  for (int i = 0; i < verify_num_gpu_properties(); i++)
    if (verify_run_gpu_property(&gpu, i) != VERIFY_PASSED)
      fail_msg("%s: %s", verify_gpu_property_name(i), gpu.message);
  verify_gpu_close(&gpu);
  assert_balanced(&before);
}

/* Each property finds a defect that is its own. */
static void test_defects_are_found(void **state) {
  (void)state;
  static const struct {
    const char *property;
    computing_defect defect;
    const char *words;
  } table[] = {
      {"a pool that", COMPUTING_CUTS_PAGES, "other bits"},
      {"a pool that", COMPUTING_WRITES_BESIDE, "wrote beside"},
      {"lengths and pages", COMPUTING_READS_BAD_PAGES, "other bits"},
      {"lengths and pages", COMPUTING_CLAMPS_TOO_LITTLE, "is off by"},
      {"lengths and pages", COMPUTING_WRITES_BESIDE, "wrote beside"},
      {"query offsets", COMPUTING_WRITES_BESIDE, "wrote beside"},
      {"the checked mode", COMPUTING_CHECKS_NOTHING, "cache_seqlens[2] is 999999"},
      {"a graph", COMPUTING_KEEPS_LENGTHS, "gave other bits than a fresh launch"},
      {"a graph", COMPUTING_FORGETS_A_CALL, "gave other bits than a fresh launch"},
      {"two contexts", COMPUTING_TIRES, "other bits"},
      {"one context and two threads", COMPUTING_TIRES, "other bits"},
      {"all SMs held", COMPUTING_WAITS_FOR_SMS, "did not end within 2 s"},
      {"few SMs", COMPUTING_SPLITS_WRONGLY, "with max_sms 1"},
  };
  verify_gpu gpu = open_gpu();
  for (size_t t = 0; t < sizeof table / sizeof *table; t++)
    for (int i = 0; i < verify_num_gpu_properties(); i++) {
      if (strstr(verify_gpu_property_name(i), table[t].property) == NULL)
        continue;
      compute_on_cpu(table[t].defect);
      const verify_outcome outcome = verify_run_gpu_property(&gpu, i);
      if (outcome != VERIFY_FAILED || strstr(gpu.message, table[t].words) == NULL)
        fail_msg("%s, defect %d: outcome %d, \"%s\"", verify_gpu_property_name(i), table[t].defect, outcome,
                 gpu.message);
    }
  verify_gpu_close(&gpu);
  assert_balanced(&before);
}

/* Each call of the driver fails in turn. Nobody crashes, and what fails names the call. */
static void test_failures(void **state) {
  (void)state;
  enum { CALLS = 60 };
  compute_on_cpu(COMPUTING_RIGHT);
  for (int i = 0; i < verify_num_gpu_properties() * CALLS; i++) {
    fake_set_current(NULL);
    fake_start(-1, CUDA_SUCCESS);
    verify_gpu gpu = open_gpu();
    fake_start(i % CALLS, 12345);
    const verify_outcome outcome = verify_run_gpu_property(&gpu, i / CALLS);
    if (outcome == VERIFY_FAILED && strstr(gpu.message, fake_failed_call()) == NULL)
      fail_msg("\"%s\" does not name %s", gpu.message, fake_failed_call());
    fake_start(-1, CUDA_SUCCESS);
    verify_gpu_close(&gpu);
  }
}

/* Where kernels run one by one, nothing is held; all else is as it was. */
static void test_serial_gpu(void **state) {
  (void)state;
  verify_gpu gpu = open_gpu();
  gpu.is_serial = true;
  compute_on_cpu(COMPUTING_WAITS_FOR_SMS);
  for (int i = 0; i < verify_num_gpu_properties(); i++) {
    const bool holds = strstr(verify_gpu_property_name(i), "all SMs held") != NULL;
    assert_int_equal(verify_run_gpu_property(&gpu, i), holds ? VERIFY_NOT_TAKEN : VERIFY_PASSED);
  }
  verify_gpu_close(&gpu);
  assert_balanced(&before);
}

/* The device is lost: that is an outcome of its own. */
static void test_lost_device(void **state) {
  (void)state;
  char message[512];
  verify_target target;
  const fmla_config config = config_of(NULL);
  assert_int_equal(verify_target_open(&config, &target), FMLA_OK);
  const verify_case c = verify_extreme_case(0), apt = verify_case_for(&target, &c);
  fake_start(10, CUDA_ERROR_ILLEGAL_ADDRESS);
  assert_int_equal(verify_run_case(&target, &apt, message, sizeof message), VERIFY_LOST);
  assert_non_null(strstr(message, "CUDA_ERROR_ILLEGAL_ADDRESS"));
  fake_start(-1, CUDA_SUCCESS);
  verify_target_close(&target);
}

static int tear_down(void **state) {
  (void)state;
  stop_computing();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_cases, set_up, tear_down),
      cmocka_unit_test_setup(test_refusals, set_up),
      cmocka_unit_test_setup(test_rules, set_up),
      cmocka_unit_test_setup_teardown(test_properties_hold, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_defects_are_found, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_failures, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_serial_gpu, set_up, tear_down),
      cmocka_unit_test_setup(test_lost_device, set_up),
  };
  use_fake_driver();
  fake.devices[0].num_sms = 8; /* so that workspaces are small */
  return cmocka_run_group_tests_name("cuda check", tests, NULL, NULL);
}
