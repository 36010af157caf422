#include "graph.h"

bool probe_capture_begin(probe_gpu *gpu, CUstream stream) {
  return PROBE_CALL(gpu, cuStreamBeginCapture, stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
}

bool probe_capture_end(probe_gpu *gpu, CUstream stream, probe_graph *graph) {
  *graph = (probe_graph){0};
  return PROBE_CALL(gpu, cuStreamEndCapture, stream, &graph->graph) &&
         PROBE_CALL(gpu, cuGraphInstantiate, &graph->instance, graph->graph, 0);
}

bool probe_replay(probe_gpu *gpu, const probe_graph *graph, CUstream stream) {
  return PROBE_CALL(gpu, cuGraphLaunch, graph->instance, stream);
}

void probe_graph_free(probe_gpu *gpu, probe_graph *graph) {
  if (graph->instance != NULL)
    gpu->driver->cuGraphExecDestroy(graph->instance);
  if (graph->graph != NULL)
    gpu->driver->cuGraphDestroy(graph->graph);
  *graph = (probe_graph){0};
}

bool probe_timer_create(probe_gpu *gpu, probe_timer *timer) {
  *timer = (probe_timer){0};
  return PROBE_CALL(gpu, cuEventCreate, &timer->start, 0) && PROBE_CALL(gpu, cuEventCreate, &timer->end, 0);
}

void probe_timer_free(probe_gpu *gpu, probe_timer *timer) {
  if (timer->start != NULL)
    gpu->driver->cuEventDestroy(timer->start);
  if (timer->end != NULL)
    gpu->driver->cuEventDestroy(timer->end);
  *timer = (probe_timer){0};
}

bool probe_timer_start(probe_gpu *gpu, const probe_timer *timer, CUstream stream) {
  return PROBE_CALL(gpu, cuEventRecord, timer->start, stream);
}

bool probe_timer_stop(probe_gpu *gpu, const probe_timer *timer, CUstream stream, double *seconds) {
  float milliseconds;
  if (!PROBE_CALL(gpu, cuEventRecord, timer->end, stream) || !PROBE_CALL(gpu, cuEventSynchronize, timer->end) ||
      !PROBE_CALL(gpu, cuEventElapsedTime, &milliseconds, timer->start, timer->end))
    return false;
  *seconds = 1e-3 * (double)milliseconds;
  return true;
}
