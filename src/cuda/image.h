/* The embedded device code: a fatbin for each file kernels/NAME.cu. None in a build without nvcc. */
#ifndef FMLAI_CUDA_IMAGE_H
#define FMLAI_CUDA_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

/* One line for each file of kernels/, as in CMakeLists.txt. */
#define FMLAI_CUDA_IMAGES(X)                                                                                   \
  X(decode_portable)                                                                                           \
  X(decode_hopper)                                                                                             \
  X(decode_hopper_few)                                                                                         \
  X(merge)                                                                                                     \
  X(check_values)

#define X(name) FMLAI_CUDA_IMAGE_##name,
typedef enum fmlai_cuda_image { FMLAI_CUDA_IMAGES(X) FMLAI_CUDA_MAX_IMAGES } fmlai_cuda_image;
#undef X

/* Machine code for compute capability 9.0 alone. */
static inline bool fmlai_cuda_is_hopper_image(int32_t image) {
  return image == FMLAI_CUDA_IMAGE_decode_hopper || image == FMLAI_CUDA_IMAGE_decode_hopper_few;
}

typedef struct fmlai_cuda_image_set {
  int32_t toolkit; /* the version of nvcc, as major * 1000 + minor * 10 */
  int32_t num_images;
  const void *images[FMLAI_CUDA_MAX_IMAGES];
} fmlai_cuda_image_set;

extern const fmlai_cuda_image_set fmlai_cuda_images;

#endif
