"""What ``ptxas -v`` says of each kernel, as a table: registers, the warps they allow, spills, stack, shared memory."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- kernels: by cuda_ext/compile_check.py --table -->", "<!-- kernels: end -->"
ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture. Bytes are per thread, ``shared`` (static alone) per block."""

    name: str
    registers: int
    stack: int
    spills: int
    shared: int

    @property
    def warps(self) -> int:
        """Warps of a multiprocessor's 64 that its 65,536 registers suffice for (dealt by 256 to a warp, to 4 warps)."""
        of_a_warp = -(-self.registers * 32 // 256) * 256
        return min(64, 65536 // of_a_warp // 4 * 4)

    @property
    def must_not_spill(self) -> bool:
        """Whether a fit runs it: float32, and channels that have a kernel of their own up to 32 (0: any number)."""
        return "double" not in self.name and not re.search(r"loss_tiles<float, (0|64)\b", self.name)


def read_kernels(text: str, architecture: int) -> list[Kernel]:
    """Kernels of ``sm_<architecture>`` in the output of ``nvcc -Xptxas -v``, each once, by name."""
    found: dict[str, Kernel] = {}
    name, frame = "", (0, 0, 0)
    for line in text.splitlines():
        if entry := ENTRY.search(line):
            name = entry[1] if int(entry[2]) == architecture else ""
        elif spills := SPILLS.search(line):
            frame = (int(spills[1]), int(spills[2]), int(spills[3]))
        elif name and (used := USED.search(line)):
            found[name] = Kernel(name, int(used[1]), frame[0], frame[1] + frame[2], int(used[2] or 0))
            name = ""
    return sorted(demangled(list(found.values())), key=lambda kernel: kernel.name)


def demangled(kernels: list[Kernel]) -> list[Kernel]:
    """With names as in the sources, without namespace and arguments; as they are where there is no ``c++filt``."""
    mangled = "\n".join(kernel.name for kernel in kernels)
    try:
        run = subprocess.run(["c++filt"], input=mangled, capture_output=True, text=True, check=True)
    except OSError:
        return kernels
    names = [short_name(line) for line in run.stdout.splitlines()]
    return [Kernel(n, k.registers, k.stack, k.spills, k.shared) for n, k in zip(names, kernels, strict=True)]


def short_name(declaration: str) -> str:
    """``void splatseg::cuda::blend_rows<float, float, 4, 2>(splatseg::..)`` -> ``blend_rows<float, float, 4, 2>``."""
    text = re.sub(r"^void ", "", declaration).replace("splatseg::cuda::", "")
    text = re.sub(r"\((?:int|bool|long)\)", "", text).replace("> >", ">>")
    depth = 0
    for place, letter in enumerate(text):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return text[:place]
    return text


def table(kernels: list[Kernel]) -> str:
    """A Markdown table, one kernel per row."""
    rows = [
        "| kernel | registers | warps of 64 | spilled, bytes | stack, bytes | static shared, bytes |",
        "|---|---|---|---|---|---|",
    ]
    rows += [f"| `{k.name}` | {k.registers} | {k.warps} | {k.spills} | {k.stack} | {k.shared} |" for k in kernels]
    return "\n".join(rows)


def write_table(path: Path, kernels: list[Kernel]) -> None:
    """Put the table between the two marks of ``path``.

    Raises:
        ValueError: the file lacks the marks.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path}: expected one '{BEGIN}' before one '{END}'")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{table(kernels)}\n{END}{after}", encoding="utf-8")
