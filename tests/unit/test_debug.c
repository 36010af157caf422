/*
 * test_debug.c: the library prints nothing, unless FMLA_DEBUG asks for it.
 *
 * SPDX-License-Identifier: MIT
 */
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* What a whole use of the library, with a mistake in it, prints on stdout and stderr. */
static void printed_with(const char *debug, char *text, size_t bytes) {
  FILE *file = tmpfile();
  assert_non_null(file);
  fflush(NULL);
  const int saved[2] = {dup(STDOUT_FILENO), dup(STDERR_FILENO)};
  dup2(fileno(file), STDOUT_FILENO);
  dup2(fileno(file), STDERR_FILENO);
  if (debug != NULL)
    setenv("FMLA_DEBUG", debug, 1);
  else
    unsetenv("FMLA_DEBUG");
  sample s = sample_new(&sample_tiny);
  fmla_context *context = NULL;
  fmla_status opened = fmla_open(NULL, &context), decoded = FMLA_OK, refused = FMLA_OK;
  if (opened == FMLA_OK) {
    decoded = sample_decode(context, &s);
    s.cache_seqlens[0] = -1;
    refused = sample_decode(context, &s);
    fmla_close(context);
  }
  sample_free(&s);
  unsetenv("FMLA_DEBUG");
  fflush(NULL);
  dup2(saved[0], STDOUT_FILENO);
  dup2(saved[1], STDERR_FILENO);
  close(saved[0]);
  close(saved[1]);
  rewind(file);
  text[fread(text, 1, bytes - 1, file)] = '\0';
  fclose(file);
  assert_int_equal(opened, FMLA_OK);
  assert_int_equal(decoded, FMLA_OK);
  assert_int_equal(refused, FMLA_ERROR_INVALID_ARGUMENT);
}

static void test_silence(void **state) {
  (void)state;
  static const char *const quiet[] = {NULL, "", "0"};
  char text[4096];
  for (size_t i = 0; i < sizeof quiet / sizeof *quiet; i++) {
    printed_with(quiet[i], text, sizeof text);
    assert_string_equal(text, "");
  }
}

static void test_debug_output(void **state) {
  (void)state;
  char text[4096];
  printed_with("1", text, sizeof text);
  assert_non_null(strstr(text, "flashmla: opened cpu with "));
  assert_non_null(strstr(text, "flashmla: decode of 3 sequences, 4 heads with kernel "));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_silence),
      cmocka_unit_test(test_debug_output),
  };
  return cmocka_run_group_tests_name("debug", tests, NULL, NULL);
}
