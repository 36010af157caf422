/* Random numbers by their index: any thread can draw any of them. */
#ifndef PROBE_RANDOM_CUH
#define PROBE_RANDOM_CUH

#include "cuda/kernels/ptx.cuh"

/* SplitMix64's output function, of the state after `index` steps from `seed`. */
static __device__ __forceinline__ uint64_t random_bits(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

/* A pair of 16-bit elements: normal, with a standard deviation of 0.1, within +-1 (Box and Muller). */
static __device__ __forceinline__ uint32_t random_pair(uint64_t seed, uint64_t index, bool is_fp16) {
  const uint64_t bits = random_bits(seed, index);
  const float u = ((float)(uint32_t)(bits >> 40) + 1) * 0x1p-24f; /* above 0 */
  const float angle = (float)(uint32_t)(bits & 0xffffff) * (6.2831853f * 0x1p-24f);
  const float radius = 0.1f * sqrtf(-2 * __logf(u));
  const float x = fminf(fmaxf(radius * __cosf(angle), -1), 1);
  const float y = fminf(fmaxf(radius * __sinf(angle), -1), 1);
  return is_fp16 ? pack_fp16(x, y) : pack_bf16(x, y);
}

#endif
