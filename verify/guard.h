/*
 * guard.h: buffers between two pages that no access survives.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_GUARD_H
#define VERIFY_GUARD_H

#include <stddef.h>

/* Which guard page the buffer touches; the other side has up to a page of slack. */
typedef enum verify_guard_side { VERIFY_GUARD_BEFORE, VERIFY_GUARD_BEHIND } verify_guard_side;

/* `bytes` bytes of 0xff, a NaN in every floating point type; NULL when memory ran out. More than 1 GiB stays 0,
   so that what is not touched takes no memory. No byte of a buffer of 0 bytes may be touched. Aligned to a page
   with VERIFY_GUARD_BEFORE, else as `bytes` has it. */
void *verify_guard_alloc(size_t bytes, verify_guard_side side);

/* From now on a write to the buffer is not survived either. */
void verify_guard_read_only(void *buffer);

/* NULL is allowed. */
void verify_guard_free(void *buffer);

#endif
