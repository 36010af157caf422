#include "convert.h"

#include "flash_mla.h"

#include <math.h>
#include <string.h>

static uint16_t round_to_bf16(uint32_t bits) {
  if ((bits & 0x7fffffff) > 0x7f800000)
    return (uint16_t)(bits >> 16 | 0x40); /* a NaN stays one */
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t round_to_fp16(uint32_t bits) {
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00; /* NaN */
  } else if (magnitude >= 0x477ff000) {
    half = 0x7c00; /* halfway from the largest number to 2^16, or more: infinity */
  } else if (magnitude >= 0x38800000) {
    half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  } else {
    float value; /* below 2^-14: a multiple of 2^-24 */
    memcpy(&value, &magnitude, sizeof value);
    half = (uint32_t)lrintf(value * 0x1p24f);
  }
  return (uint16_t)(sign | half);
}

void round_floats(uint16_t *to, int32_t dtype, const void *from, size_t count) {
  const char *next = from;
  for (size_t i = 0; i < count; i++, next += sizeof(float)) {
    uint32_t bits;
    memcpy(&bits, next, sizeof bits);
    to[i] = dtype == FMLA_DTYPE_BF16 ? round_to_bf16(bits) : round_to_fp16(bits);
  }
}
