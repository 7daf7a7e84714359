"""Signals end a command in an orderly way, also where Python swallows what a handler raises."""

import signal
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
    import os, signal, sys, time
    from ggufkit.cli._signals import orderly_end

    class Ending:
        def __del__(self):
            os.kill(os.getpid(), NUMBER)
            for _ in range(1000):  # here its handler runs, and what it raises is lost
                pass

    try:
        with orderly_end():
            print("at work", flush=True)
            ending = Ending()
            del ending
            time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        print("tidied up", flush=True)
""")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_whose_exception_python_swallows_comes_again(number: signal.Signals, status: int) -> None:
    program = PROGRAM.replace("NUMBER", str(int(number)))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (status, "at work\ntidied up\n", "")


def test_what_else_is_lost_is_told_as_ever() -> None:
    program = PROGRAM.replace("os.kill(os.getpid(), NUMBER)", "raise ValueError('lost')").replace(
        "sleep(60)", "sleep(0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (0, "at work\ntidied up\n")
    assert "ValueError: lost" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_ends_is_no_traceback(number: signal.Signals) -> None:
    program = (
        "import atexit, os\nfrom ggufkit.cli._signals import orderly_end\n"
        f"atexit.register(lambda: [os.kill(os.getpid(), {int(number)}), *range(1000)])\n"
        "with orderly_end():\n    print('at work', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "at work\n", "")
