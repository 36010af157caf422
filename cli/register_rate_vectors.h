/*
 * The chain of register_rate.h for vectors: part of each object that includes it. Before it stand the type
 * `vector`, SUMS (enough of them in flight to hide the latency), OPERATIONS of one instruction, set() of a
 * float, multiply_add(a, b, sum) and first() of a vector.
 */
enum { CHAIN = 4000 };

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

double WORK(float start, volatile double *kept) {
  vector sums[SUMS];
  const vector a = set(0.999f), b = set(1e-3f * start);
  for (int i = 0; i < SUMS; i++)
    sums[i] = set(start + (float)i); /* sums that start alike would be computed once */
  for (int i = 0; i < CHAIN; i++)
    UNROLL for (int j = 0; j < SUMS; j++) sums[j] = multiply_add(a, b, sums[j]);
  float total = 0;
  for (int i = 0; i < SUMS; i++)
    total += first(sums[i]);
  *kept = (double)total;
  return (double)OPERATIONS * SUMS * CHAIN;
}
