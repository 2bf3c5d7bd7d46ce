"""`cas pin`, `cas unpin` and `cas pins`: artifacts that `cas gc` keeps."""

from __future__ import annotations

import click

from cas.disk.pins import Pin
from cli.options.common import complete_id, json_option, open_store, store_option
from cli.output.printing import acknowledge, emit, table, text_of
from cli.output.quantities import ago_text


@click.command("pin")
@click.argument("id_", metavar="ID", shell_complete=complete_id)
@click.option(
    "--reason", metavar="TEXT", default="", help="Record a reason, which `cas pins` shows."
)
@json_option
@store_option
@click.pass_context
def pin_command(ctx: click.Context, id_: str, reason: str, as_json: bool) -> None:
    """Keep an artifact until it is unpinned.

    \b
    cas pin zlib --reason "release 4.2"
    """
    pin = open_store(ctx).pin(id_, reason)
    acknowledge(as_json, _document(pin), [f"pinned {pin.signature}"])


@click.command("unpin")
@click.argument("id_", metavar="ID", shell_complete=complete_id)
@json_option
@store_option
@click.pass_context
def unpin_command(ctx: click.Context, id_: str, as_json: bool) -> None:
    """Remove the pin of an artifact.

    \b
    cas unpin zlib
    """
    signature = open_store(ctx).unpin(id_)
    acknowledge(as_json, {"id": str(signature)}, [f"unpinned {signature}"])


@click.command("pins")
@json_option
@store_option
@click.pass_context
def pins_command(ctx: click.Context, as_json: bool) -> None:
    """List pinned artifacts, with dates and reasons.

    \b
    cas pins
    """
    found = open_store(ctx).pins()
    emit(
        as_json,
        [_document(pin) for pin in found],
        table(
            ("ID", "SINCE", "REASON"),
            [(str(pin.signature), ago_text(pin.since_ns), text_of(pin.reason)) for pin in found],
        ),
    )


def _document(pin: Pin) -> dict[str, object]:
    return {
        "id": str(pin.signature),
        "reason": pin.reason,
        "since_ns": pin.since_ns,
        "uid": pin.uid,
    }
