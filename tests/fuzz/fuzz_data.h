/*
 * fuzz_data.h: makes numbers from the fuzzer's bytes. Bytes that are missing count as zero.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FUZZ_DATA_H
#define FUZZ_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A target. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

typedef struct fuzz_data {
  const uint8_t *at;
  size_t left;
} fuzz_data;

static inline uint8_t fuzz_byte(fuzz_data *data) {
  if (data->left == 0)
    return 0;
  data->left--;
  return *data->at++;
}

static inline uint64_t fuzz_bits(fuzz_data *data, int bytes) {
  uint64_t bits = 0;
  for (int i = 0; i < bytes; i++)
    bits |= (uint64_t)fuzz_byte(data) << 8 * i;
  return bits;
}

/* A number of low .. high, for ranges of up to 2^16. */
static inline int32_t fuzz_between(fuzz_data *data, int32_t low, int32_t high) {
  const uint32_t count = (uint32_t)(high - low) + 1;
  return low + (int32_t)(fuzz_bits(data, count > 256 ? 2 : 1) % count);
}

/* Any number at all; those at the edges of types and of their squares are likely. */
static inline int64_t fuzz_wild(fuzz_data *data) {
  static const int64_t edges[] = {0,
                                  1,
                                  -1,
                                  2,
                                  -2,
                                  INT32_MAX,
                                  INT32_MIN,
                                  INT64_MAX,
                                  INT64_MIN,
                                  UINT32_MAX,
                                  1 << 16,
                                  INT16_MAX,
                                  1 << 30,
                                  1 << 24,
                                  1024,
                                  1025,
                                  4096,
                                  4097,
                                  -3,
                                  64,
                                  128,
                                  1000003,
                                  -1000000007,
                                  1LL << 58,
                                  1LL << 59,
                                  1LL << 60,
                                  1LL << 61,
                                  1LL << 62,
                                  1LL << 31,
                                  1LL << 33,
                                  (1LL << 60) / 3,
                                  1LL << 40};
  const uint8_t choice = fuzz_byte(data);
  if (choice < 96)
    return edges[choice % (sizeof edges / sizeof *edges)];
  if (choice < 128)
    return edges[choice % (sizeof edges / sizeof *edges)] / (1 + fuzz_byte(data));
  if (choice < 192)
    return fuzz_between(data, -4, 40);
  return (int64_t)fuzz_bits(data, choice < 224 ? 4 : 8);
}

/* What a target finds wrong ends the program, as the fuzzer expects. */
static inline void fuzz_require(bool right, const char *what) {
  if (right)
    return;
  fprintf(stderr, "fuzz target: %s\n", what);
  abort();
}

#endif
