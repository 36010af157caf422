# shellcheck shell=bash
run --help
run info --help
run decode --help
run bench --help
run check --help | sed -n '1,2p; $p'
run --version | numbers | sed 's/N\.[0-9]*/N/'
