/*
 * fuzz_tensor.h: tensors that are exactly as large as flash_mla.h says, by rules written from it alone.
 * Under AddressSanitizer every byte that is not of a row is poisoned.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FUZZ_TENSOR_H
#define FUZZ_TENSOR_H

#include "flash_mla.h"

#include <stdbool.h>

enum { FUZZ_MAX_DIMS = 4 };

/* Dimensions slowest first; `row` contiguous elements lie behind them. */
typedef struct fuzz_tensor {
  int num_dims;
  int64_t extents[FUZZ_MAX_DIMS], strides[FUZZ_MAX_DIMS];
  int64_t row;
  size_t element_bytes;
  size_t bytes; /* from the first to the last, SIZE_MAX if too many to count */
  unsigned char *data;
} fuzz_tensor;

typedef struct fuzz_dim {
  int64_t extent, stride;
} fuzz_dim;

/* Resolves FMLA_PACKED and counts the bytes. */
fuzz_tensor fuzz_tensor_of(const fuzz_dim *dims, int num_dims, int64_t row, size_t element_bytes);

/* Gives it memory: bytes that look random, of small numbers in any 16- and 32-bit floating point type. */
void fuzz_tensor_allocate(fuzz_tensor *tensor, uint32_t seed);
void fuzz_tensor_free(fuzz_tensor *tensor);

/* A tensor without elements may be NULL. */
bool fuzz_tensor_is_empty(const fuzz_tensor *tensor);

/* The row at these indices. */
unsigned char *fuzz_tensor_row(const fuzz_tensor *tensor, const int64_t *index);

/* Nothing of the tensor may be touched; then one row, or all rows, may be. */
void fuzz_tensor_hide(const fuzz_tensor *tensor);
void fuzz_tensor_show_row(const fuzz_tensor *tensor, const int64_t *index);
void fuzz_tensor_show_rows(const fuzz_tensor *tensor);

/* Fills an output, and later requires that what lies between its rows is still so. */
void fuzz_tensor_spoil(const fuzz_tensor *tensor);
void fuzz_tensor_require_gaps(const fuzz_tensor *tensor);

#endif
