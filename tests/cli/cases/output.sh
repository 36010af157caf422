# shellcheck shell=bash
decode=(decode snapshots/odd-pages.safetensors -o)
quietly "${decode[@]}" missing/out
quietly "${decode[@]}" snapshots
quietly "${decode[@]}" /dev/full
quietly "${decode[@]}" /dev/null
ls

echo "An older file stays as it was if the new one is not complete, here for want of space:"
echo old >out
(ulimit -f 10 && quietly "${decode[@]}" out)
ls -A
cat out

echo "A name that leads elsewhere still does:"
ln -s out link
quietly "${decode[@]}" link
readlink link
header out

echo "Standard output that cannot be written to:"
flashmla "${decode[@]}" out >/dev/full
echo "exit $?"
flashmla info >&-
echo "exit $?"
flashmla --version >/dev/full
echo "exit $?"
flashmla decode snapshots/odd-pages.safetensors -o closed >&-
echo "exit $?"
cmp closed out
flashmla nonsense >&- 2>&-
echo "exit $?"
