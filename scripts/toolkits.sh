#!/usr/bin/env bash
# Builds the library and the program with each CUDA toolkit of which PyPI has the compilers: nvcc itself from 13.0 on; of
# 12.x NVRTC and ptxas, which are the same compiler without nvcc's driver and host code (nvrtc_as_nvcc.py). A line for each;
# each build stays in build-toolkits/VERSION/build. Python 3 with pip is needed.
# usage: toolkits.sh [VERSION...]
set -uo pipefail
cd "$(dirname "$0")/.." || exit 4

[ $# -gt 0 ] || set -- 12.3 12.4 12.5 12.6 12.8 12.9 13.0 13.1 13.2 13.3 13.4 13.5

# build VERSION DIRECTORY
build() {
  local packages nvcc=$2/nvidia/cu13/bin/nvcc
  case $1 in
  12.*)
    packages="nvidia-cuda-nvrtc-cu12==$1.* nvidia-cuda-nvcc-cu12==$1.* nvidia-cuda-nvcc==13.0.*"
    nvcc=$2/bin/nvcc
    mkdir -p "$2/bin"
    ln -sf "$PWD/scripts/nvrtc_as_nvcc.py" "$nvcc"
    ;;
  *) packages="nvidia-cuda-nvcc==$1.* nvidia-nvvm==$1.* nvidia-cuda-crt==$1.* nvidia-cuda-runtime==$1.*" ;;
  esac
  # shellcheck disable=SC2086 # a list of words
  [ -d "$2/nvidia" ] || python3 -m pip install --quiet --no-deps --target "$2" $packages || return
  cmake -S . -B "$2/build" -G Ninja -Wno-dev -DFLASHMLA_CUDA=ON -DFLASHMLA_NVCC="$PWD/$nvcc" && cmake --build "$2/build"
}

failed=0
for version; do
  directory=build-toolkits/$version
  mkdir -p "$directory"
  if ! build "$version" "$directory" >"$directory/log" 2>&1; then
    echo "$version: failed, see $directory/log"
    failed=$((failed + 1))
  elif grep -q serialized "$directory"/build/src/cuda/*.log; then # ptxas does not count that as a warning
    echo "$version: built, but wgmma is serialised, see $directory/build/src/cuda/*.log"
    failed=$((failed + 1))
  else
    echo "$version: built, libflashmla.so has $(stat -Lc %s "$directory/build/libflashmla.so") bytes"
  fi
done
[ "$failed" -eq 0 ]
