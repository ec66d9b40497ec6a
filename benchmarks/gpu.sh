#!/usr/bin/env bash
# Proof on a GPU: build, tests, a fit, benchmarks, compute-sanitizer; one table last, benchmarks/results/<device>.json.
#
#   bash benchmarks/gpu.sh [PART...]       # all parts, or those named; `make gpu` does the same
#
# Needs a Python with a CUDA build of torch (PYTHON, default python3 or .venv's), nvcc, and no internet: wheels of what is
# missing may lie in .whl/ (`pip download --no-deps -d .whl` of gsplat plyfile pycolmap hdbscan tyro docstring-parser
# typeguard, as far as they are missing there; they go to $GPU_WORK/site and nowhere else). GPU_SCENE names the capture that
# is fitted; without it a synthetic one is made. SPLATSEG_DATA may name the real scenes that some tests read.
#
# Every part ends within 8 minutes. A part that is done is not done again by the next call: remove $GPU_WORK/PART.done, or
# name the part. Exit code 3: no GPU here (make then exits 2 and says "Error 3"); 1: a part failed (the others are still run,
# and the table still comes).
set -uo pipefail
cd "$(dirname "$0")/.."
LIMIT=480
WORK=${GPU_WORK:-runs/gpu}
RESULTS=${GPU_RESULTS:-benchmarks/results}
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python3
  [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python
fi
mkdir -p "$WORK"
export PYTHONPATH="$PWD:$PWD/$WORK/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

gpu_there() {
  "$PYTHON" - <<'PROBE'
import sys
try:
    import torch
except ImportError:
    sys.exit("gpu: this Python has no torch; set PYTHON to one that has a CUDA build of it")
if not torch.cuda.is_available():
    sys.exit(f"gpu: no CUDA device to be had here (torch {torch.__version__}); nothing was run")
PROBE
}

install() { # what is missing, from wheels beside the checkout; nothing where there are none
  shopt -s nullglob
  local wheels=(.whl/*.whl)
  shopt -u nullglob
  ((${#wheels[@]})) || { echo "no wheels in .whl/: taking what is installed"; return 0; }
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$WORK/site" "${wheels[@]}"
}

build() { # our extension for this GPU alone
  local arch
  arch=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || return 1
  SPLATSEG_CUDA=1 TORCH_CUDA_ARCH_LIST=$arch MAX_JOBS=${MAX_JOBS:-$(nproc)} "$PYTHON" setup.py -q build_ext --inplace &&
    "$PYTHON" -c 'from splatseg.ops.extension import build_info as b; assert b().has_cuda, b(); print(b())'
}

gsplat() { # its kernels compile when they are first asked for
  local arch
  arch=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || return 1
  TORCH_CUDA_ARCH_LIST=$arch MAX_JOBS=${MAX_JOBS:-$(nproc)} "$PYTHON" -c '
from gsplat.cuda._backend import _C
assert _C is not None, "gsplat found no nvcc"
print("gsplat kernels:", _C.__file__)' && "$PYTHON" scripts/doctor.py
}

tests() { # every test that takes a device, on the GPU; other files may import what is not installed
  local files
  mapfile -t files < <(grep -l "device: torch.device" tests/test_*.py)
  "$PYTHON" -m pytest -q -p no:cacheprovider -k "cuda and not emulated" "${files[@]}" 2>&1 | tee "$WORK/tests.log"
  local code=${PIPESTATUS[0]}
  "$PYTHON" - "$WORK" <<'COUNT'
import json, pathlib, re, sys
work = pathlib.Path(sys.argv[1])
last = work.joinpath("tests.log").read_text().splitlines()[-1:]
counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", " ".join(last))}
work.joinpath("tests.json").write_text(json.dumps(counts) + "\n")
COUNT
  return "$code"
}

fit() {
  local scene=${GPU_SCENE:-}
  "$PYTHON" benchmarks/gpu.py fit "$WORK/fit.json" ${scene:+--scene "$scene"}
}

loss() { # benchmarks/loss.py times the GPU beside the CPU; the file it writes holds the figures of another machine
  cp benchmarks/results/loss.json "$WORK/loss.before" || return 1
  trap 'mv "$WORK/loss.before" benchmarks/results/loss.json' EXIT
  "$PYTHON" benchmarks/loss.py --sizes 8192 32768 --patches 50 200 --repeats 20 &&
    "$PYTHON" - "$WORK/loss.json" <<'ROWS'
import json, pathlib, sys
rows = json.loads(pathlib.Path("benchmarks/results/loss.json").read_text())["rows"]
figures = {f"{r['device']}_{r['n']}_{r['p']}_op_ms": r["op_ms"] for r in rows}
figures |= {f"{r['device']}_{r['n']}_{r['p']}_vectorised_over_op": r["vectorised_over_op"] for r in rows}
pathlib.Path(sys.argv[1]).write_text(json.dumps(figures, indent=1) + "\n")
ROWS
}

steps() { "$PYTHON" benchmarks/gpu.py steps "$WORK/steps.json"; }

sanitizer() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on the PATH"; return 1; }
  local tool code=0
  for tool in memcheck racecheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 220 compute-sanitizer --tool "$tool" --error-exitcode 7 \
      --kernel-regex kns=splatseg "$PYTHON" benchmarks/gpu.py exercise 2>&1 | tee "$WORK/$tool.log"
    [[ ${PIPESTATUS[0]} -eq 0 ]] || code=1
    grep -q "ERROR SUMMARY: 0 errors\|RACECHECK SUMMARY: 0 hazards" "$WORK/$tool.log" || code=1
  done
  printf '{"clean": %s}\n' "$([[ $code -eq 0 ]] && echo true || echo false)" >"$WORK/sanitizer.json"
  return "$code"
}

ALL=(install build gsplat tests fit loss steps sanitizer)
if [[ ${1:-} == --part ]]; then # inside a part's time limit
  "$2"
  exit
fi
for part in "$@"; do
  [[ " ${ALL[*]} " == *" $part "* ]] || { echo "gpu: no part '$part'; there are: ${ALL[*]}" >&2; exit 2; }
done
gpu_there || exit 3
named=$#
(($#)) || set -- "${ALL[@]}"
failed=()
for part in "$@"; do
  if ((!named)) && [[ -e $WORK/$part.done ]]; then
    echo "== $part: done before"
    continue
  fi
  echo "== $part"
  rm -f "$WORK/$part.done"
  start=$SECONDS
  if PYTHON=$PYTHON GPU_WORK=$WORK timeout --kill-after=10 "$LIMIT" bash benchmarks/gpu.sh --part "$part"; then
    touch "$WORK/$part.done"
    echo "== $part: ok, $((SECONDS - start)) s"
  else
    failed+=("$part")
    echo "== $part: FAILED after $((SECONDS - start)) s" >&2
  fi
done
"$PYTHON" benchmarks/gpu.py merge "$WORK" "$RESULTS" || failed+=(table)
((${#failed[@]} == 0)) || { echo "gpu: failed: ${failed[*]}" >&2; exit 1; }
