/*
 * test_numeric.c: 16-bit floats against exact arithmetic in doubles, in every mode of the processor that
 * programs set.
 *
 * SPDX-License-Identifier: MIT
 */
#include "numeric.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include <cmocka.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

/* A format in the terms of IEEE 754. */
typedef struct format {
  int mantissa_bits, min_exponent, max_exponent;
  float (*to_float)(uint16_t);
  uint16_t (*from_float)(float);
} format;

static const format formats[] = {
    {7, -126, 127, fmlai_float_from_bf16, fmlai_bf16_from_float},
    {10, -14, 15, fmlai_float_from_fp16, fmlai_fp16_from_float},
};
enum { NUM_FORMATS = sizeof formats / sizeof *formats, NUM_CODES = 1 << 16 };

static bool is_nan_code(const format *f, uint32_t code) {
  return (code & 0x7fffu) > (0x7fffu >> f->mantissa_bits << f->mantissa_bits);
}

/* What a code stands for; not for NaN. */
static double value_of(const format *f, uint32_t code) {
  const int mantissa = (int)(code & ((1u << f->mantissa_bits) - 1));
  const int exponent = (int)((code & 0x7fffu) >> f->mantissa_bits);
  double magnitude;
  if (exponent == 0)
    magnitude = ldexp(mantissa, f->min_exponent - f->mantissa_bits);
  else if (exponent + f->min_exponent - 1 > f->max_exponent)
    magnitude = INFINITY;
  else
    magnitude = ldexp(mantissa + (1 << f->mantissa_bits), exponent + f->min_exponent - 1 - f->mantissa_bits);
  return code & 0x8000u ? -magnitude : magnitude;
}

/* `x` rounded to the format, ties to even; the exact result of a double that every float fits. */
static double rounded(const format *f, double x) {
  if (isinf(x) || x == 0)
    return x;
  const int exponent = ilogb(x) < f->min_exponent ? f->min_exponent : ilogb(x);
  const double unit = ldexp(1, exponent - f->mantissa_bits);
  const double result = nearbyint(x / unit) * unit;
  return fabs(result) >= ldexp(1, f->max_exponent + 1) ? copysign(INFINITY, x) : result;
}

static void test_codes(void **state) {
  (void)state;
  for (int i = 0; i < NUM_FORMATS; i++)
    for (uint32_t code = 0; code < NUM_CODES; code++) {
      const format *f = &formats[i];
      const float value = f->to_float((uint16_t)code);
      const uint16_t back = f->from_float(value);
      if (is_nan_code(f, code)) {
        assert_true(isnan(value) && is_nan_code(f, back));
        assert_int_equal(back & 0x8000u, code & 0x8000u);
      } else {
        assert_true((double)value == value_of(f, code) && !signbit(value) == !(code & 0x8000u));
        assert_int_equal(back, code);
      }
    }
}

/* Floats at, just below and just above every code and every tie between two codes, and the same negative. */
enum { NUM_NEAR = 12 };

static void floats_near(const format *f, uint32_t code, float near[NUM_NEAR]) {
  const float exact = (float)value_of(f, code);
  const float tie = (float)(((double)exact + fmin(value_of(f, code + 1), ldexp(1, f->max_exponent + 1))) / 2);
  for (int i = 0; i < NUM_NEAR / 6; i++) {
    const float at = i == 0 ? exact : tie;
    const float three[3] = {at, nextafterf(at, INFINITY), nextafterf(at, -INFINITY)};
    for (int j = 0; j < 3; j++) {
      near[6 * i + 2 * j] = three[j];
      near[6 * i + 2 * j + 1] = -three[j];
    }
  }
}

/* Sets flush-to-zero and denormals-are-zero, where the processor has them. */
static void set_flushing(bool on) {
#if defined(__SSE__)
  _mm_setcsr(on ? _mm_getcsr() | 0x8040u : _mm_getcsr() & ~0x8040u);
#else
  (void)on;
#endif
}

static void check_rounding(const format *f, uint32_t code, bool flushing) {
  float near[NUM_NEAR];
  double expected[NUM_NEAR];
  uint16_t found[NUM_NEAR];
  floats_near(f, code, near);
  for (int i = 0; i < NUM_NEAR; i++)
    expected[i] = rounded(f, (double)near[i]);
  set_flushing(flushing);
  for (int i = 0; i < NUM_NEAR; i++)
    found[i] = f->from_float(near[i]);
  set_flushing(false);
  for (int i = 0; i < NUM_NEAR; i++)
    if (value_of(f, found[i]) != expected[i] || !signbit(near[i]) != !(found[i] & 0x8000u))
      fail_msg("%a becomes %a (code %04x), not %a", (double)near[i], value_of(f, found[i]), found[i],
               expected[i]);
}

static void test_rounding(void **state) {
  (void)state;
  for (int i = 0; i < NUM_FORMATS; i++)
    for (uint32_t code = 0; value_of(&formats[i], code) < INFINITY; code++)
      for (int flushing = 0; flushing < 2; flushing++)
        check_rounding(&formats[i], code, flushing);
}

