"""Results of pushes and pulls."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from cas.errors import ExitCode
from cas.remote.results import Outcome, Pulled, Pushed
from cli.output.printing import acknowledge, note
from cli.output.quantities import size_text

_REFUSALS = {
    Outcome.CONFLICT: ExitCode.CONFLICT,
    Outcome.DAMAGED: ExitCode.DAMAGED,
    Outcome.REFUSED: ExitCode.REFUSED,
    Outcome.UNTRUSTED: ExitCode.NO_SIGNATURE,
    Outcome.MISSING: ExitCode.NO_SIGNATURE,
}
"""The exit code of a command by the outcomes of its artifacts; the first match counts."""


def print_results(
    as_json: bool, done: Sequence[Pulled | Pushed], counts: Sequence[dict[str, int]]
) -> None:
    """Print the results of artifacts, also of those before an error."""
    documents = [
        {"id": str(r.signature), "status": r.outcome.value, **count, "reason": r.why or None}
        for r, count in zip(done, counts, strict=True)
    ]
    documents.sort(key=lambda document: str(document["id"]))
    if not done and sys.exc_info()[0] is not None:
        acknowledge(as_json, {"artifacts": []}, ())  # the error is reported elsewhere
        return
    outcomes = Counter(result.outcome for result in done)
    size = sum(count.get("sent_bytes", 0) + count.get("fetched_bytes", 0) for count in counts)
    summary = ", ".join(f"{outcomes[o]} {o.value}" for o in Outcome if outcomes[o])
    lines = [f"{document['id']}: {document['status']}" for document in documents]
    lines.append(f"{summary or 'nothing to do'}; {size_text(size)}")
    acknowledge(as_json, {"artifacts": documents}, lines)
    print_reasons(done)


def print_reasons(results: Sequence[Pulled | Pushed]) -> None:
    """Print a note for each result that has a reason."""
    for result in results:
        if result.why:
            note(f"{result.signature}: {result.why}")


def results_exit_code(results: Sequence[Pulled | Pushed]) -> ExitCode:
    """Return the exit code of a command with these results."""
    outcomes = {result.outcome for result in results}
    codes = (code for outcome, code in _REFUSALS.items() if outcome in outcomes)
    return next(codes, ExitCode.DONE)
