"""Formats of single tensors, as options of a pass spell them: ``BITS/BLOCK:PATTERN``.

``3/64:encoder.layer.0.*`` stores every tensor of such a name with 3 bits in blocks of 64; without ``/BLOCK`` the pass's
own block stays. ``32:PATTERN`` leaves tensors float. Patterns are those of a shell (``*``, ``?``, ``[...]``), or a name
as it is; of several entries for a tensor the first counts. ``BITS/BLOCK@START-STOP:PATTERN`` is for rows START to STOP
(not included) of a table: where the first entry for a table has rows, all those for it that have some apply together.
``@WIDTHS:PATTERN`` gives every row of a table a width of its own (`bct_onnx.quant.mixed`): ``@6(20)31:NAME``.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Sequence

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.quant import mixed
from bct_onnx.quant.scheme import Scheme

FLOAT = 32
"""Bits of an entry whose tensors stay float."""

_ENTRY = re.compile(r"(?P<bits>\d+)(?:/(?P<block>\d+(?:x\d+)?))?(?:@(?P<start>\d+)-(?P<stop>\d+))?:(?P<pattern>.+)")
_WIDTHS = re.compile(r"@(?P<widths>[\d()]+):(?P<pattern>.+)")


@dataclasses.dataclass(frozen=True)
class Format:
    """One entry.

    Attributes:
        text: The entry as it was given.
        pattern: Of the names it is for.
        scheme: How they are stored; None leaves them float.
        rows: The rows of a table that it is for, from and to (not included); None for whole tensors.
        widths: Of each row of a table, a byte for each; empty where rows have the scheme.
    """

    text: str
    pattern: str
    scheme: Scheme | None
    rows: tuple[int, int] | None = None
    widths: bytes = b""

    def matches(self, *names: str | None) -> bool:
        """Whether one of the names is the pattern's."""
        return any(name and (name == self.pattern or fnmatch.fnmatchcase(name, self.pattern)) for name in names)


class Formats:
    """The formats of a pass: what it stores a tensor of some name as.

    Args:
        entries: Texts as above.
        default: The pass's own scheme, which the entries change.

    Raises:
        UsageError: An entry is none, or its scheme is not allowed.

    >>> formats = Formats(["32:head", "3/64:layer.0.*"], Scheme(4, 32))
    >>> print(formats.of("layer.0.q"), formats.of("layer.1.q"), formats.of("head"), sep=", ")
    int3 b64 two-level, int4 b32 two-level, None
    """

    def __init__(self, entries: Sequence[str], default: Scheme) -> None:
        self.default = default
        self.entries = tuple(_read(entry, default) for entry in entries)
        self._unused = dict.fromkeys(self.entries)

    def find(self, *names: str | None) -> Format | None:
        """The first entry for a tensor that goes by any of these names; None where there is none."""
        found = next((entry for entry in self.entries if entry.matches(*names)), None)
        if found is not None:
            self._unused.pop(found, None)
        return found

    def of(self, *names: str | None) -> Scheme | None:
        """The scheme of a tensor that goes by any of these names; None if it stays float."""
        found = self.find(*names)
        if found is None:
            return self.default
        return found.scheme

    def parts(self, name: str, count: int) -> list[tuple[slice, Scheme]]:
        """The ranges of rows of a table of ``count`` rows, in order, and their schemes; none if it stays float.

        Raises:
            UsageError: The entries do not have every row once.
        """
        first = self.find(name)
        if first is None or first.rows is None:
            whole = self.default if first is None else first.scheme
            if whole is None:
                return []
            return [(slice(0, count), whole)]
        entries: dict[tuple[int, int], Format] = {}
        for one in self.entries:
            if one.rows is not None and one.matches(name) and entries.setdefault(one.rows, one) is one:
                self._unused.pop(one, None)
        ranges = sorted(entries)
        if [0, *(stop for _, stop in ranges)] != [*(start for start, _ in ranges), count]:
            text = " ".join(f"{start}-{stop}" for start, stop in ranges)
            fix = f"give ranges that follow one another from 0 to {count}"
            raise UsageError(f"formats of table '{name}' do not have each of its {count} rows once: {text}", fix=fix)
        return [(slice(*rows), scheme) for rows in ranges if (scheme := entries[rows].scheme) is not None]

    def widths(self, name: str, count: int) -> mixed.Widths | None:
        """The width of each row of a table of ``count`` rows; None where its rows have none of their own.

        Raises:
            UsageError: The entry is for another number of rows.
        """
        entry = self.find(name)
        if entry is None or not entry.widths:
            return None
        if len(entry.widths) != count:
            what = f"formats of table '{name}' are for {len(entry.widths)} rows, and it has {count}"
            raise UsageError(what, fix="make the plan anew for this model")
        return np.frombuffer(entry.widths, np.uint8)

    @property
    def unused(self) -> tuple[str, ...]:
        """Entries that no name so far was for."""
        return tuple(entry.text for entry in self._unused)


def _read(entry: str, default: Scheme) -> Format:
    own = _WIDTHS.fullmatch(entry)
    if own is not None:
        return Format(entry, own["pattern"], default, widths=mixed.parse_widths(own["widths"]).tobytes())
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise UsageError(f"'{entry}' is no format", fix="write BITS/BLOCK:PATTERN, such as 3/64:encoder.layer.0.*")
    bits, block, pattern, start, stop = match.group("bits", "block", "pattern", "start", "stop")
    rows = None if start is None else (int(start), int(stop))
    if rows is not None and (rows[0] >= rows[1] or int(bits) == FLOAT):
        raise UsageError(f"format '{entry}': no rows, or rows that stay float", fix="write 4/32@0-4096:NAME")
    if int(bits) == FLOAT:
        return Format(entry, pattern, None)
    sides = tuple(map(int, block.split("x"))) if block else ()
    shape = default.block
    if sides:
        shape = sides[0] if len(sides) == 1 else (sides[0], sides[1])
    try:
        return Format(entry, pattern, dataclasses.replace(default, bits=int(bits), block=shape), rows)
    except UsageError as error:
        raise UsageError(f"format '{entry}': {error.what}", fix=error.fix) from error
