"""The commands of a conversation: what begins with a slash."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.cli import _chat_screen
from ggufkit.cli._chat_lines import LineEditor
from ggufkit.counting import counted
from ggufkit.errors import InputError, UsageError
from ggufkit.homes import expanded
from ggufkit.inference import session_file
from ggufkit.inference.generation import GenerationResult
from ggufkit.inference.options import SamplingOptions
from ggufkit.inference.reasoning import Reasoning
from ggufkit.inference.session import ChatSession, Reply, WhenFull

if TYPE_CHECKING:
    from ggufkit.cli._chat import Wishes

HELP = '''\
/regen              let the model answer the last question anew
/edit [TEXT]        change the last question, and have it answered
/clear              forget the conversation (the system prompt stays)
/read FILE          put the text of a file in front of the next message
/system [TEXT]      show or change the system prompt; /system none removes it
/set [NAME VALUE]   show or change settings: /set temperature 0.2, /set reasoning off
/show [WHAT]        info, system, settings, messages, reasoning, prompt
/template           show the chat template; /show prompt shows what it makes of the conversation
/save [FILE]        keep the chat in a file
/load FILE          go on with a chat from a file
/stats              show how full the context is, and how fast the last reply was
/exit               leave (or Ctrl-D, or Ctrl-C twice)
"""                 begin and end a message of several lines
Ctrl-C stops a reply; what it said so far stays. Tab completes commands and file names.'''

_LARGEST_FILE = 16 << 20  # bytes
_MOST_TO_EDIT = 40  # lines, one of which is changed at a time
_SHORT = {"temp": "temperature", "predict": "max_tokens", "when-full": "when_full", "think": "reasoning"}


class Commands:
    """The state of the conversation that is not the model's: what was last said, and whether the user has left."""

    def __init__(self, session: ChatSession, wishes: "Wishes", editor: LineEditor) -> None:
        self.session = session
        self.last: Reply | None = None
        self.has_asked = False
        self.left = False
        self._editor = editor
        self._file = wishes.session
        self._kept = wishes.session  # what is rewritten after every reply
        self._show_reasoning = wishes.show_reasoning
        self._read: list[str] = []
        self._typed = ""  # the end of the last question, behind the files that were put in front
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/?": self._help,
            "/regen": lambda _: self._reply(self.session.regenerate()),
            "/edit": self._edit,
            "/clear": self._clear,
            "/read": self._attach,
            "/system": self._system,
            "/set": self._set,
            "/show": self._show,
            "/template": lambda _: self._print(self.session.template.source),
            "/save": self._save,
            "/load": self._load,
            "/stats": self._stats,
            "/exit": self._leave,
            "/quit": self._leave,
            "/bye": self._leave,
        }
        editor.commands = list(self._commands)
        editor.file_commands = ("/read", "/save", "/load")

    def greet(self) -> None:
        """Say with which chat it goes on."""
        if exchanges := self.session.conversation.exchanges:
            _chat_screen.tell(f"going on with {counted(exchanges, 'exchange')}; /show messages lists them")

    def take(self, text: str) -> None:
        """Obey a command, or send a message to the model."""
        name, _, rest = text.strip().partition(" ")
        if name in self._commands and not text.startswith(" "):
            self._commands[name](rest.strip())
        elif text.startswith("/") and name[1:].isalpha():
            raise UsageError(f"unknown command {name}", hint="/help lists them; a space in front sends it as a message")
        else:
            self._ask(text)

    def _ask(self, text: str) -> None:
        files, self._read = self._read, []
        try:
            reply = self.session.ask("\n\n".join([*files, text]))
        except InputError as error:
            if not files:
                raise
            read = counted(len(files), "file")
            raise InputError(f"{error}; the {read} that was to stand in front is dropped", hint=error.hint) from error
        self._typed = text
        self._reply(reply)

    def _reply(self, reply: Reply) -> None:
        self.has_asked, self.last = True, None
        _chat_screen.stream(reply, show_reasoning=self._show_reasoning)
        self.last = reply
        _chat_screen.tell_about(self.session, reply, with_meter=True)
        if self._kept:
            session_file.save(self.session, self._kept)

    def _help(self, _: str) -> None:
        self._print(HELP)

    def _edit(self, text: str) -> None:
        question = self.session.conversation.last_question
        if question is None:
            raise UsageError("there is no question to edit yet")
        if not text:
            if not self._editor.can_prefill:
                raise UsageError("/edit needs the new text here", hint="/edit NEW QUESTION")
            files, typed = self._parts(question)
            lines = typed.split("\n")
            if len(lines) > _MOST_TO_EDIT:
                raise UsageError(
                    f"the last question has {len(lines)} lines, too many to go through", hint="/edit NEW QUESTION"
                )
            typed = "\n".join(self._editor.read(". ", line) for line in lines)
            if not typed.strip():
                _chat_screen.tell("nothing to ask: the question stays as it was")
                return
            text = files + typed
        else:
            typed = text
        reply = self.session.edit(text)
        self._typed = typed
        self._reply(reply)

    def _parts(self, question: str) -> tuple[str, str]:
        """Return the files in front of a question as far as they are known, and what was typed behind them."""
        typed = self._typed if self._typed and question.endswith(f"\n\n{self._typed}") else question
        return question[: len(question) - len(typed)], typed

    def _clear(self, _: str) -> None:
        self.session.conversation = self.session.conversation.cleared()
        self._read = []
        _chat_screen.tell("forgotten")

    def _attach(self, name: str) -> None:
        if not name:
            raise UsageError("/read needs a file", hint="/read notes.txt")
        path = expanded(name)
        text = _read_text(path)
        tokens = len(self.session.engine.tokenize(text))
        before = sum(len(self.session.engine.tokenize(each)) for each in self._read)
        size = self.session.engine.context_size
        if tokens + before >= size:
            more = f" beside {before} of other files" if before else ""
            raise InputError(
                f"{path} has {counted(tokens, 'token')}{more}, but the context holds {size}",
                hint=f"-c {2 * (tokens + before)}",
            )
        self._read.append(text)
        _chat_screen.tell(f"{path}: {counted(tokens, 'token')}, put in front of your next message")

    def _system(self, text: str) -> None:
        if text:
            self.session.conversation = replace(self.session.conversation, system=None if text == "none" else text)
        self._print(self.session.conversation.system or "(no system prompt)")

    def _set(self, text: str) -> None:
        name, _, value = text.removeprefix("parameter ").partition(" ")
        if name:
            self._change(_SHORT.get(name, name), value.strip())
        self._print(", ".join(f"{name} {value}" for name, value in self._settings()))

    def _settings(self) -> Iterator[tuple[str, Any]]:
        options = self.session.sampling or self.session.engine.sampling_defaults()
        default = SamplingOptions()
        always = {"temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"}
        for option in fields(options):
            value = getattr(options, option.name)
            if option.name in always or value != getattr(default, option.name):
                yield option.name, "random" if option.name == "seed" and value is None else value
        limit = self.session.max_tokens
        yield "max_tokens", "no limit" if limit is None else limit
        yield "reasoning", f"{self.session.reasoning} ({'shown' if self._show_reasoning else 'folded'})"
        yield "when_full", self.session.when_full

    def _change(self, name: str, value: str) -> None:
        if name == "system":
            self._system(value)
        elif name == "reasoning" and value in {"shown", "folded"}:
            self._show_reasoning = value == "shown"
        elif name == "reasoning":
            before, self.session.reasoning = self.session.reasoning, _choice(Reasoning, name, value)
            if not self.session.switch.works:
                self.session.reasoning = before
                raise UsageError("neither the template nor the vocabulary of this model knows reasoning")
        elif name == "when_full":
            self.session.when_full = _choice(WhenFull, name, value)
        elif name == "max_tokens":
            limit = _number(int, name, value)
            if limit == 0:
                raise UsageError("max_tokens must be positive, or -1 for no limit")
            self.session.max_tokens = None if limit < 0 else limit
        else:
            kinds = {option.name: type(option.default) for option in fields(SamplingOptions)} | {"seed": int}
            numbers = {name: kind for name, kind in kinds.items() if kind in {int, float}}
            if name not in numbers:
                known = [*numbers, "max_tokens", "reasoning", "when_full", "system"]
                raise UsageError(f"unknown setting {name}", hint=f"one of {', '.join(known)}")
            chosen: Any = None if name == "seed" and value == "random" else _number(numbers[name], name, value)
            options = self.session.sampling or self.session.engine.sampling_defaults()
            self.session.sampling = replace(options, **{name: chosen})

    def _show(self, what: str) -> None:
        views: dict[str, Callable[[], str]] = {
            "info": self._info,
            "system": lambda: self.session.conversation.system or "(no system prompt)",
            "settings": lambda: "\n".join(f"{name:16}{value}" for name, value in self._settings()),
            "parameters": lambda: views["settings"](),
            "messages": self._messages,
            "reasoning": self._reasoning,
            "template": lambda: self.session.template.source,
            "prompt": self._prompt,
        }
        if (what or "info") not in views:
            raise UsageError(f"there is no {what} to show", hint=f"one of {', '.join(views)}")
        self._print(views[what or "info"]())

    def _info(self) -> str:
        engine, marks = self.session.engine, self.session.markers
        options = engine.options
        marked = f"between {marks.start} and {marks.end}" if marks.known else "none known"
        return "\n".join(
            (
                f"model           {engine.path}",
                f"                {engine.description}, {engine.vocabulary_size} tokens of vocabulary",
                (
                    f"context         {engine.context_size} tokens (trained on {engine.training_context}), "
                    f"keys {options.cache_type_k}, values {options.cache_type_v}"
                ),
                f"reasoning       {marked}",
                *(f"adapter         {adapter.path}, scale {adapter.scale:g}" for adapter in options.adapters),
                f"loaded in       {engine.load_seconds:.2f} s",
            )
        )

    def _messages(self) -> str:
        conversation = self.session.conversation
        hidden = len(conversation.turns) - sum(turn.role != "system" for turn in conversation.messages)
        lines = [
            f"{turn.role}{' (dropped)' if at < hidden else ''}: {turn.content}"
            for at, turn in enumerate(conversation.turns)
        ]
        return "\n\n".join(lines) or "(nothing was said yet)"

    def _reasoning(self) -> str:
        reply = self.session.conversation.last_reply
        return (reply.reasoning if reply else "") or "(the last reply came without reasoning)"

    def _prompt(self) -> str:
        if not self.session.conversation.messages:
            return "(nothing was said yet)"
        tokens = self.session.tokens(self.session.conversation)
        return self.session.engine.text_of(tokens, special=True)

    def _save(self, name: str) -> None:
        path = expanded(name) if name else self._file
        if path is None:
            raise UsageError("/save needs a file", hint="/save chat.json")
        if path != self._file and path.is_file():
            try:
                session_file.load(path)
            except InputError:
                raise UsageError(f"{path} exists, and is no chat of ggufkit", hint="/save another-name.json") from None
        if path.is_dir():
            raise UsageError(f"{path} is a folder", hint="/save chat.json")
        session_file.save(self.session, path)
        if not self._kept:  # else a copy of the chat as it is now
            self._file = path
        _chat_screen.tell(f"{counted(self.session.conversation.exchanges, 'exchange')} saved to {path}")

    def _load(self, name: str) -> None:
        if not name:
            raise UsageError("/load needs a file", hint="/load chat.json")
        path = expanded(name)
        saved = session_file.load(path)
        saved.restore(self.session)
        self._read, self._typed, self.last = [], "", None
        left = self._kept if self._kept and self._kept.resolve() != path.resolve() else None
        self._file, self._kept = path, path if self._kept else None
        other = saved.model and saved.model != self.session.engine.path.name
        _chat_screen.tell(
            f"going on with {counted(saved.conversation.exchanges, 'exchange')} from {path}"
            + (f", which {saved.model} answered" if other else "")
        )
        if left:
            _chat_screen.tell(f"replies are kept there from now on; {left} stays as it is")

    def _stats(self, _: str) -> None:
        session = self.session
        self._print(_chat_screen.meter(session.used(), session.engine.context_size))
        if forgotten := session.conversation.forgotten:
            self._print(f"{counted(forgotten, 'exchange')} at the beginning dropped: the model does not see them")
        if self.last:
            result: GenerationResult = self.last.result
            self._print(_chat_screen.timings(result))
            self._print(f"seed {result.seed}, peak memory {result.peak_memory / 1e6:.0f} MB")

    def _leave(self, _: str) -> None:
        self.left = True

    def _print(self, text: str) -> None:
        print(_chat_screen.printable(text), file=sys.stderr, flush=True)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path} is larger than {_LARGEST_FILE >> 20} MiB: no context holds that")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not text.strip():
        raise InputError(f"{path} is empty")
    return text.rstrip("\n")


def _choice(kind: Any, name: str, value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{name} must be one of {', '.join(kind)}, not {value!r}") from None


def _number(kind: type, name: str, value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{name} must be a {'whole ' if kind is int else ''}number, not {value!r}") from None
