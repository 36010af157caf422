#include "register_rate.h"

#include <immintrin.h>

typedef __m256 vector;
enum { SUMS = 12, OPERATIONS = 16 };
static inline vector set(float f) {
  return _mm256_set1_ps(f);
}
static inline vector multiply_add(vector a, vector b, vector sum) {
  return _mm256_fmadd_ps(a, b, sum);
}
static inline float first(vector v) {
  return _mm256_cvtss_f32(v);
}
#define WORK register_work_avx2
#include "register_rate_vectors.h"
