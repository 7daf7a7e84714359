"""A command that forks before it loads a model: it ends as its child does, and tells in one line what ended that."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ggufkit.llamacpp.run import last_words
from ggufkit.llamacpp.supervision import stopped

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forks here")

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from ggufkit.cli import _errors
from ggufkit.errors import GgufkitError
from ggufkit.llamacpp.supervision import is_expendable, survive
def c_says(text):
    os.write(2, text.encode())
try:
    assert not is_expendable()
    survive(Path("some model.gguf"))
    assert is_expendable()
    print("in the child", flush=True)
    print("python says", file=sys.stderr)
{body}
except GgufkitError as error:
    sys.exit(_errors.report(error))
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("body", "status"), [("pass", 0), ("sys.exit(3)", 3), ("os._exit(141)", 141)])
def test_it_ends_with_the_status_of_its_child(body: str, status: int):
    done = run(body)
    assert (done.returncode, done.stdout, done.stderr) == (status, "in the child\n", "python says\n")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS, signal.SIGILL])
def test_a_crash_is_one_line_with_the_first_failed_assertion(number: signal.Signals):
    done = run(
        "c_says('noise\\n/a/b/llama-vocab.cpp:12: GGML_ASSERT(n > 0) failed\\nlater.cpp:1: GGML_ASSERT(x)\\n')\n"
        f"os.kill(os.getpid(), {int(number)})"
    )
    assert done.returncode == 6
    said = f"llama.cpp stopped ({number.name}: llama-vocab.cpp:12: GGML_ASSERT(n > 0) failed) on some model.gguf"
    assert done.stderr.splitlines()[:2] == ["python says", f"error: {said}"]
    assert "Traceback" not in done.stderr
    assert "noise" not in done.stderr


def test_a_child_that_is_killed_is_told_of():
    done = run("os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == 6
    assert "SIGKILL: it was killed, perhaps for want of memory" in done.stderr


def started(body: str) -> subprocess.Popen[str]:
    """Start the program in a process group of its own, and wait until its child is ready."""
    program = PROGRAM.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["in the child\n", "ready\n"]
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_sent_to_it_reaches_its_child(number: signal.Signals):
    process = started(
        "def heard(number, frame):\n"
        "    print('heard')\n"
        "    sys.exit(7)\n"
        f"signal.signal({int(number)}, heard)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (7, "heard\n")


COUNTING = """\
count = 0
def one(number, frame):
    global count
    count += 1
    print('one', flush=True)
def last(number, frame):
    print(count)
    sys.exit(7)
signal.signal(signal.SIGINT, one)
signal.signal(signal.SIGTERM, last)
print('ready', flush=True)
while True:
    time.sleep(60)
"""


def test_a_signal_to_the_whole_group_counts_once():
    process = started(COUNTING)
    assert process.stdout
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "one\n"
    process.terminate()  # which is passed on after all others
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (7, "1\n")


DEAF = "signal.pthread_sigmask(signal.SIG_BLOCK, {{{}}})\nwhile True: pass"  # as in a function of C that does not end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_child_that_does_not_obey_is_killed(number: signal.Signals):
    process = started("print('ready', flush=True)\n" + DEAF.format(int(number)))
    os.kill(process.pid, number)
    assert process.wait(60) == 128 + number


def test_ctrl_c_again_and_again_ends_a_child_that_goes_on_computing():
    process = started("print('ready', flush=True)\n" + DEAF.format(int(signal.SIGINT)))
    for _ in range(3):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.5)
    assert process.wait(60) == 130


def test_ctrl_c_again_and_again_leaves_a_child_that_waits():
    body = "signal.signal(signal.SIGINT, lambda *_: None)\nprint('ready', flush=True)\ntime.sleep(12)"
    process = started(body)
    for _ in range(4):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.5)
    assert process.wait(60) == 0


def test_it_dies_of_the_signal_that_its_child_died_of():
    assert run("os.kill(os.getpid(), signal.SIGTERM)").returncode == -signal.SIGTERM


def test_the_child_dies_with_it(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body="    print(os.getpid(), flush=True)\n    time.sleep(60)")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.readline()
    child = int(process.stdout.readline())
    assert child != process.pid
    process.kill()
    process.wait(60)
    assert process.stdout.read() == ""  # the end of the pipe: whoever held it is gone


def test_what_an_exception_in_c_says_is_found():
    lines = ["terminate called after throwing an instance of 'std::out_of_range'", "  what():  unordered_map::at"]
    assert last_words(lines) == "unordered_map::at"
    assert last_words(["nothing of note"]) == ""
    assert str(stopped(signal.SIGSEGV, [], Path("m.gguf"))) == "llama.cpp stopped (SIGSEGV) on m.gguf"
