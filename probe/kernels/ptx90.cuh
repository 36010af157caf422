/* One instruction a function, for sm_90a: barriers in shared memory, bulk copies, wgmma. */
#ifndef PROBE_PTX90_CUH
#define PROBE_PTX90_CUH

#include "cuda/kernels/ptx.cuh"

static __device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* Makes initialised barriers visible to copies. */
static __device__ __forceinline__ void fence_barrier_init(void) {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* What threads wrote to shared memory is there for copies and wgmma. */
static __device__ __forceinline__ void fence_async_proxy(void) {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Arrives, and lets the barrier's phase last until `bytes` were copied. */
static __device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

static __device__ __forceinline__ bool barrier_try_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n"
               ".reg .pred p;\n"
               "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
               "selp.u32 %0, 1, 0, p;\n"
               "}"
               : "=r"(done)
               : "r"(barrier), "r"(parity)
               : "memory");
  return done != 0;
}

/* One contiguous piece from global to shared memory, counted by the barrier. */
static __device__ __forceinline__ void copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

static __device__ __forceinline__ void wgmma_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

static __device__ __forceinline__ void wgmma_commit(void) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_wait_all(void) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

/* A K-major operand of rows of 128 bytes, swizzled by 128 bytes: eight rows are 1024 bytes. */
static __device__ __forceinline__ uint64_t wgmma_operand(uint32_t address) {
  return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* "+f" of eight accumulators, and of 64. */
#define ACCUMULATORS_8(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
      "+f"(d[i + 7])
#define ACCUMULATORS_64(d, i)                                                                                      \
  ACCUMULATORS_8(d, i), ACCUMULATORS_8(d, i + 8), ACCUMULATORS_8(d, i + 16), ACCUMULATORS_8(d, i + 24),              \
      ACCUMULATORS_8(d, i + 32), ACCUMULATORS_8(d, i + 40), ACCUMULATORS_8(d, i + 48), ACCUMULATORS_8(d, i + 56)

/* d += sign * a b by a warpgroup: 64x16 by 16x256, both in shared memory. `type` is "bf16" or "f16", `sign` "1" or
   "-1". */
#define WGMMA_64X256X16(type, sign, d, a, b)                                                                       \
  asm volatile("{\n"                                                                                               \
               ".reg .pred p;\n"                                                                                   \
               "setp.eq.b32 p, 0, 0;\n"                                                                            \
               "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " "                                    \
               "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                           \
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                  \
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                  \
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                  \
               "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                  \
               "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                  \
               "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "      \
               "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, " \
               "%128, %129, p, " sign ", 1, 0, 0;\n"                                                               \
               "}"                                                                                                 \
               : ACCUMULATORS_64(d, 0), ACCUMULATORS_64(d, 64)                                                     \
               : "l"(a), "l"(b))

#endif
