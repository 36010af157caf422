/*
 * computing.h: lets the fake driver's kernels compute, on the CPU backend; rightly, or with a defect.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CUDA_COMPUTING_H
#define CUDA_COMPUTING_H

typedef enum computing_defect {
  COMPUTING_RIGHT,
  COMPUTING_CUTS_PAGES,        /* to the lower half of the pool */
  COMPUTING_READS_BAD_PAGES,   /* as page 0 */
  COMPUTING_CLAMPS_TOO_LITTLE, /* lengths, to one token less */
  COMPUTING_WRITES_BESIDE,     /* a byte before out */
  COMPUTING_CHECKS_NOTHING,    /* in the checked mode */
  COMPUTING_KEEPS_LENGTHS,     /* of the first replay, in later ones */
  COMPUTING_FORGETS_A_CALL,    /* every tenth does nothing */
  COMPUTING_TIRES,             /* after ten calls */
  COMPUTING_WAITS_FOR_SMS,     /* so that whoever holds them times out */
  COMPUTING_SPLITS_WRONGLY     /* where there are few CTAs */
} computing_defect;

/* From now on. */
void compute_on_cpu(computing_defect wanted);
void stop_computing(void);

#endif
