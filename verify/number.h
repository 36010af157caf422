/*
 * number.h: 16-bit floating point, read and rounded by code of its own: a fault in the library's conversions
 * must not repeat itself in what judges it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_NUMBER_H
#define VERIFY_NUMBER_H

#include "flash_mla.h"

/* Bytes of an element. */
size_t verify_dtype_bytes(int32_t dtype);

/* Element `index` of an array of `dtype`; every value of the three types is exact in double. */
double verify_load(int32_t dtype, const void *array, int64_t index);

/* `count` elements from `index` on. */
void verify_load_many(int32_t dtype, const void *array, int64_t index, int32_t count, double *values);

/* Stores `value` as element `index`, rounded to the nearest, ties to even. */
void verify_store(int32_t dtype, void *array, int64_t index, float value);

#endif
