/* FP32 arithmetic on 16 lanes. */
#include "cpu/simd_avx512.h"

#include "cpu/words_fp32.h"

#include "cpu/softmax.h"

#define VECTOR_REGISTERS 32
#include "cpu/kernel_body.h"

#include "cpu/features.h"

const fmlai_cpu_kernel fmlai_cpu_kernel_avx512 = {
    .name = "avx512",
    .needs = "AVX-512F, AVX-512BW, AVX-512VL",
    .takes = "head dims that are multiples of 32",
    .features = FMLAI_CPU_FOR_AVX512,
    .probability_dtype = FMLA_DTYPE_FP32,
    .max_tile_rows = MAX_TILE_ROWS,
    .gflops = 85,
    .serves = serves,
    .scratch_bytes = scratch_bytes,
    .decode_item = decode_item,
    .store_row = store_row,
};
