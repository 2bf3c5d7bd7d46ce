"""`cas report`: the page is complete and true, and a real browser renders it well."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, strategies as st

from cas.disk.counters import DAY_NS, Counts
from cas.disk.log import Event
from cas.store import Store
from cas.usage.space import Space
from cas.usage.statistics import Day, Group, Statistics
from cli.output.quantities import size_text
from cli.report_page.charts import TALL, WIDE, nice
from cli.report_page.data import Report
from cli.report_page.page import page
from cli.report_page.treemap import Box, squarified
from tests.helpers.browser import Browser, browser, find_browser
from tests.helpers.support import ROOT, Cas, make

HOSTILE = """<script>alert("1")</script>&amp;'<img src=http:x>"""
HEADINGS = (
    "Disk space",
    "Sharing",
    "Last use",
    "Lookups",
    "Growth",
    "Events",
)
_OS = Path("/etc/os-release")
PHONE, DESKTOP = (360, 740), (1280, 900)
STYLE = (Path(__file__).parents[2] / "cli/report_page/page.css").read_text()
IN_BROWSER = pytest.mark.xdist_group("browser")
"""One process has the browser, and the pages that it shows."""


def _tree(root: Path, size: int, **more: bytes) -> Path:
    make(root, {"usr/include/common.h": "common\n" * 9000})
    (root / "content").write_bytes(os.urandom(size))
    for name, content in more.items():
        (root / name).write_bytes(content)
    return root


def _lived_in(cas: Cas, work: Path) -> None:
    """Make a store that has been used for months, with some damage."""
    now = time.time_ns()
    for number in range(14):
        tree = _tree(work / f"tree{number}", 1 << (10 + number))
        name = f"recipe{'-of-a-long-name' * (number % 3)}{number}:core2-64:do_x:{number:08}"
        when = now - number**2 * DAY_NS
        with mock.patch("time.time_ns", return_value=when), Store(cas.store, create=True) as store:
            store.put(name, tree)
            link = cas.store / "artifacts" / name.partition(":")[0] / name.partition(":")[2]
            os.utime(link, ns=(when, when), follow_symlinks=False)
    made = (now - 200 * DAY_NS) // 10**6 * 10**6 + 700_007  # see docs/format.md
    os.utime(cas.store / "format", ns=(made, made))
    (cas.store / "config.toml").write_text('[gc]\nmax_age = "100d"\n')
    hostile = make(work / "hostile", {HOSTILE.replace("/", "|"): "x"})
    cas("put", "hostile:do_x:00000099", hostile)
    cas("has", "hostile:do_x:00000099")
    cas("has", "absent:do_x:00000099", code=3)
    cas("mount", "sysroot", "recipe0", "hostile")
    cas("umount", "sysroot")
    cas("pin", "recipe0", "--reason", HOSTILE)
    cas("rm", "recipe3")
    layer = cas.json("show", "hostile")["layer"]
    (Path(layer) / HOSTILE.replace("/", "|")).unlink()
    cas("verify", code=6)


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Cas:
    """A store that has been used for months."""
    work = tmp_path_factory.mktemp("report")
    cas = Cas(work / "store", work)
    _lived_in(cas, work)
    return cas


def _report(recipes: int, days: int) -> Report:
    """Return the data of a page with text that needs escaping everywhere."""
    now = time.time_ns()
    groups = [
        Group(
            f"{number:0100}", 3, 1000, 10**9 // (number + 1), 10**9 // (number + 1),
            10**8 // (number + 1), 10**9 // (number + 2), now - number * DAY_NS,
        )
        for number in range(recipes)
    ]  # fmt: skip
    first = now // DAY_NS - days + 1
    counts = Counts(10**6, 10**5, 10**7, 10**4, 10**5, 10**10)
    history = tuple(Day(first + day, counts, 100, 10**11, 100, 10**10, 9) for day in range(days))
    events = [Event(now, "damaged", 0, "&" * 1000, what='"&<' * 1000)] * 50
    space = Space(10**13, 10**8, 10**13)
    found = Statistics(10**6, 10**6, 10**9, 10**14, space, counts, history)
    ages = [groups[0]._replace(name=f"{age} stays") for age in range(5)] if groups else []
    return Report(b"/" + b"<" * 500, now, "recipe", found, groups, ages, 9, 10**9, True, events)


