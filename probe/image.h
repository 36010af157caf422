/* image.h: the probe's device code, a fatbin for each file kernels/NAME.cu. None in a build without nvcc. */
#ifndef PROBE_IMAGE_H
#define PROBE_IMAGE_H

#include <stdint.h>

/* One line for each file, as in CMakeLists.txt. */
#define PROBE_IMAGES(X)                                                                                        \
  X(fill)                                                                                                      \
  X(read)                                                                                                      \
  X(multiply)                                                                                                  \
  X(hold)

#define X(name) PROBE_IMAGE_##name,
typedef enum probe_image { PROBE_IMAGES(X) PROBE_NUM_IMAGES } probe_image;
#undef X

typedef struct probe_image_set {
  const void *images[PROBE_NUM_IMAGES]; /* NULL in a build without nvcc */
} probe_image_set;

extern const probe_image_set probe_images;

#endif
