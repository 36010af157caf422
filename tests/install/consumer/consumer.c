/*
 * consumer.c: a program of somebody else. With a single key out is its value, whatever the scores; prints the
 * library's version, and with an argument the devices.
 *
 * SPDX-License-Identifier: MIT
 */
#include <flash_mla.h>

#include <stdio.h>
#include <stdlib.h>

static int failed(const char *call) {
  fprintf(stderr, "%s: %s\n", call, fmla_last_error());
  return EXIT_FAILURE;
}

static int print_devices(void) {
  for (int32_t i = 0; i < fmla_device_count(); i++) {
    fmla_device_info info = {.struct_size = sizeof info};
    if (fmla_get_device_info(i, &info) != FMLA_OK)
      return failed("fmla_get_device_info");
    printf("%s%s", i > 0 ? " " : "", info.name);
  }
  puts("");
  return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
  (void)argv;
  static const uint16_t q[16] = {0x3f80},
                        entry[16] = {0x3f80, 0x4000, 0xbf00, 0x4080}; /* BF16: 1, 2, -0.5, 4 */
  static const int32_t page = 0, length = 1;
  float out[4] = {0};
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.batch_size = p.num_q_heads = p.page_size = p.max_pages_per_seq = 1;
  p.num_pages = 1;
  p.head_dim_k = 16;
  p.head_dim_v = 4;
  p.out_dtype = FMLA_DTYPE_FP32;
  p.softmax_scale = 0.25f;
  p.q = q;
  p.kv_cache = entry;
  p.block_table = &page;
  p.cache_seqlens = &length;
  p.out = out;

  fmla_config config = FMLA_CONFIG_INIT;
  config.device = "cpu";
  fmla_context *context = NULL;
  if (fmla_open(&config, &context) != FMLA_OK)
    return failed("fmla_open");
  size_t bytes = 0;
  if (fmla_decode_workspace(context, &p, &bytes) != FMLA_OK)
    return failed("fmla_decode_workspace");
  void *workspace = malloc(bytes);
  if (workspace == NULL || fmla_decode(context, &p, workspace, bytes, NULL) != FMLA_OK)
    return failed("fmla_decode");
  free(workspace);
  fmla_close(context);
  if (out[0] != 1 || out[1] != 2 || out[2] != -0.5f || out[3] != 4) {
    fprintf(stderr, "out is %g %g %g %g\n", (double)out[0], (double)out[1], (double)out[2], (double)out[3]);
    return EXIT_FAILURE;
  }
  if (argc > 1)
    return print_devices();
  puts(fmla_version_string());
  return EXIT_SUCCESS;
}
