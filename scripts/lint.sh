#!/usr/bin/env bash
# Style and static checks: clang-format, clang-tidy, shellcheck, the man page.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files '*.[ch]' '*.cpp' | xargs clang-format --dry-run --Werror
git ls-files '*.sh' '.ci/run' | xargs shellcheck
git ls-files 'docs/*.1' | xargs -r mandoc -T lint -W warning

cmake -S . -B build-lint -G Ninja -Wno-dev -DCMAKE_C_COMPILER=clang -DFLASHMLA_BUILD_TESTS=ON \
  -DFLASHMLA_CUDA=OFF >/dev/null
git ls-files '*.c' | xargs -n 4 -P "$(nproc)" clang-tidy --quiet -p build-lint 2>/dev/null

echo "lint: clean"
