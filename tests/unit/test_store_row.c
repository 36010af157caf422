/*
 * test_store_row.c: the kernels' own ways of rounding a row, bit for bit beside the plain one.
 *
 * SPDX-License-Identifier: MIT
 */
#include "cpu/features.h"
#include "cpu/kernel.h"
#include "numeric.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const fmlai_cpu_kernel *const kernels[] = {
#define X(name) &fmlai_cpu_kernel_##name,
    FMLAI_CPU_KERNELS(X)
#undef X
};

enum { COUNT = 4096 };

/* Floats at the edges of the types, and of every exponent. */
static void fill(float *values, uint32_t *random) {
  static const uint32_t ends[] = {0,      1,     0x7fff,  0x8000,  0x8001,  0x1000,
                                  0x1fff, 0xfff, 0x17fff, 0x18000, 0x7fffff};
  for (int i = 0; i < COUNT; i++) {
    *random = *random * 1664525u + 1013904223u;
    const uint32_t exponent = (uint32_t)i % 256 << 23, sign = *random & 0x80000000u;
    const uint32_t mantissa = i < COUNT / 2 ? ends[*random % 11] : *random >> 9;
    values[i] = fmlai_float_from_bits(sign | exponent | (mantissa & 0x7fffffu));
  }
}

static void test_same_bits(void **state) {
  (void)state;
  static float values[COUNT], expected[COUNT], stored[COUNT];
  static const int32_t dtypes[] = {FMLA_DTYPE_BF16, FMLA_DTYPE_FP16, FMLA_DTYPE_FP32};
  uint32_t random = 1;
  for (size_t k = 0; k < sizeof kernels / sizeof kernels[0]; k++)
    for (int i = 0; i < 30 && (kernels[k]->features & ~fmlai_cpu_features()) == 0; i++) {
      fill(values, &random);
      const float scale = i % 2 ? 1 : 0.37f;
      for (int d = 0; d < 3; d++) {
        const size_t bytes = fmlai_dtype_bytes(dtypes[d]);
        fmlai_store_row(expected, dtypes[d], values, scale, COUNT);
        kernels[k]->store_row(stored, dtypes[d], values, scale, COUNT);
        for (size_t j = 0; j < COUNT; j++) {
          const char *a = (const char *)expected + j * bytes, *b = (const char *)stored + j * bytes;
          /* Of a NaN only that it is one. */
          if (values[j] == values[j] && memcmp(a, b, bytes) != 0)
            fail_msg("%s, type %d: %a", kernels[k]->name, (int)dtypes[d], (double)values[j]);
        }
        float back[COUNT];
        fmlai_load_row(back, stored, dtypes[d], COUNT);
        for (int j = 0; j < COUNT; j++)
          assert_int_equal(values[j] != values[j], back[j] != back[j]);
      }
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits)};
  return cmocka_run_group_tests_name("store_row", tests, NULL, NULL);
}
