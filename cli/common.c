#include "common.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static char sentence[1024];

int fail(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(sentence, sizeof sentence, format, arguments);
  va_end(arguments);
  for (char *c = sentence; *c != '\0'; c++)
    if ((unsigned char)*c < ' ' || *c == 0x7f)
      *c = '?';
  return code;
}

int fail_status(fmla_status status) {
  if (status == FMLA_OK)
    return EXIT_OK;
  return fail(status == FMLA_ERROR_INVALID_ARGUMENT ? EXIT_INPUT : EXIT_ENVIRONMENT, "%s", fmla_last_error());
}

int fail_about(const char *subject, int code) {
  char old[sizeof sentence];
  memcpy(old, sentence, sizeof old);
  return fail(code, "%s: %s", subject, old);
}

const char *failure_sentence(void) {
  return sentence;
}
