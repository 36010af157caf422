# shellcheck shell=bash
for name in short-batch mid-verify long odd-pages; do
  run decode "snapshots/$name.safetensors" -o "$name" --check | grep -v '^kernel\|^threads' | numbers | sed 's/median of .*/median of N/'
  header "$name"
done

# The thread count does not change a bit, nor does writing over a file.
cp long old
flashmla decode snapshots/long.safetensors -o long --threads 1 >/dev/null && cmp long old

quietly decode snapshots/long.safetensors -o long --device cpu --kernel portable --threads 2 --out-dtype fp32 --check
header long
quietly decode snapshots/long.safetensors -o long --out-dtype fp16 --check
header long
quietly decode snapshots/long.safetensors -o long --dtype bf16
quietly decode snapshots/long.safetensors -o long --dtype fp16
ls
