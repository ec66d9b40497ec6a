"""GaussForge in a process of its own: it reads files of strangers in C++, and what it aborts stays there.

Started by :mod:`splatseg.io.splats` as a script. On stdin a line of JSON, ``{"from": ..., "to": ..., "parent": ...,
"memory": ...}``, then the bytes of a file; on stdout a line of JSON, ``{}`` or ``{"error": ...}``, then the bytes of
the other file. ``memory`` are the bytes that may be taken above what the process has: a forged count ends it, not the
machine. Imports nothing of splatseg.
"""

import ctypes
import json
import os
import signal
import sys

import gaussforge

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def limit_memory(more: int) -> None:
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = now + more if most == resource.RLIM_INFINITY else min(now + more, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints must not get between
    request = json.loads(sys.stdin.buffer.readline())
    if sys.platform == "linux":  # ends with the process that asked
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request["parent"]:
        sys.exit(1)
    try:
        content = sys.stdin.buffer.read()
        limit_memory(request["memory"])
        result = gaussforge.GaussForge().convert(content, request["from"], request["to"])
    except Exception as error:  # whatever it is, the other process says it
        result = {"error": str(error) or type(error).__name__}
    told = {"error": str(result["error"]).strip().split("\n")[0]} if "error" in result else {}
    answers.write(json.dumps(told).encode() + b"\n")
    answers.write(result.get("data", b""))
    answers.flush()


if __name__ == "__main__":
    main()
