#include "cuda/image.h"

/* The build defines FMLAI_CUDA_TOOLKIT where it has nvcc, and FMLAI_CUDA_IMAGE_DIR, where NAME.fatbin are. */
#ifdef FMLAI_CUDA_TOOLKIT

#define X(name)                                                                                                \
  __asm__(".pushsection .rodata\n"                                                                             \
          ".balign 64\n"                                                                                       \
          ".hidden fmlai_cuda_image_" #name "\n"                                                               \
          ".globl fmlai_cuda_image_" #name "\n"                                                                \
          "fmlai_cuda_image_" #name ":\n"                                                                      \
          ".incbin \"" FMLAI_CUDA_IMAGE_DIR "/" #name ".fatbin\"\n"                                            \
          ".popsection\n");                                                                                    \
  extern const unsigned char fmlai_cuda_image_##name[];
FMLAI_CUDA_IMAGES(X)
#undef X

const fmlai_cuda_image_set fmlai_cuda_images = {
    .toolkit = FMLAI_CUDA_TOOLKIT,
    .num_images = FMLAI_CUDA_MAX_IMAGES,
#define X(name) fmlai_cuda_image_##name,
    .images = {FMLAI_CUDA_IMAGES(X)},
#undef X
};

#else
const fmlai_cuda_image_set fmlai_cuda_images = {0};
#endif
