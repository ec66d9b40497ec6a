"""Complete commands and options in a shell by the Tab key.

eval "$(splatseg completion bash)"                      in ~/.bashrc
splatseg completion zsh > ~/.zfunc/_splatseg            any folder of $fpath
splatseg completion fish > ~/.config/fish/completions/splatseg.fish
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Literal

import tyro

from splatseg.cli.command import COMMANDS
from splatseg.cli.endings import parse


@dataclass(frozen=True)
class Arguments:
    """Print the completion of a shell."""

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")]
    """bash, zsh or fish."""


def completion(shell: str) -> str:
    """What ``shell`` reads to complete ``splatseg``: tyro's completion, of all commands as one parser."""
    kinds = {name: import_module(f"splatseg.cli.{name}").Arguments for name in COMMANDS}
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(kinds, prog="splatseg", args=["--tyro-print-completion", shell])
    return printed.getvalue()


def main() -> None:
    sys.stdout.write(completion(parse(Arguments, description=__doc__).shell))
