/*
 * run_case.h: one case on one kernel: against the oracle, and against itself where bits must be the same.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_RUN_CASE_H
#define VERIFY_RUN_CASE_H

#include "cases.h"

/* What cases run on. */
typedef struct verify_target {
  bool is_gpu; /* whose rules cases must obey, or be refused */
  fmla_context *context;
  fmla_context *other_threads; /* the same device and kernel with another number of threads; or NULL */
} verify_target;

/* Opens both contexts. */
fmla_status verify_target_open(const fmla_config *config, verify_target *target);
void verify_target_close(verify_target *target);

typedef enum verify_outcome {
  VERIFY_PASSED,
  VERIFY_FAILED,
  VERIFY_NOT_TAKEN, /* the kernel does not serve such a call, and says so */
  VERIFY_REFUSED,   /* it breaks a rule of GPUs, and the device says so */
  VERIFY_NO_MEMORY, /* nothing is known */
  VERIFY_LOST       /* failed, and so will whatever follows: the device is lost */
} verify_outcome;

/* The case as the target is to run it: on a GPU, as GPUs take it. */
verify_case verify_case_for(const verify_target *target, const verify_case *c);

/* `message` gets one sentence if the case failed. */
verify_outcome verify_run_case(const verify_target *target, const verify_case *c, char *message, size_t bytes);

#endif
