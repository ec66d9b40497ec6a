"""How tyro takes numbers from words, so that its complaint says in plain English what was expected and what was found.

tyro's own for these types quotes Python: "no type matching {None}|INT could be instantiated from ['two']".
"""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

REGISTRY = ConstructorRegistry()
_NONE = "None"  # how tyro has it on a command line
_KINDS = {int: ("whole number", "INT"), float: ("number", "FLOAT")}


@dataclass(frozen=True)
class Numbers:
    """``int`` or ``float``, tuples of either, and each of these ``| None``, between words and values."""

    kind: type
    many: bool = False  # a tuple
    count: int | None = 1  # None: any
    optional: bool = False

    @classmethod
    def of(cls, annotation: Any) -> Numbers | None:
        """What ``annotation`` says; None where it is of other things."""
        optional = get_origin(annotation) in (Union, UnionType)
        kinds = [part for part in get_args(annotation) if part is not NoneType] if optional else [annotation]
        many = get_origin(kinds[0]) is tuple
        parts = get_args(kinds[0]) if many else (kinds[0],)
        count = None if parts[1:] == (...,) else len(parts)
        if len(kinds) > 1 or parts[0] not in _KINDS or (count and set(parts) != {parts[0]}):
            return None
        return cls(parts[0], many, count, optional)

    def read(self, words: list[str]) -> Any:
        """The value; raises ValueError, which tyro says after the option's name."""
        if self.optional and words == [_NONE]:
            return None
        try:
            values = tuple(self.kind(word) for word in words)
        except ValueError:
            values = ()
        if len(values) != (len(words) if self.count is None else self.count):
            raise ValueError(f"expected {self.expected}, found '{' '.join(words)}'")
        return values if self.many else values[0]

    @property
    def expected(self) -> str:
        name = _KINDS[self.kind][0]
        return f"{name}s" if self.count is None else f"a {name}" if self.count == 1 else f"{self.count} {name}s"

    @property
    def metavar(self) -> str:
        name = _KINDS[self.kind][1]
        return f"[{name} [{name} ...]]" if self.count is None else " ".join([name] * self.count)

    def words(self, value: Any) -> list[str]:
        return [_NONE] if value is None else [str(part) for part in (value if self.many else (value,))]

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.optional
        parts = value if self.many else (value,)
        return all(isinstance(part, (int, self.kind)) for part in parts)


@REGISTRY.primitive_rule
def numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Of what :class:`Numbers` knows; None leaves a type to tyro."""
    of = Numbers.of(info.type)
    if of is None:
        return None
    nargs: Any = "*" if of.count is None else (1, of.count) if of.optional and of.count > 1 else of.count
    return PrimitiveConstructorSpec(nargs, of.metavar, of.read, of.holds, of.words)
