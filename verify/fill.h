/*
 * fill.h: the values of a case: q, the named tokens of the cache, the sinks.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_FILL_H
#define VERIFY_FILL_H

#include "random.h"
#include "step.h"

/* Fills the inputs of a step whose lengths and tables stand. What nobody names stays as it is. */
void verify_fill(const verify_case *c, verify_step *step, verify_random *random);

#endif
