"""One program does one request after another, is replaced when it died, and never outlives us."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp.attendant import ENDED, LEAVES, Attendant
from ggufkit.llamacpp.run import DiedError

CODE = f"""
import os, signal, sys
for line in sys.stdin:
    print("pid", os.getpid(), flush=True)
    word = line.strip()
    if word == "dies":
        print("GGML_ASSERT(x) failed", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "exits":
        sys.exit("gone")
    if word == "waits":
        sys.stdin.readline()
    if word == "refuses":
        print("no such thing", file=sys.stderr, flush=True)
    sys.stdout.write("half a line")
    print("\\n{ENDED}", 3 if word == "refuses" else 0, "{LEAVES}" if word == "last" else "", flush=True)
    if word == "last":
        break
"""


def pids(attendant: Attendant, *requests: str) -> list[int]:
    """Ask, and return which process answered each request."""
    lines: list[str] = []
    for request in requests:
        attendant.ask(request, lines.append)
    return [int(line.split()[1]) for line in lines if line.startswith("pid")]


def has_ended(pid: int) -> bool:
    """Wait until a process is gone, or a zombie: which may take a while where others want the processor."""
    state = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def attendant():
    with Attendant([sys.executable, "-c", CODE]) as started:
        yield started


def test_one_process_answers_all_and_leaves_with_us(attendant: Attendant):
    first, second = pids(attendant, "one", "two")
    assert first == second
    attendant.close()
    assert has_ended(first)
    assert pids(attendant, "three") != [first]


def test_lines_come_as_they_are_written_without_the_answer(attendant: Attendant):
    lines: list[str] = []
    attendant.ask("one", lines.append)
    assert [line.split()[0] for line in lines] == ["pid", "half"]


@pytest.mark.parametrize(
    ("request_", "kind", "said"),
    [
        ("dies", DiedError, r"SIGSEGV: GGML_ASSERT\(x\) failed"),
        ("exits", LlamaCppError, "status 1: gone"),
        ("refuses", LlamaCppError, "status 3: no such thing"),
    ],
)
def test_a_failure_is_said_and_the_next_request_is_answered(
    attendant: Attendant, request_: str, kind: type[Exception], said: str
):
    with pytest.raises(kind, match=said):
        attendant.ask(request_)
    assert len(pids(attendant, "one")) == 1


def test_what_was_said_before_is_not_quoted_for_a_later_failure(attendant: Attendant):
    with pytest.raises(LlamaCppError, match="no such thing"):
        attendant.ask("refuses")
    with pytest.raises(LlamaCppError) as raised:
        attendant.ask("exits")
    assert "no such thing" not in str(raised.value).partition(" (command: ")[0]


def test_one_that_takes_no_more_requests_is_followed_by_another(attendant: Attendant):
    first, second = pids(attendant, "last", "one")
    assert first != second


def test_one_that_is_released_ends_by_itself_and_another_follows(attendant: Attendant):
    (first,) = pids(attendant, "one")
    attendant.release()
    assert has_ended(first)
    second, third = pids(attendant, "two", "three")
    assert first != second == third


def test_one_that_is_given_up_while_somebody_waits_gives_an_error(attendant: Attendant):
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        attendant.give_up()

    with pytest.raises(DiedError, match="SIGKILL"):
        attendant.ask("waits", take)
    assert len(pids(attendant, "one")) == 1


def test_one_that_died_between_requests_is_followed_by_an_error_and_another(attendant: Attendant):
    (first,) = pids(attendant, "one")
    os.kill(first, signal.SIGKILL)
    with pytest.raises(DiedError, match="SIGKILL"):
        attendant.ask("two")
    assert pids(attendant, "three") != [first]


def test_an_exception_while_it_works_ends_it(attendant: Attendant):
    seen: list[int] = []

    def stopping(line: str) -> None:
        seen.append(int(line.split()[1]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attendant.ask("one", stopping)
    assert has_ended(seen[0])
    assert pids(attendant, "two") != seen


def test_one_that_was_never_asked_is_not_waited_for() -> None:
    with Attendant([sys.executable, "-c", "import time; time.sleep(1000)"]) as attendant:
        assert attendant._process
        pid = attendant._process.pid
    assert has_ended(pid)


def test_the_memory_of_one_request_does_not_count_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The children of an evaluation say how much memory a model takes, which another one's must not hide."""
    from ggufkit.evaluation import child_process

    (tmp_path / "memory_child.py").write_text(
        "import mmap, sys\n"
        "from pathlib import Path\n"
        "from ggufkit.peak_memory import peak_memory\n"
        "def main():\n"
        "    path = Path(sys.argv[1])\n"
        "    size = int(path.read_text())\n"
        "    with mmap.mmap(-1, size) as room:\n"
        "        for place in range(0, size, 4096):\n"
        "            room[place] = 1\n"
        "    path.write_text(str(peak_memory()))\n"
    )
    package = str(Path(child_process.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), package, os.environ.get("PYTHONPATH", "")]))

    def ask(size: int) -> int:
        request = tmp_path / "request.txt"
        request.write_text(str(size))
        child_process.ask("memory_child", request, "model")
        return int(request.read_text())

    with child_process.one_for_all():
        small, large, small_again = ask(1 << 20), ask(200 << 20), ask(1 << 20)
    assert large - small > 150 << 20
    assert small_again - small < 50 << 20
