"""The sections of the page of `cas report` about days: lookups and growth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from cas.usage.statistics import Day
from cli.output.quantities import date_text, number_of, signed_text, size_text
from cli.report_page import charts
from cli.report_page.charts import Axis, Series
from cli.report_page.data import Report
from cli.report_page.html import collapsible, percent, table


def lookups(report: Report) -> Iterator[str]:
    """Yield the hits and misses of each day as HTML."""
    days = report.statistics.days
    counts = [day.counts for day in days]
    has_hits = tuple(day.has_hits for day in counts)
    has_misses = tuple(day.has_misses for day in counts)
    mount_hits = tuple(day.mount_hits for day in counts)
    mount_misses = tuple(day.mount_misses for day in counts)
    if not any((*has_hits, *has_misses, *mount_hits, *mount_misses)):
        yield f"<p>There were no lookups in the last {span(days)}.</p>\n"
        return
    yield (
        f"<p>In the last {span(days)}. A hit is a lookup of an artifact that was in the store; a "
        "miss is a lookup of another one.</p>\n"
    )
    yield '<div class="pair">\n'
    for title, hits, misses in (
        ("By <code>cas has</code>", has_hits, has_misses),
        ("For sysroots", mount_hits, mount_misses),
    ):
        rate = _rate(sum(hits), sum(misses))
        titles = [_hits(h, m) if h or m else "" for h, m in zip(hits, misses, strict=True)]
        axis = _axis(days, titles, lambda number: f"{number:,}")
        yield f"<div><h3>{title}: {rate}</h3>\n"
        yield charts.columns(axis, [Series(hits, "first"), Series(misses, "second")], None, rate)
        yield "</div>\n"
    yield "</div>\n" + charts.key([("first", "hits"), ("second", "misses")])


def _hits(hits: int, misses: int) -> str:
    return f"{number_of(hits, 'hit')}, {misses:,} missed"


def _rate(hits: int, misses: int) -> str:
    total = hits + misses
    return f"{percent(hits, total)} of {total:,} were hits" if total else "no lookups"


def growth(report: Report) -> Iterator[str]:
    """Yield the growth of the store by day as HTML."""
    days = report.statistics.days
    put = tuple(day.put_bytes for day in days)
    gone = tuple(day.freed_bytes for day in days)
    if not any(put) and not any(gone):
        yield f"<p>Nothing was stored or removed in the last {span(days)}.</p>\n"
    else:
        sizes = _sizes(days, report.statistics.space.disk)
        titles = [
            f"{size_text(size)} at the end; {day.put:,} stored ({size_text(day.put_bytes)}), "
            f"{day.gone:,} removed ({size_text(day.freed_bytes)} freed)"
            for day, size in zip(days, sizes[1:], strict=True)
        ]
        axis = _axis(days, titles, _short_size)
        grew = f"from {size_text(sizes[0])} to {size_text(sizes[-1])}"
        changes = f"{size_text(sum(put))} stored, {size_text(sum(gone))} freed"
        yield (
            f"<p>In the last {span(days)} {grew}: {changes}. This is computed from the current "
            "size and the log.</p>\n"
        )
        yield f"<h3>On the disk</h3>\n{charts.area(axis, sizes, f'On the disk: {grew}')}"
        yield "<h3>Stored and freed</h3>\n"
        down = Series(gone, "second") if any(gone) else None
        yield charts.columns(axis, [Series(put, "first")], down, changes)
        yield charts.key([("first", "stored"), ("second", "freed")])
    rows = [_day(day) for day in reversed(days) if day != Day(day.day)]
    if rows:
        head = ("Day", "Stored", "Removed", "Growth", "-Lookups", "-Hits", "-Sysroots", "-Damage")
        yield collapsible("Day by day", table(head, rows))


def _sizes(days: Sequence[Day], size: int) -> list[int]:
    """Return the sizes of the store before the first day, and at the end of each day."""
    sizes = [size]
    for day in reversed(days):
        size = max(0, size - day.put_bytes + day.freed_bytes)
        sizes.append(size)
    return sizes[::-1]


def _day(day: Day) -> tuple[str, ...]:
    counts = day.counts
    hits = counts.has_hits + counts.mount_hits
    asked = hits + counts.has_misses + counts.mount_misses
    return (
        date_text(day.day),
        f"{day.put:,}",
        f"{day.gone:,}",
        signed_text(day.put_bytes - day.freed_bytes),
        f"{asked:,}",
        f"{hits:,}",
        f"{counts.overlays:,}",
        f"{day.damaged:,}",
    )


def _axis(days: Sequence[Day], titles: Iterable[str], shown: Callable[[int], str]) -> Axis:
    dates = tuple(date_text(day.day) for day in days)
    dated = (f"{date}: {t}" if t else "" for date, t in zip(dates, titles, strict=True))
    return Axis(dates, tuple(dated), shown)


def span(days: Sequence[Day]) -> str:
    """Return a number of days in words."""
    return "day" if len(days) == 1 else f"{len(days)} days"


def _short_size(size: int) -> str:
    return size_text(size).replace(".0 ", " ") if size else "0"
