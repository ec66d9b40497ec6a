#!/usr/bin/env bash
# Proof on a GPU within a time limit: the most telling parts first, every result saved as it comes; one table last, and
# benchmarks/results/<device>.json.
#
#   GPU_SECONDS=400 bash benchmarks/gpu.sh [PART...]       # all parts, or those named; `make gpu` does the same
#
# Needs a Python with a CUDA build of torch (PYTHON, default python3 or .venv's), nvcc where nothing was built ahead, and no
# internet: what is missing comes from .gpu/bundle.tar.xz (benchmarks/gpu_prepare.sh makes it where there is no GPU), else
# from wheels in .whl/. Both go to $GPU_WORK (default runs/gpu) and nowhere else. Our extension and gsplat's are compiled,
# side by side, only where what the bundle brings does not load.
#
# What is slow and minds no neighbors, device tests and sanitizers, goes at once by the part `proofs`, which is not among "all":
# `benchmarks/gpu.sh install build smoke steps fit stages proofs` is figures first and every proof in about three minutes more.
#
# No part is begun that the time left does not suffice for, and none may take more than its limit. A part that is done is not
# done again by the next call: remove $GPU_WORK/PART.done, or name the part. Where $OUT names a folder, $OUT/gpu.tgz holds all
# figures and logs, renewed after every part. GPU_SCENE names the capture that is fitted; without it the bundle's, else a
# synthetic one. GPU_DEVICE=cpu rehearses the parts on the CPU. Exit code 3: no GPU (make then exits 2 and says "Error 3");
# 1: a part failed or was left out; 2: no such part.
set -uo pipefail
cd "$(dirname "$0")/.."
WORK=$(realpath -m "${GPU_WORK:-runs/gpu}")
RESULTS=${GPU_RESULTS:-benchmarks/results}
DEVICE=${GPU_DEVICE:-cuda}
END=$((SECONDS + ${GPU_SECONDS:-540}))
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python3
  [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python
fi
export PYTHONPATH="$PWD:$WORK/bundle/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
ALL=(probe install build smoke tests steps fit stages geometry captures bare memcheck loss profile synccheck racecheck)
# Seconds that a part needs at least, and gets at most.
TOGETHER=(tests memcheck synccheck racecheck)
declare -A NEEDS=([proofs]=90 [probe]=5 [install]=10 [build]=10 [smoke]=15 [tests]=40 [steps]=30 [fit]=45 [stages]=15 [geometry]=15
  [captures]=40 [bare]=30 [memcheck]=40 [loss]=15 [profile]=30 [synccheck]=40 [racecheck]=40)
declare -A LIMIT=([proofs]=300 [probe]=30 [install]=60 [build]=300 [smoke]=60 [tests]=150 [steps]=120 [fit]=200 [stages]=60 [geometry]=60
  [captures]=120 [bare]=90 [memcheck]=120 [loss]=60 [profile]=90 [synccheck]=120 [racecheck]=120)

cuda_home() { # of the real nvcc: a wrapper on the PATH would send torch to a folder without cuda_runtime_api.h
  local folder
  for folder in "${CUDA_HOME:-}" /usr/local/cuda /usr/local/cuda-*; do
    [[ -f $folder/include/cuda_runtime_api.h && -x $folder/bin/nvcc ]] && { realpath "$folder"; return; }
  done
  nvcc --dryrun -x cu /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p' | xargs -r realpath
}

probe() {
  nvidia-smi || [[ $DEVICE == cpu ]]
  uname -a
  g++ --version | head -n 1
  command -v nvcc ncu compute-sanitizer ninja
  echo "CUDA_HOME $(cuda_home)"
  "$PYTHON" -c 'import sys, torch; print(sys.version, sys.executable, torch.__version__, torch.version.cuda)'
}

install() {
  if [[ -f .gpu/bundle.tar.xz ]]; then
    mkdir -p "$WORK/bundle"
    tar -C "$WORK/bundle" -xJf .gpu/bundle.tar.xz || "$PYTHON" -m tarfile -e .gpu/bundle.tar.xz "$WORK/bundle"
    return
  fi
  compgen -G '.whl/*.whl' >/dev/null || { echo "neither .gpu/bundle.tar.xz nor .whl/: taking what is installed"; return 0; }
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$WORK/bundle/site" .whl/*.whl
}

ours_loads() { "$PYTHON" -c 'from splatseg.ops.extension import build_info as b; assert b() and b().has_cuda; print(b())'; }
gsplat_loads() { "$PYTHON" -c 'from gsplat.cuda._backend import _C; assert _C is not None; print(_C.__file__)'; }

build() { # what was built elsewhere if it loads here, else both at once
  local arch ours=0 theirs code=0
  arch=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability() if torch.cuda.is_available() else 9.0)')
  export CUDA_HOME SPLATSEG_CUDA=1 TORCH_CUDA_ARCH_LIST=$arch MAX_JOBS=${MAX_JOBS:-$(nproc)}
  CUDA_HOME=$(cuda_home)
  compgen -G "$WORK/bundle/_C*.so" >/dev/null && cp "$WORK"/bundle/_C*.so splatseg/
  ours_loads >"$WORK/ours.log" 2>&1 || {
    rm -f splatseg/_C*.so
    "$PYTHON" setup.py -q build_ext --inplace >>"$WORK/ours.log" 2>&1 &
    ours=$!
  }
  if [[ -f $WORK/bundle/site/gsplat/csrc.so ]] && ! "$PYTHON" -c 'from gsplat import csrc' >"$WORK/gsplat.log" 2>&1; then
    mv "$WORK/bundle/site/gsplat/csrc.so" "$WORK/csrc.so.refused"
  fi
  gsplat_loads >>"$WORK/gsplat.log" 2>&1 &
  theirs=$!
  ((ours == 0)) || wait "$ours" || code=1
  wait "$theirs" || code=1
  ours_loads || code=1
  tail -n 5 "$WORK/ours.log" "$WORK/gsplat.log"
  return "$code"
}

