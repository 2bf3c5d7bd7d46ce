"""Quantities on the command line: durations, dates and sizes, parsed and printed."""

from __future__ import annotations

import re
import time

import click

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONG = (("year", 365 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60))
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_AMOUNT = re.compile(r"([0-9]{1,15})([A-Za-z]*)")


def age(text: str) -> int:
    """Parse a duration such as `30d`; return nanoseconds. Raises click.BadParameter."""
    match = _AMOUNT.fullmatch(text)
    if match is None or match[2] not in _SECONDS:
        raise click.BadParameter(f"{text!r} is not a number followed by s, m, h, d or w")
    return int(match[1]) * _SECONDS[match[2]] * 10**9


def seconds(text: str) -> float:
    """Parse a number of seconds, from 0.1 to a million. Raises click.BadParameter."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0.1 <= number <= 1e6:
        raise click.BadParameter(f"{text!r} is not a number of seconds from 0.1 to 1000000")
    return number


def size(text: str) -> int:
    """Parse a size such as `50G`, in units of 1024; return bytes. Raises click.BadParameter."""
    match = _AMOUNT.fullmatch(text)
    unit = "" if match is None else match[2].upper().removesuffix("B").removesuffix("I")
    if match is None or unit not in _BYTES:
        raise click.BadParameter(f"{text!r} is not a size, such as 500M, 50G or 2T")
    return int(match[1]) * _BYTES[unit]


def span_text(nanoseconds: int) -> str:
    """Return a duration for people."""
    seconds = nanoseconds / 1e9
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def ago_text(moment_ns: int, now_ns: int | None = None) -> str:
    """Return a time, in nanoseconds since 1970, relative to now for people."""
    past = ((time.time_ns() if now_ns is None else now_ns) - moment_ns) // 10**9
    amount, unit = abs(past), "second"
    if amount < _SECONDS["m"]:
        return "just now"
    for name, seconds in _LONG:
        if amount >= seconds:
            amount, unit = amount // seconds, name
            break
    text = f"{amount} {unit}{'' if amount == 1 else 's'}"
    return f"{text} ago" if past > 0 else f"in {text}"


def number_of(count: int, thing: str) -> str:
    """Return a count and a noun with a regular plural, such as `1,200 files`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def size_text(size: int) -> str:
    """Return a number of bytes for people, in units of 1024."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if round(amount, 1) < 1024:
            return f"{size} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def signed_text(size: int) -> str:
    """Return a number of bytes, maybe negative, for people."""
    return f"-{size_text(-size)}" if size < 0 else size_text(size)


def date_text(day: int) -> str:
    """Return a day, in days since 1970 (UTC), as a date."""
    return time.strftime("%Y-%m-%d", time.gmtime(day * 86400))
