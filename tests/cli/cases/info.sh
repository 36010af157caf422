# shellcheck shell=bash
# The machine's own words are its own: only what every machine has is compared.
run info | grep -E '^(flashmla|devices|  cpu:|    features:|    (bf16|fp16) decode|kernels|  portable:|    needs: any CPU|exit)' |
  sed -E 's/^(flashmla|  cpu:|    features:|    (bf16|fp16) decode).*/\1 .../'
flashmla info --json | valid_json
flashmla info --json | grep -cE '^  "(version|devices|kernels)": '
flashmla info --json | grep -E '"name": "(cpu|portable)"'
