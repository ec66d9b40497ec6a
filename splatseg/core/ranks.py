"""One process of several that share a piece of work: torchrun starts them, torch.distributed lets them talk.

Everything that ranks say to each other goes through :class:`Ranks`. One process alone has :data:`ALONE`, whose methods
do nothing but what they must. Rank 0 is the one that reads and writes the run folder and talks to people.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from splatseg.core.errors import SplatsegError

T = TypeVar("T")

STEP_TIMEOUT = timedelta(minutes=30)  # between two sums; rank 0 measures and saves between them
PATIENCE = timedelta(days=7)  # for what one rank does alone, as labels: a rank that is killed ends the wait at once


class UnreachedError(SplatsegError):
    """Another rank cannot be reached any more."""


class RefusedError(SplatsegError):
    """What one rank refuses, raised in all of them: nobody needs to be told."""


@dataclass(frozen=True)
class Place:
    """Where a rank runs: the machine's name, and the process's number there."""

    host: str
    process: int


class Ranks:
    """This process, number ``rank`` of ``size``.

    Every method but the properties is called by all ranks, in the same order. What cannot be said because another rank
    is gone raises :class:`UnreachedError`.

    Attributes:
        rank, size: of this process, and how many there are.
        places: of all ranks.
    """

    def __init__(self, rank: int = 0, size: int = 1, patient: dist.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.size = size
        self._patient = patient
        self.places: list[Place] = [Place("", os.getpid())]
        if size > 1:
            self.places = self.gather(Place(socket.gethostname(), os.getpid()))

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def neighbors(self, rank: int | None = None) -> int:
        """Ranks on the machine of ``rank`` (this one's if None), itself among them."""
        host = self.places[self.rank if rank is None else rank].host
        return sum(place.host == host for place in self.places)

    def name(self, rank: int) -> str:
        """What a rank is called in messages."""
        return f"rank {rank} of {self.size} on {self.places[rank].host}"

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's share: every ``size``-th, from number ``rank`` on."""
        return items[self.rank :: self.size]

    def leave(self) -> None:
        """Close the connections; others that wait for this rank hear of it."""
        self._patient = None  # as long as anybody has it, it is open
        if dist.is_initialized():
            dist.destroy_process_group()

    # Tensors and objects ---------------------------------------------------------------------------------------------

    def sum_(self, tensor: Tensor) -> Tensor:
        """``tensor``, in place, becomes the sum of all ranks' ones: the same bits in each of them."""
        if not self.alone:
            with _reached():
                dist.all_reduce(tensor)
        return tensor

    def copy_(self, tensor: Tensor) -> Tensor:
        """``tensor``, in place, becomes rank 0's."""
        if not self.alone:
            with _reached():
                dist.broadcast(tensor, src=0)
        return tensor

    def broadcast(self, value: T) -> T:
        """Rank 0's ``value``, any that can be pickled; others wait for it as long as it takes."""
        if self.alone:
            return value
        box: list[Any] = [value]
        with _reached():
            dist.broadcast_object_list(box, src=0, group=self._patient, device=torch.device("cpu"))
        return box[0]  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, in every rank."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        with _reached():
            dist.all_gather_object(found, value, group=self._patient)
        return found

    def wait(self) -> None:
        """Until all have come here."""
        self.gather(None)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The block in rank 0, then in the others: for making folders and caches that all of them use."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    # Work ------------------------------------------------------------------------------------------------------------

    def agree(self, work: Callable[[], T]) -> T:
        """``work()`` in every rank; where one refuses (:class:`SplatsegError`), all do, in its words.

        Raises:
            RefusedError: names the first rank that refuses, unless all say the same.
            SplatsegError: of a process alone, as it is.
        """
        if self.alone:
            return work()
        result, refusal = None, None
        try:
            result = work()
        except SplatsegError as error:
            refusal = str(error)
        found = self.gather(refusal)
        if any(found):
            rank = next(rank for rank, text in enumerate(found) if text)
            same = all(text == found[rank] for text in found)
            raise RefusedError(found[rank] if same else f"{self.name(rank)}: {found[rank]}")
        return result  # type: ignore[return-value]

    def collect(
        self,
        count: int,
        make: Callable[[Sequence[int]], Iterator[T]],
        device: torch.device | str = "cpu",
        held: int = 2,
        first_too: bool = True,
    ) -> Iterator[T]:
        """Items 0 to ``count`` - 1, in order, in rank 0; the others make their share and send it.

        Args:
            count: of items.
            make: gives the items of some numbers, in order; one at a time is asked for.
            device: where rank 0 has the tensors of what others made.
            held: items that a rank has made and rank 0 has not taken, at most.
            first_too: rank 0 makes a share of its own.
        """
        skipped = 0 if self.alone or first_too else 1
        makers = self.size - skipped
        mine = make(range(self.rank - skipped, count, makers)) if self.rank >= skipped else iter(())
        if self.first:
            for number in range(count):
                maker = number % makers + skipped
                yield next(mine) if maker == 0 else moved(self._receive(maker), device)
            return
        waiting: deque[_Sent] = deque()
        for item in mine:
            waiting.append(_Sent.of(item, self._patient))
            if len(waiting) > held:
                waiting.popleft().wait()
        for sent in waiting:
            sent.wait()

    def _receive(self, rank: int) -> Any:
        with _reached():
            length = torch.zeros(1, dtype=torch.int64)
            dist.recv(length, src=rank, group=self._patient)
            content = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(content, src=rank, group=self._patient)
        return pickle.loads(content.numpy().data)


@dataclass(frozen=True, eq=False)
class _Sent:
    """An item on its way to rank 0, and the memory that it is sent from."""

    tensors: tuple[Tensor, ...]
    works: tuple[Any, ...]

    @staticmethod
    def of(item: object, group: dist.ProcessGroup | None) -> _Sent:
        content = torch.frombuffer(bytearray(pickle.dumps(moved(item, "cpu"), protocol=5)), dtype=torch.uint8)
        tensors = (torch.tensor([len(content)]), content)
        with _reached():
            return _Sent(tensors, tuple(dist.isend(tensor, dst=0, group=group) for tensor in tensors))

    def wait(self) -> None:
        with _reached():
            for work in self.works:
                work.wait()


def moved(value: Any, device: torch.device | str) -> Any:
    """``value`` with its tensors on ``device``: those of dataclasses, tuples, lists and dicts, at any depth."""
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: moved(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    if isinstance(value, tuple | list):
        return type(value)(moved(one, device) for one in value)
    if isinstance(value, dict):
        return {name: moved(one, device) for name, one in value.items()}
    return value


ALONE = Ranks()
"""The only process."""


@contextmanager
def _reached() -> Iterator[None]:
    """What torch.distributed raises where another rank is gone, or does not answer in time, as our own error."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise UnreachedError(f"expected to reach the other ranks, found: {str(error).splitlines()[0]}") from None


def launched() -> tuple[int, int, int]:
    """Rank, number of ranks and rank on this machine, as torchrun's environment says; (0, 1, 0) without it."""
    rank, size, local = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not size.isdigit() or not rank.isdigit() or int(size) < 2:
        return 0, 1, 0
    return int(rank), int(size), int(local) if local.isdigit() else int(rank)


def join() -> tuple[Ranks, dist.Store]:
    """Meet the other processes that torchrun started, and the store that all of them can write notes to.

    Gloo carries what lies on the CPU, NCCL what lies on a GPU.

    Raises:
        SplatsegError: they cannot be reached.
    """
    rank, size, _ = launched()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, _, _ = next(iter(dist.rendezvous("env://")))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=STEP_TIMEOUT)
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        return Ranks(rank, size, patient), store
    except (RuntimeError, ValueError, OSError) as error:
        raise SplatsegError(f"rank {rank} of {size}: expected to reach the other processes, found: {error}") from None
