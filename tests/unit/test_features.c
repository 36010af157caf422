/*
 * test_features.c: the processor's features, with the system's list as a witness.
 *
 * SPDX-License-Identifier: MIT
 */
#include "cpu/features.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Our bits, our words and those of Linux. */
static const struct {
  uint32_t bit;
  const char *name, *linux_name;
} features[] = {
    {FMLAI_CPU_SSE42, "sse4.2", "sse4_2"},
    {FMLAI_CPU_AVX, "avx", "avx"},
    {FMLAI_CPU_F16C, "f16c", "f16c"},
    {FMLAI_CPU_FMA, "fma", "fma"},
    {FMLAI_CPU_AVX2, "avx2", "avx2"},
    {FMLAI_CPU_AVX512F, "avx512f", "avx512f"},
    {FMLAI_CPU_AVX512BW, "avx512bw", "avx512bw"},
    {FMLAI_CPU_AVX512VL, "avx512vl", "avx512vl"},
    {FMLAI_CPU_AVX512BF16, "avx512bf16", "avx512_bf16"},
    {FMLAI_CPU_AVX512FP16, "avx512fp16", "avx512_fp16"},
    {FMLAI_CPU_AMX_TILE, "amx_tile", "amx_tile"},
    {FMLAI_CPU_AMX_BF16, "amx_bf16", "amx_bf16"},
    {FMLAI_CPU_AMX_FP16, "amx_fp16", "amx_fp16"},
};
enum { NUM_FEATURES = sizeof features / sizeof *features };

/* Whether a list of words separated by spaces has a word. */
static bool has_word(const char *list, const char *word) {
  const size_t length = strlen(word);
  for (const char *at = list; (at = strstr(at, word)) != NULL; at += length)
    if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0' || at[length] == '\n'))
      return true;
  return false;
}

static bool read_flags(char *line, size_t bytes) {
  FILE *file = fopen("/proc/cpuinfo", "r");
  bool found = false;
  while (file != NULL && !found && fgets(line, (int)bytes, file) != NULL)
    found = strncmp(line, "flags", 5) == 0;
  if (file != NULL)
    fclose(file);
  return found;
}

/* What the system lists can be used, and what can be used is listed, as far as the system knows its name. */
static void test_features_of_this_cpu(void **state) {
  (void)state;
  char line[8192];
  if (!read_flags(line, sizeof line))
    skip();
  const uint32_t found = fmlai_cpu_features();
  for (int i = 0; i < NUM_FEATURES; i++) {
    if (has_word(line, features[i].linux_name) && (found & features[i].bit) == 0)
      fail_msg("%s is not found", features[i].name);
    if ((features[i].bit <= FMLAI_CPU_AVX512VL) && !has_word(line, features[i].linux_name))
      assert_int_equal(found & features[i].bit, 0);
  }
}

/* FMLA_CPU_DISABLE takes away what its words begin the names of, and nothing else. */
static void test_disabled_features(void **state) {
  (void)state;
  static const struct {
    const char *words;
    uint32_t taken;
  } cases[] = {
      {"", 0},
      {",,", 0},
      {"nothing,vx,AVX", 0},
      {"amx", FMLAI_CPU_AMX_TILE | FMLAI_CPU_AMX_BF16 | FMLAI_CPU_AMX_FP16},
      {"amx_fp16", FMLAI_CPU_AMX_FP16},
      {"avx512bf16", FMLAI_CPU_AVX512BF16},
      {"avx512bf16,fma", FMLAI_CPU_AVX512BF16 | FMLAI_CPU_FMA},
      {",f16c,,avx512vl,", FMLAI_CPU_F16C | FMLAI_CPU_AVX512VL},
      {"avx512", FMLAI_CPU_AVX512F | FMLAI_CPU_AVX512BW | FMLAI_CPU_AVX512VL | FMLAI_CPU_AVX512BF16 |
                     FMLAI_CPU_AVX512FP16},
  };
  unsetenv("FMLA_CPU_DISABLE");
  const uint32_t all = fmlai_cpu_features();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_int_equal(setenv("FMLA_CPU_DISABLE", cases[i].words, 1), 0);
    assert_int_equal(fmlai_cpu_features(), all & ~cases[i].taken);
  }
  unsetenv("FMLA_CPU_DISABLE");
}

static void test_names(void **state) {
  (void)state;
  char text[256], all[256];
  for (int i = 0; i < NUM_FEATURES; i++) {
    fmlai_cpu_feature_names(features[i].bit, text, sizeof text);
    assert_string_equal(text, features[i].name);
  }
  fmlai_cpu_feature_names(0, text, sizeof text);
  assert_string_equal(text, "");
  fmlai_cpu_feature_names(UINT32_MAX, all, sizeof all);
  for (int i = 0; i < NUM_FEATURES; i++)
    assert_true(has_word(all, features[i].name));
  assert_true(strlen(all) + 1 < sizeof all); /* they fit into fmla_device_info.features */

  /* A buffer that is too small gets the beginning. */
  for (size_t bytes = 1; bytes <= strlen(all); bytes++) {
    char *small = malloc(bytes);
    assert_non_null(small);
    fmlai_cpu_feature_names(UINT32_MAX, small, bytes);
    assert_int_equal(strlen(small), bytes - 1);
    assert_memory_equal(small, all, bytes - 1);
    free(small);
  }
}

static void test_description(void **state) {
  (void)state;
  char text[128], small[4];
  fmlai_cpu_description(text, sizeof text);
  assert_true(strlen(text) > 2 && text[0] != ' ');
  fmlai_cpu_description(small, sizeof small);
  assert_int_equal(strlen(small), 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_features_of_this_cpu),
      cmocka_unit_test(test_disabled_features),
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_description),
  };
  return cmocka_run_group_tests_name("features", tests, NULL, NULL);
}
