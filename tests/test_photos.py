"""Photos as they come: every mode and format gives the right pixels or one line; what is hidden is never trained."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from test_colmap import HEIGHT, WIDTH, make_scene
from test_render import make_scene as known_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.photos import Photo, find_photos, is_plain, photo_size, photo_suffixes, read_mask, read_photo
from splatseg.core.scene import View
from splatseg.fit.geometry.fit import masked_target, psnr
from splatseg.fit.geometry.photos import halved, packed, unpacked
from splatseg.io import load_colmap
from splatseg.io.sfm import photos_in_colmaps_form, run_sfm
from splatseg.ops import photometric_loss
from splatseg.render import render

GRAY = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
RGB = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def read(image: Image.Image, path: Path, **options: object) -> NDArray[np.uint8]:
    image.save(path, **options)
    return read_photo(path, path.name).pixels


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray_is_scaled_by_its_full_range(tmp_path: Path, suffix: str) -> None:
    found = read(Image.fromarray(GRAY.astype(np.uint16) * 257), tmp_path / f"a{suffix}")
    assert (found == GRAY[..., None]).all() and found.shape == (8, 8, 3)


@pytest.mark.parametrize(("scale", "worst"), [(1 / 255, 0), (1.0, 0), (257.0, 0)], ids=["unit", "8 bits", "16 bits"])
def test_float_tiff_is_scaled_by_the_range_its_largest_value_says(tmp_path: Path, scale: float, worst: int) -> None:
    found = read(Image.fromarray(GRAY.astype(np.float32) * np.float32(scale)), tmp_path / "a.tif")
    assert np.abs(found.astype(int) - GRAY[..., None]).max() <= worst


LAYOUTS: dict[str, dict[str, Any]] = {
    "chunky": {},
    "predictor": {"compression": "zlib", "predictor": True},
    "big-endian": {"byteorder": ">"},
    "tiled": {"tile": (16, 16)},
    "planes": {"planarconfig": "separate"},  # Pillow: an error
    "tiled planes": {"planarconfig": "separate", "tile": (16, 16), "compression": "zlib"},  # Pillow: other pixels
}
WIDE = np.random.default_rng(1).integers(0, 65536, (20, 24, 3), np.uint16)


def written(path: Path, values: NDArray[Any], layout: str = "chunky", **options: Any) -> Photo:
    """``values`` (h, w, channels) as an RGB TIFF, read."""
    if layout.endswith("planes"):
        values = np.ascontiguousarray(np.moveaxis(values, 2, 0))
    tifffile.imwrite(path, values, photometric="rgb", **LAYOUTS[layout], **options)
    return read_photo(path, path.name)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float64", "uint32"])
def test_a_tiff_whose_0_is_white_is_turned_about(tmp_path: Path, kind: str) -> None:
    """Pillow turns 8 bits about, not 16 and not floats: the photo came out as its negative."""
    dark = np.linspace(0, 1, 12).reshape(3, 4)  # what is stored, as a share of the range
    values = (dark * {"uint8": 255, "uint16": 65535, "uint32": 65535}.get(kind, 1)).astype(kind)
    expected = 255 - np.round(values.astype(float) * 255 / values.max())
    for name, photometric in (("white.tif", "miniswhite"), ("black.tif", "minisblack")):
        tifffile.imwrite(tmp_path / name, values, photometric=photometric)
    found = read_photo(tmp_path / "white.tif", "v").pixels
    assert np.abs(found.astype(float) - expected[..., None]).max() <= 1
    assert np.abs(255 - read_photo(tmp_path / "black.tif", "v").pixels.astype(int) - found).max() <= 1
    if kind in ("uint8", "uint16", "float32"):  # as a mask all but its last pixel counts
        assert read_mask(tmp_path / "white.tif").ravel().tolist() == [True] * 11 + [False]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_16_bit_color_tiff_keeps_the_upper_byte(tmp_path: Path, layout: str) -> None:
    assert (written(tmp_path / "a.tif", WIDE, layout).pixels == WIDE >> 8).all()
    assert not is_plain(tmp_path / "a.tif", "a")  # COLMAP would round, and fit another photo
    hidden = np.dstack([WIDE, np.full((20, 24), 65535, np.uint16)])
    hidden[:5, :, 3] = 0
    photo = written(tmp_path / "b.tif", hidden, layout, extrasamples=["unassalpha"])
    assert photo.shown is not None and not photo.shown[:5].any() and photo.shown[5:].all()
    assert (photo.pixels[5:] == WIDE[5:] >> 8).all() and not photo.pixels[:5].any()


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "predictor"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", [1 / 255, 1.0, 257.0], ids=["unit", "8 bits", "16 bits"])
def test_float_color_tiff_is_scaled_as_float_gray_is(tmp_path: Path, layout: str, dtype: type, scale: float) -> None:
    values = np.minimum(RGB.astype(np.float64) * scale, 65500).astype(dtype)  # float16 ends there
    photo = written(tmp_path / "a.tif", values, layout)
    assert (photo.pixels == RGB).all() and photo.shown is None
    assert photo_size(tmp_path / "a.tif", "a") == (8, 8) and not is_plain(tmp_path / "a.tif", "a")


def test_float_alpha_hides_and_premultiplied_colors_are_divided(tmp_path: Path) -> None:
    alpha = np.full((8, 8, 1), 0.75)
    alpha[:4] = 0.25
    plain = np.concatenate([RGB / 255, alpha], axis=2).astype(np.float32)
    multiplied = np.concatenate([RGB / 255 * alpha, alpha], axis=2).astype(np.float32)
    for values, kind in ((plain, "unassalpha"), (multiplied, "assocalpha")):
        photo = written(tmp_path / f"{kind}.tif", values, extrasamples=[kind])
        assert photo.shown is not None and (photo.shown == (alpha[..., 0] > 0.5)).all()
        assert (photo.pixels[4:] == RGB[4:]).all() and not photo.pixels[:4].any()


@pytest.mark.parametrize("value", [2.5, -1.0, float("nan"), 1e6])
def test_float_colors_of_no_known_range_are_refused_by_name(tmp_path: Path, value: float) -> None:
    with pytest.raises(SplatsegError, match=r"a\.tif: expected (float|finite) values"):
        written(tmp_path / "a.tif", np.full((4, 4, 3), value, np.float32))


def test_without_tifffile_a_line_names_the_file_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "a.tif", np.ones((4, 4, 3), np.float32))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(SplatsegError, match=r"a\.tif: expected tifffile, .*pip install tifffile") as error:
        read_photo(tmp_path / "a.tif", "a")
    assert "\n" not in str(error.value)


def test_tiffs_that_are_no_photo_or_damaged_are_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cmyk.tif", np.ones((4, 4, 4), np.float32), photometric="separated")
    tifffile.imwrite(tmp_path / "cut.tif", np.ones((64, 64, 3), np.float32), photometric="rgb")
    data = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[:700])
    for name in ("cmyk", "cut"):
        with pytest.raises(SplatsegError, match=rf"{name}\.tif: ") as error:
            read_photo(tmp_path / f"{name}.tif", name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [2.5, -1.0, float("nan"), float("inf"), 1e6])
def test_floats_of_no_known_range_are_refused_by_name(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(SplatsegError, match=r"a\.tif: expected (float|finite) values"):
        read_photo(tmp_path / "a.tif", "a")


def test_integers_beyond_16_bits_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(SplatsegError, match=r"a\.tif: expected gray values of 16 bits .* found 0\.\.70000"):
        read_photo(tmp_path / "a.tif", "a")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_opaque_modes_are_pillows_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    found = read(image, path)
    assert np.abs(found.astype(int) - np.array(image.convert("RGB"))).max() <= 3  # YCbCr is stored by libtiff's rule
    assert read_photo(path, "a").shown is None


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_hidden_colors_are_black_and_not_shown(tmp_path: Path, mode: str) -> None:
    shown = np.zeros((8, 8), bool)
    shown[2:6, 2:6] = True
    if mode == "P":
        image = Image.fromarray(shown.astype(np.uint8), "L").convert("P")
        image.putpalette([255, 0, 255, 10, 20, 30])
        image.save(tmp_path / "a.png", transparency=0)
    else:
        image = Image.fromarray(np.dstack([RGB, shown.astype(np.uint8) * 255])).convert(mode)
        image.save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png", "a")
    assert photo.shown is not None and (photo.shown == shown).all()
    assert not photo.pixels[~shown].any() and photo.pixels[shown].any()


def test_exif_orientation_is_ignored_as_colmap_ignores_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    pixels = read(Image.fromarray(RGB[:6]), tmp_path / "a.jpg", exif=exif, quality=100)
    theirs = pycolmap.Bitmap.read(str(tmp_path / "a.jpg"), True).to_array()
    assert pixels.shape == theirs.shape == (6, 8, 3)
    assert np.abs(pixels.astype(int) - theirs).max() <= 4  # two JPEG decoders


def test_every_format_is_found_outside_runs_hidden_folders_and_links_upwards(tmp_path: Path) -> None:
    for name in ("a.webp", "b.TIFF", "sub/c.jp2", "d.heic", "e.nef", ".hidden.png", ".thumbs/f.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/scene.json").write_text('{"scene": "x", "downscale": 1}')
    (tmp_path / "out/contact_sheet.png").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "sub/loop").symlink_to(tmp_path / "sub")
    (tmp_path / "up").symlink_to(tmp_path.parent)
    found = find_photos(tmp_path)
    assert found.names == ("a.webp", "b.TIFF", "d.heic", "sub/c.jp2") and found.raw == ("e.nef",)
    assert {".jpg", ".png", ".webp", ".tif", ".bmp", ".heic", ".jp2"} <= photo_suffixes()


def test_heic_without_its_plugin_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    for name in ("a.heic", "b.heic"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(SplatsegError, match=r"a\.heic: expected the Pillow plugin pillow-heif.*pip install") as caught:
        run_sfm(tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_photo_beyond_pillows_limit_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(SplatsegError, match=r"a\.png: unreadable image"):
        read_photo(tmp_path / "a.png", "a")


def test_sfm_gets_what_colmap_cannot_read_as_we_read_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(RGB).save(tmp_path / "in/a.webp", lossless=True)
    Image.fromarray(RGB).save(tmp_path / "in/b.png")
    Image.fromarray(np.dstack([RGB, np.zeros((8, 8), np.uint8)])).save(tmp_path / "in/c.png")
    folder, there = photos_in_colmaps_form(tmp_path / "in", ["a.webp", "b.png", "c.png"], tmp_path / "photos")
    assert there == {"a.webp.png": "a.webp", "b.png": "b.png", "c.png.png": "c.png"}
    for name, expected in (("a.webp.png", RGB), ("b.png", RGB), ("c.png.png", 0 * RGB)):
        assert (pycolmap.Bitmap.read(str(folder / name), True).to_array() == expected).all()
    Image.fromarray(RGB).save(tmp_path / "in/a.webp.png")
    _, there = photos_in_colmaps_form(tmp_path / "in", ["a.webp", "a.webp.png"], tmp_path / "photos")
    assert there == {"a.webp.png": "a.webp", "a.webp_.png": "a.webp.png"}
    assert photos_in_colmaps_form(tmp_path / "in", ["b.png"], tmp_path / "photos") == (
        tmp_path / "in",
        {"b.png": "b.png"},
    )


# What the geometry leaves out ----------------------------------------------------------------------------------


def test_what_is_left_out_has_no_say_in_the_loss_whatever_its_color() -> None:
    generator = torch.Generator().manual_seed(0)
    render = torch.rand(24, 30, 3, generator=generator, dtype=torch.float64)
    photo = torch.randint(0, 256, (24, 30, 3), generator=generator, dtype=torch.uint8)
    fitted = torch.zeros(24, 30, dtype=torch.bool)
    fitted[:, :12] = True
    loud = torch.where(fitted[..., None], photo, 255 - photo)
    gradients = []
    for image in (photo, loud):
        leaf = render.clone().requires_grad_()
        photometric_loss(leaf, masked_target(image, fitted, leaf)).backward()
        gradients.append(leaf.grad)
    assert torch.equal(gradients[0], gradients[1])
    # A window of 11 pixels that holds what counts reaches 10 beyond it; farther out there is no gradient at all.
    assert float(gradients[0][:, 12 + 10 :].abs().max()) < 1e-12 < float(gradients[0][:, :12].abs().max())
    assert masked_target(photo, None, render) is photo


def test_half_a_mask_is_true_where_all_of_it_is() -> None:
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[1, 1] = False
    image = torch.full((5, 6, 3), 7, dtype=torch.uint8)
    half, fitted = unpacked(halved(packed(image, mask)))
    assert fitted is not None and fitted.tolist() == [[False, True, True], [True, True, True]]
    assert half.shape == (2, 3, 3) and (half == 7).all() and unpacked(packed(image, None)) == (image, None)


def masked_scene(folder: Path, model: str = "PINHOLE") -> NDArray[np.bool_]:
    make_scene(folder, model)
    kept = np.zeros((HEIGHT, WIDTH), bool)
    kept[:, : WIDTH // 2] = True
    (folder / "masks/sub").mkdir(parents=True)
    for number, name in enumerate(["v0.png.png", "v1.png", "v2.png.png"]):  # COLMAP's names, nerfstudio's, 1 for 255
        Image.fromarray(kept.astype(np.uint8) * (1 if number == 2 else 255)).save(folder / "masks/sub" / name)
    return kept


@pytest.mark.parametrize("suffix", [".webp", ".jp2", ".gif"])
def test_formats_that_colmap_cannot_read_are_undistorted(tmp_path: Path, suffix: str) -> None:
    make_scene(tmp_path / "scene", "OPENCV", suffix=suffix)
    views = load_colmap(tmp_path / "scene", cache=tmp_path / "cache").views
    assert [view.name for view in views] == [f"sub/v{i}{suffix}" for i in range(4)]
    assert all(view.image().float().std() > 10 for view in views)


def test_masks_of_the_capture_are_found_said_and_kept_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = masked_scene(tmp_path / "scene")
    with caplog.at_level(logging.WARNING):
        views = load_colmap(tmp_path / "scene").views
    assert "3 of 4 photos have masks" in caplog.text
    for view in views[:3]:
        fitted = view.photo()[1]
        assert fitted is not None and (fitted.numpy() == kept).all() and len(view.files) == 2
    assert views[3].photo()[1] is None and views[3].files == (views[3].image_path,)
    plain = load_colmap(tmp_path / "scene", no_masks=tmp_path / "scene/masks").views
    assert all(view.photo()[1] is None for view in plain)


@pytest.mark.parametrize(("model", "downscale"), [("PINHOLE", 2), ("OPENCV", 1), ("OPENCV", 2)])
def test_masks_are_resized_and_undistorted_as_the_photos(tmp_path: Path, model: str, downscale: int) -> None:
    kept = masked_scene(tmp_path / "scene", model)
    for path in (tmp_path / "scene/images/sub").iterdir():  # a photo that is white where the mask is
        Image.fromarray(np.repeat(kept[..., None].astype(np.uint8) * 255, 3, 2)).save(path)
    for _ in range(2):
        scene = load_colmap(tmp_path / "scene", downscale, tmp_path / "cache")
        for view in scene.views[:3]:
            pixels, fitted = view.photo()
            assert fitted is not None and fitted.shape == pixels.shape[:2]
            assert float(((pixels[..., 0] > 127) != fitted).float().mean()) < 0.02  # at the edge alone


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_alpha_survives_resizing_and_undistortion(tmp_path: Path, model: str) -> None:
    make_scene(tmp_path / "scene", model)
    for path in (tmp_path / "scene/images/sub").iterdir():
        alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
        alpha[:, : WIDTH // 2] = 255
        Image.fromarray(np.dstack([np.full((HEIGHT, WIDTH, 3), 255, np.uint8), alpha])).save(path)
    for downscale in (1, 2):
        for view in load_colmap(tmp_path / "scene", downscale, tmp_path / "cache").views:
            pixels, fitted = view.photo()
            assert fitted is not None
            assert float(((pixels[..., 0] > 127) != fitted).float().mean()) < 0.02


def test_a_mask_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    make_scene(tmp_path / "scene")
    (tmp_path / "scene/masks/sub").mkdir(parents=True)
    Image.new("L", (5, 5)).save(tmp_path / "scene/masks/sub/v0.png.png")
    with pytest.raises(SplatsegError, match=r"v0\.png\.png: expected 64x48 pixels as its camera says, found 5x5"):
        load_colmap(tmp_path / "scene").views[0].photo()


def test_psnr_counts_what_is_fitted(tmp_path: Path) -> None:
    gaussians, camera = known_splat()
    drawn = (render(gaussians, camera).color.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    alpha = np.zeros(drawn.shape[:2], np.uint8)
    alpha[: camera.height // 2] = 255
    wrong = np.where(alpha[..., None] > 0, drawn, 255 - drawn)
    Image.fromarray(np.dstack([wrong, alpha])).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([wrong, 0 * alpha])).save(tmp_path / "none.png")
    views = [View(name, camera, tmp_path / name) for name in ("a.png", "none.png")]
    assert psnr(gaussians, views) > 45  # rounding to 8 bits alone; a view of which nothing counts is left out
    assert np.isnan(psnr(gaussians, views[1:]))


def test_unregistered_photos_are_counted_in_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_scene(tmp_path / "scene")
    for name in ("w0.png", "w1.webp"):
        Image.fromarray(RGB).save(tmp_path / "scene/images/sub" / name)
    with caplog.at_level(logging.WARNING):
        assert len(load_colmap(tmp_path / "scene").views) == 4
    assert "2 of 6 photos are not registered in the model and not used (sub/w0.png, sub/w1.webp)" in caplog.text
