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
from cli.report_page.html import folded, table, text
from cli.report_page.timeline import growth, span, use

_CELLS, _ROWS, _BARS, _EVENTS = 60, 25, 15, 12  # how many are shown
_LETTERS = 22  # of a name in a chart
_LEAST = 200  # of so many parts of the most that is shared, what has to be shared to be told
_ALARMING = (EventKind.DAMAGED.value, EventKind.LOST.value)
_SMALLEST = 500  # of so many parts, what a cell has to be of the map


def sections(report: Report) -> Iterator[str]:
    """Yield the sections of a page."""
    for title, section in (
        ("What takes the space", _space),
        ("What is shared", _shared),
        ("When it was last used", _ages),
        ("What was asked for", use),
        ("How it grew", growth),
        ("What has happened", _events),
    ):
        name = title.lower().replace(" ", "-")
        body = "".join(section(report))
        head = f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n'
        yield f"{head}{body}</section>\n"


def _space(report: Report) -> Iterator[str]:
    groups, (one, _) = report.groups, _WORDS[report.by]
    total = sum(group.share for group in groups)
    if not total:
        yield "<p>The store is empty: <code>cas put</code> stores what tasks have made.</p>\n"
        return
    if len(groups) == 1:
        yield f"<p>All artifacts are of one {one}, {text(groups[0].name)}.</p>\n"
    else:
        yield from _map(report, one, total)
    rows = [*groups[:_ROWS], *([_others(groups[_ROWS:])] if groups[_ROWS:] else [])]
    head = (one.capitalize(), "Disk", "-Part", "-Artifacts", "-Size of files", "Last use")
    yield folded("As a table", table(head, [_row(group, total) for group in rows]))


def _map(report: Report, one: str, total: int) -> Iterator[str]:
    groups = report.groups
    yield (
        f"<p>Disk by {one}. Of what several have, each has an equal part. The fainter the colour, "
        "the longer ago was the last use.</p>\n"
    )
    large = [group for group in groups[:_CELLS] if group.share * _SMALLEST >= total]
    cells = [_cell(group, f"age{age_of(group.last_used_ns, report.time_ns)}") for group in large]
    if rest := groups[len(large) :]:
        cells.append(_cell(_others(rest), "others"))
    largest = ", ".join(f"{cell.name} {cell.value}" for cell in cells[:5])
    yield charts.treemap(cells, f"Disk by {one}; the largest are {largest}")
    yield charts.key([(f"age{number}", name) for number, (name, _) in enumerate(AGES)])


_WORDS = {
    "recipe": ("recipe", "recipes"),
    "arch": ("architecture", "architectures"),
    "task": ("task", "tasks"),
}


def _others(groups: Sequence[Group]) -> Group:
    """Return small groups as one; what they have on the disk but for their shares is not known."""
    artifacts, files, logical, _, _, share = (
        sum(column) for column in zip(*(group[1:7] for group in groups), strict=True)
    )
    last_used_ns = max(group.last_used_ns for group in groups)
    name = number_of(len(groups), "other")
    return Group(name, artifacts, files, logical, share, share, share, last_used_ns)


def _cell(group: Group, colour: str) -> Cell:
    size, count = size_text(group.share), number_of(group.artifacts, "artifact")
    last = date_text(group.last_used_ns // DAY_NS)
    said = f"{group.name}: {size}, {count}, last used on {last}"
    return Cell(_cut(group.name), size, max(1, group.share), said, colour)


def _cut(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"


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
    one, several = _WORDS[report.by]
    size = size_text(report.found.saved)
    sharing = sorted(report.groups, key=lambda group: group.own - group.disk)
    sharing = [group for group in sharing if group.disk > group.own]
    if not sharing:
        saved = f"Sharing saves {size}, all of it within {several}. " if report.found.saved else ""
        yield f"<p>{saved}No {one} has anything in common with another one.</p>\n"
        return
    least = (sharing[0].disk - sharing[0].own) / _LEAST
    shown = [group for group in sharing[:_BARS] if group.disk - group.own >= least]
    rest = f" {len(sharing) - len(shown):,} more share less." if len(sharing) > len(shown) else ""
    yield (
        f"<p>Sharing saves {size}, within and between {several}. Below is what the {several} that "
        f"share the most with others have on the disk.{rest}</p>\n"
    )
    yield charts.bars(
        [
            Bar(
                _cut(group.name),
                (Part(group.own, "first"), Part(group.disk - group.own, "second")),
                f"{size_text(group.disk - group.own)} of {size_text(group.disk)}",
            )
            for group in shown
        ]
    )
    yield charts.key([("first", f"of this {one} only"), ("second", "of others, too")])


def _ages(report: Report) -> Iterator[str]:
    if not report.ages:
        yield "<p>There is nothing yet that could have been used.</p>\n"
        return
    found = {group.name: group for group in report.ages}
    rows = []
    for age, (name, _) in enumerate(AGES):
        fates = [found.get(f"{age} {fate}") for fate in FATES]
        sizes = [group.share if group else 0 for group in fates]
        count = sum(group.artifacts for group in fates if group)
        parts = tuple(map(Part, sizes, ("first", "deep", "second")))
        rows.append(Bar(name, parts, _in(count, sum(sizes))))
    yield f"<p>{_collection(report)}</p>\n"
    yield charts.bars(rows)
    yield charts.key([("first", "stays"), ("deep", "pinned"), ("second", "goes next")])


def _in(count: int, size: int) -> str:
    return f"{size_text(size)} in {number_of(count, 'artifact')}" if count else "none"


def _collection(report: Report) -> str:
    pinned = sum(group.artifacts for group in report.ages if group.name.endswith("pinned"))
    kept = f"{number_of(pinned, 'artifact')} {'is' if pinned == 1 else 'are'} pinned. "
    if not pinned:
        kept = "Nothing is pinned. "
    if not report.limited:
        return kept + (
            "As the store is configured <code>cas gc</code> lets none go; "
            "<code>cas gc --max-age 30d --dry-run</code> tells what a limit would do."
        )
    if not report.doomed:
        return kept + "<code>cas gc</code> would let none go now."
    return kept + (
        f"<code>cas gc</code> would let {number_of(report.doomed, 'artifact')} go now, and free "
        f"{size_text(report.frees)}."
    )


def _events(report: Report) -> Iterator[str]:
    days = report.found.days
    damaged = sum(day.damaged for day in days)
    if damaged:
        yield (
            f'<p><span class="alarm">Damage was found {number_of(damaged, "time")}</span> in the '
            f"last {span(days)}; <code>cas verify</code> tells what is wrong now.</p>\n"
        )
    else:
        yield f"<p>No damage was found in the last {span(days)}.</p>\n"
    if not report.events:
        yield "<p>But for puts, nothing is in the log.</p>\n"
        return
    items = [f"<li>{_event(event)}</li>\n" for event in report.events]
    yield f'<ol class="events">\n{"".join(items[:_EVENTS])}</ol>\n'
    if rest := items[_EVENTS:]:
        yield folded(f"{len(rest)} older ones", f'<ol class="events">\n{"".join(rest)}</ol>\n')


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
        f'<span class="told">{about}{what}</span>'
    )