/* The mode that set_flushing sets has an effect, so the test above means something. */
static void test_flushing_is_on(void **state) {
  (void)state;
#if defined(__SSE__)
  volatile float small = 0x1p-130f;
  set_flushing(true);
  const volatile float doubled = small * 2;
  set_flushing(false);
  assert_true(fmlai_bits_from_float(doubled) == 0);
#else
  skip();
#endif
}

static void test_wide_codes_under_flushing(void **state) {
  (void)state;
  static uint32_t bits[NUM_CODES];
  for (uint32_t code = 0; code < NUM_CODES; code++)
    bits[code] = fmlai_bits_from_float(fmlai_float_from_fp16((uint16_t)code));
  set_flushing(true);
  bool same = true;
  for (uint32_t code = 0; code < NUM_CODES; code++)
    same = same && bits[code] == fmlai_bits_from_float(fmlai_float_from_fp16((uint16_t)code));
  set_flushing(false);
  assert_true(same);
}

static void test_far_values(void **state) {
  (void)state;
  static const struct {
    uint32_t bits;
    uint16_t bf16, fp16;
  } table[] = {
      {0x00000000, 0x0000, 0x0000}, {0x80000000, 0x8000, 0x8000}, /* zeros */
      {0x00000001, 0x0000, 0x0000}, {0x80000001, 0x8000, 0x8000}, /* the smallest float */
      {0x00008000, 0x0000, 0x0000}, {0x00008001, 0x0001, 0x0000}, /* half the smallest BF16, and more */
      {0x33000000, 0x3300, 0x0000}, {0x33000001, 0x3300, 0x0001}, /* half the smallest FP16, and more */
      {0x477fefff, 0x4780, 0x7bff}, {0x477ff000, 0x4780, 0x7c00}, /* the last to stay finite in FP16 */
      {0x7f7f7fff, 0x7f7f, 0x7c00}, {0x7f7f8000, 0x7f80, 0x7c00}, /* the last to stay finite in BF16 */
      {0x7f7fffff, 0x7f80, 0x7c00}, {0xff7fffff, 0xff80, 0xfc00}, /* the largest float */
      {0x7f800000, 0x7f80, 0x7c00}, {0xff800000, 0xff80, 0xfc00}, /* infinities */
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    const float value = fmlai_float_from_bits(table[i].bits);
    assert_int_equal(fmlai_bf16_from_float(value), table[i].bf16);
    assert_int_equal(fmlai_fp16_from_float(value), table[i].fp16);
  }
  /* A NaN whose upper bits are all in the lower half must not become an infinity, or zero by a carry. */
  static const uint32_t nans[] = {0x7f800001, 0x7f80ffff, 0x7fffffff, 0xff800001, 0xffffffff, 0x7fc00000};
  for (size_t i = 0; i < sizeof nans / sizeof *nans; i++)
    for (int f = 0; f < NUM_FORMATS; f++) {
      const uint16_t code = formats[f].from_float(fmlai_float_from_bits(nans[i]));
      assert_true(is_nan_code(&formats[f], code));
      assert_int_equal(code & 0x8000u, nans[i] >> 16 & 0x8000u);
    }
}

/* Rows of every type, loaded and stored with a factor; neighbours stay as they are. */
static void test_rows(void **state) {
  (void)state;
  enum { COUNT = 37 };
  static const int32_t dtypes[] = {FMLA_DTYPE_BF16, FMLA_DTYPE_FP16, FMLA_DTYPE_FP32};
  for (int d = 0; d < 3; d++) {
    float from[COUNT], to[COUNT + 1], stored[COUNT + 1];
    for (int i = 0; i < COUNT; i++)
      from[i] = (float)(i - 18) / 8;
    memset(stored, 0xa5, sizeof stored);
    fmlai_store_row(stored, dtypes[d], from, 0.5f, COUNT);
    const size_t bytes = COUNT * fmlai_dtype_bytes(dtypes[d]);
    for (size_t i = bytes; i < sizeof stored; i++)
      assert_int_equal(((unsigned char *)stored)[i], 0xa5);
    to[COUNT] = 77;
    fmlai_load_row(to, stored, dtypes[d], COUNT);
    for (int i = 0; i < COUNT; i++)
      assert_true(to[i] == from[i] / 2);
    assert_true(to[COUNT] == 77);
    assert_ptr_equal(fmlai_at(stored, dtypes[d], 3), (char *)stored + 3 * fmlai_dtype_bytes(dtypes[d]));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_codes),          cmocka_unit_test(test_rounding),
      cmocka_unit_test(test_flushing_is_on), cmocka_unit_test(test_wide_codes_under_flushing),
      cmocka_unit_test(test_far_values),     cmocka_unit_test(test_rows),
  };
  return cmocka_run_group_tests_name("numeric", tests, NULL, NULL);
}
