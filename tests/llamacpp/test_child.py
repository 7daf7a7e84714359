"""Programs that run beside us: what they write, how they end, and that none is left behind."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ggufkit.errors import MissingDependencyError
from ggufkit.llamacpp.child import Child, reason

PATIENCE = 60.0


def test_lines_come_as_they_are_written_and_the_end_is_told() -> None:
    lines: list[str] = []
    over = threading.Event()
    child = Child(
        [sys.executable, "-c", "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"],
        on_line=lines.append,
        on_end=over.set,
    )
    assert over.wait(PATIENCE)
    assert sorted(lines) == ["one", "two"]
    assert child.status == 3
    assert "ended with status 3" in child.describe_end()


def test_a_program_that_will_not_end_is_ended() -> None:
    lines: list[str] = []
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
    )
    begun = threading.Event()
    child = Child([sys.executable, "-c", stubborn], on_line=lambda line: (lines.append(line), begun.set()))
    assert begun.wait(PATIENCE)
    child.end(seconds=0.1)
    assert child.status == -signal.SIGKILL
    assert child.describe_end().endswith("signal SIGKILL")


@pytest.mark.fault
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_it_dies_with_us() -> None:
    parent = (
        "import sys, time; from ggufkit.llamacpp.child import Child\n"
        "print(Child([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    deadline = threading.Event()
    for _ in range(int(PATIENCE / 0.05)):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        deadline.wait(0.05)
    pytest.fail("the child lives on")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(MissingDependencyError, match="no such program"):
        Child(["/no/such/program"])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["0.00.1 I srv  loading", "0.00.2 E llama_load: no such tensor", "0.00.3 E srv  exiting"],
            "llama_load: no such tensor | srv  exiting",
        ),
        (["Starting", "error: unknown device: X", "  CPU: fine"], "error: unknown device: X"),
        (["all is well"], ""),
        ([], ""),
    ],
)
def test_the_reason_is_found_in_the_log(lines: list[str], expected: str) -> None:
    assert reason(lines) == expected
