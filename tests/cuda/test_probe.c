/*
 * test_probe.c: a probe that cannot be opened says why.
 *
 * SPDX-License-Identifier: MIT
 */
#include "gpu.h"
#include "support.h"

#include <stdio.h>

/* The linker leads dlsym here. */
static const char *missing_symbol;
void *__real_dlsym(void *library, const char *symbol);
void *__wrap_dlsym(void *library, const char *symbol);
void *__wrap_dlsym(void *library, const char *symbol) {
  return missing_symbol != NULL && strcmp(symbol, missing_symbol) == 0 ? NULL : __real_dlsym(library, symbol);
}

/* Opening GPU `ordinal` fails with these words, and leaves nothing behind. */
static bool is_refused(int32_t ordinal, const char *words) {
  probe_gpu gpu;
  const bool opened = probe_open(&gpu, ordinal);
  const bool as_expected = !opened && strstr(gpu.sentence, words) != NULL;
  if (!as_expected)
    fprintf(stderr, "\"%s\" lacks \"%s\"\n", gpu.sentence, words);
  probe_close(&gpu);
  const fake_balance now = fake_now();
  return as_expected && now.depth == 0 && now.retained == 0 && now.modules == 0;
}

static bool missing_function(const void *symbol) {
  char words[96];
  missing_symbol = symbol;
  snprintf(words, sizeof words, "the driver lacks the function %s, which measuring needs", missing_symbol);
  return is_refused(0, words);
}

static void test_missing_functions(void **state) {
  (void)state;
#define X(name, symbol, parameters) in_child(missing_function, symbol);
  FMLAI_CUDA_OF_PROBE(X)
#undef X
}

static bool missing_driver(const void *path) {
  setenv("FMLA_CUDA_DRIVER", path, 1);
  return is_refused(0, "GPU 0 cannot be measured: the driver's library cannot be loaded (");
}

static bool missing_gpu(const void *unused) {
  (void)unused;
  return is_refused(7, "there is no GPU 7");
}

static bool no_gpu(const void *unused) {
  (void)unused;
  fake.num_devices = 0;
  return is_refused(0, "there is no GPU 0: its driver knows no GPU");
}

static void test_missing(void **state) {
  (void)state;
  in_child(missing_driver, "/nowhere/libcuda.so.1");
  in_child(missing_gpu, NULL);
  in_child(no_gpu, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_missing_functions),
      cmocka_unit_test(test_missing),
  };
  use_fake_driver();
  return cmocka_run_group_tests_name("cuda probe", tests, NULL, NULL);
}
