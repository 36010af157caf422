/* sm_90a, one instruction a function: barriers in shared memory, the copy engine, matrix products of warpgroups. */
#ifndef FMLAI_CUDA_HOPPER_CUH
#define FMLAI_CUDA_HOPPER_CUH

#include "args.h"
#include "ptx.cuh"

/* In a build that looks for races (FLASHMLA_DELAYS), one warp in eight sleeps here for some microseconds; else nothing. */
static __device__ __forceinline__ void delay_at_random(void) {
#ifdef FMLAI_DELAYS
  uint32_t now, warp;
  asm volatile("mov.u32 %0, %%clock;\nmov.u32 %1, %%warpid;" : "=r"(now), "=r"(warp));
  const uint32_t random = (now + warp * 40503u) * 2654435761u;
  asm volatile("{\n.reg .pred sleeps;\nsetp.eq.u32 sleeps, %1, 0;\n@sleeps nanosleep.u32 %0;\n}" ::"r"(
                   random >> 12 & 4095),
               "r"(random >> 29)
               : "memory");
#endif
}

/* ---- Barriers ---------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* After all inits, before the barrier of the CTA: the copy engine sees them, too. */
static __device__ __forceinline__ void barrier_init_fence(void) {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  delay_at_random();
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Where `arrives` holds; without a branch, so that products may be under way. */
static __device__ __forceinline__ void barrier_arrive_if(bool arrives, uint32_t barrier) {
  delay_at_random();
  asm volatile("{\n.reg .pred arrives;\nsetp.ne.b32 arrives, %1, 0;\n"
               "@arrives mbarrier.arrive.shared::cta.b64 _, [%0];\n}" ::"r"(barrier),
               "r"((uint32_t)arrives)
               : "memory");
}

/* Arrives, and lets the phase wait for `bytes` from the copy engine as well. */
static __device__ __forceinline__ void barrier_arrive_expecting(uint32_t barrier, uint32_t bytes) {
  delay_at_random();
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

/* Waits for the end of the phase with this parity: phase 0 is the first. */
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  delay_at_random();
  asm volatile("{\n"
               ".reg .pred done;\n"
               "again:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
               "@done bra over;\n"
               "bra again;\n"
               "over:\n"
               "}" ::"r"(barrier),
               "r"(parity)
               : "memory");
}

/* Whether the phase with this parity has ended. */
static __device__ __forceinline__ bool barrier_has_passed(uint32_t barrier, uint32_t parity) {
  uint32_t has;
  asm volatile("{\n.reg .pred done;\nmbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
               "selp.b32 %0, 1, 0, done;\n}"
               : "=r"(has)
               : "r"(barrier), "r"(parity)
               : "memory");
  return has != 0;
}

/* ---- Pairs: clusters of two CTAs --------------------------------------------------------------------- */

static __device__ __forceinline__ int rank_in_pair(void) {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/* The same place in the shared memory of one of the pair. */
static __device__ __forceinline__ uint32_t address_in(int rank, uint32_t address) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

/* All threads of both meet. */
static __device__ __forceinline__ void pair_barrier(void) {
  asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}

/* As barrier_arrive_if, at a barrier of either. Not for what this thread wrote: that its reads are over is all it tells. */
static __device__ __forceinline__ void pair_barrier_arrive_if(bool arrives, uint32_t barrier) {
  delay_at_random();
  asm volatile("{\n.reg .pred arrives;\nsetp.ne.b32 arrives, %1, 0;\n"
               "@arrives mbarrier.arrive.shared::cluster.b64 _, [%0];\n}" ::"r"(barrier),
               "r"((uint32_t)arrives)
               : "memory");
}

/* Of the hardware's numbered barriers. */
static __device__ __forceinline__ void named_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/* Tells those who wait at the barrier, and goes on; `threads` counts both. */
static __device__ __forceinline__ void named_barrier_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/* Whether it is true for a thread of the 128 that meet at the barrier. */
static __device__ __forceinline__ bool any_of_warpgroup(int number, bool is) {
  uint32_t any;
  asm volatile("{\n.reg .pred mine, any;\nsetp.ne.b32 mine, %1, 0;\nbar.red.or.pred any, %2, 128, mine;\n"
               "selp.b32 %0, 1, 0, any;\n}"
               : "=r"(any)
               : "r"((uint32_t)is), "r"(number)
               : "memory");
  return any != 0;
}

/* What this thread wrote to shared memory is seen by matrix products and by the copy engine after the next barrier. */
static __device__ __forceinline__ void fence_for_async(void) {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- Registers --------------------------------------------------------------------------------------- */

#define REGISTERS_DOWN_TO(n) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n))
#define REGISTERS_UP_TO(n) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n))

/* ---- Copies ------------------------------------------------------------------------------------------ */

/* A box of the KV cache to shared memory: 64 columns of some keys; zeros where the page is not one of the cache. */
static __device__ __forceinline__ void copy_box(uint32_t to, const fmlai_cuda_tensor_map *map, uint32_t barrier,
                                                int32_t column, int32_t slot, int32_t page, int32_t kv_head) {
  delay_at_random();
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
               "l"(map), "r"(barrier), "r"(column), "r"(slot), "r"(page), "r"(kv_head)
               : "memory");
}

/* The same to both CTAs of a pair, each of whose barriers at that place is told of it. */
static __device__ __forceinline__ void copy_box_to_pair(uint32_t to, const fmlai_cuda_tensor_map *map, uint32_t barrier,
                                                        int32_t column, int32_t slot, int32_t page, int32_t kv_head) {
  delay_at_random();
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
               "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to),
               "l"(map), "r"(barrier), "r"(column), "r"(slot), "r"(page), "r"(kv_head), "h"((uint16_t)3)
               : "memory");
}

/* The same to the L2 alone. */
static __device__ __forceinline__ void prefetch_box(const fmlai_cuda_tensor_map *map, int32_t column, int32_t slot,
                                                    int32_t page, int32_t kv_head) {
  asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global.tile [%0, {%1, %2, %3, %4}];" ::"l"(map), "r"(column),
               "r"(slot), "r"(page), "r"(kv_head)
               : "memory");
}

