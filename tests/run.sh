#!/usr/bin/env bash
# All tests: bash tests/run.sh PYTHON [ARGUMENT OF PYTEST...]. $WORKERS: test processes, `auto` for one a core.
set -uo pipefail
python=$1
shift

source "$(dirname "$0")/bytecode.sh"

# The browser's tests come first on the processor: they wait much, and the others take what they leave; one after the other
# both take a minute and a half longer on two cores. They lie in tests/browser: thousands of others need not be collected first.
# 5: none was chosen.
passed() { (($1 == 0 || $1 == 5)); }

# The tests of a file stay in one process: what its fixtures make is made once. Waiting OpenMP threads sleep, as the cores
# are shared by as many processes.
OMP_WAIT_POLICY=passive nice -n 19 "$python" -m pytest -m "not browser" -n "${WORKERS:-auto}" --maxprocesses 4 --dist loadfile \
  --no-loadscope-reorder "$@" &
others=$!
trap 'kill "$others" 2>/dev/null' INT TERM
told=$(mktemp)
"$python" -m pytest -m browser --ignore-glob 'tests/test_*' "$@" >"$told" 2>&1
browser=$?
wait "$others"
others=$?
cat "$told"
rm -f "$told"
((browser == 5 && others == 5)) && exit 5
passed "$others" || exit "$others"
passed "$browser" || exit "$browser"
