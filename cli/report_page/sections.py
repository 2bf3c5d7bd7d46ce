"""The sections of the page of `cas report`, as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cas.disk.counters import DAY_NS
from cas.disk.log import Event, EventKind
from cas.system.text import name_of_user
from cas.usage.statistics import Group
from cli.output.printing import time_of
from cli.output.quantities import date_text, number_of, size_text
from cli.report_page import charts
from cli.report_page.charts import Bar, Cell, Part
from cli.report_page.data import AGES, FATES, Report, age_of
from cli.report_page.html import collapsible, table, text
from cli.report_page.timeline import growth, lookups, span

_MAX_CELLS, _MAX_ROWS, _MAX_BARS, _MAX_OPEN_EVENTS = 60, 25, 15, 12
_MAX_LETTERS = 22  # of a name in a chart
_MIN_SHARED_FRACTION = 1 / 200  # of the group that shares the most, to be shown
_ALARMING = (EventKind.DAMAGED.value, EventKind.LOST.value)
_MIN_CELL_FRACTION = 1 / 500  # of the map


def sections(report: Report) -> Iterator[str]:
    """Yield the sections of a page."""
    for title, section in (
        ("Disk space", _space),
        ("Sharing", _shared),
        ("Last use", _ages),
        ("Lookups", lookups),
        ("Growth", growth),
        ("Events", _events),
    ):
        name = title.lower().replace(" ", "-")
        body = "".join(section(report))
        head = f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n'
        yield f"{head}{body}</section>\n"


def _space(report: Report) -> Iterator[str]:
    groups, (singular, _) = report.groups, _WORDS[report.by]
    total = sum(group.share for group in groups)
    if not total:
        yield "<p>The store is empty: <code>cas put</code> stores the output of tasks.</p>\n"
        return
    if len(groups) == 1:
        yield f"<p>All artifacts belong to one {singular}, {text(groups[0].name)}.</p>\n"
    else:
        yield from _map(report, singular, total)
    rest = groups[_MAX_ROWS:]
    rows = [*groups[:_MAX_ROWS], *([_others(rest)] if rest else [])]
    head = (singular.capitalize(), "Disk", "-Part", "-Artifacts", "-Size of files", "Last use")
    yield collapsible("As a table", table(head, [_row(group, total) for group in rows]))


def _map(report: Report, singular: str, total: int) -> Iterator[str]:
    groups = report.groups
    yield (
        f"<p>Disk space by {singular}. Shared space is divided equally. Fainter colours mean an "
        "earlier last use.</p>\n"
    )
    large = [group for group in groups[:_MAX_CELLS] if group.share >= total * _MIN_CELL_FRACTION]
    cells = [_cell(group, f"age{age_of(group.last_used_ns, report.time_ns)}") for group in large]
    if rest := groups[len(large) :]:
        cells.append(_cell(_others(rest), "others"))
    largest = ", ".join(f"{cell.name} {cell.value}" for cell in cells[:5])
    yield charts.treemap(cells, f"Disk space by {singular}; the largest are {largest}")
    yield charts.key([(f"age{number}", name) for number, (name, _) in enumerate(AGES)])


_WORDS = {
    "recipe": ("recipe", "recipes"),
    "arch": ("architecture", "architectures"),
    "task": ("task", "tasks"),
}


def _others(groups: Sequence[Group]) -> Group:
    """Return small groups as one. Of its disk space, only its share is known."""
    share = sum(group.share for group in groups)
    return Group(
        name=number_of(len(groups), "other"),
        artifacts=sum(group.artifacts for group in groups),
        files=sum(group.files for group in groups),
        logical=sum(group.logical for group in groups),
        disk=share,
        own=share,
        share=share,
        last_used_ns=max(group.last_used_ns for group in groups),
    )


def _cell(group: Group, colour: str) -> Cell:
    size, count = size_text(group.share), number_of(group.artifacts, "artifact")
    last = date_text(group.last_used_ns // DAY_NS)
    title = f"{group.name}: {size}, {count}, last used on {last}"
    return Cell(_shortened(group.name), size, max(1, group.share), title, colour)


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_LETTERS else name[: _MAX_LETTERS - 1] + "…"


def _row(group: Group, total: int) -> tuple[str, ...]:
    return (
        text(group.name),
        size_text(group.share),
        f"{100 * group.share / total:.1f} %",
        f"{group.artifacts:,}",
        size_text(group.logical),
        date_text(group.last_used_ns // DAY_NS),
    )


def _shared(report: Report) -> Iterator[str]:
    singular, plural = _WORDS[report.by]
    size = size_text(report.statistics.saved)
    sharing = sorted(report.groups, key=lambda group: group.own - group.disk)
    sharing = [group for group in sharing if group.disk > group.own]
    if not sharing:
        saved = f"Sharing saves {size} within {plural}. " if report.statistics.saved else ""
        yield f"<p>{saved}No {singular} shares contents with another.</p>\n"
        return
    least = (sharing[0].disk - sharing[0].own) * _MIN_SHARED_FRACTION
    shown = [group for group in sharing[:_MAX_BARS] if group.disk - group.own >= least]
    rest = f" {len(sharing) - len(shown):,} more share less." if len(sharing) > len(shown) else ""
    yield (
        f"<p>Sharing saves {size}, within and between {plural}. The bars show those that "
        f"share the most.{rest}</p>\n"
    )
    yield charts.bars(
        [
            Bar(
                _shortened(group.name),
                (Part(group.own, "first"), Part(group.disk - group.own, "second")),
                f"{size_text(group.disk - group.own)} of {size_text(group.disk)}",
            )
            for group in shown
        ]
    )
    yield charts.key([("first", f"of this {singular} only"), ("second", "shared")])


def _ages(report: Report) -> Iterator[str]:
    if not report.ages:
        yield "<p>The store has no artifacts yet.</p>\n"
        return
    groups = {group.name: group for group in report.ages}
    rows = []
    for age, (name, _) in enumerate(AGES):
        by_fate = [groups.get(f"{age} {fate}") for fate in FATES]
        sizes = [group.share if group else 0 for group in by_fate]
        count = sum(group.artifacts for group in by_fate if group)
        parts = tuple(map(Part, sizes, ("first", "deep", "second")))
        rows.append(Bar(name, parts, _size_and_count(sum(sizes), count)))
    yield f"<p>{_collection(report)}</p>\n"
    yield charts.bars(rows)
    yield charts.key([("first", "kept"), ("deep", "pinned"), ("second", "removed by the next gc")])


def _size_and_count(size: int, count: int) -> str:
    return f"{size_text(size)} in {number_of(count, 'artifact')}" if count else "none"


def _collection(report: Report) -> str:
    pinned = sum(group.artifacts for group in report.ages if group.name.endswith("pinned"))
    kept = f"{number_of(pinned, 'artifact')} {'is' if pinned == 1 else 'are'} pinned. "
    if not pinned:
        kept = "No artifact is pinned. "
    if not report.limited:
        return kept + (
            "The store has no limits, so <code>cas gc</code> removes no artifacts; "
            "<code>cas gc --max-age 30d --dry-run</code> shows the effect of a limit."
        )
    if not report.doomed:
        return kept + "<code>cas gc</code> would remove no artifacts now."
    return kept + (
        f"<code>cas gc</code> would remove {number_of(report.doomed, 'artifact')} now, and free "
        f"{size_text(report.frees)}."
    )


def _events(report: Report) -> Iterator[str]:
    days = report.statistics.days
    damaged = sum(day.damaged for day in days)
    if damaged:
        yield (
            f'<p><span class="alarm">Damage was found {number_of(damaged, "time")}</span> in the '
            f"last {span(days)}; <code>cas verify</code> lists the damage that remains.</p>\n"
        )
    else:
        yield f"<p>No damage was found in the last {span(days)}.</p>\n"
    if not report.events:
        yield "<p>The log has no events other than puts.</p>\n"
        return
    items = [f"<li>{_event(event)}</li>\n" for event in report.events]
    yield f'<ol class="events">\n{"".join(items[:_MAX_OPEN_EVENTS])}</ol>\n'
    if rest := items[_MAX_OPEN_EVENTS:]:
        yield collapsible(
            f"{len(rest)} older events", f'<ol class="events">\n{"".join(rest)}</ol>\n'
        )


def _event(event: Event) -> str:
    time = time_of(event.time_ns)
    kind = "kind alarm" if event.kind in _ALARMING else "kind"
    size = f" {size_text(event.bytes)}" if event.bytes else ""
    about = text(event.id) if event.id else ""
    what = f' <span class="what">{text(event.what)}</span>' if event.what else ""
    return (
        f'<time datetime="{time}">{time[:16].replace("T", " ")}</time>'
        f'<span class="{kind}">{text(event.kind)}{size}</span>'
        f'<span class="by">{text(name_of_user(event.uid))}</span>'
        f'<span class="about">{about}{what}</span>'
    )
