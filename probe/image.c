#include "image.h"

#include "cuda/image.h"

/* What src/cuda/driver.c asks of the device code that it is opened for: here that is the probe's. */
#ifdef FMLAI_CUDA_TOOLKIT

#define X(name)                                                                                                \
  __asm__(".pushsection .rodata\n"                                                                             \
          ".balign 64\n"                                                                                       \
          ".hidden probe_image_" #name "\n"                                                                    \
          ".globl probe_image_" #name "\n"                                                                     \
          "probe_image_" #name ":\n"                                                                           \
          ".incbin \"" FMLAI_CUDA_IMAGE_DIR "/" #name ".fatbin\"\n"                                            \
          ".popsection\n");                                                                                    \
  extern const unsigned char probe_image_##name[];
PROBE_IMAGES(X)
#undef X

#define X(name) probe_image_##name,
const probe_image_set probe_images = {{PROBE_IMAGES(X)}};
#undef X

const fmlai_cuda_image_set fmlai_cuda_images = {.toolkit = FMLAI_CUDA_TOOLKIT, .num_images = PROBE_NUM_IMAGES};

#else
const probe_image_set probe_images = {{0}};
const fmlai_cuda_image_set fmlai_cuda_images = {0};
#endif
