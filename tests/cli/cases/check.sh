# shellcheck shell=bash
run check --device cpu --kernel portable --quick --cases 3 | sed -E 's/[1-9][0-9]+ (cases|passed)/N \1/'
quick=$(flashmla check --device cpu --kernel portable --quick --cases 0 | sed -nE 's/(.*) passed.*/\1/p')
all=$(flashmla check --device cpu --kernel portable --cases 0 | sed -nE 's/(.*) passed.*/\1/p')
((quick < all)) && echo "quick is less"
