"""Every figure that scripts/soak measures for long, in short: a few of its cases, always the same ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import soak
from soak import evil_folders

from ggufkit.cli._app import Commands

pytestmark = pytest.mark.fault


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[pytest.mark.engine] if row.engine else [])
        for row in soak.rows()
        if row.quick
    ],
)
def test_a_few_cases(row: soak.Row, tmp_path: Path, figure: Callable[[str, str], None]):
    tried = soak.measure(row, tmp_path, seed=1, count=row.quick, hurried=False)
    if tried.skipped:
        pytest.skip(tried.skipped)
    figure(f"soak {row.name}", f"{tried.broken} of {tried.cases} broken")
    assert tried.problems == []
    assert tried.broken == 0
    assert tried.cases == row.quick


def test_every_command_meets_folders_with_code():
    commands = {entry.name for entries in Commands.table.values() for entry in entries if not entry.hidden}
    assert commands - {command[0] for command, _ in evil_folders.COMMANDS} == set()
