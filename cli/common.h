/* common.h: what every verb shares: exit codes and the one sentence that explains a failure. */
#ifndef CLI_COMMON_H
#define CLI_COMMON_H

#include "flash_mla.h"

enum exit_code { EXIT_OK = 0, EXIT_CHECK_FAILED = 1, EXIT_USAGE = 2, EXIT_INPUT = 3, EXIT_ENVIRONMENT = 4 };

/* Keeps the sentence for main to print and returns `code`: "return fail(EXIT_INPUT, ...)". A sentence has no
   newline and no full stop; control characters in it become '?'. */
__attribute__((format(printf, 2, 3))) int fail(int code, const char *format, ...);

/* fail() with the library's own sentence; FMLA_OK gives EXIT_OK. */
int fail_status(fmla_status status);

/* fail() for a call that returned NULL for want of memory. */
static inline int fail_memory(void) {
  fail(EXIT_ENVIRONMENT, "memory ran out");
  return EXIT_ENVIRONMENT; /* a constant, for analyzers to follow */
}

/* Puts "subject: " before the sentence of the last fail(). Returns `code`. */
int fail_about(const char *subject, int code);

/* The sentence of the last fail(); "" if there was none. */
const char *failure_sentence(void);

/* The verbs; argv[0] is the verb. They return an exit code, after fail() unless it is EXIT_OK. */
int cmd_info(int argc, char **argv);
int cmd_decode(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_check(int argc, char **argv);

#endif
