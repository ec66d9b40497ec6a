"""Photos of a fit, decoded once and on the device before the step that needs them, as far as memory allows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.scene import View
from splatseg.fit.geometry.misfits import PhotoLosses
from splatseg.ops.uploads import Upload, begin_upload, image_room, uploads_beside

CACHE_BYTES = 2 << 30  # photos kept decoded on the host; beyond it they are read again at every use
DEVICE_BYTES = 8 << 30  # ... and on a device with memory of its own, if that much is free

Key = tuple[int, bool]  # number of the view, whether at half size


class PhotoCache:
    """Photos and cameras of ``views`` on ``device``, at full or half size.

    A photo that was used is kept where there is room: on the device, else decoded on the host; beyond that it is read
    again, so that memory does not grow with the number of photos. :meth:`ahead` begins the next one in a thread: to
    read it, and to upload it where the device takes uploads beside its work. Use as a context manager, or
    :meth:`close`.
    """

    def __init__(self, views: Sequence[View], device: torch.device | str = "cpu") -> None:
        self.views = views
        self.device = torch.device(device)
        self._on_device: dict[Key, Tensor] = {}
        self._on_host: dict[Key, Tensor] = {}
        self._cameras: dict[Key, Camera] = {}
        self._device_room = image_room(self.device, DEVICE_BYTES)
        self._host_room = CACHE_BYTES
        self._reader = ThreadPoolExecutor(1, "photos")
        self._uploads = uploads_beside(self.device)
        self._begun: tuple[Key, Future[tuple[Tensor, Upload]]] | None = None
        self.losses = PhotoLosses(len(views), self.device)

    def get(self, index: int, half: bool) -> tuple[Tensor, Tensor | None, Camera]:
        """Image (h, w, 3) uint8 of a view, (h, w) bool of what is fitted to (None: all), and the camera that matches.

        All on the device.

        Raises:
            SplatsegError: the photo cannot be read.
        """
        key = (index, half)
        packed = self._on_device.get(key)
        if packed is None:
            decoded, upload = self._finished(key) or self._load(key, self._on_host.get(key))
            packed = upload.get()
            self._keep(key, decoded, packed)
        if key not in self._cameras:
            camera = self.views[index].camera
            sized = camera.resized(packed.shape[1], packed.shape[0]) if half else camera
            self._cameras[key] = sized.to(self.device)
        return *unpacked(packed), self._cameras[key]

    def ahead(self, index: int, half: bool) -> None:
        """Begin to read and upload what the next :meth:`get` will ask for; what fails there is raised by that."""
        key = (index, half)
        at_hand = key in self._on_device or (key in self._on_host and not self._uploads)
        if self._begun is None and not at_hand:
            self._begun = (key, self._reader.submit(self._load, key, self._on_host.get(key)))

    def forget(self, half: bool) -> None:
        """Drop the images of one size."""
        for images, name in ((self._on_device, "_device_room"), (self._on_host, "_host_room")):
            for key in [key for key in images if key[1] == half]:
                setattr(self, name, getattr(self, name) + images.pop(key).nbytes)

    def close(self) -> None:
        """Wait for what was begun and drop it."""
        self._reader.shutdown(cancel_futures=True)
        self._begun = None

    def __enter__(self) -> PhotoCache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _finished(self, key: Key) -> tuple[Tensor, Upload] | None:
        """What :meth:`ahead` began, waited for; None where it began something else."""
        if self._begun is None:
            return None
        (begun, future), self._begun = self._begun, None
        if begun == key:
            return future.result()
        future.cancel()
        return None

    def _load(self, key: Key, decoded: Tensor | None) -> tuple[Tensor, Upload]:
        """The photo on the host, read unless it is ``decoded``, and on its way to the device. Touches no table: it may
        run in the thread."""
        if decoded is None:
            decoded = packed(*self.views[key[0]].photo())
            if key[1]:
                decoded = halved(decoded)
        return decoded, begin_upload(decoded, self.device)

    def _keep(self, key: Key, decoded: Tensor, image: Tensor) -> None:
        if image.nbytes <= self._device_room:
            self._on_device[key] = image
            self._device_room -= image.nbytes
            dropped = self._on_host.pop(key, None)
            self._host_room += 0 if dropped is None else dropped.nbytes
        elif key not in self._on_host and decoded.nbytes <= self._host_room:
            self._on_host[key] = decoded
            self._host_room -= decoded.nbytes


def packed(image: Tensor, fitted: Tensor | None) -> Tensor:
    """(h, w, 3) uint8 where all of a photo is fitted to, else (h, w, 4): 255 there, 0 elsewhere in the last channel."""
    if fitted is None:
        return image
    return torch.cat([image, (fitted.to(torch.uint8) * 255)[..., None]], dim=-1)


def unpacked(photo: Tensor) -> tuple[Tensor, Tensor | None]:
    """Image and mask of :func:`packed`, also after :func:`halved`, when pixels count that did so as a whole."""
    return (photo, None) if photo.shape[-1] == 3 else (photo[..., :3], photo[..., 3] == 255)


def halved(image: Tensor) -> Tensor:
    """(h, w, c) uint8 -> (h // 2, w // 2, c) uint8 by area averaging."""
    size = (max(image.shape[0] // 2, 1), max(image.shape[1] // 2, 1))
    planes = image.permute(2, 0, 1)[None].float()
    return torch.nn.functional.interpolate(planes, size=size, mode="area")[0].permute(1, 2, 0).round().to(torch.uint8)
