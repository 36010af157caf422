# shellcheck shell=bash
run
run nonsense
run --nonsense
run decode
run decode in
run decode -o out
run decode in -o
run decode in more -o out
run decode in -o out -x
run decode in -o out --nonsense
run decode in -o out --check=yes
run decode in -o out --threads
run decode in -o out --threads -1
run decode in -o out --threads 2x
run decode in -o out --threads ' 2'
run decode in -o out --threads 99999999999999999999
run decode snapshots/short-batch.safetensors -o out --threads 1000000
run decode in -o out --dtype fp32
run decode in -o out --out-dtype f32
run decode in -o out --kernel nonsense | sed 's/build.s: .*/.../'
run decode snapshots/short-batch.safetensors -o out --device nonsense
run info --json=1
run info more
run bench more
run bench --heads 0
run bench --heads 1,,2
run bench --heads 16,2000
run bench --seqlen 1e3
run bench --dtype bf16,fp32
run bench --sq "$(seq -s, 100)"
run check more
run check --jobs 0