@pytest.fixture(scope="module")
def pages(lived_in: Cas) -> dict[str, Path]:
    """Pages of a store that was used, of an empty one, of a small one, and of one that is full."""
    directory = lived_in.directory
    written = {name: directory / f"{name}.html" for name in ("lived-in", "empty", "small", "full")}
    lived_in("report", written["lived-in"])
    other = Cas(directory / "other", directory)
    other("init")
    other("report", written["empty"])
    other("put", "small:do_x:12345678", _tree(directory / "small", 5000))
    other("report", written["small"], "--days", "1", "--by", "task")
    written["full"].write_text(page(_report(3000, 400)))
    return written


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; Ubuntu has none as a package, and so may have none."""
    if find_browser() is None and re.search("^ID.*ubuntu", _OS.read_text(), re.MULTILINE):
        pytest.skip("there is no browser")
    with browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60), st.floats(0.3, 3))
def test_treemap_areas_are_proportional_and_disjoint(sizes: list[int], width: float) -> None:
    boxes = list(squarified(sizes, Box(1, 2, width, 1)))

    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(width * size / sum(sizes), rel=1e-6)
        assert box.x >= 1 - 1e-9
        assert box.x + box.width <= 1 + width + 1e-9
        assert box.y >= 2 - 1e-9
        assert box.y + box.height <= 3 + 1e-9
    for one, other in itertools.combinations(boxes, 2):
        across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
        down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
        assert min(across, down) < 1e-9


def test_treemap_matches_the_published_example() -> None:
    boxes = list(squarified([6, 6, 4, 3, 2, 2, 1], Box(0, 0, 6, 4)))

    assert [(round(b.width, 2), round(b.height, 2)) for b in boxes] == [
        (3, 2), (3, 2), (1.71, 2.33), (1.29, 2.33), (1.2, 1.67), (1.2, 1.67), (0.6, 1.67)
    ]  # fmt: skip


@given(st.integers(0, 10**15), st.booleans())
def test_axis_ends_at_a_round_number_with_room(most: int, decimal: bool) -> None:
    top = nice(most, decimal)

    assert most <= top <= max(1, 2 * most)
    text = f"{top:,}" if decimal else size_text(top)
    assert len(text.replace(",000", "").replace(".0 ", " ").split()[0]) <= 4, text


def _variables(style: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", style))


_LIGHT, _DARK = (
    _variables(part) for part in STYLE.split("* {")[0].split("@media (prefers-color-scheme: dark)")
)


def _contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 has it."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colours", [_LIGHT, _DARK], ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_for(colours: dict[str, str]) -> None:
    assert colours.keys() == _LIGHT.keys()
    texts = [(text, on) for text in ("text", "muted", "accent", "bad") for on in ("card", "ground")]
    texts += [(name, name.removeprefix("on-")) for name in colours if name.startswith("on-")]
    for text, ground in texts:
        assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for drawn in ("accent", "second", "deep"):
        assert _contrast(colours[drawn], colours["card"]) >= 3, drawn


def test_report_agrees_with_stats_and_log(lived_in: Cas, pages: dict[str, Path]) -> None:
    said = pages["lived-in"].read_text()
    stats = lived_in.json("stats", "--by", "recipe")

    for size in (stats["bytes"], stats["saved_bytes"], stats["gc_frees_bytes"]):
        assert f'<dd class="figure">{size_text(size)}</dd>' in said
    assert f'<dd class="figure">{stats["artifacts"]}</dd>' in said
    total = sum(group["share_bytes"] for group in stats["groups"])
    small = [group for group in stats["groups"] if group["share_bytes"] * 500 < total]
    assert f">{len(small)} others</b>" in said
    for group in stats["groups"]:
        named = f"{group['name']}: {size_text(group['share_bytes'])}, 1 artifact"
        assert (named in said) == (group not in small)
        assert f"<td>{group['name']}</td><td>{size_text(group['share_bytes'])}</td>" in said
    assert re.search(f"days from .* to {size_text(stats['disk_bytes'])}: ", said)
    assert "1 artifact is pinned." in said
    doomed = lived_in.json("gc", "--dry-run")["would_remove"]
    assert f"would remove {len(doomed)} artifacts now" in said
    assert "50 % of 2 were hits" in said
    assert "100 % of 2 were hits" in said
    assert "Damage was found 1 time</span>" in said
    for event in lived_in.json("log"):
        assert event["event"] == "put" or f">{event['event']}" in said
        assert event["event"] == "put" or event["id"] is None or event["id"] in said


def test_user_text_is_escaped(pages: dict[str, Path]) -> None:
    said = pages["lived-in"].read_text()

    assert said.count("&lt;script&gt;") >= 2  # of the damaged path, and the reason of the pin
    assert not re.search(r"<(script|img|link|iframe|object)|\bon\w+=|javascript:", said)
    outside = set(re.findall(r"\w+://[^\s\"<]*|url\(|@import", said))
    assert outside == set()


def test_report_stays_small_for_a_large_store() -> None:
    for recipes, days in ((0, 1), (1, 1), (5, 7), (3000, 400)):
        assert len(page(_report(recipes, days)).encode()) < 300_000


def test_empty_section_has_a_sentence(pages: dict[str, Path]) -> None:
    empty, small = pages["empty"].read_text(), pages["small"].read_text()

    for sentence in (
        "The store is empty:",
        "No recipe shares contents",
        "The store has no artifacts yet.",
        "There were no lookups in the last day.",
        "Nothing was stored or removed in the last day.",
        "No damage was found in the last day.",
        "The log has no events other than puts.",
    ):
        assert sentence in empty
    assert "<svg" not in empty
    assert "No task shares contents" in small
    assert "All artifacts belong to one task, do_x." in small
    assert "No artifact is pinned." in small
    assert "in the last day." in small
    assert small.count("<svg") == 2  # of growth


def test_report_file_is_replaced_atomically(cas: Cas, work: Path) -> None:
    cas("init")
    (work / "pages").mkdir()
    path = work / "pages/store.html"
    (work / "link.html").symlink_to(path)
    assert cas("report", path).stdout == f"written to {path}\n"
    path.write_text("old")
    wrapped = Cas(cas.store, work, ("sh", "-c", 'ulimit -f 2; exec "$@"', "sh"))

    failed = wrapped("report", "link.html", code=1)
    assert failed.stderr.startswith(f"cas: File too large: {path}\n")
    assert path.read_text() == "old"
    assert cas.json("report", "link.html") == {"path": str(path), "bytes": path.stat().st_size}
    assert path.read_text().endswith("</html>\n")
    assert (work / "link.html").is_symlink()
    assert os.listdir(work / "pages") == ["store.html"]


@pytest.mark.per_user
def test_unwritable_report_file_is_an_error(cas: Cas, work: Path) -> None:
    cas("report", "page.html", code=1)  # there is no store
    cas("init")
    os.mkfifo(work / "pipe")
    for path, code, said in (
        ("no/page.html", 1, f"cas: No such file or directory: {work}/no/page.html\n"),
        ("store/page.html", 8, f"cas: {work}/store/page.html is in the store\n"),
        (".", 8, f"cas: {work} is not a regular file\n"),
        ("pipe", 8, f"cas: {work}/pipe is not a regular file\n"),
        ("x" * 256, 1, f"cas: File name too long: {work}/{'x' * 256}\n"),
    ):
        assert cas("report", path, code=code).stderr.startswith(said)
    if not ROOT:
        work.chmod(0o555)
        failed = cas("report", "page.html", code=1)
        work.chmod(0o755)
        assert failed.stderr.startswith(f"cas: Permission denied: {work}/page.html\n")
    assert sorted(os.listdir(work)) == ["pipe", "store"]


def test_report_on_standard_output_prints_no_path(cas: Cas, work: Path) -> None:
    cas("init")
    cas("report", "page.html")
    page = cas("report", "-").stdout

    time_free = re.compile(r"<time .*?</time>")
    assert time_free.sub("", page) == time_free.sub("", (work / "page.html").read_text())
    assert "--json" in cas("report", "--json", "-", code=2).stderr
    for place, code in ((">/dev/full", 1), (">&-", 0)):
        elsewhere = Cas(cas.store, work, ("sh", "-c", f'exec "$@" {place}', "sh"))
        failed = elsewhere("report", "-", code=code)
        assert failed.stderr.startswith("cas: No space left on device: standard output" * code)


_VIEWS = [
    (name, size, dark)
    for name in ("lived-in", "empty", "small", "full")
    for size in (PHONE, DESKTOP)
    for dark in (False, True)
]


@IN_BROWSER
@pytest.mark.parametrize(
    ("name", "size", "dark"), _VIEWS, ids=lambda v: str(v[0] if isinstance(v, tuple) else v)
)
def test_browser_renders_the_whole_page(
    shown: Browser, pages: dict[str, Path], name: str, size: tuple[int, int], dark: bool
) -> None:
    shown.open(pages[name], *size, dark=dark)
    shown.ask("for (const one of document.querySelectorAll('details')) one.open = true")
    seen = shown.ask(_LOOK)

    assert shown.seen("Runtime.consoleAPICalled") == shown.seen("Log.entryAdded") == []
    asked = {event["request"]["url"] for event in shown.seen("Network.requestWillBeSent")}
    assert asked == {pages[name].as_uri()}
    assert seen["scripts"] == 0
    assert seen["width"] <= size[0]
    assert seen["headings"] == list(HEADINGS)
    assert seen["smallest"] >= 11
    assert seen["outside"] == []
    ground, text = (_luminance(_hex(seen[which])) for which in ("ground", "text"))
    assert (ground < 0.05 and text > 0.7) if dark else (ground > 0.8 and text < 0.05)


_LOOK = """(() => {
    const visible = one => one.checkVisibility() && one.getBoundingClientRect().width > 0;
    const all = [...document.body.querySelectorAll("*")].filter(visible);
    const texts = all.filter(one => !one.closest("svg") && [...one.childNodes].some(
        node => node.nodeType === Node.TEXT_NODE && node.data.trim()));
    const style = getComputedStyle(document.body);
    const outside = texts.filter(one => {
        const box = one.getBoundingClientRect(), style = getComputedStyle(one);
        const scrolled = one.closest(".scroll");
        const bounds = (one.closest(".cell, .figures > div, section, header, footer"))
            .getBoundingClientRect();
        return !scrolled && (box.left < bounds.left - 1 || box.right > bounds.right + 1
            || box.top < bounds.top - 1 || box.bottom > bounds.bottom + 1)
            || style.textOverflow !== "ellipsis" && style.display !== "inline"
            && one.scrollWidth > one.clientWidth + 1;
    });
    return {
        scripts: document.scripts.length,
        width: document.documentElement.scrollWidth,
        headings: all.filter(one => one.tagName === "H2").map(one => one.innerText),
        smallest: Math.min(...texts.map(one => parseFloat(getComputedStyle(one).fontSize))),
        outside: outside.map(one => `${one.className} ${one.innerText}`),
        ground: style.backgroundColor,
        text: style.color,
    };
})()"""


def _hex(colour: str) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour)[:3])


def _boxes(shown: Browser, selector: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shown.ask(
        f"[...document.querySelectorAll({selector!r})].map(one => "
        "({...one.getBoundingClientRect().toJSON(), title: one.title, text: one.innerText}))"
    )
    return found


@IN_BROWSER
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_map_cells_match_sizes(
    shown: Browser, lived_in: Cas, pages: dict[str, Path], size: tuple[int, int]
) -> None:
    shown.open(pages["lived-in"], *size)
    (whole,) = _boxes(shown, ".map")
    cells = _boxes(shown, ".cell")
    groups = lived_in.json("stats", "--by", "recipe")["groups"]
    shares = {group["name"]: group["share_bytes"] for group in groups}
    total = sum(shares.values())
    form = TALL if size == PHONE else WIDE

    assert whole["width"] / whole["height"] == pytest.approx(form.width / form.height, rel=0.01)
    for cell in cells:
        name = cell["title"].partition(":")[0]
        part = cell["width"] * cell["height"] / whole["width"] / whole["height"]
        if name in shares:
            assert part == pytest.approx(shares[name] / total, rel=0.05)
        assert cell["left"] >= whole["left"] - 0.5
        assert cell["right"] <= whole["right"] + 0.5
        assert cell["top"] >= whole["top"] - 0.5
        assert cell["bottom"] <= whole["bottom"] + 0.5
    area = sum(cell["width"] * cell["height"] for cell in cells)
    assert area == pytest.approx(whole["width"] * whole["height"], rel=0.01)
    text = f"{groups[0]['name'][:21]}…\n{size_text(groups[0]['share_bytes'])}"
    assert cells[0]["text"] == text


@IN_BROWSER
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_bars_and_days_share_a_scale(
    shown: Browser, pages: dict[str, Path], size: tuple[int, int]
) -> None:
    shown.open(pages["full"], *size)

    for chart in (1, 2):
        bars = _boxes(shown, f"section:nth-of-type({chart + 1}) .bar")
        assert len(bars) > 4
        assert len({(bar["left"], bar["right"]) for bar in bars}) == 1
    plots = _boxes(shown, ".plot svg")
    assert len(plots) == 4
    growth = plots[2:]
    assert len({(plot["left"], plot["right"]) for plot in growth}) == 1
    for plot in plots:
        assert plot["width"] > size[0] / 3
    ticks = _boxes(shown, ".ticks span")
    assert len(ticks) >= 8
    for one, other in itertools.combinations(ticks, 2):
        assert one["bottom"] <= other["top"] or other["bottom"] <= one["top"] or (
            one["right"] <= other["left"] or other["right"] <= one["left"]
        )  # fmt: skip
