/* Sixteen-bit floats in plain C, for any machine: conversions are exact, or round to nearest even. */
#ifndef FMLAI_NUMERIC_H
#define FMLAI_NUMERIC_H

#include "flash_mla.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float fmlai_float_from_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static inline uint32_t fmlai_bits_from_float(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

static inline float fmlai_float_from_bf16(uint16_t h) {
  return fmlai_float_from_bits((uint32_t)h << 16);
}

static inline float fmlai_float_from_fp16(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  const uint32_t exponent = h & 0x7c00u;
  uint32_t bits = (uint32_t)(h & 0x7fffu) << 13;
  if (exponent == 0x7c00u) {
    bits += 0x70000000u; /* infinity and NaN: exponent 31 becomes 255 */
  } else if (exponent == 0) {
    /* Subnormal: put the mantissa behind 2^-14 and take 2^-14 off again. No denormal float takes part, so the
       caller's flush-to-zero mode does not matter. */
    bits =
        fmlai_bits_from_float(fmlai_float_from_bits(bits + 0x38800000u) - fmlai_float_from_bits(0x38800000u));
  } else {
    bits += 0x38000000u; /* exponent bias 15 becomes 127 */
  }
  return fmlai_float_from_bits(bits | sign);
}

static inline uint16_t fmlai_bf16_from_float(float f) {
  const uint32_t bits = fmlai_bits_from_float(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return (uint16_t)((bits >> 16) | 0x40u); /* NaN stays NaN */
  return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline uint16_t fmlai_fp16_from_float(float f) {
  const uint32_t bits = fmlai_bits_from_float(f);
  const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u)
    return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) /* rounds to 65536 or more */
    return (uint16_t)(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    /* Below 2^-14: adding 0.5 leaves multiples of 2^-24, rounded to nearest even, in the low bits. */
    const uint32_t sum = fmlai_bits_from_float(fmlai_float_from_bits(magnitude) + 0.5f);
    return (uint16_t)(sign | (uint16_t)(sum - 0x3f000000u));
  }
  return (uint16_t)(sign | (uint16_t)((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
}

static inline size_t fmlai_dtype_bytes(int32_t dtype) {
  return dtype == FMLA_DTYPE_FP32 ? 4 : 2;
}

/* The address of element `index` of a tensor of `dtype`. */
static inline const void *fmlai_at(const void *base, int32_t dtype, int64_t index) {
  return (const char *)base + index * (int64_t)fmlai_dtype_bytes(dtype);
}

static inline void fmlai_load_row(float *restrict to, const void *from, int32_t dtype, int32_t count) {
  const uint16_t *restrict half = from;
  if (dtype == FMLA_DTYPE_BF16)
    for (int32_t i = 0; i < count; i++)
      to[i] = fmlai_float_from_bf16(half[i]);
  else if (dtype == FMLA_DTYPE_FP16)
    for (int32_t i = 0; i < count; i++)
      to[i] = fmlai_float_from_fp16(half[i]);
  else
    memcpy(to, from, (size_t)count * sizeof *to);
}

/* Stores from[i] * scale, rounded to nearest even. */
static inline void fmlai_store_row(void *to, int32_t dtype, const float *restrict from, float scale,
                                   int32_t count) {
  uint16_t *restrict half = to;
  float *restrict full = to;
  if (dtype == FMLA_DTYPE_BF16)
    for (int32_t i = 0; i < count; i++)
      half[i] = fmlai_bf16_from_float(from[i] * scale);
  else if (dtype == FMLA_DTYPE_FP16)
    for (int32_t i = 0; i < count; i++)
      half[i] = fmlai_fp16_from_float(from[i] * scale);
  else
    for (int32_t i = 0; i < count; i++)
      full[i] = from[i] * scale;
}

#endif
