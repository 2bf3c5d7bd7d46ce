"""Many processes put, mount, run, update, remove, collect and verify at once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from cas.gc.policy import Policy
from cas.store import Store
from tests.helpers.stress import RECIPES, VERSIONS, tree_of
from tests.helpers.support import leftover_mounts, objects_of, sound, tidy

pytestmark = pytest.mark.per_user

_OPERATIONS = int(os.environ.get("CAS_TEST_STRESS", "60"))
"""Of each worker."""


def test_concurrent_random_operations_lose_nothing(work: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    store = work / "store"
    for number in range(RECIPES):
        for version in range(VERSIONS):
            tree_of(work / "trees", number, version)
    project = Path(__file__).parents[2]
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.helpers.stress",
                str(seed + n),
                str(_OPERATIONS),
                store,
                work,
            ],
            cwd=project,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(5)
    ]
    errors = [worker.communicate()[1] for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * 5, "\n".join(errors)
    assert leftover_mounts(work) == []
    with Store(store) as opened:
        opened.gc(opened.plan_gc(Policy()))
    sound(store)
    tidy(store)
    with Store(store) as opened:
        opened.gc(opened.plan_gc(Policy(max_age_ns=0, grace_ns=0)))
    tidy(store)
    assert objects_of(store) == []
