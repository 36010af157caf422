/* Every variant of the portable decode kernel (variants.h), each by including the body once. */
#include "args.h"
#include "rows.cuh"
#include "variants.h"

#define KERNEL_NAME fmlai_decode_portable_bf16_rows16
#define ROWS 16
#define TILE_KEYS 32
#define WARPS 4
#define MAX_HEAD_DIM_V 576
#define IS_FP16 0
#include "decode_portable.cuh"

#define KERNEL_NAME fmlai_decode_portable_fp16_rows16
#define ROWS 16
#define TILE_KEYS 32
#define WARPS 4
#define MAX_HEAD_DIM_V 576
#define IS_FP16 1
#include "decode_portable.cuh"

#define KERNEL_NAME fmlai_decode_portable_bf16_rows32
#define ROWS 32
#define TILE_KEYS 16
#define WARPS 4
#define MAX_HEAD_DIM_V 576
#define IS_FP16 0
#include "decode_portable.cuh"

#define KERNEL_NAME fmlai_decode_portable_fp16_rows32
#define ROWS 32
#define TILE_KEYS 16
#define WARPS 4
#define MAX_HEAD_DIM_V 576
#define IS_FP16 1
#include "decode_portable.cuh"

#define KERNEL_NAME fmlai_decode_portable_bf16_rows64
#define ROWS 64
#define TILE_KEYS 32
#define WARPS 8
#define MAX_HEAD_DIM_V 512
#define IS_FP16 0
#include "decode_portable.cuh"

#define KERNEL_NAME fmlai_decode_portable_fp16_rows64
#define ROWS 64
#define TILE_KEYS 32
#define WARPS 8
#define MAX_HEAD_DIM_V 512
#define IS_FP16 1
#include "decode_portable.cuh"
