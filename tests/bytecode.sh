# To be sourced. Bytecode that is not to lie beside the sources lies elsewhere: without any, every process compiles what it
# imports anew, and the tests start some two hundred.
if [[ -n "${PYTHONDONTWRITEBYTECODE:-}" ]]; then
  unset PYTHONDONTWRITEBYTECODE
  export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/bytecode}"
fi
