"""The drawing of the tree in errors.py is the tree."""

import inspect
import re

from ggufkit import errors


def test_the_docstring_draws_every_class_with_its_exit_code() -> None:
    drawn = dict(re.findall(r"(\w+Error)\s+(\d)", errors.__doc__ or ""))
    defined = {
        name: str(value.exit_code)
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.GgufkitError)
    }
    assert drawn == defined
