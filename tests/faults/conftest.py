"""The directories of these tests: in memory, unless they run exhaustively."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.memory import directory_in_memory


@pytest.fixture
def tmp_path(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory."""
    if request.config.option.exhaustive:
        yield tmp_path
        return
    with directory_in_memory(request.node.name, tmp_path) as directory:
        yield directory
