/*
 * Operands of the kernels that compute in FP32: a word is one value. Keys are widened once for all rows of an
 * item; as values they are then read in place.
 */
#ifndef FMLAI_CPU_WORDS_FP32_H
#define FMLAI_CPU_WORDS_FP32_H

#include "cpu/key_block.h"

enum { VALUES_PER_WORD = 1, KEYS_PER_STEP = 1 };

/* sum + a * b */
INLINE vec vec_multiply_add(vec a, vec b, vec sum) {
  return vec_fma(a, b, sum);
}

/* The element types that it reads. */
INLINE bool reads_dtype(int32_t dtype) {
  return dtype == FMLA_DTYPE_BF16 || dtype == FMLA_DTYPE_FP16;
}

/* LANES words of a key or a row of q, from value `at` on. */
INLINE vec load_words(const void *row, int32_t at, bool fp16) {
  const uint16_t *from = (const uint16_t *)row + at;
  return fp16 ? vec_from_fp16(from) : vec_from_bf16(from);
}

/* The columns of o are in order. */
enum { VALUES_ARE_WOVEN = 0 };
INLINE void unweave(vec columns[2]) {
  (void)columns;
}

/* Words for 2 * LANES values of the keys of one step. */
INLINE void load_value_words(vec words[2], const void *const *keys, int32_t at, bool fp16) {
  words[0] = load_words(keys[0], at, fp16);
  words[1] = load_words(keys[0], at + LANES, fp16);
}

/* Returns the sum of the two as they are stored. */
INLINE vec store_probabilities(float *scores, int32_t t, const vec p[2]) {
  vec_store(scores + (size_t)t * LANES, p[0]);
  vec_store(scores + (size_t)(t + 1) * LANES, p[1]);
  return vec_add(p[0], p[1]);
}

/* Packs a block of keys for all rows, [keys][dim_k]; points `rows` at each key's words. */
static packed_values pack_block(float *packed, const void **rows, const fmlai_key_block *block, int32_t dim_k,
                                int32_t dim_v, bool fp16) {
  (void)dim_v;
  for (int32_t t = 0; t < block->padded; t++) {
    float *to = packed + (size_t)t * (size_t)dim_k;
    for (int32_t j = 0; j < dim_k; j += LANES)
      vec_store(to + j, load_words(block->keys[t], j, fp16));
    rows[t] = to;
  }
  return (packed_values){.words = packed, .step = (size_t)dim_k, .vector = LANES};
}

#endif
