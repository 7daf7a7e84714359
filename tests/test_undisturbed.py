"""Signals wait while Python forks, and come right after."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ggufkit.undisturbed import undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_handler_runs_behind_the_block(number: signal.Signals) -> None:
    told: list[str] = []
    before = signal.signal(number, lambda *_: told.append("handler"))
    try:
        with undisturbed():
            os.kill(os.getpid(), number)
            told.append("block")
        assert told == ["block", "handler"]
        os.kill(os.getpid(), number)
        assert told == ["block", "handler", "handler"]
    finally:
        signal.signal(number, before)


def test_what_a_handler_raises_comes_out_of_the_block_and_leaves_the_handlers_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt), undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_an_error_of_the_block_comes_out_too() -> None:
    with pytest.raises(ZeroDivisionError), undisturbed():
        raise ZeroDivisionError


def test_other_threads_are_let_alone() -> None:
    found: list[object] = []

    def look() -> None:
        with undisturbed():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_ignored_and_deadly_signals_stay_what_they_are() -> None:
    code = (
        "import os, signal\nfrom ggufkit.undisturbed import undisturbed\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with undisturbed():\n    os.kill(os.getpid(), signal.SIGHUP)\n    os.kill(os.getpid(), signal.SIGTERM)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGTERM
