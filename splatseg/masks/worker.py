"""A process that finds masks for another: ``python -m splatseg.masks.worker`` (:mod:`splatseg.masks.workers`).

Reads pickles from its standard input, first a mask source, then views one at a time, and answers each view with a
pickled ``MaskSet`` or ``SplatsegError`` on its standard output. Ends with its input, as when the other is killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys

from splatseg.core.errors import SplatsegError
from splatseg.masks.mask_set import MaskSet


def serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the other one ends this one
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints does not end up among the answers
    questions = sys.stdin.buffer
    try:
        source = pickle.load(questions)
        while True:
            view = pickle.load(questions)
            answer: MaskSet | SplatsegError
            try:
                answer = source.masks(view)
            except SplatsegError as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()
    except (EOFError, BrokenPipeError):
        pass  # nobody asks any more


if __name__ == "__main__":
    serve()
