/*
 * random.h: seeded random numbers, the same on every machine.
 *
 * SplitMix64: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
 * with the constants of S. Vigna's public domain version.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_RANDOM_H
#define VERIFY_RANDOM_H

#include <stdint.h>

typedef struct verify_random {
  uint64_t state;
} verify_random;

static inline uint64_t verify_random_bits(verify_random *random) {
  uint64_t z = random->state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* A number of low .. high, both included. The bias of the remainder does not matter for ranges this small. */
static inline int32_t verify_random_int(verify_random *random, int32_t low, int32_t high) {
  return low + (int32_t)(verify_random_bits(random) % ((uint64_t)(high - low) + 1));
}

/* True once in `times`. */
static inline int verify_random_once_in(verify_random *random, int32_t times) {
  return verify_random_int(random, 1, times) == 1;
}

/* Mean 0, variance 1, near enough to normal: the sum of four uniform numbers, so within +-3.47. */
static inline float verify_random_normal(verify_random *random) {
  uint64_t bits = verify_random_bits(random);
  uint64_t sum = (bits & 0xffffu) + (bits >> 16 & 0xffffu) + (bits >> 32 & 0xffffu) + (bits >> 48);
  return ((float)sum / 65536.0f - 2.0f) * 1.7320508f;
}

#endif