smoke() { CUDA_LAUNCH_BLOCKING=1 "$PYTHON" -X faulthandler benchmarks/gpu.py exercise --device "$DEVICE"; }

tests() { # every test that takes a device; workers, as one illegal access spoils its process for good (tests/conftest.py)
  local files options=()
  mapfile -t files < <(grep -l "device: torch.device" tests/test_*.py)
  "$PYTHON" -c 'import xdist' 2>/dev/null && options+=(-n 8 --max-worker-restart 30)
  "$PYTHON" -c 'import pytest_timeout' 2>/dev/null && options+=(--timeout 60)
  SPLATSEG_DEVICES=cuda OMP_NUM_THREADS=2 CUDA_LAUNCH_BLOCKING=1 "$PYTHON" -m pytest -v -p no:cacheprovider --durations 5 -k "cuda and not emulated" \
    --continue-on-collection-errors --junitxml "$WORK/tests.xml" "${options[@]}" "${files[@]}"
}

steps() { "$PYTHON" benchmarks/gpu.py steps "$WORK/steps.json" --device "$DEVICE"; }

capture() { # the scene that is fitted
  local scene=${GPU_SCENE:-}
  [[ -z $scene && -d $WORK/bundle/scene ]] && scene=$WORK/bundle/scene
  [[ -z $scene && -d $WORK/fit/scene ]] && scene=$WORK/fit/scene
  echo "$scene"
}
fit() { "$PYTHON" benchmarks/gpu.py fit "$WORK/fit.json" --device "$DEVICE" --scene "$(capture)"; }
geometry() { "$PYTHON" benchmarks/gpu.py geometry "$WORK/geometry.json" --device "$DEVICE" --scene "$(capture)"; }
stages() { "$PYTHON" benchmarks/gpu.py stages "$WORK/stages.json" --device "$DEVICE" --scene "$(capture)"; }

