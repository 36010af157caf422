/*
 * support.h: what the tests of the CUDA backend share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CUDA_SUPPORT_H
#define CUDA_SUPPORT_H

#include "fake_cuda.h"
#include "flash_mla.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Leads the library to the fake driver. The first thing that a test does. */
void use_fake_driver(void);

/* fmla_open of a device, maybe with one kernel; fails the test if it fails. */
fmla_context *open_device(const char *device, const char *kernel);

/* A step of DeepSeek-V3's geometry in BF16: 4 sequences of 16 heads, a table for 2048 tokens. Its addresses are
   aligned and not those of any memory. */
fmla_decode_params valid_step(void);

/* A merge of 3 parts, likewise. */
fmla_merge_params valid_merge(void);

/* The status, and that the sentence has these words. */
void assert_fails(fmla_status got, fmla_status expected, const char *words);

/* The status and the sentence of a driver's failure with `result`. */
void assert_driver_failure(fmla_status got, CUresult result);

/* Everything is as before, but for what the failed call alone could have given back: an entry of the stack of
   contexts, a module, the primary context. */
void assert_balanced(const fake_balance *before);

/* The calls since fake_start are these. */
void assert_calls(const char *const *names, int count);
#define ASSERT_CALLS(...)                                                                                      \
  assert_calls((const char *const[]){__VA_ARGS__}, sizeof(const char *const[]){__VA_ARGS__} / sizeof(char *))

/* What a failing call may return: one of each kind. */
enum { NUM_RESULTS = 3 };
extern const CUresult results[NUM_RESULTS];

/* Runs `test` in a process of its own, where the driver is not open yet; it says what is wrong and returns
 * false. */
void in_child(bool (*test)(const void *argument), const void *argument);

/* For such tests: `status` and the last sentence's words. */
bool is_failure(fmla_status got, fmla_status expected, const char *words);

#endif
