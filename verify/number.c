/*
 * number.c: BF16 and FP16 to and from wider types.
 *
 * SPDX-License-Identifier: MIT
 */
#include "number.h"

#include <math.h>

size_t verify_dtype_bytes(int32_t dtype) {
  return dtype == FMLA_DTYPE_FP32 ? 4 : 2;
}

static float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* BF16 is the upper half of an FP32. */
static double from_bf16(uint16_t bits) {
  return (double)float_of_bits((uint32_t)bits << 16);
}

/* FP16: 1 sign bit, 5 exponent bits with bias 15, 10 mantissa bits. */
static double from_fp16(uint16_t bits) {
  uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
  uint32_t exponent = (bits >> 10) & 0x1fu;
  uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) { /* subnormal: mantissa * 2^-24 */
    double magnitude = (double)mantissa * 0x1p-24;
    return sign != 0 ? -magnitude : magnitude;
  }
  uint32_t wide_exponent = exponent == 0x1fu ? 0xffu : exponent - 15u + 127u;
  return (double)float_of_bits(sign | wide_exponent << 23 | mantissa << 13);
}

double verify_load(int32_t dtype, const void *array, int64_t index) {
  if (dtype == FMLA_DTYPE_BF16)
    return from_bf16(((const uint16_t *)array)[index]);
  if (dtype == FMLA_DTYPE_FP16)
    return from_fp16(((const uint16_t *)array)[index]);
  return (double)((const float *)array)[index];
}

void verify_load_many(int32_t dtype, const void *array, int64_t index, int32_t count, double *values) {
  if (dtype == FMLA_DTYPE_BF16) { /* its own loop, so that the compiler may use vectors */
    const uint16_t *bits = (const uint16_t *)array + index;
    for (int32_t i = 0; i < count; i++)
      values[i] = from_bf16(bits[i]);
    return;
  }
  for (int32_t i = 0; i < count; i++)
    values[i] = verify_load(dtype, array, index + i);
}

static uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (isnan(value))
    return (uint16_t)(bits >> 16 | 0x40u);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static uint16_t to_fp16(float value) {
  uint16_t sign = signbit(value) ? 0x8000u : 0;
  double magnitude = fabs((double)value);
  if (isnan(value))
    return 0x7e00u;
  if (magnitude >= 65520.0) /* halfway between the largest FP16 and the next power of two */
    return sign | 0x7c00u;
  /* Counted in units of the last place: rint() rounds ties to even. A carry out of the mantissa runs into the
     exponent's bits, as it should. */
  int exponent = magnitude < 0x1p-14 ? -14 : ilogb(magnitude);
  uint32_t units = (uint32_t)rint(ldexp(magnitude, 10 - exponent));
  return (uint16_t)(sign | (units + ((uint32_t)(exponent + 14) << 10)));
}

void verify_store(int32_t dtype, void *array, int64_t index, float value) {
  if (dtype == FMLA_DTYPE_BF16)
    ((uint16_t *)array)[index] = to_bf16(value);
  else if (dtype == FMLA_DTYPE_FP16)
    ((uint16_t *)array)[index] = to_fp16(value);
  else
    ((float *)array)[index] = value;
}
