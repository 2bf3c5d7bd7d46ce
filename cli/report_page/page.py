"""The page of `cas report`: one HTML document that needs nothing besides itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cli.output.printing import time_of
from cli.output.quantities import number_of, size_text
from cli.report_page.data import Report
from cli.report_page.html import amount, percent, text
from cli.report_page.sections import sections

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""A browser that knows that loads nothing, and runs nothing."""


def page(report: Report) -> str:
    """Return what a store holds, and how it is used, as an HTML document. Raises OSError."""
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
<p>What is in this store of build artifacts, and how it is used, as of
<time datetime="{time}">{shown} UTC</time>.</p>
</header>
<main>
<dl class="figures">
{"".join(_figures(report))}</dl>
{"".join(sections(report))}</main>
<footer>Made by <code>cas report</code>. Days are those of UTC.</footer>
</body>
</html>
"""


def _figures(report: Report) -> Iterator[str]:
    found = report.found
    space, ever = found.space, found.ever
    hits = ever.has_hits + ever.mount_hits
    asked = hits + ever.has_misses + ever.mount_misses
    saved = f"{percent(found.saved, found.logical)} of that" if found.logical else "as yet"
    goes = number_of(report.doomed, "artifact")
    for name, figure, more in (
        ("Artifacts", f"{found.artifacts:,}", f"of {number_of(found.trees, 'different tree')}"),
        ("Size of their files", size_text(found.logical), f"in {number_of(found.files, 'file')}"),
        ("Saved by sharing", size_text(found.saved), saved),
        ("On the disk", size_text(space.disk), f"with {number_of(space.contents, 'content')}"),
        ("Next <code>cas gc</code> frees", size_text(report.frees), f"with {goes}"),
        (
            "Hit rate",
            percent(hits, asked) if asked else "-",
            f"of {asked:,} that were asked for" if asked else "nobody has asked yet",
        ),
        ("Sysroots mounted", f"{ever.overlays:,}", "by overlay"),
        ("Saved by overlays", amount(ever.entries), "files, directories, links to make"),
    ):
        yield f'<div><dt>{name}</dt><dd class="figure">{figure}</dd>'
        yield f'<dd class="more">{more}</dd></div>\n'
