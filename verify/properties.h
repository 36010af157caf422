/*
 * properties.h: what must hold between calls, beside each call being right.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_PROPERTIES_H
#define VERIFY_PROPERTIES_H

#include "run_case.h"
#include "step.h"

/* A case that was decoded once, and found right. */
typedef struct verify_run {
  const verify_target *target;
  const verify_case *c;
  const verify_step *step;
  char *message; /* for the sentence of a failure */
  size_t message_bytes;
} verify_run;

typedef verify_outcome verify_property(const verify_run *run);

/* Bits */
verify_property verify_second_run;       /* twice the same, whatever the workspace held */
verify_property verify_other_threads;    /* ... and whatever the number of threads */
verify_property verify_batch_invariance; /* with the flag: each sequence alone as in its batch */
verify_property verify_isolation;        /* NaN in one sequence changes no other */

/* Results */
verify_property verify_merged_parts;   /* the keys in several parts, merged, within the same bounds */
verify_property verify_workspace_size; /* does not shrink when an extent grows */

/* Compares a result of the case, however it was come by, with the oracle. */
verify_outcome verify_check_values(const verify_run *run, const fmla_decode_params *result, const char *what);

/* Puts a failure's sentence into the run; returns VERIFY_FAILED. */
__attribute__((format(printf, 2, 3))) verify_outcome verify_fail(const verify_run *run, const char *format,
                                                                 ...);

/* The outcome of a call that did not return FMLA_OK. */
verify_outcome verify_call_failed(const verify_run *run, const char *what, fmla_status status);

#endif
