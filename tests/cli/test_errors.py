"""From what went wrong to an exit code, where that is not plain."""

import pytest

from ggufkit.cli._errors import INTERRUPTED, report


def wrapped(cause: BaseException) -> RuntimeError:
    """Make what Python 3.11 makes of a signal that comes in `__set_name__`."""
    try:
        raise RuntimeError("Error calling __set_name__") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(("cause", "status"), [(SystemExit(143), 143), (KeyboardInterrupt(), INTERRUPTED)])
def test_a_signal_while_a_class_is_made_is_no_bug(
    cause: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(wrapped(cause)) == status
    assert "bug" not in capsys.readouterr().err


def test_other_runtime_errors_are_bugs(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(wrapped(ValueError("x"))) == 1
    assert "this is a bug" in capsys.readouterr().err
