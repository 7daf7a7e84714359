"""What the tests of commands share."""

import pytest
from command_runs import Run, runner


@pytest.fixture
def ggufkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `ggufkit ...` in this process."""
    return runner(monkeypatch, capsys)