static __device__ __forceinline__ void prefetch_map(const fmlai_cuda_tensor_map *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Four 8x8 matrices of 16-bit elements to shared memory; lane l gives the address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void stmatrix_x4(uint32_t address, const uint32_t r[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}

/* The same, each matrix transposed: memory's row is the registers' column. */
static __device__ __forceinline__ void stmatrix_x4_trans(uint32_t address, const uint32_t r[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

static __device__ __forceinline__ void store_shared_128(uint32_t to, const float v[4]) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
               : "memory");
}

/* Where `stores` holds; without a branch, so that products may be under way. */
static __device__ __forceinline__ void store_shared_if(bool stores, uint32_t to, float value) {
  asm volatile("{\n.reg .pred stores;\nsetp.ne.b32 stores, %2, 0;\n@stores st.shared.f32 [%0], %1;\n}" ::"r"(to),
               "f"(value), "r"((uint32_t)stores)
               : "memory");
}

static __device__ __forceinline__ void store_zeros_128(uint32_t to) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
}

/* ---- Matrix products --------------------------------------------------------------------------------- */

/*
 * A matrix in shared memory with 128-byte swizzle, as wgmma takes it. Rows of 64 16-bit elements; eight rows lie
 * together. K-major: the rows are M or N; 16 elements on are 32 bytes on. MN-major: the rows are K, 64 elements of M or
 * N wide, the next 64 lie MN_STRIDE bytes on; 16 rows on are 2048 bytes on. A matrix is the lower half of its
 * descriptor, so that going on is one addition of 32 bits.
 */
static __device__ __forceinline__ uint32_t k_major(uint32_t address) { return (address & 0x3ffff) >> 4 | 1u << 16; }

static __device__ __forceinline__ uint32_t mn_major(uint32_t address) {
  enum { MN_STRIDE = 8192 };
  return (address & 0x3ffff) >> 4 | (uint32_t)(MN_STRIDE / 16) << 16;
}

static __device__ __forceinline__ uint32_t bytes_on(uint32_t matrix, int bytes) { return matrix + (uint32_t)(bytes / 16); }

/* The upper half of every descriptor: 1024 bytes from eight rows to the next, 128-byte swizzle. */
#define UPPER_HALF "0x40000040"

static __device__ __forceinline__ void products_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

static __device__ __forceinline__ void products_commit(void) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most `pending` committed groups are under way. */
#define PRODUCTS_WAIT(pending) asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory")

/* Operands of asm: n registers of d from i on. */
#define IO_8(d, i)                                                                                             \
  "+f"((d)[i]), "+f"((d)[(i) + 1]), "+f"((d)[(i) + 2]), "+f"((d)[(i) + 3]), "+f"((d)[(i) + 4]),                \
      "+f"((d)[(i) + 5]), "+f"((d)[(i) + 6]), "+f"((d)[(i) + 7])
#define IO_16(d, i) IO_8(d, i), IO_8(d, (i) + 8)
#define IO_32(d, i) IO_8(d, i), IO_8(d, (i) + 8), IO_8(d, (i) + 16), IO_8(d, (i) + 24)
#define IO_128(d) IO_32(d, 0), IO_32(d, 32), IO_32(d, 64), IO_32(d, 96)

#define NAMES_8 "{%0, %1, %2, %3, %4, %5, %6, %7}"
#define NAMES_16 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
#define NAMES_32                                                                                               \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                    \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define NAMES_128                                                                                              \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                    \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                           \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                           \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                           \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                           \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                           \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "               \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"

/* Ties registers to this point of the program: what a product wrote is read after it, not before. */
static __device__ __forceinline__ void settle_8(float d[8]) { asm volatile("" : IO_8(d, 0)::"memory"); }
static __device__ __forceinline__ void settle_16(float d[16]) { asm volatile("" : IO_16(d, 0)::"memory"); }
static __device__ __forceinline__ void settle_32(float d[32]) { asm volatile("" : IO_32(d, 0)::"memory"); }
static __device__ __forceinline__ void settle_128(float d[128]) { asm volatile("" : IO_128(d)::"memory"); }

/* d (64x64, FP32) = or += a (K-major) b (K-major), both in shared memory. */
#define PRODUCT_64X64(type)                                                                                    \
  static __device__ __forceinline__ void product_64x64_##type(float d[32], uint32_t a, uint32_t b, int adds) { \
    asm volatile("{\n.reg .pred adds;\n.reg .b64 a, b;\nsetp.ne.b32 adds, %34, 0;\n"                           \
                 "mov.b64 a, {%32, " UPPER_HALF "};\nmov.b64 b, {%33, " UPPER_HALF "};\n"                      \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." #type "." #type " " NAMES_32                    \
                 ", a, b, adds, 1, 1, 0, 0;\n}"                                                            \
                 : IO_32(d, 0)                                                                                 \
                 : "r"(a), "r"(b), "r"(adds));                                                                 \
  }

/* d (64x256, FP32) += a (K-major, in shared memory) b (MN-major). */
#define PRODUCT_64X256(type)                                                                                   \
  static __device__ __forceinline__ void product_64x256_##type(float d[128], uint32_t a, uint32_t b) {         \
    asm volatile("{\n.reg .b64 a, b;\nmov.b64 a, {%128, " UPPER_HALF "};\nmov.b64 b, {%129, " UPPER_HALF "};\n"   \
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32." #type "." #type " " NAMES_128                  \
                 ", a, b, 1, 1, 1, 0, 1;\n}"                                                                \
                 : IO_128(d)                                                                                   \
                 : "r"(a), "r"(b));                                                                            \
  }

/* The same with a in registers. */
#define PRODUCT_64X256_REGISTERS(type)                                                                         \
  static __device__ __forceinline__ void product_64x256_registers_##type(float d[128], const uint32_t a[4],    \
                                                                         uint32_t b) {                         \
    asm volatile("{\n.reg .b64 b;\nmov.b64 b, {%132, " UPPER_HALF "};\n"                                      \
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32." #type "." #type " " NAMES_128                  \
                 ", {%128, %129, %130, %131}, b, 1, 1, 1, 1;\n}"                                               \
                 : IO_128(d)                                                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b));                                        \
  }

/* d (64 x n, FP32) = or += a b (K-major), both in shared memory; n / 2 registers, then the operands. a is K-major, or in
   the form called transposed MN-major. */
#define PRODUCT_64XN(name, type, n, registers, a_at, b_at, adds_at, transposed)                                \
  static __device__ __forceinline__ void name##_##type(float d[n / 2], uint32_t a, uint32_t b, int adds) {     \
    asm volatile("{\n.reg .pred adds;\n.reg .b64 a, b;\nsetp.ne.b32 adds, " adds_at ", 0;\n"                  \
                 "mov.b64 a, {" a_at ", " UPPER_HALF "};\nmov.b64 b, {" b_at ", " UPPER_HALF "};\n"            \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." #type "." #type " " NAMES_##registers       \
                 ", a, b, adds, 1, 1, " transposed ", 0;\n}"                                                   \
                 : IO_##registers(d, 0)                                                                        \
                 : "r"(a), "r"(b), "r"(adds));                                                                 \
  }
#define PRODUCTS_64XN(type)                                                                                    \
  PRODUCT_64XN(product_64x16, type, 16, 8, "%8", "%9", "%10", "0")                                             \
  PRODUCT_64XN(product_64x16_transposed, type, 16, 8, "%8", "%9", "%10", "1")                                  \
  PRODUCT_64XN(product_64x32, type, 32, 16, "%16", "%17", "%18", "0")                                          \
  PRODUCT_64XN(product_64x32_transposed, type, 32, 16, "%16", "%17", "%18", "1")

PRODUCTS_64XN(bf16)
PRODUCTS_64XN(f16)
PRODUCT_64X64(bf16)
PRODUCT_64X64(f16)
PRODUCT_64X256(bf16)
PRODUCT_64X256(f16)
PRODUCT_64X256_REGISTERS(bf16)
PRODUCT_64X256_REGISTERS(f16)

#endif