captures() { # real photos, side by side: what they need beyond rendered ones (dense start, far shell), and held-out PSNR
  local scene code=0 jobs=()
  for scene in "$WORK"/bundle/captures/*/; do
    scene=$(basename "$scene")
    "$PYTHON" -m benchmarks.real_photos "$WORK/bundle/captures/$scene" --device "$DEVICE" --threads 2 --variants auto: \
      --out "$WORK/capture_$scene.json" &
    jobs+=($!)
  done
  for scene in "${jobs[@]}"; do wait "$scene" || code=1; done
  return "$code"
}

bare() { # the fitted splat without its photos: views planned and rendered, masks of the renders, features, labels
  "$PYTHON" scripts/fit.py --splat "$WORK/fit/pools/geometry.ply" --out "$WORK/bare" --masks watershed --device "$DEVICE" &&
    cp "$WORK/bare/metrics.json" "$WORK/bare.json"
}

loss() { "$PYTHON" benchmarks/gpu.py loss "$WORK/loss.json" --device "$DEVICE"; }

profile() {
  ncu --clock-control none --set basic --launch-count 40 --csv --kernel-name-base demangled --kernel-name regex:splatseg \
    "$PYTHON" benchmarks/gpu.py exercise >"$WORK/ncu.csv"
}

sanitize() { # without caching, so that every allocation has its own bounds; no graph is captured then (ops.replay)
  local code=0
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 7 --kernel-regex kns=splatseg \
    "$PYTHON" benchmarks/gpu.py exercise || code=$?
  printf '{"clean": %s}\n' "$([[ $code -eq 0 ]] && echo true || echo false)" >"$WORK/$1.json"
  return "$code"
}
memcheck() { sanitize memcheck; }
synccheck() { sanitize synccheck; }
racecheck() { sanitize racecheck; }

proofs() { # each with its own log and .done, as if it were named; with twice the time, as they share the card and the cores
  local part jobs=() code=0
  for part in "${TOGETHER[@]}"; do
    GPU_PATIENCE=2 GPU_SECONDS=$((LIMIT[proofs] - 10)) bash benchmarks/gpu.sh "$part" &
    jobs+=($!)
  done
  for part in "${jobs[@]}"; do wait "$part" || code=1; done
  return "$code"
}

keep() { # one archive of everything small, at once: a command that runs out of time loses the rest
  [[ -n ${OUT:-} ]] || return 0
  (cd "$WORK" && shopt -s nullglob && tar czf "$OUT/.gpu.$$.tgz" ./*.json ./*.log ./*.xml ./*.csv ./*.done ./*.png &&
    mv "$OUT/.gpu.$$.tgz" "$OUT/gpu.tgz")
}

if [[ ${1:-} == --part ]]; then # inside a part's time limit
  "$2"
  exit
fi
for part in "$@"; do
  [[ " ${ALL[*]} proofs " == *" $part "* ]] || { echo "gpu: no part '$part'; there are: ${ALL[*]} proofs" >&2; exit 2; }
done
"$PYTHON" - "$DEVICE" <<'PROBE' || exit 3
import sys
try:
    import torch
except ImportError:
    sys.exit("gpu: this Python has no torch; set PYTHON to one that has a CUDA build of it")
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit(f"gpu: no CUDA device to be had here (torch {torch.__version__}); nothing was run")
PROBE
mkdir -p "$WORK"
named=$#
(($#)) || set -- "${ALL[@]}"
failed=()
for part in "$@"; do
  if ((!named)) && [[ -e $WORK/$part.done ]]; then
    echo "== $part: done before"
    continue
  fi
  left=$((END - SECONDS)) limit=$((LIMIT[$part] * ${GPU_PATIENCE:-1}))
  if ((left < NEEDS[$part])); then
    echo "== $part: left out, $left s are left"
    failed+=("$part")
    continue
  fi
  ((limit < left)) || limit=$left
  rm -f "$WORK/$part.done"
  start=$SECONDS
  if GPU_WORK=$WORK PYTHON=$PYTHON timeout --kill-after=5 "$limit" bash benchmarks/gpu.sh --part "$part" \
    >"$WORK/$part.log" 2>&1; then
    touch "$WORK/$part.done"
    echo "== $part: ok, $((SECONDS - start)) s"
  else
    failed+=("$part")
    echo "== $part: FAILED after $((SECONDS - start)) s"
    tail -n 15 "$WORK/$part.log"
  fi
  keep
done
"$PYTHON" benchmarks/gpu.py merge "$WORK" "$RESULTS" >"$WORK/table.log" 2>&1 || failed+=(table)
cat "$WORK/table.log"
keep
((${#failed[@]} == 0)) || { echo "gpu: failed or left out: ${failed[*]}" >&2; exit 1; }
