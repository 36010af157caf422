/*
 * Operands of the kernels that multiply pairs of BF16 values: a word is two of them. Keys are read where they
 * lie; as values they are woven together once for all rows of an item, two keys a word.
 */
#ifndef FMLAI_CPU_WORDS_BF16_H
#define FMLAI_CPU_WORDS_BF16_H

#include "cpu/key_block.h"

enum { VALUES_PER_WORD = 2, KEYS_PER_STEP = 2 };

/* sum + a * b, pair by pair */
INLINE vec vec_multiply_add(vec a, vec b, vec sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

INLINE bool reads_dtype(int32_t dtype) {
  return dtype == FMLA_DTYPE_BF16;
}

/* LANES words of a key or a row of q, from value `at` on. */
INLINE vec load_words(const void *row, int32_t at, bool fp16) {
  (void)fp16;
  return _mm512_loadu_ps((const uint16_t *)row + at);
}

/*
 * Words of the halves of two vectors, a[i] low and b[i] high, but in the order that costs least: words[0] has i
 * of 0-3, 8-11, 16-19, 24-27. So the columns of o are in that order, until unweave() at the end.
 */
enum { VALUES_ARE_WOVEN = 1 };
INLINE void weave(vec words[2], __m512i a, __m512i b) {
  words[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(a, b));
  words[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, b));
}
INLINE void unweave(vec columns[2]) {
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const __m512d a = _mm512_castps_pd(columns[0]), b = _mm512_castps_pd(columns[1]);
  columns[0] = _mm512_castpd_ps(_mm512_permutex2var_pd(a, low, b));
  columns[1] = _mm512_castpd_ps(_mm512_permutex2var_pd(a, high, b));
}

/* Words for 2 * LANES values of the keys of one step. */
INLINE void load_value_words(vec words[2], const void *const *keys, int32_t at, bool fp16) {
  (void)fp16;
  weave(words, _mm512_loadu_si512((const uint16_t *)keys[0] + at),
        _mm512_loadu_si512((const uint16_t *)keys[1] + at));
}

/* A word for the two keys, in the first key's place among the pairs. Returns the sum of the two as stored. */
INLINE vec store_probabilities(float *scores, int32_t t, const vec p[2]) {
  static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0]);
  const vec words = _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512(order), halves));
  vec_store(scores + (size_t)(t / 2) * LANES, words);
  const vec ones = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f803f80));
  return vec_multiply_add(words, ones, vec_zero());
}

/* A block of keys as values for all rows, [dim_v / LANES][steps][LANES]. */
INLINE packed_values packed_block(const float *packed, const fmlai_key_block *block) {
  return (packed_values){
      .words = packed, .step = LANES, .vector = (size_t)block->padded / KEYS_PER_STEP * LANES};
}

/* Packs keys t and t + 1. */
INLINE void pack_pair(const packed_values *values, float *packed, const fmlai_key_block *block, int32_t t,
                      int32_t dim_v) {
  float *to = packed + (size_t)(t / KEYS_PER_STEP) * LANES;
  for (int32_t j = 0; j < dim_v; j += 2 * LANES, to += 2 * values->vector) {
    vec pair[2];
    load_value_words(pair, block->keys + t, j, false);
    vec_store(to, pair[0]);
    vec_store(to + values->vector, pair[1]);
  }
}

#endif
