#include "register_rate.h"

#include <immintrin.h>

typedef __m512 vector;
static inline vector set(float f) {
  return _mm512_set1_ps(f);
}
static inline float first(vector v) {
  return _mm512_cvtss_f32(v);
}
#if defined(__AVX512BF16__)
enum { SUMS = 24, OPERATIONS = 64 };
static inline vector multiply_add(vector a, vector b, vector sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#define WORK register_work_avx512bf16
#else
enum { SUMS = 24, OPERATIONS = 32 };
static inline vector multiply_add(vector a, vector b, vector sum) {
  return _mm512_fmadd_ps(a, b, sum);
}
#define WORK register_work_avx512
#endif
#include "register_rate_vectors.h"
