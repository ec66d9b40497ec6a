#!/usr/bin/env bash
# Made WITHOUT a GPU: everything that benchmarks/gpu.sh needs on a machine that reaches no package index, in one archive,
# .gpu/bundle.tar.xz: our extension and gsplat's kernels, built and loaded once here, and the packages that the machine lacks.
#
#   bash benchmarks/gpu_prepare.sh
#
# The target: Python 3.12, torch 2.11.0+cu130, CUDA 13.0, a GPU of GPU_ARCH (9.0: H100 and H200). Needs here: that Python
# (PYTHON312), that toolkit (CUDA_HOME), g++, rsync, xz, PyPI, 8 GB of disk; 15 minutes on two cores, 3 the second time.
# GPU_SCENE names a capture to take along, GPU_CAPTURES (between blanks) others, of which the geometry is fitted. Everything
# but .gpu/ goes to $GPU_PREPARE and is kept for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in rsync xz g++; do command -v "$tool" >/dev/null || { echo "gpu_prepare.sh: expected $tool, found none" >&2; exit 2; }; done
WORK=$(realpath -m "${GPU_PREPARE:-${XDG_CACHE_HOME:-$HOME/.cache}/splatseg-gpu}")
PYTHON312=${PYTHON312:-$(compgen -G "$HOME/.pyenv/versions/3.12*/bin/python" | head -n 1 || true)}
PYTHON312=${PYTHON312:-python3.12}
TORCH=2.11.0
# nvcc on the PATH may be a wrapper: torch would then take /usr/local for the toolkit and find no cuda_runtime_api.h there.
if [[ -z ${CUDA_HOME:-} ]]; then
  CUDA_HOME=$(realpath "$(nvcc --dryrun -x cu /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')")
fi
export CUDA_HOME TORCH_CUDA_ARCH_LIST=${GPU_ARCH:-9.0} SPLATSEG_CUDA=1 MAX_JOBS=${MAX_JOBS:-$(nproc)}
export PATH="$WORK/venv/bin:$PATH"
mkdir -p "$WORK/wheels" "$WORK/csrc" .gpu
PY=$WORK/venv/bin/python
[[ -x $PY ]] || "$PYTHON312" -m venv "$WORK/venv"
"$PY" -c "import torch; assert torch.__version__.startswith('$TORCH')" 2>/dev/null ||
  "$PY" -m pip install -q "torch==$TORCH" numpy ninja 'setuptools<82' wheel
# What the target's image holds, as its list of packages says, so that step 4 fails here where the bundle lacks one.
"$PY" -m pip install -q jaxtyping rich packaging safetensors scipy tqdm scikit-image scikit-learn tifffile pillow pyyaml filelock \
  pytest pytest-xdist pytest-timeout

echo "1/5 packages that the target lacks"
platforms=(manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)
"$PY" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]/#/--platform=}" -d "$WORK/wheels" \
  gsplat==1.5.3 hdbscan==0.8.44 pycolmap==4.0.0 plyfile==1.1.5 tyro==1.0.17 docstring-parser==0.18.0 typeguard==4.6.1 \
  platformdirs==4.14.8
rm -rf "$WORK/bundle"
mkdir -p "$WORK/bundle"
"$PY" -m pip install -q --no-index --no-deps --no-compile --target "$WORK/bundle/site" "$WORK"/wheels/*.whl

echo "2/5 our extension"
rsync -a --delete --exclude /.git --exclude /.venv --exclude /.gpu --exclude /build --exclude /runs --exclude '*.so' \
  ./ "$WORK/src/" # a build of its own, beside that of another Python in the checkout
(cd "$WORK/src" && "$PY" setup.py -q build_ext --inplace)
cp "$WORK"/src/splatseg/_C*.so "$WORK/bundle/"

echo "3/5 gsplat's kernels, under the name that it looks for first (gsplat.csrc)"
"$PY" - "$WORK" <<'PY'
import pathlib, shutil, sys
from torch.utils.cpp_extension import load

work = pathlib.Path(sys.argv[1])
source = work / "gsplat_src"  # a fixed place, so that ninja does not build anew every time
if not source.is_dir():
    shutil.copytree(work / "bundle/site/gsplat/cuda", source)
files = sorted([*source.glob("csrc/*.cu"), *source.glob("csrc/*.cpp")]) + [source / "ext.cpp"]
load(
    name="csrc",
    sources=[str(file) for file in files],
    extra_cflags=["-O3", "-Wno-attributes"],
    extra_cuda_cflags=["-O3", "-use_fast_math"],
    extra_include_paths=[f"{source}/include", f"{source}/csrc/third_party/glm"],
    build_directory=str(work / "csrc"),
)
PY
strip -s "$WORK/csrc/csrc.so" -o "$WORK/bundle/site/gsplat/csrc.so"
rm -rf "$WORK/bundle/site/gsplat/cuda/csrc/third_party" "$WORK/bundle/site/bin"

echo "4/5 do both load? (no GPU is needed for that)"
(cd "$WORK/src" && PYTHONPATH="$PWD:$WORK/bundle/site" "$PY" -c '
from splatseg.ops.extension import build_info as b
assert b() and b().has_cuda, b()
from gsplat.cuda._backend import _C
assert _C.__file__.endswith("csrc.so"), _C
import benchmarks.gpu  # and with it all that a fit imports
print(b(), _C.__file__)')

echo "5/5 a real scene, as made-up patches hide what skewed ones cost; the archive"
if [[ -d ${GPU_SCENE:-} ]]; then
  mkdir -p "$WORK/bundle/scene"
  cp -rL "$GPU_SCENE"/. "$WORK/bundle/scene/"
  chmod -R u+w "$WORK/bundle/scene"
fi
for capture in ${GPU_CAPTURES:-}; do # folders; photos and model only
  mkdir -p "$WORK/bundle/captures/$(basename "$capture")"
  cp -rL "$capture"/images "$capture"/sparse "$WORK/bundle/captures/$(basename "$capture")/"
  chmod -R u+w "$WORK/bundle/captures"
done
tar -C "$WORK/bundle" -cf - . | xz -6 -T0 >.gpu/bundle.tmp
mv .gpu/bundle.tmp .gpu/bundle.tar.xz
ls -l .gpu/bundle.tar.xz
