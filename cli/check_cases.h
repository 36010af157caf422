/* check_cases.h: many cases on one kernel, by several threads, their results in order. */
#ifndef CLI_CHECK_CASES_H
#define CLI_CHECK_CASES_H

#include "run_case.h"

#include <stdint.h>

typedef struct case_result {
  verify_case c; /* as it was run */
  verify_outcome outcome;
  char message[512]; /* if it failed */
} case_result;

typedef struct case_run {
  const fmla_config *config; /* of the contexts: each thread opens its own */
  int num_threads;
  int64_t num_cases;
  verify_case (*case_at)(const void *argument, int64_t index);
  /* Gets the results in the order of the cases, one at a time. Returns an exit code; another one than EXIT_OK
     ends the run. */
  int (*take)(void *argument, int64_t index, const case_result *result);
  void *argument;
} case_run;

/* Returns the first exit code that is not EXIT_OK. */
int check_cases(const case_run *run);

#endif
