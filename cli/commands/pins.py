"""`cas pins`: lists the pinned artifacts."""

from __future__ import annotations

import click

from cli.options.common import open_store, standard_options
from cli.output.documents import pin_document
from cli.output.printing import emit, table, text_of
from cli.output.quantities import ago_text


@click.command("pins")
@standard_options
def pins_command(ctx: click.Context, as_json: bool) -> None:
    """List pinned artifacts, with dates and reasons.

    \b
    cas pins
    """
    pins = open_store(ctx).pins()
    emit(
        as_json,
        [pin_document(pin) for pin in pins],
        table(
            ("ID", "SINCE", "REASON"),
            [(str(pin.signature), ago_text(pin.since_ns), text_of(pin.reason)) for pin in pins],
        ),
    )
