"""Progress on stderr with rate and time left; silent where asked."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class Progress:
    """A progress bar over ``total`` steps, ``initial`` of them already done.

    A terminal is refreshed ten times a second, a log file gets a line every ten seconds.
    """

    def __init__(self, total: int, label: str, unit: str = "it", initial: int = 0, quiet: bool = False) -> None:
        interactive = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            desc=label,
            unit=unit,
            initial=initial,
            disable=quiet,
            file=sys.stderr,
            mininterval=0.1 if interactive else 10.0,
            dynamic_ncols=interactive,
        )
        self._figures: dict[str, str] = {}

    def advance(self, count: int = 1, **figures: str) -> None:
        """Count ``count`` steps; ``figures`` are shown after the bar until replaced."""
        if figures:
            self._figures.update(figures)
            self._bar.set_postfix(self._figures, refresh=False)
        self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
