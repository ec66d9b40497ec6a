"""Situations of a stranger's capture, played through the scripts of any checkout: what came out, in a line each.

    python tests/situations.py --checkout FOLDER [--only WORD ...] [--work DIR]

FOLDER is a checkout that was built in place; f581d69 (the code before issue 14) and today's are compared in
docs/development/trust.md. Nothing of the package is imported here: inputs are made with numpy, Pillow, plyfile and
pycolmap, and exit codes, what is said, and files are judged. The captures are ``$SPLATSEG_CASES`` and
``$SPLATSEG_DATA``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from plyfile import PlyData, PlyElement

SHARED = Path(__file__).parent.parent.parent / "shared"
CASES = Path(os.environ.get("SPLATSEG_CASES", SHARED / "cases"))
DATA = Path(os.environ.get("SPLATSEG_DATA", SHARED / "data"))
TINY = ("--preset", "fast", "--quiet", "--config.geometry.steps=60", "--config.features.steps=2")
TINY += ("--config.features.sampling.pool-pixels=500", "--config.features.sampling.batch-pixels=500")
Outcome = tuple[bool, str]  # whether the sentence of the issue holds, and what came out


@dataclass(frozen=True)
class Said:
    code: int
    text: str

    @property
    def last(self) -> str:
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1].strip()[:200] if lines else ""

    def refused_in_a_line(self) -> bool:
        return self.code == 2 and self.last.startswith("error:") and "Traceback" not in self.text


@dataclass(frozen=True)
class Room:
    """A folder of its own for a situation, and the scripts of the checkout."""

    folder: Path
    checkout: Path

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.checkout), "SPLATSEG_OFFLINE": "1"}

    def script(self, name: str, *words: object, cwd: Path | None = None) -> Said:
        done = subprocess.run(
            [sys.executable, str(self.checkout / "scripts" / name), *map(str, words)],
            cwd=cwd or self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        return Said(done.returncode, done.stdout)

    def fit(self, scene: Path, *words: object, out: str = "run") -> Said:
        return self.script("fit.py", scene, "--out", self.folder / out, *TINY, *words)

    def psnr(self, out: str = "run") -> float:
        return float(json.loads((self.folder / out / "metrics.json").read_text())["psnr_held_out"])

    def base(self, text: bool = True) -> Path:
        """Nine photos of 50x90, the model as text."""
        scene = self.folder / "scene"
        shutil.copytree(CASES / "_base", scene)
        for path in (scene, *scene.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
        if text:
            as_text(scene)
        return scene


def as_text(scene: Path) -> None:
    code = "import sys, pycolmap; r = pycolmap.Reconstruction(sys.argv[1]); r.write_text(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, scene / "sparse/0"], check=True, capture_output=True)
    for path in (scene / "sparse/0").glob("*.bin"):
        path.unlink()


def model_lines(scene: Path, name: str) -> list[str]:
    """Lines of a text model without the comments."""
    lines = (scene / f"sparse/0/{name}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def each_field(scene: Path, name: str, change: Callable[[list[str]], list[str]], every: int = 1) -> None:
    """Change the fields of every record of a text model; in ``images`` every second line is one (``every`` = 2)."""
    lines = model_lines(scene, name)
    changed = [" ".join(change(line.split(" "))) if i % every == 0 else line for i, line in enumerate(lines)]
    (scene / f"sparse/0/{name}.txt").write_text("\n".join(changed) + "\n")


def scaled(scene: Path, size: float) -> None:
    def positions(first: int) -> Callable[[list[str]], list[str]]:
        return lambda f: [*f[:first], *(repr(float(v) * size) for v in f[first : first + 3]), *f[first + 3 :]]

    each_field(scene, "images", positions(5), 2)
    each_field(scene, "points3D", positions(1))


def photos_through(scene: Path, suffix: str, save: Callable[[Image.Image, Path], object]) -> None:
    """The photos in another format, under other names in the model."""
    for path in sorted((scene / "images").iterdir()):
        image = Image.open(path).convert("RGB")
        path.unlink()
        save(image, path.with_suffix(suffix))
    each_field(scene, "images", lambda f: [*f[:9], str(Path(f[9]).with_suffix(suffix))], 2)


def same(files: list[Path], act: Callable[[], object]) -> list[str]:
    """Names of ``files`` that ``act`` left as they were, by their contents."""
    before = [path.read_bytes() for path in files]
    act()
    return [path.name for path, content in zip(files, before, strict=True) if path.read_bytes() == content]


# 1. Files that are not ours -----------------------------------------------------------------------------------------


def sfm_twice(room: Room) -> Outcome:
    photos = room.folder / "photos"
    photos.mkdir()
    for path in sorted((DATA / "fox/images").iterdir())[:6]:
        shutil.copy(path, photos)
    counts = []
    for steps in (3, 4):
        words = (".", "--sfm", "--out", "run", *TINY, f"--config.geometry.steps={steps}")
        said = room.script("fit.py", *words, cwd=photos)
        if said.code:
            return False, f"call {len(counts) + 1}: {said.last}"
        counts.append(len(list((photos / "run/hierarchy").rglob("*.npz"))))
    before = sorted(path.name for path in photos.iterdir())
    kept = len(before) == 7 and counts[0] == counts[1]
    return kept, f"masks of {counts[0]}, then of {counts[1]} views; {len(before) - 1} photos lie in the folder"


# 2. A result belongs to its inputs ----------------------------------------------------------------------------------


def changed_model(which: str) -> Callable[[Room], Outcome]:
    edits: dict[str, Callable[[Path], None]] = {
        "poses": lambda s: each_field(s, "images", lambda f: [*f[:5], str(float(f[5]) + 0.3), *f[6:]], 2),
        "intrinsics": lambda s: each_field(s, "cameras", lambda f: [*f[:4], str(float(f[4]) * 1.2), *f[5:]]),
        "points": lambda s: each_field(s, "points3D", lambda f: [f[0], str(float(f[1]) + 0.3), *f[2:]]),
    }

    def act(room: Room) -> Outcome:
        scene = room.base()
        if (said := room.fit(scene)).code:
            return False, said.last
        edits[which](scene)
        again = []
        kept = same([room.folder / "run/geometry.ply"], lambda: again.append(room.fit(scene)))
        line = next((line for line in again[0].text.splitlines() if "changed" in line), "nothing is said")
        return not kept and which in line, f"{'the old splat is kept' if kept else 'fitted anew'}; {line}"

    return act


def labels_again(room: Room) -> Outcome:
    scene = room.base()
    room.fit(scene)
    files = [room.folder / "run" / name for name in ("labels.ply", "contact_sheet.png")]
    before = [path.stat().st_mtime_ns for path in files]
    room.fit(scene)
    kept = [path.name for path, time_ns in zip(files, before, strict=True) if path.stat().st_mtime_ns == time_ns]
    return len(kept) == 2, f"of labels and sheet a second call leaves as they are: {', '.join(kept) or 'neither'}"


def masks_ahead(room: Room) -> Outcome:
    """Masks of other settings, made ahead; the source that takes hours is the same kind."""
    scene = room.base()
    room.script("masks.py", scene, "--out", "run", "--source", "watershed", "--watershed.min-area", "150", "--quiet")
    made = sorted((room.folder / "run/masks").rglob("*.npz"))
    said: list[Said] = []
    kept = same(made, lambda: said.append(room.fit(scene)))
    line = next((line for line in said[0].text.splitlines() if "masks" in line), "nothing is said")
    holds = len(kept) == len(made) == 9 and "taking" in line
    return holds, f"{len(kept)} of {len(made)} masks made ahead are kept; {line[:140]}"


def moved_capture(room: Room) -> Outcome:
    scene = room.base()
    room.fit(scene)
    scene.rename(room.folder / "elsewhere")
    click = ("--view", "0001.jpg", "--pixel", "25", "45", "--quiet")
    said = room.script("segment.py", "run", *click, "--scene", "elsewhere")
    again = room.fit(room.folder / "elsewhere")
    return said.code == again.code == 0, f"segment.py --scene: {said.last[-90:]}; fit.py: {again.last[-90:]}"


# 3. Where and how large ---------------------------------------------------------------------------------------------


def size(factor: float) -> Callable[[Room], Outcome]:
    def act(room: Room) -> Outcome:
        scene = room.base()
        more = ("--config.geometry.steps=200", "--config.features.steps=20")
        room.fit(scene, *more)
        scaled(scene, factor)
        said = room.fit(scene, *more, out="scaled")
        if said.code:
            return False, said.last
        labels = [
            len(set(PlyData.read(str(room.folder / run / "labels.ply"))["vertex"]["label"]))
            for run in ("run", "scaled")
        ]
        one, other = room.psnr(), room.psnr("scaled")
        return abs(one - other) < 0.5 and labels[1] > 1, f"{other:.1f} dB instead of {one:.1f}, {labels[1]} labels"

    return act


# 4. Photos ----------------------------------------------------------------------------------------------------------


def as_format(suffix: str, save: Callable[[Image.Image, Path], object]) -> Callable[[Room], Outcome]:
    def act(room: Room) -> Outcome:
        scene = room.base()
        photos_through(scene, suffix, save)
        said = room.fit(scene)
        if said.code:
            named = suffix in said.last and said.refused_in_a_line()
            return named, said.last
        return 12 < room.psnr() < 40, f"{room.psnr():.1f} dB"

    return act


def float_tiff(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255).save(path)


def grey_tiff(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)


def heic(image: Image.Image, path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def webp_with_sfm(room: Room) -> Outcome:
    photos = room.folder / "photos"
    photos.mkdir()
    for number, path in enumerate(sorted((DATA / "fox/images").iterdir())[:6]):
        if number < 3:
            Image.open(path).save(photos / f"{path.stem}.webp", quality=95)
        else:
            shutil.copy(path, photos)
    said = room.fit(photos, "--sfm", "--config.hold-out-every", "0")
    if said.code:
        return False, said.last
    count = len(list((room.folder / "run/hierarchy").rglob("*.npz")))
    return count >= 5, f"{count} of 6 photos are fitted, 3 of them .webp"


def unregistered(room: Room) -> Outcome:
    scene = room.base()
    for name in ("extra1.jpg", "extra2.jpg"):
        shutil.copy(scene / "images/0001.jpg", scene / "images" / name)
    said = room.fit(scene)
    line = next((line for line in said.text.splitlines() if "2" in line and "photo" in line), "nothing is said")
    return said.code == 0 and line != "nothing is said", line[:160]


def masks_of_the_capture(room: Room) -> Outcome:
    """Half of each photo is moved out: what is painted there must not be trained."""
    scene = room.base()
    (scene / "masks").mkdir()
    for path in (scene / "images").iterdir():
        pixels = np.asarray(Image.open(path).convert("RGB")).copy()
        pixels[:, :25] = (255, 0, 255)
        mask = np.full(pixels.shape[:2], 255, np.uint8)
        mask[:, :25] = 0
        Image.fromarray(pixels).save(path, quality=100, subsampling=0)
        Image.fromarray(mask).save(scene / f"masks/{path.name}.png")
    said = room.fit(scene)
    if said.code:
        return False, said.last
    vertex = PlyData.read(str(room.folder / "run/geometry.ply"))["vertex"]
    magenta = float(np.mean((vertex["f_dc_0"] > 1.0) & (vertex["f_dc_1"] < -0.5) & (vertex["f_dc_2"] > 1.0)))
    return magenta < 0.01, f"{100 * magenta:.0f} % of the Gaussians are of the color that is masked out"


# 5. COLMAP as people have it ----------------------------------------------------------------------------------------


def views_of(room: Room, scene: Path) -> tuple[Said, int]:
    said = room.script("masks.py", scene, "--out", "run", "--source", "watershed", "--quiet")
    return said, len(list((room.folder / "run/masks").rglob("*.npz")))


def no_last_blank_line(room: Room) -> Outcome:
    scene = room.base()
    lines = model_lines(scene, "images")
    (scene / "sparse/0/images.txt").write_text(
        "\n".join(lines[i] if i % 2 == 0 else "" for i in range(len(lines))).rstrip()
    )
    said, count = views_of(room, scene)
    return count == 9, f"{count} of 9 views; exit {said.code} {said.last if said.code else ''}"


def trailing_bytes(room: Room) -> Outcome:
    scene = room.base(text=False)
    for name in ("cameras", "images", "points3D"):
        with open(scene / f"sparse/0/{name}.bin", "ab") as file:
            file.write(b"\0" * 5)
    said, count = views_of(room, scene)
    return count == 9, f"{count} of 9 views; exit {said.code} {said.last if said.code else ''}"


def masks_with_downscale(room: Room) -> Outcome:
    scene = room.base()
    room.script("masks.py", scene, "--out", "ahead", "--source", "watershed", "--coco", "coco", "--quiet")
    said = room.fit(scene, "--masks", room.folder / "coco", "--downscale", "2")
    return said.code == 0, said.last if said.code else "masks of the photos' size are taken at half size"


def transforms(room: Room) -> Outcome:
    scene = room.base()
    frames = []
    for fields in (line.split(" ") for line in model_lines(scene, "images")[::2]):
        w, x, y, z = map(float, fields[1:5])
        turn = np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ])  # fmt: skip
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn.T, -turn.T @ np.array(list(map(float, fields[5:8])))
        pose[:, 1:3] *= -1  # OpenGL's axes
        frames.append({"file_path": f"images/{fields[9]}", "transform_matrix": pose.tolist()})
    camera = model_lines(scene, "cameras")[0].split(" ")
    f, cx, cy = float(camera[4]), float(camera[-2]), float(camera[-1])
    sizes = {"w": int(camera[2]), "h": int(camera[3]), "fl_x": f, "fl_y": f, "cx": cx, "cy": cy}
    (scene / "transforms.json").write_text(json.dumps({**sizes, "frames": frames}))
    shutil.rmtree(scene / "sparse")
    said = room.fit(scene)
    return said.code == 0, f"{room.psnr():.1f} dB" if said.code == 0 else said.last


# 6. --splat ---------------------------------------------------------------------------------------------------------


def dataparser(room: Room) -> Outcome:
    """A splat of half the size, as splatfacto has it, with nerfstudio's file of the transform."""
    splat = PlyData.read(str(CASES / "ply_good/good.ply"))
    for axis in "xyz":
        splat["vertex"][axis] *= 0.5
        splat["vertex"][f"scale_{'xyz'.index(axis)}"] += np.float32(np.log(0.5))
    splat.write(str(room.folder / "half.ply"))
    turn = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    (room.folder / "dataparser_transforms.json").write_text(json.dumps({"transform": turn, "scale": 0.5}))
    scene, words = room.base(), ("--splat", room.folder / "half.ply")
    alone = room.fit(scene, *words, out="alone")
    said = room.fit(scene, *words, "--splat-transform", room.folder / "dataparser_transforms.json")
    holds = alone.refused_in_a_line() and said.code == 0
    return holds, f"without: exit {alone.code}, {alone.last[:110]}; with it: exit {said.code}, {said.last[:80]}"


