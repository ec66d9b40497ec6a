"""``splatseg COMMAND ...``: the command line that ``pip install`` brings."""

from __future__ import annotations

import sys
from importlib import import_module

import splatseg

COMMANDS = {
    "fit": "fit a segmentable splat to a capture (the main job)",
    "masks": "make the 2D masks of a capture ahead of time",
    "views": "plan and render views of a splat that has no photos",
    "view": "select things by clicking, in the browser",
    "segment": "select things by clicks given on the command line",
    "export": "write a run and its labels in the format of another tool",
    "clean": "write a splat without what hangs in the air",
    "labels": "put labels back onto a splat, or take labels made elsewhere into a run",
    "evaluate": "measure a run against ground truth",
    "synthesize": "make a small capture with exact ground truth",
    "demo": "make a small capture, fit it and measure it",
    "doctor": "say what is installed and works",
    "completion": "complete commands and options in a shell",
}


def usage() -> str:
    """What ``splatseg --help`` says."""
    lines = "\n".join(f"  {name:<12}{about}" for name, about in COMMANDS.items())
    return (
        f"usage: splatseg COMMAND ...\n\n{lines}\n\n"
        "'splatseg COMMAND --help' lists the options of a command,\n"
        "'splatseg COMMAND --help-all' all of its settings, too."
    )


def main() -> None:
    """Run the command that the command line names; exit codes as :mod:`splatseg.cli.endings` says."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"splatseg {splatseg.__version__}")
        sys.exit(0)
    from splatseg.cli.endings import fail, run  # imports torch, which what is told above does not wait for

    if words[0] == "--tyro-print-completion":  # how tyro's own command lines spell it
        words[0] = "completion"
    if words[0] not in COMMANDS:
        fail(f"splatseg: expected one of {', '.join(COMMANDS)}, found '{words[0]}'", 2)
    sys.argv = [f"splatseg {words[0]}", *words[1:]]
    run(import_module(f"splatseg.cli.{words[0]}").main)
