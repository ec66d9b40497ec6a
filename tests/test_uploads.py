"""Copies to a device that nobody waits for: the same bits there, whatever the host does with its own meanwhile."""

from __future__ import annotations

import torch

from splatseg.ops.uploads import begin_upload, image_room, uploads_beside


def test_an_upload_is_the_tensor(device: torch.device) -> None:
    """Twenty at once, each dropped on the host before it is used; used on the device's stream and dropped there."""
    images = [torch.full((40, 50, 3), k, dtype=torch.uint8) for k in range(20)]
    uploads = [begin_upload(image.clone(), device) for image in images]
    sums = [upload.get().sum() for upload in uploads]
    del uploads
    assert [int(total) for total in sums] == [6000 * k for k in range(20)]
    copy = begin_upload(images[3], device).get()
    assert copy.device.type == device.type and copy.dtype == torch.uint8 and torch.equal(copy.cpu(), images[3])


def test_room_is_bounded(device: torch.device) -> None:
    """The host keeps its images itself; a device has room for some, but for no more than is asked."""
    room = image_room(device, 1 << 20)
    assert room == (1 << 20 if uploads_beside(device) else 0)
    assert image_room(device, 0) == 0
