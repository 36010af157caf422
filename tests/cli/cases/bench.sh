# shellcheck shell=bash
tiny=(bench --batch 1 --seqlen 100 --threads 1)
rows() {
  numbers | sed -E 's/^(flashmla|ceilings:).*/\1 .../; s/ (memory|compute) .*/ BOUND/'
}
run "${tiny[@]}" --heads 1 --json rows.json | rows
valid_json <rows.json
grep -cE '"(us|us_spread|us_fastest|tflops|gb_per_s|share_of_floor|read_gb_per_s|multiply_add_tflops)": ' rows.json
run "${tiny[@]}" --heads 2,4 --sq 2 --page-size 1,48 --dtype fp16 --varlen --causal --batch-invariant --device cpu --kernel portable | rows
run "${tiny[@]}" --heads 1 --json missing/rows.json | rows
flashmla "${tiny[@]}" --heads 1 >/dev/full
echo "exit $?"
