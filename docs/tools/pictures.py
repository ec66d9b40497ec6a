"""Make the README's moving picture and its five small ones from a finished run, by the calls that the viewer makes.

    python docs/tools/pictures.py RUN --view train_042.jpg --pixel 424 272 --come-from train_020.jpg --levels 2 3
        --name "the kettle"

A session is opened on the run, one point of a photo is clicked, the level slider goes one step up, the selection is
exported, and the exported file is read and drawn by itself. Every frame is what the session draws of its state; only
the pointer and the captions are added. The pictures in the repository are of a kitchen rendered from the MIT-licensed
assets of gymnasium-robotics (Franka Kitchen); any run will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial.transform import Rotation, Slerp

import splatseg
from splatseg.core.camera import Camera
from splatseg.core.gaussians import Gaussians
from splatseg.render import render
from splatseg.session import Session
from splatseg.session.colors import Look, overlay
from splatseg.session.exports import draw, export_selection

Picture = NDArray[np.uint8]
IMAGES = Path(__file__).resolve().parent.parent / "images"
FRAME_MS = 90
SIZE = (640, 480)
SMALL = (360, 270)
GROUND = (0.86, 0.89, 0.93)
FONT = ImageFont.load_default(size=19)


@dataclass(frozen=True)
class Arguments:
    """What to click, and where to begin."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run."""
    view: str
    """Photo that is clicked."""
    pixel: tuple[float, float]
    """Column and row of the click."""
    come_from: str
    """Photo at which the camera begins."""
    name: str = "thing"
    """What the thing is called."""
    levels: tuple[int, ...] = (1,)
    """Proposed levels that the slider goes through, up to the whole thing; 0 is the part."""
    out: Path = IMAGES
    """Folder of the pictures."""


def between(one: Camera, two: Camera, count: int) -> Iterator[Camera]:
    """``count`` cameras from ``one`` to ``two``, slow at both ends."""
    turns = Slerp([0, 1], Rotation.from_matrix(np.stack([c.cam_from_world[:3, :3].numpy() for c in (one, two)])))
    for t in np.linspace(0, 1, count):
        share = t * t * (3 - 2 * t)
        pose = torch.eye(4)
        pose[:3, :3] = torch.from_numpy(turns(share).as_matrix()).float()
        position = (1 - share) * one.position + share * two.position
        pose[:3, 3] = -pose[:3, :3] @ position
        yield replace(two, cam_from_world=pose)


def around(camera: Camera, center: torch.Tensor, angle: float, closer: float) -> Camera:
    """``camera`` turned by ``angle`` radians about ``center``, round its own picture's vertical, and nearer."""
    axis = -camera.cam_from_world[1, :3]  # up in the picture
    turn = torch.from_numpy(Rotation.from_rotvec(axis.double().numpy() * angle).as_matrix()).float()
    position = center + turn @ (camera.position - center) * closer
    forward = torch.nn.functional.normalize(center - position, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, axis), dim=0)
    pose = torch.eye(4)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ position
    return replace(camera, cam_from_world=pose)


