"""Programs are run to their end, their output comes line by line, and they never outlive us."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ggufkit.errors import LlamaCppError, MissingDependencyError
from ggufkit.llamacpp.run import SilentError, run


@pytest.fixture
def script(tmp_path):
    """Make a shell script and return its path."""

    def make(text):
        path = tmp_path / "tool"
        path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}")
        path.chmod(0o755)
        return path

    return make


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"  # a zombie is dead, only nobody has been told


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_both_streams_come_line_by_line_and_stdout_is_kept_whole(script):
    lines = []
    done = run([script("printf 'one\\ntwo\\n'; echo warning >&2; printf three"), "x"], on_line=lines.append)
    assert sorted(lines) == ["one", "three", "two", "warning"]
    assert done.stdout == "one\ntwo\nthree"
    assert done.status == 0
    assert done.argv[1:] == ("x",)


def test_carriage_returns_end_lines_as_progress_bars_need(script):
    lines = []
    run([script(r"printf '[ 1/ 2]\r[ 2/ 2]\r\n'")], on_line=lines.append)
    assert lines == ["[ 1/ 2]", "[ 2/ 2]"]


def test_line_is_seen_before_the_program_ends(script, tmp_path):
    gate = tmp_path / "gate"
    # The program waits for a file that only `on_line` makes.
    done = run([script(f"echo ready; while [ ! -e {gate} ]; do sleep 0.01; done")], on_line=lambda _: gate.touch())
    assert done.output == "ready"


def test_characters_split_over_two_writes_are_put_together(script):
    done = run([script(r"printf '\303'; sleep 0.05; printf '\244\n'")])
    assert done.output == "ä"


def test_only_the_last_lines_are_kept(script):
    done = run([script("i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); done")])
    kept = done.output.splitlines()
    assert (len(kept), kept[-1]) == (200, "499")
    assert len(done.stdout.splitlines()) == 500


def test_failure_quotes_command_status_and_last_errors(script):
    tool = script("echo fine; echo 'cannot load model' >&2; exit 3")
    with pytest.raises(LlamaCppError) as caught:
        run([tool, "my file.gguf"])
    message = str(caught.value)
    assert "ended with status 3" in message
    assert "cannot load model" in message
    assert "'my file.gguf'" in message
    assert "\n" not in message
    assert caught.value.exit_code == 6


def test_death_by_signal_is_named(script):
    with pytest.raises(LlamaCppError, match="signal SIGSEGV"):
        run([script("kill -SEGV $$")])


def test_missing_program_and_program_that_is_none(tmp_path):
    with pytest.raises(MissingDependencyError, match="no-such-tool"):
        run([tmp_path / "no-such-tool"])
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\0\1\2")
    garbage.chmod(0o755)
    with pytest.raises(LlamaCppError, match="cannot start"):
        run([garbage])


def test_environment_is_added_not_replaced(script, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    assert run([script('echo "$OURS$THEIRS"')], environment={"THEIRS": "2"}).output == "12"


def test_standard_input_is_empty(script):
    assert run([script("cat; echo end")]).output == "end"


def test_exception_in_the_callback_kills_the_whole_group(script):
    pids = []

    def stop(line):
        pids.extend(int(word) for word in line.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([script('sleep 60 & echo "$$ $!"; wait')], on_line=stop)
    assert len(pids) == 2
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.fault
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_program_dies_with_us_even_by_sigkill(script, tmp_path):
    tool = script(f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 60")
    code = f"from ggufkit.llamacpp.run import run; run([{str(tool)!r}])"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        wait_until((tmp_path / "pid").exists, 20)
        pid = int((tmp_path / "pid").read_text())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


def test_a_program_that_says_nothing_for_too_long_is_ended(script, tmp_path):
    """The program would sleep for an hour; a slow machine may end it before it has written its number."""
    pid = tmp_path / "pid"
    with pytest.raises(SilentError, match="wrote nothing for 1 seconds"):
        run([script(f"echo $$ > {pid}; echo one; exec sleep 3600")], patience=1)
    wait_until(lambda: not (pid.exists() and pid.read_text().strip() and is_alive(int(pid.read_text()))), seconds=60)
