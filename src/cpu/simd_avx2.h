/* Vectors of 8 words for the kernels' bodies: AVX2, FMA and F16C. */
#ifndef FMLAI_CPU_SIMD_AVX2_H
#define FMLAI_CPU_SIMD_AVX2_H

#include "cpu/simd.h"

#include <immintrin.h>

typedef __m256 vec;
enum { LANES = 8 };

INLINE vec vec_zero(void) {
  return _mm256_setzero_ps();
}
INLINE vec vec_set(float f) {
  return _mm256_set1_ps(f);
}
INLINE vec vec_load(const float *from) {
  return _mm256_loadu_ps(from);
}
INLINE void vec_store(float *to, vec v) {
  _mm256_storeu_ps(to, v);
}
INLINE vec vec_add(vec a, vec b) {
  return _mm256_add_ps(a, b);
}
INLINE vec vec_sub(vec a, vec b) {
  return _mm256_sub_ps(a, b);
}
INLINE vec vec_mul(vec a, vec b) {
  return _mm256_mul_ps(a, b);
}
/* a * b + c */
INLINE vec vec_fma(vec a, vec b, vec c) {
  return _mm256_fmadd_ps(a, b, c);
}
INLINE vec vec_max(vec a, vec b) {
  return _mm256_max_ps(a, b);
}
INLINE float vec_sum(vec v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

/* Where a > b take yes, else no; false for NaN. */
INLINE vec vec_where_greater(vec a, vec b, vec yes, vec no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
INLINE bool vec_any_greater(vec a, vec b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}

/* v * 2^n, n the integer that `magic_sum` holds in its low bits; 0 where x < least. NaN stays NaN. */
INLINE vec vec_scale_by_power(vec v, vec magic_sum, vec x, vec least) {
  const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(magic_sum), 23);
  const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), power));
  return _mm256_and_ps(scaled, _mm256_cmp_ps(x, least, _CMP_NLT_UQ));
}

INLINE vec vec_from_bf16(const uint16_t *from) {
  const __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)from);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
INLINE vec vec_from_fp16(const uint16_t *from) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}

/* Rounded to nearest even; NaN stays NaN. */
INLINE void vec_store_bf16(uint16_t *to, vec v) {
  const __m256i bits = _mm256_castps_si256(v), ones = _mm256_set1_epi32(1);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), ones);
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
  const __m256 kept = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan);
  const __m256i halves = _mm256_srli_epi32(_mm256_castps_si256(kept), 16);
  const __m256i packed = _mm256_packus_epi32(halves, halves);
  _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}
INLINE void vec_store_fp16(uint16_t *to, vec v) {
  _mm_storeu_si128((__m128i *)(void *)to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

/* to[j][i] = from[i * stride + j] for 8 x 8 words. */
INLINE void vec_transpose(float *to, const float *from, size_t stride) {
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < LANES; j++)
      to[j * LANES + i] = from[(size_t)i * stride + (size_t)j];
}

#endif
