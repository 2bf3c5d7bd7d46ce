"""The sections of the page of `cas report` that go by days: what was asked for, and growth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from cas.usage.statistics import Day
from cli.output.quantities import date_text, number_of, signed_text, size_text
from cli.report_page import charts
from cli.report_page.charts import Axis, Series
from cli.report_page.data import Report
from cli.report_page.html import folded, percent, table


def use(report: Report) -> Iterator[str]:
    """Yield what was asked for, and was there or not."""
    days = report.found.days
    counts = [day.counts for day in days]
    if not any(any(of_day[:4]) for of_day in counts):
        yield f"<p>Nobody has asked for anything in the last {span(days)}.</p>\n"
        return
    yield (
        f"<p>In the last {span(days)}. A hit is an artifact that was there when it was asked for, "
        "a miss one that was not.</p>\n"
    )
    yield '<div class="pair">\n'
    for title, hits, misses in (
        ("By <code>cas has</code>", *_of(counts, 0)),
        ("For sysroots", *_of(counts, 2)),
    ):
        said = _rate(sum(hits), sum(misses))
        titles = [_hits(h, m) if h or m else "" for h, m in zip(hits, misses, strict=True)]
        axis = _axis(days, titles, lambda number: f"{number:,}")
        yield f"<div><h3>{title}: {said}</h3>\n"
        yield charts.columns(axis, [Series(hits, "first"), Series(misses, "second")], None, said)
        yield "</div>\n"
    yield "</div>\n" + charts.key([("first", "hits"), ("second", "misses")])


def _of(counts: Sequence[tuple[int, ...]], at: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(of_day[at] for of_day in counts), tuple(of_day[at + 1] for of_day in counts)


def _hits(hits: int, misses: int) -> str:
    return f"{number_of(hits, 'hit')}, {misses:,} missed"


def _rate(hits: int, misses: int) -> str:
    asked = hits + misses
    return f"{percent(hits, asked)} of {asked:,} were there" if asked else "nothing was asked for"


def growth(report: Report) -> Iterator[str]:
    """Yield how the store grew."""
    days = report.found.days
    put = tuple(day.put_bytes for day in days)
    gone = tuple(day.freed_bytes for day in days)
    if not any(put) and not any(gone):
        yield f"<p>Nothing was put or removed in the last {span(days)}.</p>\n"
    else:
        sizes = _sizes(days, report.found.space.disk)
        titles = [
            f"{size_text(size)} in the end; {day.put:,} put ({size_text(day.put_bytes)}), "
            f"{day.gone:,} gone ({size_text(day.freed_bytes)} came back)"
            for day, size in zip(days, sizes[1:], strict=True)
        ]
        axis = _axis(days, titles, _short_size)
        grew = f"from {size_text(sizes[0])} to {size_text(sizes[-1])}"
        moved = f"{size_text(sum(put))} were put, {size_text(sum(gone))} came back"
        yield (
            f"<p>In the last {span(days)} {grew}: {moved}. That is worked out from the size now, "
            "and the log.</p>\n"
        )
        yield f"<h3>On the disk</h3>\n{charts.area(axis, sizes, f'On the disk: {grew}')}"
        yield "<h3>Put, and come back</h3>\n"
        down = Series(gone, "second") if any(gone) else None
        yield charts.columns(axis, [Series(put, "first")], down, moved)
        yield charts.key([("first", "put"), ("second", "came back")])
    rows = [_day(day) for day in reversed(days) if any(day.counts) or any(day[2:])]
    if rows:
        head = ("Day", "Put", "Gone", "Grew", "-Asked for", "-Hits", "-Sysroots", "-Damaged")
        yield folded("Day by day", table(head, rows))


def _sizes(days: Sequence[Day], size: int) -> list[int]:
    """Return what the store took before the first day, and at the end of each."""
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
    said = (f"{date}: {t}" if t else "" for date, t in zip(dates, titles, strict=True))
    return Axis(dates, tuple(said), shown)


def span(days: Sequence[Day]) -> str:
    """Return how long so many days are, in words."""
    return "day" if len(days) == 1 else f"{len(days)} days"


def _short_size(size: int) -> str:
    return size_text(size).replace(".0 ", " ") if size else "0"
