/*
 * The matrix units at work on random numbers: zeros would take less power, and power sets the clock. Every second
 * product is subtracted, so that sums neither grow nor become zero.
 */
#include "args.h"
#include "random.cuh"
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "ptx90.cuh"
#endif

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/*
 * Shared memory: B, 256 columns of 256 elements, which both warpgroups multiply with an A of 64 rows of their own. Each
 * operand is in tiles of 64 elements along K.
 */
enum { K_TILES = 4, A_TILE_BYTES = 64 * 128, B_TILE_BYTES = 256 * 128, K_STEP_BYTES = 32 };

#define MULTIPLY_STEPS(type, sign)                                                                                   \
  _Pragma("unroll") for (int step = 0; step < K_TILES * 4; step++) {                                                 \
    const uint32_t tile = step / 4, inside = step % 4 * K_STEP_BYTES;                                                \
    WGMMA_64X256X16(type, sign, d, wgmma_operand(a + tile * A_TILE_BYTES + inside),                                  \
                    wgmma_operand(b + tile * B_TILE_BYTES + inside));                                                \
  }

#define MULTIPLY(name, type, is_fp16)                                                                                \
  extern "C" __global__ void __launch_bounds__(PROBE_MULTIPLY_THREADS) name(float *sums, int32_t passes) {           \
    extern __shared__ char memory[];                                                                                 \
    const uint32_t misaligned = shared_address(memory) % 1024;                                                       \
    char *operands = memory + (misaligned ? 1024 - misaligned : 0);                                                  \
    const int words = K_TILES * (B_TILE_BYTES + 2 * A_TILE_BYTES) / 4;                                               \
    for (int i = (int)threadIdx.x; i < words; i += PROBE_MULTIPLY_THREADS)                                           \
      ((uint32_t *)operands)[i] = random_pair(blockIdx.x, (uint64_t)i, is_fp16);                                     \
    fence_async_proxy();                                                                                             \
    __syncthreads();                                                                                                 \
    const uint32_t b = shared_address(operands);                                                                     \
    const uint32_t a = b + K_TILES * B_TILE_BYTES + threadIdx.x / 128 * K_TILES * A_TILE_BYTES;                      \
    float d[128];                                                                                                    \
    _Pragma("unroll") for (int i = 0; i < 128; i++) d[i] = 0;                                                        \
    for (int32_t pass = 0; pass < passes; pass++) {                                                                  \
      wgmma_fence();                                                                                                 \
      MULTIPLY_STEPS(type, "1")                                                                                      \
      MULTIPLY_STEPS(type, "-1")                                                                                     \
      wgmma_commit();                                                                                                \
      wgmma_wait_all();                                                                                              \
    }                                                                                                                \
    float sum = 0;                                                                                                   \
    _Pragma("unroll") for (int i = 0; i < 128; i++) sum += d[i];                                                     \
    sums[blockIdx.x * PROBE_MULTIPLY_THREADS + threadIdx.x] = sum;                                                   \
  }

/* Two warpgroups, 32 steps. */
static_assert(2 * 32 * 2 * 64 * 256 * 16 == PROBE_OPERATIONS_PER_PASS, "a pass");

MULTIPLY(probe_multiply_bf16, "bf16", false)
MULTIPLY(probe_multiply_fp16, "f16", true)

#else

/* From registers: every warp has four operands of 16 rows and four of 8 columns. */
enum { TILES = 4, ROUNDS = 32 };

#define MULTIPLY(name, mma, is_fp16)                                                                                 \
  extern "C" __global__ void __launch_bounds__(PROBE_MULTIPLY_THREADS, PROBE_MULTIPLY_MMA_CTAS_PER_SM)               \
      name(float *sums, int32_t passes) {                                                                            \
    const uint32_t sign = 0x80008000u; /* of a pair */                                                               \
    uint32_t a[TILES][4], b[TILES][2];                                                                               \
    float d[TILES][TILES][4];                                                                                        \
    const uint64_t seed = (uint64_t)blockIdx.x * PROBE_MULTIPLY_THREADS + threadIdx.x;                               \
    _Pragma("unroll") for (int i = 0; i < TILES * 4; i++) a[i / 4][i % 4] = random_pair(seed, (uint64_t)i, is_fp16); \
    _Pragma("unroll") for (int i = 0; i < TILES * 2; i++) b[i / 2][i % 2] =                                          \
        random_pair(seed, (uint64_t)i + TILES * 4, is_fp16);                                                         \
    _Pragma("unroll") for (int i = 0; i < TILES * TILES * 4; i++) d[i / TILES / 4][i / 4 % TILES][i % 4] = 0;        \
    for (int32_t round = 0; round < passes * ROUNDS * 2; round++) {                                                  \
      _Pragma("unroll") for (int m = 0; m < TILES; m++) _Pragma("unroll") for (int n = 0; n < TILES; n++)            \
          mma(d[m][n], a[m], b[n][0], b[n][1]);                                                                      \
      _Pragma("unroll") for (int i = 0; i < TILES * 2; i++) b[i / 2][i % 2] ^= sign;                                 \
    }                                                                                                                \
    float sum = 0;                                                                                                   \
    _Pragma("unroll") for (int i = 0; i < TILES * TILES * 4; i++) sum += d[i / TILES / 4][i / 4 % TILES][i % 4];     \
    sums[seed] = sum;                                                                                                \
  }

/* Eight warps, 64 rounds. */
static_assert(8 * ROUNDS * 2 * TILES * TILES * 2 * 16 * 8 * 16 == PROBE_OPERATIONS_PER_PASS, "a pass");

MULTIPLY(probe_multiply_bf16, mma_bf16, false)
MULTIPLY(probe_multiply_fp16, mma_fp16, true)

#endif
