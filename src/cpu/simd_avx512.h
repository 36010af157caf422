/* Vectors of 16 words for the kernels' bodies: AVX-512F, BW and VL. A word is a float or two BF16 values. */
#ifndef FMLAI_CPU_SIMD_AVX512_H
#define FMLAI_CPU_SIMD_AVX512_H

#include "cpu/simd.h"

#include <immintrin.h>

typedef __m512 vec;
enum { LANES = 16 };

INLINE vec vec_zero(void) {
  return _mm512_setzero_ps();
}
INLINE vec vec_set(float f) {
  return _mm512_set1_ps(f);
}
INLINE vec vec_load(const float *from) {
  return _mm512_loadu_ps(from);
}
INLINE void vec_store(float *to, vec v) {
  _mm512_storeu_ps(to, v);
}
INLINE vec vec_add(vec a, vec b) {
  return _mm512_add_ps(a, b);
}
INLINE vec vec_sub(vec a, vec b) {
  return _mm512_sub_ps(a, b);
}
INLINE vec vec_mul(vec a, vec b) {
  return _mm512_mul_ps(a, b);
}
/* a * b + c */
INLINE vec vec_fma(vec a, vec b, vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
INLINE vec vec_max(vec a, vec b) {
  return _mm512_max_ps(a, b);
}
INLINE float vec_sum(vec v) {
  return _mm512_reduce_add_ps(v);
}

/* Where a > b take yes, else no; false for NaN. */
INLINE vec vec_where_greater(vec a, vec b, vec yes, vec no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes);
}
INLINE bool vec_any_greater(vec a, vec b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}

/* v * 2^n, n the integer that `magic_sum` holds in its low bits; 0 where x < least. NaN stays NaN. */
INLINE vec vec_scale_by_power(vec v, vec magic_sum, vec x, vec least) {
  const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(magic_sum), 23);
  const __mmask16 kept = _mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ);
  return _mm512_castsi512_ps(_mm512_maskz_add_epi32(kept, _mm512_castps_si512(v), power));
}

INLINE vec vec_from_bf16(const uint16_t *from) {
  const __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
INLINE vec vec_from_fp16(const uint16_t *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

/* Rounded to nearest even; NaN stays NaN. */
INLINE void vec_store_bf16(uint16_t *to, vec v) {
  const __m512i bits = _mm512_castps_si512(v), ones = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), ones);
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}
INLINE void vec_store_fp16(uint16_t *to, vec v) {
  _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

/* to[j][i] = from[i * stride + j] for 16 x 16 words; `to` may be `from` with a stride of 16. */
INLINE void vec_transpose(float *to, const float *from, size_t stride) {
  __m512 a[16], b[16];
  UNROLL for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_ps(from + (size_t)i * stride);
  UNROLL for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  UNROLL for (int i = 0; i < 16; i += 4) {
    UNROLL for (int j = 0; j < 2; j++) {
      const __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + j + 2]);
      a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  /* Now a[4 g + c] holds, in lane l, column 4 l + c of rows 4 g .. 4 g + 3. */
  UNROLL for (int c = 0; c < 4; c++) {
    const __m512 even01 = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88);
    const __m512 odd01 = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xdd);
    const __m512 even23 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88);
    const __m512 odd23 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xdd);
    _mm512_storeu_ps(to + 16 * c, _mm512_shuffle_f32x4(even01, even23, 0x88));
    _mm512_storeu_ps(to + 16 * (4 + c), _mm512_shuffle_f32x4(odd01, odd23, 0x88));
    _mm512_storeu_ps(to + 16 * (8 + c), _mm512_shuffle_f32x4(even01, even23, 0xdd));
    _mm512_storeu_ps(to + 16 * (12 + c), _mm512_shuffle_f32x4(odd01, odd23, 0xdd));
  }
}

#endif