def alone(gaussians: Gaussians, camera: Camera) -> Picture:
    """``gaussians`` on a pale ground."""
    with torch.no_grad():
        drawn = render(gaussians, camera)
    color = drawn.color + (1 - drawn.alpha)[..., None] * torch.tensor(GROUND)
    return (color.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def mixed(one: Picture, two: Picture, count: int) -> list[Picture]:
    """``count`` pictures from ``one`` to ``two``."""
    shares = np.linspace(0, 1, count + 1)[1:]
    return [(one * (1 - s) + two * s).round().astype(np.uint8) for s in shares]


def finished(
    picture: Picture, caption: str, pointer: tuple[float, float] | None = None, ring: float = 0
) -> Image.Image:
    """A frame: the picture, the pointer (with a ring of so many pixels where it clicks), a line of text below."""
    image = Image.fromarray(picture).resize(SIZE, Image.Resampling.LANCZOS)
    ink = ImageDraw.Draw(image, "RGBA")
    if pointer is not None:
        x, y = pointer
        if ring:
            ink.ellipse((x - ring, y - ring, x + ring, y + ring), outline=(255, 140, 0, 230), width=4)
        arrow = [(0, 0), (0, 24), (6, 19), (10, 28), (14, 26), (10, 17), (18, 17)]
        ink.polygon([(x + a, y + b) for a, b in arrow], fill="white", outline="black", width=2)
    framed = Image.new("RGB", (SIZE[0], SIZE[1] + 36), "#1f2430")
    framed.paste(image, (0, 0))
    ImageDraw.Draw(framed).text((14, SIZE[1] + 6), caption, font=FONT, fill="white")
    return framed


class Film:
    """Frames and how long each is seen."""

    def __init__(self) -> None:
        self.frames: list[Image.Image] = []
        self.milliseconds: list[int] = []

    def add(self, frame: Image.Image, milliseconds: int = FRAME_MS) -> None:
        self.frames.append(frame)
        self.milliseconds.append(milliseconds)

    def save(self, path: Path) -> None:
        self.frames[0].save(
            path, save_all=True, append_images=self.frames[1:], duration=self.milliseconds, loop=0, quality=78, method=6
        )


def film(session: Session, arguments: Arguments) -> Film:
    """Come nearer, click, one level up, export, look at the file."""
    made, look = Film(), Look()
    camera, u, v = session.workspace.camera(arguments.view), *arguments.pixel
    goal = (u * SIZE[0] / camera.width, v * SIZE[1] / camera.height)
    begin = (SIZE[0] * 0.82, SIZE[1] * 0.86)
    told = f"a splat fitted to {len(session.workspace.views)} photos"
    for where in between(session.workspace.camera(arguments.come_from), camera, 14):
        picture = draw(session, where, look)
        made.add(finished(picture, told, begin))
    for share in np.linspace(0, 1, 8):
        at = tuple(a + (b - a) * share for a, b in zip(begin, goal, strict=True))
        made.add(finished(picture, "click a thing ...", (at[0], at[1])))
    session.click(arguments.view, u, v)
    for ring, step in zip((8, 16, 24), mixed(picture, draw(session, camera, look), 3), strict=True):
        made.add(finished(step, "click a thing ...", goal, ring))
    part = draw(session, camera, look)
    made.add(finished(part, f"click: the part ({len(session.selection):,} Gaussians)", goal), 1500)
    whole = part
    for level in arguments.levels:
        session.set_level(level)
        below, whole = whole, draw(session, camera, look)
        is_last = level == arguments.levels[-1]
        said = f"level up: {arguments.name if is_last else 'more of it'} ({len(session.selection):,} Gaussians)"
        for step in mixed(below, whole, 3):
            made.add(finished(step, said))
        made.add(finished(whole, said), 1500 if is_last else 900)
    exported = splatseg.load_ply(export_selection(session, arguments.name))
    said = f"export: a PLY of {arguments.name}, for any splat viewer"
    center = exported.means.median(dim=0).values
    angles = np.sin(np.linspace(0, 2 * np.pi, 28)) * 0.4
    near = [*between(camera, around(camera, center, 0.0, 0.5), 8)]
    path = [*near, *(around(camera, center, float(angle), 0.5) for angle in angles[1:])]
    for step in [*mixed(whole, alone(exported, camera), 5), *(alone(exported, where) for where in path[1:])]:
        made.add(finished(step, said))
    made.milliseconds[-1] = 900
    return made


def small(session: Session, arguments: Arguments) -> dict[str, Picture]:
    """The five things that one gets, each as a picture."""
    camera = session.workspace.camera(arguments.view)
    session.click(arguments.view, *arguments.pixel)
    part = draw(session, camera, Look())
    heat = draw(session, camera, Look("scores", dim=False, highlight=False))
    session.set_level(arguments.levels[-1])
    whole = draw(session, camera, Look())
    half = camera.width // 2
    (view,) = (view for view in session.workspace.views if view.name == arguments.view)
    masks = overlay(session, view)
    session.clear()
    pca = draw(session, camera, Look("features"))
    labels = draw(session, camera, Look("labels"))
    shift = int(np.clip(arguments.pixel[0] - half / 2, 0, half))
    return {
        "click": np.hstack([part[:, shift : shift + half], whole[:, shift : shift + half]]),
        "heat": heat,
        "features": pca,
        "labels": labels,
        "masks": masks,
    }


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    arguments.out.mkdir(parents=True, exist_ok=True)
    session = splatseg.open_run(arguments.run)
    for name, picture in small(session, arguments).items():
        path = arguments.out / f"get-{name}.webp"
        Image.fromarray(picture).resize(SMALL, Image.Resampling.LANCZOS).save(path, quality=82, method=6)
    film(session, arguments).save(arguments.out / "splatseg.webp")


if __name__ == "__main__":
    main()
