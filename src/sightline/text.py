"""Numbers and names as people read them in a terminal."""

import json
from collections.abc import Mapping


def count(number: int, noun: str) -> str:
    """`1 picture`, `7,091 pictures`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """`0.4 s`, `2 min 5 s`, `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(size_bytes: float) -> str:
    """`640 kB`, `1.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size_bytes < 1000 or unit == "TB":
            break
        size_bytes /= 1000
    return f"{size_bytes:.0f} {unit}" if size_bytes >= 10 or unit == "bytes" else f"{size_bytes:.1f} {unit}"


def printable(text: str) -> str:
    """Text that any terminal can show on one line: control characters and undecodable bytes become escapes."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def table(rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Rows in aligned columns, two spaces apart; the columns in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def left_out_text(left_out: Mapping[str, int], most: int = 6) -> str:
    """`{".cr2": 12, ".psd": 3}` -> `12 .cr2, 3 .psd`, the most frequent first."""
    ordered = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [
        f"{number:,} {'without a suffix' if suffix == 'no suffix' else printable(suffix)}"
        for suffix, number in ordered[:most]
    ]
    rest = sum(number for _, number in ordered[most:])
    return ", ".join([*parts, *([f"{rest:,} of other kinds"] if rest else [])])
