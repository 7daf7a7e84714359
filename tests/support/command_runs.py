"""A run of the command in the process of the test: with everything between `sys.argv` and the exit code."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ggufkit import cli


@dataclass(frozen=True)
class Ran:
    """What a run left: its exit code and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `ggufkit ARGUMENTS...`."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ggufkit", *map(str, arguments)])
        capsys.readouterr()
        try:
            code = cli.main()
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        return Ran(code or 0, captured.out, captured.err)

    return run
