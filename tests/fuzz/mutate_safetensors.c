/*
 * mutate_safetensors.c: mutations that mostly keep the length at the beginning of a file that of its header;
 * without them nearly every input would be refused for its first eight bytes. For the fuzzer alone.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_data.h"

enum { LENGTH_BYTES = 8 };

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

/* Bytes up to the last brace, and the spaces that pad it. */
static size_t header_bytes(const uint8_t *text, size_t size) {
  size_t end = size;
  while (end > 0 && text[end - 1] != '}')
    end--;
  while (end < size && text[end] == ' ')
    end++;
  return end;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
  if (seed % 8 == 0 || size < LENGTH_BYTES || max_size < LENGTH_BYTES + 2)
    return LLVMFuzzerMutate(data, size, max_size);
  uint8_t *text = data + LENGTH_BYTES;
  const size_t mutated = LLVMFuzzerMutate(text, size - LENGTH_BYTES, max_size - LENGTH_BYTES);
  const uint64_t length = header_bytes(text, mutated);
  for (int i = 0; i < LENGTH_BYTES; i++)
    data[i] = (uint8_t)(length >> 8 * i);
  return LENGTH_BYTES + mutated;
}
