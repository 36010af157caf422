/* A decode step, its checked mode, and a merge, as launches on a stream. */
#ifndef FMLAI_CUDA_DECODE_H
#define FMLAI_CUDA_DECODE_H

#include "cuda/launch.h"
#include "cuda/workspace.h"

/* `params` are checked, the workspace is large enough. The context is entered. */
fmla_status fmlai_cuda_decode(const fmlai_cuda_context *c, const fmla_decode_params *params,
                              const fmlai_cuda_choice *choice, const fmlai_cuda_layout *layout, void *workspace,
                              CUstream stream);

/* Looks at the values that `args` point to, on the device, and waits: `report` is the workspace's. */
fmla_status fmlai_cuda_check_values(const fmlai_cuda_context *c, const fmla_decode_params *params,
                                    const fmlai_cuda_decode_args *args, void *report, CUstream stream);

fmla_status fmlai_cuda_merge(const fmlai_cuda_context *c, const fmla_merge_params *params, CUstream stream);

#endif
