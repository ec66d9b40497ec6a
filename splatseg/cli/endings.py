"""What every command begins and ends with: bad input becomes one line and an exit code.

Use it as::

    def main() -> None:
        arguments = parse(Arguments, description=__doc__)
        ...

    if __name__ == "__main__":
        run(main)

Exit codes: 0 done, 2 bad input or a full disk, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from types import TracebackType
from typing import Annotated, Any, NoReturn, TypeVar, get_type_hints

import tyro

from splatseg.cli.values import REGISTRY
from splatseg.core.errors import SplatsegError

T = TypeVar("T")

# Conditions of the machine, not bugs of ours: the line the system gives says all there is to say.
MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

_HELP_INDENT = " " * 8  # of an option's help in tyro's complaints


def parse(arguments: type[T], **options: Any) -> T:
    """``tyro.cli(arguments, **options)``, its own complaints, on one line.

    ``--help`` tells the options of ``arguments`` itself, ``--help-all`` those of its groups of settings, too.

    Raises:
        SplatsegError: the command line does not fit ``arguments``: names the option, what was expected, what came.
    """
    captured = io.StringIO()
    words = ["--help" if word == "--help-all" else word for word in sys.argv[1:]]
    kind: type[Any] = arguments
    if dataclasses.is_dataclass(kind) and words == sys.argv[1:] and not {"-h", "--help"}.isdisjoint(words):
        kind, options = _without_settings(arguments, options)
    try:
        with redirect_stderr(captured), _wide_frames():
            parsed: T = tyro.cli(kind, args=words, registry=REGISTRY, **options)
    except SystemExit as ending:
        if ending.code == 2:
            raise SplatsegError(one_line(captured.getvalue())) from None
        raise
    sys.stderr.write(captured.getvalue())
    return parsed


def one_line(text: str) -> str:
    """What tyro says in its frame (or, where stdout is not UTF-8, below an underlined title): a sentence per part,
    without the title and without the help texts of the options that it names."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    framed = [line[1:].rstrip("│ ") for line in lines if line.startswith("│")]
    parts: list[list[str]] = [[]]
    for line in framed or lines[2:]:
        if not line.strip("─- "):
            parts.append([])
        elif not line.startswith(_HELP_INDENT):
            parts[-1].append(line.strip())
    said = [_sentence(part) for part in parts if part and part[0] != "Argument helptext:"]
    return " ".join(said) or "command line: expected options that --help lists"


def _sentence(lines: list[str]) -> str:
    """A heading, if any, with what is listed below it."""
    heading, *listed = lines
    said = f"{heading} {', '.join(listed)}".strip().removeprefix("Error parsing ")
    return said if said.endswith(".") or "--help" in said else f"{said}."


def _without_settings(arguments: type[Any], options: dict[str, Any]) -> tuple[type[Any], dict[str, Any]]:
    """``arguments`` without its groups of settings (such as ``--sam.*``), and a description that tells of them."""
    hints = get_type_hints(arguments, include_extras=True)
    groups, made_by = {}, {}
    for field in dataclasses.fields(arguments):
        hint = hints[field.name]
        # One that is annotated has no name before its options: they are the command's own.
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            groups[field.name] = Annotated[hint, tyro.conf.Suppress]
            made_by[field.name] = dataclasses.field(default_factory=hint)
    if not groups:
        return arguments, options
    named = {"__annotations__": groups, "__module__": arguments.__module__}
    brief = type(arguments.__name__, (arguments,), {**named, **made_by})
    kind: type[Any] = dataclasses.dataclass(frozen=True)(brief)
    if "default" in options:
        options = {**options, "default": kind(**vars(options["default"]))}
    names = " and ".join(f"--{name}.*" for name in groups)
    told = f"{options.get('description') or arguments.__doc__}\n\nSettings, {names}: --help-all lists them, too."
    return kind, {**options, "description": told}


def last_given(option: str) -> str | None:
    """The value of ``option`` on the command line, before it is parsed: a preset is chosen first, and the rest parsed
    with its values as the defaults, so that an explicit option wins even where it equals the default of defaults."""
    found = None
    for index, word in enumerate(words := sys.argv[1:], start=1):
        if word == option:
            found = words[index] if index < len(words) else None
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def is_given(prefix: str) -> bool:
    """Whether any option of the command line begins with ``prefix``, such as ``--clusters.``."""
    return any(word.startswith(prefix) for word in sys.argv[1:])


@contextmanager
def _wide_frames() -> Iterator[None]:
    """Complaints unwrapped: tyro's frames are as wide as $COLUMNS. Help texts, for people to read, are left alone."""
    before = os.environ.get("COLUMNS")
    if {"-h", "--help", "--help-all"}.isdisjoint(sys.argv[1:]):
        os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def run(main: Callable[[], object]) -> NoReturn:
    """Call ``main`` and leave the process with its exit code; anything that is a bug keeps its traceback.

    ``main`` may return an exit code; any other result counts as success.
    """
    try:
        result = main()
        sys.stdout.flush()
    except SplatsegError as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output left (``| head``). Keep the interpreter from flushing into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        fail(f"{error.filename or 'output'}: {error.strerror}", 2)
    except MemoryError:
        fail("out of memory", 2)
    sys.exit(result if isinstance(result, int) and not isinstance(result, bool) else 0)


def _refused_import(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An import that bad input stops (a stale ``splatseg._C``) comes before :func:`run`, which would say it so."""
    if not isinstance(error, SplatsegError):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    os._exit(2)  # a hook cannot choose the exit code otherwise; nothing is open yet


if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _refused_import


def fail(message: str, code: int) -> NoReturn:
    """Print ``message`` as one line on stderr and leave with ``code``."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)
