/*
 * test_forward.c: programs and libraries of different ages: structs that carry their size and grow at the
 * end only.
 *
 * SPDX-License-Identifier: MIT
 */
#include "flash_mla.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- Structs that the library fills in ------------------------------------------------------------------ */

enum { EXTRA = 40, FILLED = 0x5b };

typedef fmla_status (*info_call)(void *context, void *info);

static fmla_status get_device(void *context, void *info) {
  (void)context;
  return fmla_get_device_info(0, info);
}

static fmla_status get_kernel(void *context, void *info) {
  (void)context;
  return fmla_get_kernel_info(0, info);
}

static fmla_status get_context(void *context, void *info) {
  return fmla_get_context_info(context, info);
}

static const struct {
  const char *type;
  size_t bytes;
  info_call call;
} infos[] = {
    {"fmla_device_info", sizeof(fmla_device_info), get_device},
    {"fmla_kernel_info", sizeof(fmla_kernel_info), get_kernel},
    {"fmla_context_info", sizeof(fmla_context_info), get_context},
};

/* A struct in memory, with its size set. */
typedef union info {
  size_t struct_size;
  fmla_device_info device;
  fmla_kernel_info kernel;
  fmla_context_info context;
  unsigned char bytes[1024];
} info;

static info info_of_size(size_t size) {
  info i;
  memset(&i, FILLED, sizeof i);
  i.struct_size = size;
  return i;
}

static void test_info_of_a_newer_program(void **state) {
  for (size_t i = 0; i < sizeof infos / sizeof *infos; i++) {
    info known = info_of_size(infos[i].bytes), newer = info_of_size(infos[i].bytes + EXTRA);
    const info before = newer;
    assert_true(infos[i].bytes + EXTRA < sizeof newer.bytes);
    assert_int_equal(infos[i].call(*state, &known), FMLA_OK);
    assert_int_equal(infos[i].call(*state, &newer), FMLA_OK);
    assert_int_equal(known.struct_size, infos[i].bytes);
    assert_int_equal(newer.struct_size, infos[i].bytes + EXTRA);
    const size_t first = sizeof(size_t), end = infos[i].bytes;
    assert_memory_equal(newer.bytes + first, known.bytes + first, end - first);
    assert_memory_not_equal(newer.bytes + first, before.bytes + first, end - first);
    assert_memory_equal(newer.bytes + end, before.bytes + end, sizeof newer - end);
  }
}

static void test_info_too_small(void **state) {
  for (size_t i = 0; i < sizeof infos / sizeof *infos; i++) {
    const size_t sizes[] = {0, sizeof(size_t), infos[i].bytes - 1};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
      info small = info_of_size(sizes[k]);
      const info before = small;
      assert_int_equal(infos[i].call(*state, &small), FMLA_ERROR_INVALID_ARGUMENT);
      assert_non_null(strstr(fmla_last_error(), infos[i].type));
      assert_non_null(strstr(fmla_last_error(), "struct_size"));
      assert_memory_equal(&small, &before, sizeof small);
    }
  }
}

/* ---- The layout of version 0.1 on 64-bit machines, for ever ---------------------------------------------- */

