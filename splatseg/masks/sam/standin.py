"""Imports of a package go through without it: modules of ours take its place for the length of a block."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextmanager
def real_or_standin(
    needed: Sequence[str], contents: Mapping[str, Mapping[str, object]], also_dropped: Sequence[str] = ()
) -> Iterator[bool]:
    """Within the block the modules of one package can be imported: the real ones where they import, else stand-ins.

    The stand-ins are taken out of ``sys.modules`` afterwards, so that nobody else takes them for the real package.

    Args:
        needed: modules that must import for the real package to be used.
        contents: the stand-in: names in each module; parents first, the first is the package itself.
        also_dropped: other packages whose half-imported modules go with those of a package that does not import.

    Yields:
        True if it is the real one.
    """
    package = next(iter(contents))
    if _all_import(needed, (package, *also_dropped)):
        yield True
        return
    modules = _modules(contents)
    saved = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield False
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(saved)


def _all_import(names: Sequence[str], packages: Sequence[str]) -> bool:
    before = set(sys.modules)
    try:
        for name in names:
            importlib.import_module(name)
    except (ImportError, RuntimeError, OSError, AttributeError):  # one built for another torch raises any of these
        for name in set(sys.modules) - before:
            if name.split(".")[0] in packages:
                del sys.modules[name]
        return False
    return True


def _modules(contents: Mapping[str, Mapping[str, object]]) -> dict[str, ModuleType]:
    """The stand-in modules by name, linked as packages."""
    modules: dict[str, ModuleType] = {}
    for name, members in contents.items():
        module = modules[name] = ModuleType(name, "Stand-in of splatseg; see splatseg.masks.sam.standin.")
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        module.__dict__.update(members)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    return modules
