/* FP32 arithmetic on 8 lanes. */
#include "cpu/simd_avx2.h"

#include "cpu/words_fp32.h"

#include "cpu/softmax.h"

#define VECTOR_REGISTERS 16
#include "cpu/kernel_body.h"

#include "cpu/features.h"

const fmlai_cpu_kernel fmlai_cpu_kernel_avx2 = {
    .name = "avx2",
    .needs = "AVX2, FMA, F16C",
    .takes = "head dims that are multiples of 32",
    .features = FMLAI_CPU_FOR_AVX2,
    .probability_dtype = FMLA_DTYPE_FP32,
    .max_tile_rows = MAX_TILE_ROWS,
    .gflops = 85,
    .serves = serves,
    .scratch_bytes = scratch_bytes,
    .decode_item = decode_item,
    .store_row = store_row,
};
