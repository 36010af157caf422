/* What the kernels' bodies are written with. */
#ifndef FMLAI_CPU_SIMD_H
#define FMLAI_CPU_SIMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Small functions whose constant arguments become constants of the code. */
#define INLINE static inline __attribute__((always_inline))

/* Before a loop of a constant count, so that what it indexes can live in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* A word wherever it lies. */
typedef float word __attribute__((aligned(1), may_alias));

/* The values of a block of keys as words: step k's vector v at words + k * step + v * vector. */
typedef struct packed_values {
  const float *words;
  size_t step, vector;
} packed_values;

#endif
