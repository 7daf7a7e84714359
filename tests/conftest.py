"""What all tests share: figures that a test measured are printed in a table at the end of the run."""

import signal
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

_FIGURES = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    # Started in the background or by nohup, we would inherit these ignored, and so would the programs that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.stash[_FIGURES] = {}
    # On a busy machine an example may take any time, which says nothing about what it shows.
    settings.register_profile("without a clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("without a clock")


def pytest_runtest_teardown() -> None:
    # The command leaves it as it would be at the end of a process; others test what a signal raises.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Record a measured figure under a name; the end of the run shows it, whether the test passed or not."""

    def record(name: str, value: str) -> None:
        request.config.stash[_FIGURES][name] = value

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash[_FIGURES]:
        terminalreporter.section("measured figures")
        for name, value in sorted(figures.items()):
            terminalreporter.write_line(f"{name:<40} {value}")