static const struct {
  const char *field;
  size_t offset, offset_of_0_1;
} layout[] = {
#define AT(type, field, offset)                                                                                \
  { #type "." #field, offsetof(type, field), (offset) }
    AT(fmla_device_info, struct_size, 0),
    AT(fmla_device_info, name, 8),
    AT(fmla_device_info, description, 40),
    AT(fmla_device_info, features, 168),
    AT(fmla_device_info, num_units, 424),
    AT(fmla_device_info, reserved, 428),
    AT(fmla_device_info, memory_bytes, 432),
    AT(fmla_kernel_info, struct_size, 0),
    AT(fmla_kernel_info, name, 8),
    AT(fmla_kernel_info, backend, 16),
    AT(fmla_kernel_info, needs, 24),
    AT(fmla_kernel_info, takes, 32),
    AT(fmla_kernel_info, available, 40),
    AT(fmla_kernel_info, probability_dtype, 44),
    AT(fmla_config, struct_size, 0),
    AT(fmla_config, device, 8),
    AT(fmla_config, kernel, 16),
    AT(fmla_config, num_threads, 24),
    AT(fmla_config, reserved, 28),
    AT(fmla_context_info, struct_size, 0),
    AT(fmla_context_info, device, 8),
    AT(fmla_context_info, num_threads, 40),
    AT(fmla_context_info, num_sms, 44),
    AT(fmla_decode_params, struct_size, 0),
    AT(fmla_decode_params, batch_size, 8),
    AT(fmla_decode_params, num_q_heads, 12),
    AT(fmla_decode_params, num_kv_heads, 16),
    AT(fmla_decode_params, head_dim_k, 20),
    AT(fmla_decode_params, head_dim_v, 24),
    AT(fmla_decode_params, head_dim_rope, 28),
    AT(fmla_decode_params, max_seqlen_q, 32),
    AT(fmla_decode_params, page_size, 36),
    AT(fmla_decode_params, total_q, 40),
    AT(fmla_decode_params, num_pages, 48),
    AT(fmla_decode_params, max_pages_per_seq, 56),
    AT(fmla_decode_params, max_seqlen_k, 60),
    AT(fmla_decode_params, softmax_scale, 64),
    AT(fmla_decode_params, flags, 68),
    AT(fmla_decode_params, max_sms, 72),
    AT(fmla_decode_params, q_dtype, 76),
    AT(fmla_decode_params, kv_format, 80),
    AT(fmla_decode_params, out_dtype, 84),
    AT(fmla_decode_params, q, 88),
    AT(fmla_decode_params, q_rope, 96),
    AT(fmla_decode_params, kv_cache, 104),
    AT(fmla_decode_params, block_table, 112),
    AT(fmla_decode_params, cache_seqlens, 120),
    AT(fmla_decode_params, cu_seqlens_q, 128),
    AT(fmla_decode_params, sink, 136),
    AT(fmla_decode_params, out, 144),
    AT(fmla_decode_params, lse, 152),
    AT(fmla_decode_params, q_stride_batch, 160),
    AT(fmla_decode_params, q_stride_token, 168),
    AT(fmla_decode_params, q_stride_head, 176),
    AT(fmla_decode_params, q_rope_stride_batch, 184),
    AT(fmla_decode_params, q_rope_stride_token, 192),
    AT(fmla_decode_params, q_rope_stride_head, 200),
    AT(fmla_decode_params, kv_stride_page, 208),
    AT(fmla_decode_params, kv_stride_token, 216),
    AT(fmla_decode_params, kv_stride_head, 224),
    AT(fmla_decode_params, block_table_stride, 232),
    AT(fmla_decode_params, out_stride_batch, 240),
    AT(fmla_decode_params, out_stride_token, 248),
    AT(fmla_decode_params, out_stride_head, 256),
    AT(fmla_decode_params, lse_stride_batch, 264),
    AT(fmla_decode_params, lse_stride_token, 272),
    AT(fmla_decode_params, lse_stride_head, 280),
    AT(fmla_merge_params, struct_size, 0),
    AT(fmla_merge_params, num_parts, 8),
    AT(fmla_merge_params, batch_size, 12),
    AT(fmla_merge_params, seqlen_q, 16),
    AT(fmla_merge_params, num_q_heads, 20),
    AT(fmla_merge_params, head_dim_v, 24),
    AT(fmla_merge_params, flags, 28),
    AT(fmla_merge_params, part_dtype, 32),
    AT(fmla_merge_params, out_dtype, 36),
    AT(fmla_merge_params, out_parts, 40),
    AT(fmla_merge_params, lse_parts, 48),
    AT(fmla_merge_params, sink, 56),
    AT(fmla_merge_params, out, 64),
    AT(fmla_merge_params, lse, 72),
    AT(fmla_merge_params, out_parts_stride_part, 80),
    AT(fmla_merge_params, out_parts_stride_batch, 88),
    AT(fmla_merge_params, out_parts_stride_token, 96),
    AT(fmla_merge_params, out_parts_stride_head, 104),
    AT(fmla_merge_params, lse_parts_stride_part, 112),
    AT(fmla_merge_params, lse_parts_stride_batch, 120),
    AT(fmla_merge_params, lse_parts_stride_token, 128),
    AT(fmla_merge_params, lse_parts_stride_head, 136),
    AT(fmla_merge_params, out_stride_batch, 144),
    AT(fmla_merge_params, out_stride_token, 152),
    AT(fmla_merge_params, out_stride_head, 160),
    AT(fmla_merge_params, lse_stride_batch, 168),
    AT(fmla_merge_params, lse_stride_token, 176),
    AT(fmla_merge_params, lse_stride_head, 184),
};

static void test_layout_of_0_1(void **state) {
  (void)state;
  if (sizeof(void *) != 8)
    skip();
  for (size_t i = 0; i < sizeof layout / sizeof *layout; i++)
    if (layout[i].offset != layout[i].offset_of_0_1)
      fail_msg("%s lies at %zu, but in version 0.1 at %zu", layout[i].field, layout[i].offset,
               layout[i].offset_of_0_1);
}

/* Programs built against 0.1 give these sizes, and every later library takes them. */
static void test_sizes_of_0_1(void **state) {
  if (sizeof(void *) != 8)
    skip();
  fmla_context *context = NULL;
  const fmla_config config = {.struct_size = 32};
  assert_int_equal(fmla_open(&config, &context), FMLA_OK);
  fmla_close(context);

  fmla_decode_params decode = FMLA_DECODE_PARAMS_INIT;
  fmla_merge_params merge = FMLA_MERGE_PARAMS_INIT;
  size_t bytes = 0;
  decode.struct_size = 288;
  decode.num_q_heads = merge.num_q_heads = 1;
  decode.softmax_scale = 1;
  assert_int_equal(fmla_decode_workspace(*state, &decode, &bytes), FMLA_OK);
  merge.struct_size = 192;
  assert_int_equal(fmla_merge(*state, &merge, NULL), FMLA_OK);

  static const size_t info_bytes[] = {440, 48, 48};
  for (size_t i = 0; i < sizeof infos / sizeof *infos; i++) {
    info of_0_1 = info_of_size(info_bytes[i]);
    assert_int_equal(infos[i].call(*state, &of_0_1), FMLA_OK);
  }
}

static int set_up(void **state) {
  return fmla_open(NULL, (fmla_context **)state) == FMLA_OK ? 0 : -1;
}

static int tear_down(void **state) {
  fmla_close(*state);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_info_of_a_newer_program),
      cmocka_unit_test(test_info_too_small),
      cmocka_unit_test(test_layout_of_0_1),
      cmocka_unit_test(test_sizes_of_0_1),
  };
  return cmocka_run_group_tests_name("forward", tests, set_up, tear_down);
}
