"""Every figure that scripts/soak measures for long, in short: a few of its cases, always the same ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import soak

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
