/* Kernels of a stream that follow each other closely: programmatic dependent launch. */
#ifndef FMLAI_CUDA_TURN_CUH
#define FMLAI_CUDA_TURN_CUH

/* What a kernel does before it touches what other kernels read or write: it waits for those before it in the stream.
   (The merge reads of split tiles before: end_walk.) */
static __device__ __forceinline__ void wait_for_turn(void) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The kernel that follows may be launched, and wait in its turn. Only after the own wait: so whoever is launched finds
   all done but for the kernel right before it. */
static __device__ __forceinline__ void let_next_begin(void) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
