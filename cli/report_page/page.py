"""The page of `cas report`: one self-contained HTML document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cli.output.printing import time_of
from cli.output.quantities import number_of, size_text
from cli.report_page.data import Report
from cli.report_page.html import amount, percent, text
from cli.report_page.sections import sections

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser loads nothing and runs nothing."""


def page(report: Report) -> str:
    """Return an overview of a store as an HTML document. Raises OSError."""
    style = Path(__file__).with_name("page.css").read_text()
    store, time = text(report.store), time_of(report.time_ns)
    shown = time[:16].replace("T", " ")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{store} - cas report</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{store}</h1>
<p>Contents and use of this store of build artifacts, as of
<time datetime="{time}">{shown} UTC</time>.</p>
</header>
<main>
<dl class="figures">
{"".join(_figures(report))}</dl>
{"".join(sections(report))}</main>
<footer>Written by <code>cas report</code>. Days are in UTC.</footer>
</body>
</html>
"""


def _figures(report: Report) -> Iterator[str]:
    statistics = report.statistics
    space, ever = statistics.space, statistics.ever
    hits = ever.has_hits + ever.mount_hits
    asked = hits + ever.has_misses + ever.mount_misses
    saved = percent(statistics.saved, statistics.logical) if statistics.logical else "-"
    doomed = number_of(report.doomed, "artifact")
    for name, figure, more in (
        ("Artifacts", f"{statistics.artifacts:,}", number_of(statistics.trees, "different tree")),
        ("Size", size_text(statistics.logical), f"in {number_of(statistics.files, 'file')}"),
        ("Saved by sharing", size_text(statistics.saved), f"{saved} of the size"),
        ("On the disk", size_text(space.disk), f"with {number_of(space.contents, 'content')}"),
        ("Next <code>cas gc</code> frees", size_text(report.frees), f"from {doomed}"),
        (
            "Hit rate",
            percent(hits, asked) if asked else "-",
            f"of {asked:,} lookups" if asked else "no lookups yet",
        ),
        ("Sysroots mounted", f"{ever.overlays:,}", "by overlay"),
        ("Saved by overlays", amount(ever.entries), "files, directories and links"),
    ):
        yield f'<div><dt>{name}</dt><dd class="figure">{figure}</dd>'
        yield f'<dd class="more">{more}</dd></div>\n'
