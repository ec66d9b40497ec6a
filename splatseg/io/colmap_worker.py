"""COLMAP in a process of its own: what it aborts, leaks or binds (its zlib) stays there, away from a fit or a viewer.

Started by :func:`splatseg.io.colmap_process.run_job` as a script, with one JSON job on stdin and one JSON answer on the
last line of stdout. Imports nothing of splatseg: the start takes a second less.
"""

import zlib  # noqa: F401 (before pycolmap: see splatseg/_libz.py)  # isort: skip

import ctypes
import json
import os
import shutil
import signal
import sqlite3
import sys
from typing import Any

import pycolmap

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def undistort(job: dict[str, Any]) -> dict[str, Any]:
    """Undistort ``names`` of ``images`` by the model in ``model``, cameras first resized to ``sizes``, into ``out``."""
    model = pycolmap.Reconstruction(job["model"])
    for camera_id, (width, height) in job["sizes"].items():
        model.cameras[int(camera_id)].rescale(width, height)
    model.write_binary(job["model"])
    pycolmap.undistort_images(
        job["out"], job["model"], job["images"], job["names"], jpeg_quality=job["jpeg_quality"], num_threads=-1
    )
    return {}


def reconstruct(job: dict[str, Any]) -> dict[str, Any]:
    """Extract, match and map the photos ``names`` of ``images``; the largest model goes to ``work``/best. No feature
    lies where the photo's mask in the folder ``masks``, if any, is 0."""
    database, images, work = job["database"], job["images"], job["work"]
    mode = pycolmap.CameraMode.SINGLE if job["single"] else pycolmap.CameraMode.PER_IMAGE
    reader = pycolmap.ImageReaderOptions()
    if job["masks"] is not None:
        reader.mask_path = job["masks"]
    pycolmap.extract_features(
        database, images, job["names"], camera_mode=mode, reader_options=reader, device=pycolmap.Device.cpu
    )
    if job["overlap"] == 0:
        pycolmap.match_exhaustive(database, device=pycolmap.Device.cpu)
    else:
        pairing = pycolmap.SequentialPairingOptions(overlap=job["overlap"])
        pycolmap.match_sequential(database, pairing_options=pairing, device=pycolmap.Device.cpu)
    with sqlite3.connect(database) as connection:
        matched = int(connection.execute("SELECT COUNT(*) FROM two_view_geometries WHERE rows > 0").fetchone()[0])
    if matched == 0:
        return {"matched": 0, "models": []}
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    options = pycolmap.IncrementalPipelineOptions(min_model_size=min(10, max(2, len(job["names"]) // 2)))
    models = pycolmap.incremental_mapping(database, images, work, options)
    if models:
        best = max(models.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
        os.makedirs(os.path.join(work, "best"))
        best.write_binary(os.path.join(work, "best"))
    return {"matched": matched, "models": [model.num_reg_images() for model in models.values()]}


def die_with(parent: int) -> None:
    """A killed fit must not leave a COLMAP behind that goes on writing to its workspace."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    request = json.load(sys.stdin)
    die_with(request["parent"])
    try:
        answer = {"undistort": undistort, "reconstruct": reconstruct}[request["do"]](request)
    except Exception as error:  # whatever it is, the parent process says it
        answer = {"error": str(error).strip().split("\n")[0] or type(error).__name__}
    print("\n" + json.dumps(answer), flush=True)
