"""Constants on their way from the host to a device, without the host or the device waiting for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

ROOM_SHARE = 0.25  # of the device's free memory that images may be kept in


@dataclass(frozen=True, eq=False)
class Upload:
    """A copy of a tensor on a device, complete when ``done`` (a CUDA event; None: it is) says so."""

    tensor: Tensor
    done: torch.cuda.Event | None = None

    def get(self) -> Tensor:
        """The copy, for use on the current stream: work queued there from now on waits for it, the host does not."""
        if self.done is not None:
            stream = torch.cuda.current_stream(self.tensor.device)
            stream.wait_event(self.done)
            self.tensor.record_stream(stream)  # it was made on another: not to be reused before this one is done
        return self.tensor


def begin_upload(tensor: Tensor, device: torch.device) -> Upload:
    """Start to copy ``tensor`` from the host to ``device``; from any thread. The tensor may be dropped at once.

    On CUDA through pinned memory, on a stream of its own beside the kernels; elsewhere at once, and a tensor that is
    there already is not copied.
    """
    if device.type != "cuda":
        return Upload(tensor.to(device))
    with torch.cuda.stream(_upload_stream(device.index)):
        copy = tensor.pin_memory().to(device, non_blocking=True)  # the pinned block is kept until the copy is done
        done = torch.cuda.Event()
        done.record()
    return Upload(copy, done)


def uploads_beside(device: torch.device) -> bool:
    """Whether an upload to ``device`` runs beside its kernels, so that the next image is best begun during a step."""
    return device.type == "cuda"


def image_room(device: torch.device, most: int) -> int:
    """Bytes of images to keep on ``device``, at most ``most``: a share of what is free there. None where the device is
    the host, which keeps them anyway."""
    if device.type != "cuda":
        return 0
    return min(most, int(ROOM_SHARE * torch.cuda.mem_get_info(device)[0]))


@functools.cache
def _upload_stream(index: int | None) -> torch.cuda.Stream:
    return torch.cuda.Stream(index)
