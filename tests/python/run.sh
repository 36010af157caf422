#!/usr/bin/env bash
# Builds the wheel, installs it into an environment of its own, build-python/venv, and runs its tests there.
# Arguments go to pytest: tests/python/run.sh --full -k bf16
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=build-python
requirements=tests/python/requirements.txt
pip=$dir/venv/bin/pip

# must SENTENCE COMMAND...: runs the command; where it fails, says so
must() {
  local sentence=$1 log=$dir/step.log
  shift
  "$@" >"$log" 2>&1 && return
  tail -20 "$log"
  echo "python: $sentence"
  exit 1
}

mkdir -p "$dir"
if ! cmp -s $requirements $dir/installed.txt; then # else it is there, from an earlier run
  must "no virtual environment could be made with python3; on Debian it takes the package python3-venv" \
    python3 -m venv --clear $dir/venv
  must "pip could not install $requirements (torch, jax, transformers), which takes PyPI or another index" \
    $pip install -r $requirements
  cp $requirements $dir/installed.txt
fi
rm -rf $dir/wheel
must "pip could not build the wheel; beside a C compiler that takes scikit-build-core from PyPI or another index" \
  $pip wheel --no-deps --wheel-dir $dir/wheel .
must "pip could not install the wheel" $pip install --no-deps --no-index --force-reinstall $dir/wheel/*.whl

exec $dir/venv/bin/pytest -p no:cacheprovider --wheel $dir/wheel/*.whl tests/python "$@"
