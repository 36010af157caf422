/*
 * fuzz_tensor.c: sizes, memory and rows of fuzzed tensors.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_tensor.h"

#include "fuzz_data.h"

#if defined(__has_feature)
#define HAS_ADDRESS_SANITIZER __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define HAS_ADDRESS_SANITIZER 1
#else
#define HAS_ADDRESS_SANITIZER 0
#endif
#if HAS_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)   ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

enum { SPOILT = 0xa5 };

fuzz_tensor fuzz_tensor_of(const fuzz_dim *dims, int num_dims, int64_t row, size_t element_bytes) {
  fuzz_tensor t = {.num_dims = num_dims, .row = row, .element_bytes = element_bytes};
  bool overflow = false;
  int64_t packed = row, last = 0, bytes = 0;
  for (int i = num_dims - 1; i >= 0; i--) {
    int64_t reach;
    t.extents[i] = dims[i].extent;
    t.strides[i] = dims[i].stride == FMLA_PACKED ? packed : dims[i].stride;
    overflow |= __builtin_mul_overflow(t.strides[i], t.extents[i] > 1 ? t.extents[i] : 1, &packed);
    overflow |= __builtin_mul_overflow(t.strides[i], t.extents[i] > 1 ? t.extents[i] - 1 : 0, &reach);
    overflow |= __builtin_add_overflow(last, reach, &last);
  }
  overflow |= __builtin_add_overflow(last, row, &bytes);
  overflow |= __builtin_mul_overflow(bytes, (int64_t)element_bytes, &bytes);
  t.bytes = fuzz_tensor_is_empty(&t) ? 0 : overflow || last < 0 ? SIZE_MAX : (size_t)bytes;
  return t;
}

void fuzz_tensor_allocate(fuzz_tensor *t, uint32_t seed) {
  t->data = malloc(t->bytes > 0 ? t->bytes : 1);
  fuzz_require(t->data != NULL, "no memory");
  for (size_t i = 0; i < t->bytes; i++) {
    seed = seed * 1664525u + 1013904223u;
    /* The upper byte of a number has a sign and an exponent near 1. */
    t->data[i] = (uint8_t)(i % 2 == 0 ? seed >> 24 : 0x3c | (seed >> 24 & 0x83));
  }
  if (t->bytes == 0)
    ASAN_POISON_MEMORY_REGION(t->data, 1);
}

void fuzz_tensor_free(fuzz_tensor *t) {
  ASAN_UNPOISON_MEMORY_REGION(t->data, t->bytes > 0 ? t->bytes : 1);
  free(t->data);
  t->data = NULL;
}

bool fuzz_tensor_is_empty(const fuzz_tensor *t) {
  for (int i = 0; i < t->num_dims; i++)
    if (t->extents[i] <= 0)
      return true;
  return t->row <= 0;
}

unsigned char *fuzz_tensor_row(const fuzz_tensor *t, const int64_t *index) {
  int64_t element = 0;
  for (int i = 0; i < t->num_dims; i++)
    element += index[i] * t->strides[i];
  return t->data + (size_t)element * t->element_bytes;
}

/* Steps to the next index, the last dimension fastest; false behind the last. */
static bool step(const fuzz_tensor *t, int64_t *index) {
  for (int i = t->num_dims - 1; i >= 0; i--) {
    if (++index[i] < t->extents[i])
      return true;
    index[i] = 0;
  }
  return false;
}

void fuzz_tensor_hide(const fuzz_tensor *t) {
  ASAN_POISON_MEMORY_REGION(t->data, t->bytes);
}

void fuzz_tensor_show_row(const fuzz_tensor *t, const int64_t *index) {
  ASAN_UNPOISON_MEMORY_REGION(fuzz_tensor_row(t, index), (size_t)t->row * t->element_bytes);
}

void fuzz_tensor_show_rows(const fuzz_tensor *t) {
  int64_t index[FUZZ_MAX_DIMS] = {0};
  if (!fuzz_tensor_is_empty(t))
    do
      fuzz_tensor_show_row(t, index);
    while (step(t, index));
}

void fuzz_tensor_spoil(const fuzz_tensor *t) {
  ASAN_UNPOISON_MEMORY_REGION(t->data, t->bytes);
  memset(t->data, SPOILT, t->bytes);
  fuzz_tensor_hide(t);
  fuzz_tensor_show_rows(t);
}

void fuzz_tensor_require_gaps(const fuzz_tensor *t) {
  ASAN_UNPOISON_MEMORY_REGION(t->data, t->bytes);
  if (fuzz_tensor_is_empty(t))
    return;
  bool *is_row = calloc(t->bytes, sizeof *is_row);
  fuzz_require(is_row != NULL, "no memory");
  int64_t index[FUZZ_MAX_DIMS] = {0};
  do {
    const size_t begin = (size_t)(fuzz_tensor_row(t, index) - t->data);
    for (size_t i = 0; i < (size_t)t->row * t->element_bytes; i++) {
      fuzz_require(!is_row[begin + i], "the rows of an output overlap");
      is_row[begin + i] = true;
    }
  } while (step(t, index));
  for (size_t i = 0; i < t->bytes; i++)
    fuzz_require(is_row[i] || t->data[i] == SPOILT, "bytes between rows were written");
  free(is_row);
}
