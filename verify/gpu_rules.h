/*
 * gpu_rules.h: the rules that GPUs add (flash_mla.h), and cases as GPUs take them.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_GPU_RULES_H
#define VERIFY_GPU_RULES_H

#include "cases.h"

#include <stdbool.h>

/* Whether a GPU must take the call, if its tensors are aligned. */
bool verify_obeys_gpu_rules(const fmla_decode_params *params);

/* The same case with head dims rounded up to multiples of 16 and strides to multiples of 16 bytes. Head dims
   that no GPU takes stay beyond the limit: their case is to be refused. */
verify_case verify_case_for_gpus(const verify_case *c);

#endif
