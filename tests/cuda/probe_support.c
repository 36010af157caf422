/*
 * probe_support.c: the probe's device code for tests: the names of its kernels.
 *
 * SPDX-License-Identifier: MIT
 */
#include "image.h"

/* Taken in place of the probe's own, which may have none. */
const probe_image_set probe_images = {
    {"probe_fill ", "probe_read ", "probe_multiply_bf16 probe_multiply_fp16 ", "probe_hold probe_hold_pairs "}};
