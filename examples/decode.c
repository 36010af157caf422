/*
 * decode.c: one decode step of a small made-up batch, on the best device of this machine.
 *
 *   cc -std=c11 decode.c $(pkg-config --cflags --libs flashmla) -o decode
 */
#include <flash_mla.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 2, HEADS = 16, DK = 576, DV = 512, PAGE_SIZE = 64, PAGES = 4, PAGES_PER_SEQ = 2 };

static void must(fmla_status status) {
  if (status != FMLA_OK) {
    fprintf(stderr, "%s: %s\n", fmla_status_name(status), fmla_last_error());
    exit(EXIT_FAILURE);
  }
}

static void *buffers[8];
static int num_buffers;

/* Device memory with the content of `host`, or with any content if that is NULL. */
static void *place(fmla_context *context, const void *host, size_t bytes) {
  void **buffer = &buffers[num_buffers++];
  must(fmla_buffer_alloc(context, bytes, buffer));
  if (host != NULL)
    must(fmla_buffer_upload(context, *buffer, host, bytes, NULL));
  return *buffer;
}

int main(void) {
  /* Sequence 0 has 100 tokens, in pages 3 and 1; sequence 1 has 64, in page 0. */
  static const int32_t table[BATCH * PAGES_PER_SEQ] = {3, 1, 0, -1}, lengths[BATCH] = {100, 64};
  static uint16_t q[BATCH * HEADS * DK], cache[PAGES * PAGE_SIZE * DK]; /* BF16: the upper half of a float */
  for (int i = 0; i < BATCH * HEADS * DK; i++)
    q[i] = (uint16_t)(0x3d00 + i % 77);
  for (int i = 0; i < PAGES * PAGE_SIZE * DK; i++)
    cache[i] = (uint16_t)(0x3f00 + i % 101);

  fmla_context *context = NULL;
  must(fmla_open(NULL, &context));

  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT; /* 576 and 512, pages of 64, BF16 */
  p.batch_size = BATCH;
  p.num_q_heads = HEADS;
  p.num_pages = PAGES;
  p.max_pages_per_seq = PAGES_PER_SEQ;
  p.softmax_scale = 1 / sqrtf(DK);
  p.out_dtype = FMLA_DTYPE_FP32;
  p.q = place(context, q, sizeof q);
  p.kv_cache = place(context, cache, sizeof cache);
  p.block_table = place(context, table, sizeof table);
  p.cache_seqlens = place(context, lengths, sizeof lengths);

  static float out[BATCH][HEADS][DV], lse[BATCH][HEADS];
  p.out = place(context, NULL, sizeof out);
  p.lse = place(context, NULL, sizeof lse);

  size_t workspace_bytes = 0;
  must(fmla_decode_workspace(context, &p, &workspace_bytes));
  void *workspace = place(context, NULL, workspace_bytes);
  must(fmla_decode(context, &p, workspace, workspace_bytes, NULL));
  must(fmla_buffer_download(context, out, p.out, sizeof out, NULL));
  must(fmla_buffer_download(context, lse, p.lse, sizeof lse, NULL));

  for (int i = 0; i < BATCH; i++)
    printf("sequence %d, head 0: out = %.4f %.4f %.4f ..., lse = %.4f\n", i, (double)out[i][0][0],
           (double)out[i][0][1], (double)out[i][0][2], (double)lse[i][0]);
  while (num_buffers > 0)
    must(fmla_buffer_free(context, buffers[--num_buffers]));
  fmla_close(context);
  return EXIT_SUCCESS;
}
