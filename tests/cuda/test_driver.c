/*
 * test_driver.c: drivers that are missing, too old or broken, and the devices that they show. A process opens a
 * driver once, so each case has its own.
 *
 * SPDX-License-Identifier: MIT
 */
#include "cuda/driver.h"

#include "support.h"

#include <stdio.h>

/* The linker leads the library's dlsym here. */
static const char *missing_symbol;
void *__real_dlsym(void *library, const char *symbol);
void *__wrap_dlsym(void *library, const char *symbol);
void *__wrap_dlsym(void *library, const char *symbol) {
  return missing_symbol != NULL && strcmp(symbol, missing_symbol) == 0 ? NULL : __real_dlsym(library, symbol);
}

static fmla_status try_open(const char *device) {
  fmla_config config = FMLA_CONFIG_INIT;
  fmla_context *context = NULL;
  config.device = device;
  config.num_threads = 1;
  const fmla_status status = fmla_open(&config, &context);
  fmla_close(context);
  return status;
}

/* "cuda:0" is refused with these words, and what is left is the CPU. */
static bool is_absent(const char *words) {
  char sentence[512];
  fmla_device_info info = {.struct_size = sizeof info};
  if (!is_failure(try_open("cuda:0"), FMLA_ERROR_NO_DEVICE, "device is \"cuda:0\", but ") ||
      !is_failure(FMLA_ERROR_NO_DEVICE, FMLA_ERROR_NO_DEVICE, words))
    return false;
  snprintf(sentence, sizeof sentence, "%s", fmla_last_error());
  return fmla_device_count() == 1 && fmla_get_device_info(0, &info) == FMLA_OK &&
         strcmp(info.name, "cpu") == 0 && try_open(NULL) == FMLA_OK && try_open("auto") == FMLA_OK &&
         is_failure(try_open("cuda:0"), FMLA_ERROR_NO_DEVICE, sentence);
}

#define NEEDED "an NVIDIA driver for CUDA 13 (R580 or newer)"

/* ---- Drivers ----------------------------------------------------------------------------------------- */

static bool missing_library(const void *path) {
  setenv("FMLA_CUDA_DRIVER", path, 1);
  return is_absent("the driver's library cannot be loaded (") && is_absent(NEEDED) &&
         (strlen(path) > 100 || is_absent(path));
}

