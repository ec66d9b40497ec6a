#!/usr/bin/env bash
# All tests: bash tests/run.sh PYTHON [ARGUMENT OF PYTEST...]. $WORKERS: test processes, `auto` for one a core.
set -uo pipefail
python=$1
shift

# Bytecode that is not to lie beside the sources lies elsewhere: without any, every process compiles what it imports anew,
# and there are some two hundred.
if [[ -n "${PYTHONDONTWRITEBYTECODE:-}" ]]; then
  unset PYTHONDONTWRITEBYTECODE
  export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-$(cd "$(dirname "$0")/.." && pwd)/build/bytecode}"
fi

# The browser's tests by themselves: beside others the browser draws too slowly, and they would skip. 5: none was chosen.
# They lie in tests/browser: thousands of others need not be collected first.
passed() { (($1 == 0 || $1 == 5)); }
"$python" -m pytest -m browser --ignore-glob 'tests/test_*' "$@"
browser=$?
((browser == 2)) && exit 2 # Ctrl-C, or files that cannot be read

# The tests of a file stay in one process: what its fixtures make is made once. Waiting OpenMP threads sleep, as the cores
# are shared by as many processes.
OMP_WAIT_POLICY=passive "$python" -m pytest -m "not browser" -n "${WORKERS:-auto}" --maxprocesses 4 --dist loadfile \
  --no-loadscope-reorder "$@"
others=$?
((browser == 5 && others == 5)) && exit 5
passed "$others" || exit "$others"
passed "$browser" || exit "$browser"
