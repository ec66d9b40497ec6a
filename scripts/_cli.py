"""What every command line of this folder ends with: errors a person can act on become one line and an exit code.

Use it as the last lines of a script::

    if __name__ == "__main__":
        run(lambda: tyro.cli(main))

Exit codes: 0 done, 2 bad input or a full disk (also tyro's code for bad arguments), 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from splatseg.errors import SplatsegError

# Conditions of the machine, not bugs of ours: the line the system gives says all there is to say.
MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


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


def fail(message: str, code: int) -> NoReturn:
    """Print ``message`` as one line on stderr and leave with ``code``."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)
