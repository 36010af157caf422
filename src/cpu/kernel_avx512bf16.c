/* Pairs of BF16 values multiplied and added in one instruction, 16 sums at a time. */
#include "cpu/simd_avx512.h"

#include "cpu/words_bf16.h"

#include "cpu/softmax.h"

/* Packs a block of keys as values for all rows; points `rows` at each key. */
static packed_values pack_block(float *packed, const void **rows, const fmlai_key_block *block, int32_t dim_k,
                                int32_t dim_v, bool fp16) {
  (void)dim_k;
  (void)fp16;
  const packed_values values = packed_block(packed, block);
  for (int32_t t = 0; t < block->padded; t += KEYS_PER_STEP) {
    pack_pair(&values, packed, block, t, dim_v);
    rows[t] = block->keys[t];
    rows[t + 1] = block->keys[t + 1];
  }
  return values;
}

#define VECTOR_REGISTERS 32
#include "cpu/kernel_body.h"

#include "cpu/features.h"

const fmlai_cpu_kernel fmlai_cpu_kernel_avx512bf16 = {
    .name = "avx512bf16",
    .needs = "AVX-512F, AVX-512BW, AVX-512VL, AVX-512-BF16",
    .takes = "BF16, head dims that are multiples of 32",
    .features = FMLAI_CPU_FOR_AVX512 | FMLAI_CPU_AVX512BF16,
    .probability_dtype = FMLA_DTYPE_BF16,
    .max_tile_rows = MAX_TILE_ROWS,
    .gflops = 170,
    .serves = serves,
    .scratch_bytes = scratch_bytes,
    .decode_item = decode_item,
    .store_row = store_row,
};