def filter_3d(room: Room) -> Outcome:
    splat = PlyData.read(str(CASES / "ply_good/good.ply"))["vertex"].data
    mip = np.empty(len(splat), [*splat.dtype.descr, ("filter_3D", "f4")])
    for name in splat.dtype.names:
        mip[name] = splat[name]
    mip["filter_3D"] = 0.02
    PlyData([PlyElement.describe(mip, "vertex")]).write(str(room.folder / "mip.ply"))
    said = room.fit(room.base(), "--splat", room.folder / "mip.ply")
    if said.code:
        return False, said.last
    found = PlyData.read(str(room.folder / "run/labels.ply"))["vertex"]
    wanted = 0.5 * np.log(np.exp(2 * np.sort(splat["scale_0"].astype(float))) + 0.02**2)
    off = float(np.abs(np.sort(found["scale_0"]) - wanted).max())
    return off < 1e-3, f"scales are {'those of the filter' if off < 1e-3 else 'taken without the filter'}"


# 8. The process -----------------------------------------------------------------------------------------------------


def viewer(room: Room, *words: str) -> tuple[subprocess.Popen[str], str]:
    """A viewer of a fitted run, and the address that it prints."""
    room.fit(room.base())
    process = subprocess.Popen(
        [sys.executable, str(room.checkout / "scripts/view.py"), "run", "--port", "0", *words],
        cwd=room.folder,
        env={**room.environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "http://" in line:
            return process, "http://" + line.split("http://")[1].split()[0]
    return process, ""


def sigterm(room: Room) -> Outcome:
    process, _ = viewer(room)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    lines = [line for line in said.splitlines() if line.strip()]
    return bool(lines) and "SIGTERM" in lines[
        -1
    ], f"exit {process.returncode}; {lines[-1] if lines else 'nothing is said'}"


def token(room: Room) -> Outcome:
    process, address = viewer(room)
    try:
        bare = urllib.request.urlopen(address.split("?")[0], timeout=30).read()
        full = len(bare) > 5000
    finally:
        process.kill()
        process.wait()
    return (
        "token=" in address and not full,
        f"{'a token' if 'token=' in address else 'none'}; without it {'all' if full else 'the login'} is served",
    )


def pycolmap_first(room: Room) -> Outcome:
    png = "import io; from PIL import Image; b = io.BytesIO(); Image.effect_noise((300, 300), 50).save(b, 'PNG')"
    png += "; Image.open(io.BytesIO(b.getvalue())).load(); print('png')"
    found = []
    for imports in ("import pycolmap, splatseg", "import splatseg, pycolmap"):
        done = subprocess.run(
            [sys.executable, "-c", f"{imports}; {png}"],
            cwd=room.folder,
            env=room.environment(),
            capture_output=True,
            text=True,
        )
        lines = (done.stderr.strip().splitlines() or [done.stdout.strip()])[-1:]
        found.append((done.returncode, lines[0]))
    holds = found[1][0] == 0 and found[0][0] in (0, 1)
    return holds, "; ".join(f"{code}: {line[:90]}" for code, line in found)


SITUATIONS: dict[str, Callable[[Room], Outcome]] = {
    "1 sfm twice in the photos' folder": sfm_twice,
    "2 poses changed": changed_model("poses"),
    "2 intrinsics changed": changed_model("intrinsics"),
    "2 points changed": changed_model("points"),
    "2 labels and sheet on a second call": labels_again,
    "2 masks made ahead": masks_ahead,
    "2 capture moved": moved_capture,
    "3 size 1e-3": size(1e-3),
    "3 size 1e-4": size(1e-4),
    "3 size 1e4": size(1e4),
    "4 16-bit grey tiff": as_format(".tif", grey_tiff),
    "4 float tiff": as_format(".tif", float_tiff),
    "4 palette": as_format(".png", lambda image, path: image.quantize(64).save(path)),
    "4 cmyk": as_format(".jpg", lambda image, path: image.convert("CMYK").save(path, quality=95)),
    "4 webp": as_format(".webp", lambda image, path: image.save(path, quality=95)),
    "4 heic": as_format(".heic", heic),
    "4 webp with sfm": webp_with_sfm,
    "4 unregistered photos": unregistered,
    "4 masks of the capture": masks_of_the_capture,
    "5 no last blank line": no_last_blank_line,
    "5 trailing bytes": trailing_bytes,
    "5 masks with --downscale": masks_with_downscale,
    "5 transforms.json": transforms,
    "6 dataparser_transforms.json": dataparser,
    "6 filter_3D": filter_3d,
    "8 SIGTERM": sigterm,
    "8 token": token,
    "8 pycolmap first": pycolmap_first,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--only", nargs="*", default=[""], help="situations whose name holds one of these")
    options = parser.parse_args()
    for name, act in SITUATIONS.items():
        if not any(word in name for word in options.only):
            continue
        with tempfile.TemporaryDirectory(prefix="situation-") as folder:
            try:
                holds, outcome = act(Room(Path(folder), options.checkout.resolve()))
            except Exception as error:  # what came out is what counts
                holds, outcome = False, f"{type(error).__name__}: {str(error)[:200]}"
            outcome = " ".join(outcome.replace(folder, "...").split())
        print(f"{'holds' if holds else 'FAILS'} | {name} | {outcome}", flush=True)


if __name__ == "__main__":
    main()
