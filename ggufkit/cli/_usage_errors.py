"""Typer's complaints about a command line in ggufkit's own form: what is wrong, where, and what could be meant.

Imported only when there is something to complain of. Typer's classes are told apart by name, for it exports only one.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ggufkit.cli._help import first_sentence, kind_of, name_of, range_of
from ggufkit.cli._options import NotAChoice
from ggufkit.cli._words import nearest, quoted
from ggufkit.errors import UsageError

_LONGER_FORMS = {"quantize": "optimize"}  # which `quantize --like` is short for
_NOT_A_NUMBER = {"int_parsing": "is no whole number", "int_from_float": "is no whole number"}
_CODE_OF_NUMBERS = ("float_parsing", "float_type", "finite_number")


def explain(error: Any, context: Any, words: Sequence[str]) -> UsageError:
    """Make the error that is printed of one of Typer's.

    Args:
        error: a `TyperException` that was raised while a command line was read.
        context: Typer's, of the command whose words were read.
        words: what stands behind the command's name.
    """
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return _unknown_option(error.option_name, context, words)
    if kind == "BadOptionUsage":
        return _value_missing(error.option_name, context, words)
    if kind == "MissingParameter" and error.param is not None:
        return _missing(error.param, context)
    if getattr(error, "param", None) is not None:
        return _bad_value(error, context, words)
    return UsageError(f"{context.command_path}: {error.format_message()}", hint=_see_help(context))


def unknown_command(word: str, context: Any) -> UsageError:
    """Say that a group has no command of this name; what is a model gets a command that takes one."""
    path, shown = context.command_path, quoted(word)
    near = nearest(word, (name for name, each in context.command.commands.items() if not each.hidden))
    if near:
        hint = f"did you mean {' or '.join(f'{path} {name}' for name in near)}?"
    elif word.lower().endswith(".gguf"):
        hint = f"{path} chat {shown} talks to it, {path} inspect {shown} tells what it is"
    elif Path(word).is_dir():
        hint = f"{path} plan {shown} shows what can be made of it, {path} convert {shown} converts it"
    else:
        hint = f"{path} --help lists all commands"
    return UsageError(f"{path} has no command {word!r}", hint=hint)


def left_over(extra: Sequence[str], context: Any) -> UsageError:
    """Say that there are more words than the command takes."""
    what = f"{extra[0]!r} is one word too many" if len(extra) == 1 else f"words too many: {' '.join(map(repr, extra))}"
    takes_words = any(each.param_type_name == "argument" for each in context.command.params)
    advice = "what has spaces in it stands in quotes" if takes_words else "it takes options only"
    return UsageError(f"{context.command_path}: {what}", hint=f"{_usage(context)}   ({advice})")


def none_of(value: str, choices: Sequence[str], option: str, hint: str | None = None) -> UsageError:
    """Say that an option does not take this value, and which it may have meant; else the hint that is given."""
    near = nearest(value, choices, alike=0.6)
    return UsageError(
        f"{option}: {value!r} is none of {', '.join(choices)}",
        hint=f"did you mean {' or '.join(near)}?" if near else hint or f"one of {', '.join(choices)}",
    )


def _unknown_option(option: str, context: Any, words: Sequence[str]) -> UsageError:
    if not option.startswith("--"):  # Typer names the first letter only
        option = next((word for word in words if word.startswith(option)), option)
    name = option.partition("=")[0]
    options = _options(context.command)
    if name.startswith("--"):
        options = [each for each in options if each.startswith("--")]
    near = nearest(name, options) or nearest(f"--{name.lstrip('-')}", options)
    if other := _other_with(name, context):
        hint = f"{other} has it; {_see_help(context)}"
    elif near:
        hint = f"did you mean {' or '.join(near)}? {_see_help(context)}"
    elif _is_group(context.command):
        hint = f"options stand behind a command: {context.command_path} COMMAND {name}; {_see_help(context)}"
    else:
        hint = _see_help(context)
    return UsageError(f"{context.command_path} has no option {name}", hint=hint)


def _other_with(option: str, context: Any) -> str | None:
    """Name the longer form of a command, where that has the option."""
    longer = _LONGER_FORMS.get(context.info_name)
    if not longer or not context.parent:
        return None
    command = context.parent.command.get_command(context.parent, longer).entry.load()
    return f"{context.parent.command_path} {longer}" if option in _options(command) else None


def _value_missing(option: str, context: Any, words: Sequence[str]) -> UsageError:
    parameter = _parameter_of(option, context)
    if parameter is None or parameter.is_flag:
        return UsageError(f"{context.command_path}: {option} takes no value", hint=_see_help(context))
    name = _as_written(parameter, words)
    needed = "a value" if parameter.nargs == 1 else f"{parameter.nargs} values"
    return UsageError(f"{context.command_path}: {name} needs {needed}", hint=_described(parameter, context, name))


def _missing(parameter: Any, context: Any) -> UsageError:
    if parameter.param_type_name == "option":
        option = max(parameter.opts, key=len)
        return UsageError(f"{context.command_path}: {option} is missing", hint=_described(parameter, context, option))
    text = first_sentence(parameter.help or "")
    name = re.sub(r" ?\[[^\]]*\]|\.\.\.", "", name_of(parameter))
    said = f"   ({name}: {text})" if text else ""
    return UsageError(f"{context.command_path}: no {name} is given", hint=f"{_usage(context)}{said}")


def _bad_value(error: Any, context: Any, words: Sequence[str]) -> UsageError:
    parameter = error.param
    is_option = parameter.param_type_name == "option"
    name = _as_written(parameter, words) if is_option else name_of(parameter)
    hint = _described(parameter, context, name if is_option else None)
    # Numbers and choices are read by pydantic, whose error says which value is wrong, and how.
    found = error.__cause__.errors()[0] if hasattr(error.__cause__, "errors") else {}
    value, code = found.get("input"), found.get("type", "")
    if code in _NOT_A_NUMBER or code in _CODE_OF_NUMBERS:
        glued = next((word for word in words if word == f"{name}{value}" and len(name) == 2), None)
        near = (
            nearest(glued, _options(context.command)) or nearest(f"-{glued}", _options(context.command))
            if glued
            else []
        )
        if near:  # -nlg is a mistyped -ngl, not -n with the value lg
            return UsageError(
                f"{context.command_path} has no option {glued}", hint=f"did you mean {' or '.join(near)}?"
            )
        wrong = f"{value!r} {_NOT_A_NUMBER.get(code, 'is no number')}"
    elif code in ("greater_than_equal", "less_than_equal"):
        wrong = f"{value} is out of range, which is {range_of(parameter)}"
    elif isinstance(error, NotAChoice):
        return none_of(error.value, error.choices, f"{context.command_path}: {name}", hint)
    elif choices := parameter.type_descriptor.choices:
        names = [str(getattr(choice, "value", choice)) for choice in choices]
        return none_of(str(value), names, f"{context.command_path}: {name}", hint)
    else:
        wrong = str(error.message).removeprefix("Value error, ")
    return UsageError(f"{context.command_path}: {name}: {wrong}", hint=hint)


def _described(parameter: Any, context: Any, name: str | None = None) -> str:
    """Say in the words of the help what a parameter is."""
    text = first_sentence(parameter.help or "")
    name = name or (max(parameter.opts, key=len) if parameter.param_type_name == "option" else name_of(parameter))
    kind = kind_of(parameter, context) if parameter.param_type_name == "option" else ""
    return f"{f'{name} {kind}'.strip()}: {text}; {_see_help(context)}" if text else _see_help(context)


def _usage(context: Any) -> str:
    return " ".join([context.command_path, *context.command.collect_usage_pieces(context)])


def _see_help(context: Any) -> str:
    return f"{context.command_path} --help lists all" + (" commands" if _is_group(context.command) else " options")


def _as_written(parameter: Any, words: Sequence[str]) -> str:
    names: list[str] = [*parameter.opts, *parameter.secondary_opts]
    written = {word.partition("=")[0] for word in words}
    return next((name for name in names if name in written), None) or next(
        (name for name in names if len(name) == 2 and any(word.startswith(name) for word in written)),
        max(names, key=len),
    )


def _options(command: Any) -> list[str]:
    shown = [each for each in command.params if each.param_type_name == "option" and not getattr(each, "hidden", False)]
    return [name for each in shown for name in (*each.opts, *each.secondary_opts)] + ["--help"]


def _parameter_of(option: str, context: Any) -> Any:
    return next((each for each in context.command.params if option in (*each.opts, *each.secondary_opts)), None)


def _is_group(command: Any) -> bool:
    return hasattr(command, "commands")
