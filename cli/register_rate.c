#include "register_rate.h"

/* The vectors that every x86-64 and Arm CPU has. */
typedef float vector __attribute__((vector_size(16)));
enum { SUMS = 12, OPERATIONS = 8 };
static inline vector set(float f) {
  return (vector){f, f, f, f};
}
static inline vector multiply_add(vector a, vector b, vector sum) {
  return sum * a + b; /* the sum within, or a * b would be computed once */
}
static inline float first(vector v) {
  return v[0];
}
#define WORK register_work_baseline
#include "register_rate_vectors.h"
