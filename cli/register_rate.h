/* register_rate.h: how fast an instruction set multiplies and adds from registers. One object for each set. */
#ifndef CLI_REGISTER_RATE_H
#define CLI_REGISTER_RATE_H

/* Runs a chain of multiply-adds, some 10 us of them; returns their number, one for the multiply and one for the
   add, and in *kept what was computed. `start` is near 1. */
typedef double register_work(float start, volatile double *kept);

register_work register_work_baseline, register_work_avx2, register_work_avx512, register_work_avx512bf16,
    register_work_amx;

#endif
