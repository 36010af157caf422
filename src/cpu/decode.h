/* A decode step and a merge on the CPU, as runs of the thread pool. */
#ifndef FMLAI_CPU_DECODE_H
#define FMLAI_CPU_DECODE_H

#include "cpu/kernel.h"
#include "cpu/threads.h"

/* Who works. Results depend on the processors, never on the threads. */
typedef struct fmlai_cpu_crew {
  fmlai_pool *pool;
  int32_t num_processors; /* that the process may use */
} fmlai_cpu_crew;

/* Memory for a step with this kernel; FMLA_ERROR_UNSUPPORTED if more than an address space holds. */
fmla_status fmlai_cpu_decode_workspace(const fmlai_cpu_kernel *kernel, const fmla_decode_params *params,
                                       const fmlai_cpu_crew *crew, size_t *bytes);

/* `params` are checked to the last value, the workspace is large enough. */
void fmlai_cpu_decode(const fmlai_cpu_kernel *kernel, const fmla_decode_params *params, void *workspace,
                      const fmlai_cpu_crew *crew);

void fmlai_cpu_merge(const fmla_merge_params *params, fmlai_pool *pool);

#endif