static void test_missing_library(void **state) {
  (void)state;
  char name[3000];
  memset(name, 'x', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  in_child(missing_library, "/nowhere/libcuda.so.1");
  in_child(missing_library, "libno-such-driver.so");
  in_child(missing_library, name);
}

static bool missing_required(const void *symbol) {
  missing_symbol = symbol;
  return is_absent(strcmp(symbol, "cuDriverGetVersion") == 0 ? "does not tell its version" : symbol) &&
         is_absent(NEEDED);
}

static void test_missing_required_symbols(void **state) {
  (void)state;
#define X(name, symbol, parameters) in_child(missing_required, symbol);
  FMLAI_CUDA_REQUIRED(X)
#undef X
}

static bool missing_optional(const void *symbol) {
  missing_symbol = symbol;
  return try_open("cuda:0") == FMLA_OK;
}

static void test_missing_optional_symbols(void **state) {
  (void)state;
#define X(name, symbol, parameters) in_child(missing_optional, symbol);
  FMLAI_CUDA_OPTIONAL(X)
  FMLAI_CUDA_OF_PROBE(X)
#undef X
}

static bool old_driver(const void *version) {
  fake.version = *(const int *)version;
  missing_symbol = "cuStreamCreate"; /* which does not matter, as it is too old */
  return is_absent("its driver is for CUDA 12.9; needed is " NEEDED) && is_absent("built by nvcc 13.0");
}

static bool fitting_driver(const void *version) {
  fake.version = *(const int *)version;
  return try_open("cuda:0") == FMLA_OK;
}

static void test_versions(void **state) {
  (void)state;
  in_child(old_driver, &(int){12090});
  in_child(fitting_driver, &(int){13000});
  in_child(fitting_driver, &(int){13020});
  in_child(fitting_driver, &(int){14010});
}

typedef struct injection {
  int index;
  CUresult result;
} injection;

/* All calls of the driver until the devices are known. */
static bool broken_driver(const void *argument) {
  const injection *i = argument;
  char words[96];
  fake.num_devices = 1;
  fake_start(i->index, i->result);
  fmla_device_count();
  if (fake_failed_call() == NULL || fake_now().depth != 0)
    return false;
  snprintf(words, sizeof words, "%s failed: CUDA_ERROR_NO_DEVICE (the fake driver's words)",
           fake_failed_call());
  return is_absent(strcmp(fake_failed_call(), "cuDriverGetVersion") == 0 ? NEEDED : words);
}

static bool count_calls(const void *expected) {
  fake.num_devices = 1;
  fake_start(-1, CUDA_SUCCESS);
  fmla_device_count();
  return fake_num_calls() == *(const int *)expected;
}

static void test_failures(void **state) {
  (void)state;
  enum { CALLS = 12 }; /* version, init, count; get, name, memory, six attributes */
  in_child(count_calls, &(int){CALLS});
  for (int i = 0; i < CALLS; i++)
    in_child(broken_driver, &(injection){i, CUDA_ERROR_NO_DEVICE});
}

/* Who names the CPU does not start the driver. */
static bool only_cpu(const void *unused) {
  (void)unused;
  fake_start(-1, CUDA_SUCCESS);
  return try_open("cpu") == FMLA_OK && try_open("cpux") == FMLA_ERROR_INVALID_ARGUMENT && fake_num_calls() == 0;
}

static void test_cpu_alone(void **state) {
  (void)state;
  in_child(only_cpu, NULL);
}

/* ---- Devices ----------------------------------------------------------------------------------------- */

static bool no_devices(const void *unused) {
  (void)unused;
  fake.num_devices = 0;
  return is_absent("its driver knows no GPU");
}

static bool old_device(const void *unused) {
  (void)unused;
  fake.num_devices = 1;
  fake.devices[0] = (fake_device){"Fake V100", 7, 0, 80, 98304, 98304};
  return is_absent("GPU 0 (Fake V100) has compute capability 7.0, and 8.0 is needed");
}

/* Devices keep the driver's numbers. */
static bool old_and_new_devices(const void *unused) {
  (void)unused;
  fmla_device_info info = {.struct_size = sizeof info};
  fake.num_devices = 3;
  fake.devices[2] = fake.devices[1];
  fake.devices[1] = (fake_device){"Fake V100", 7, 0, 80, 98304, 98304};
  return fmla_device_count() == 3 && fmla_get_device_info(0, &info) == FMLA_OK &&
         strcmp(info.name, "cuda:0") == 0 && fmla_get_device_info(1, &info) == FMLA_OK &&
         strcmp(info.name, "cuda:2") == 0 && strcmp(info.description, "Fake RTX 4090") == 0 &&
         try_open("cuda:2") == FMLA_OK &&
         is_failure(try_open("cuda:1"), FMLA_ERROR_NO_DEVICE, "fmla_get_device_info lists") &&
         is_failure(try_open("cuda"), FMLA_ERROR_NO_DEVICE, "fmla_get_device_info lists") &&
         is_failure(try_open("cuda:02"), FMLA_ERROR_NO_DEVICE, "fmla_get_device_info lists");
}

static bool described(const void *unused) {
  (void)unused;
  fmla_device_info info = {.struct_size = sizeof info};
  fmla_kernel_info kernel = {.struct_size = sizeof kernel};
  return fmla_get_device_info(1, &info) == FMLA_OK && strcmp(info.name, "cuda:1") == 0 &&
         strcmp(info.features, "sm_89 shared_99KiB") == 0 && info.num_units == 128 &&
         info.memory_bytes == UINT64_C(2) << 34 && fmla_get_kernel_info(0, &kernel) == FMLA_OK &&
         strcmp(kernel.backend, "cuda") == 0 && strcmp(kernel.name, "portable_rows16") == 0 &&
         kernel.available && strstr(kernel.needs, NEEDED) != NULL;
}

/* What a consumer card would run, on a larger one. */
static bool small_shared(const void *unused) {
  (void)unused;
  fmla_config config = FMLA_CONFIG_INIT;
  fmla_context *context;
  fmla_decode_params p = valid_step();
  fmla_device_info info = {.struct_size = sizeof info};
  const char *kernel;
  p.num_q_heads = 128;
  setenv("FMLA_CUDA_MAX_SHARED", "101376", 1);
  config.device = "cuda:0";
  const bool is = fmla_open(&config, &context) == FMLA_OK &&
                  fmla_decode_kernel(context, &p, &kernel, NULL) == FMLA_OK &&
                  strcmp(kernel, "portable_rows32") == 0 && fmla_get_device_info(0, &info) == FMLA_OK &&
                  strcmp(info.features, "sm_80 shared_99KiB") == 0;
  fmla_close(context);
  return is;
}

static void test_devices(void **state) {
  (void)state;
  in_child(small_shared, NULL);
  in_child(no_devices, NULL);
  in_child(old_device, NULL);
  in_child(old_and_new_devices, NULL);
  in_child(described, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_missing_library),
      cmocka_unit_test(test_missing_required_symbols),
      cmocka_unit_test(test_missing_optional_symbols),
      cmocka_unit_test(test_versions),
      cmocka_unit_test(test_failures),
      cmocka_unit_test(test_cpu_alone),
      cmocka_unit_test(test_devices),
  };
  use_fake_driver();
  return cmocka_run_group_tests_name("cuda driver", tests, NULL, NULL);
}
