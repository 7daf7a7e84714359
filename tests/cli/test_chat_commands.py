"""Every command of a conversation does what /help says of it, and a wrong one costs nothing but a line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model

from ggufkit.cli._chat import Wishes, question
from ggufkit.cli._chat_commands import HELP, Commands
from ggufkit.cli._chat_lines import LineEditor, history_file
from ggufkit.cli._chat_screen import printable
from ggufkit.errors import GgufkitError, InputError, UsageError
from ggufkit.inference.conversation import Conversation
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import EngineOptions, SamplingOptions
from ggufkit.inference.reasoning import Reasoning
from ggufkit.inference.session import ChatSession
from ggufkit.inference.templates import ChatTemplate

pytestmark = pytest.mark.engine

THINKS = "{# <think> </think> {{ enable_thinking }} #}" + tiny_model.CHATML


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tiny_model.saying(tmp_path_factory.mktemp("chat") / "model.gguf", "Hi 🙂!", template=THINKS)
    with Engine.open(path, EngineOptions(threads=1)) as engine:
        yield engine


@pytest.fixture
def commands(engine: Engine) -> Commands:
    session = ChatSession(
        engine=engine,
        template=ChatTemplate.of(engine),
        conversation=Conversation("be kind"),
        sampling=SamplingOptions(temperature=0),
    )
    return Commands(session, Wishes(), LineEditor())


def said(capsys: pytest.CaptureFixture[str], commands: Commands, *texts: str) -> tuple[str, str]:
    capsys.readouterr()
    for text in texts:
        commands.take(text)
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_replies_go_to_stdout_and_what_is_about_them_to_stderr(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    replies, notes = said(capsys, commands, "hello", "/regen")
    assert replies == "Hi 🙂!\nHi 🙂!\n"
    assert notes.count("tokens per second") == 2
    assert "context" in notes
    assert "\x1b" not in replies + notes
    assert commands.session.conversation.exchanges == 1


def test_help_names_every_command(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    _, notes = said(capsys, commands, "/help")
    for name in ("/help", "/set", "/show", "/system", "/regen", "/edit", "/clear", "/read", "/save", "/load", "/stats"):
        assert name in notes or name == "/help"
    assert all(line.split()[0] in commands._commands for line in HELP.splitlines() if line.startswith("/"))


def test_edit_asks_something_else_in_place_of_the_last_question(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, commands, "one", "two", "/edit three")
    assert [turn.content for turn in commands.session.conversation.turns] == ["one", "Hi 🙂!", "three", "Hi 🙂!"]
    with pytest.raises(UsageError, match="needs the new text"):
        commands.take("/edit")


def test_read_puts_files_in_front_of_the_next_message_only(
    commands: Commands, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second file.txt"
    first.write_text("été\n\n")
    second.write_text("two")
    _, notes = said(capsys, commands, f"/read {first}", f"/read {second}", "sum up", "again")
    assert "first.txt: 5 tokens, put in front of your next message" in notes
    asked = [turn.content for turn in commands.session.conversation.turns if turn.role == "user"]
    assert asked == ["été\n\ntwo\n\nsum up", "again"]
    said(capsys, commands, f"/read {first}", "/clear", "alone")
    assert commands.session.conversation.last_question == "alone"


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\xfe", "not text in UTF-8"), (b" \n", "is empty"), (b"word " * 600, "tokens, but")]
)
def test_files_that_cannot_be_read_are_refused(
    commands: Commands, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message):
        commands.take(f"/read {tmp_path / 'file'}")
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            commands.take(f"/read {missing}")


@pytest.mark.parametrize("command", ["/read", "/save", "/load"])
def test_nobodys_home_is_a_mistake_like_others(commands: Commands, command: str) -> None:
    with pytest.raises(InputError, match="no such home folder"):
        commands.take(f"{command} ~nosuchuser/x")


def test_files_together_must_fit(commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = commands.session.engine.context_size
    half = "Hi " * (size // 4)
    while len(commands.session.engine.tokenize(half)) < size // 2 + 8:
        half += "Hi "
    (tmp_path / "half").write_text(half)
    said(capsys, commands, f"/read {tmp_path / 'half'}")
    with pytest.raises(InputError, match="of other files, but the context holds"):
        commands.take(f"/read {tmp_path / 'half'}")


def test_files_that_made_a_message_too_long_are_dropped(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = commands.session.engine.context_size
    text = "Hi "
    while len(commands.session.engine.tokenize(text)) < size - 12:
        text += "Hi "
    (tmp_path / "long").write_text(text)
    said(capsys, commands, f"/read {tmp_path / 'long'}")
    with pytest.raises(InputError, match="the 1 file that was to stand in front is dropped"):
        commands.take("hello")
    assert said(capsys, commands, "hello")[0] == "Hi 🙂!\n"


def test_save_replaces_chats_only(commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no chat of ggufkit"):
        commands.take(f"/save {tmp_path / 'notes.txt'}")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    said(capsys, commands, f"/save {tmp_path / 'a'}", f"/save {tmp_path / 'b'}", f"/save {tmp_path / 'a'}")


def test_a_grammar_goes_without_reasoning_and_leaves_the_wish_for_it(commands: Commands) -> None:
    commands.session.reasoning = Reasoning.ON
    with_reasoning = commands.session.switch
    commands.session.sampling = SamplingOptions(grammar='root ::= "x"')
    assert commands.session.switch != with_reasoning
    assert commands.session.reasoning is Reasoning.ON


def test_system_is_shown_changed_and_removed(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, commands, "/system")[1] == "be kind\n"
    assert said(capsys, commands, "/system be brief")[1] == "be brief\n"
    assert commands.session.conversation.system == "be brief"
    assert "no system prompt" in said(capsys, commands, "/system none", "/show system")[1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/set temperature 0.5", "temperature 0.5"),
        ("/set temp 0.5", "temperature 0.5"),
        ("/set parameter top_k 3", "top_k 3"),
        ("/set presence_penalty 1", "presence_penalty 1.0"),
        ("/set seed 7", "seed 7"),
        ("/set seed random", "seed random"),
        ("/set predict 12", "max_tokens 12"),
        ("/set max_tokens -1", "max_tokens no limit"),
        ("/set reasoning off", "reasoning off (folded)"),
        ("/set reasoning shown", "reasoning auto (shown)"),
        ("/set when-full stop", "when_full stop"),
        ("/set system be brief", "be brief"),
        ("/set", "temperature 0"),
    ],
)
def test_settings_are_changed_and_shown(
    commands: Commands, capsys: pytest.CaptureFixture[str], text: str, shown: str
) -> None:
    assert shown in said(capsys, commands, text)[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/set heat 1", "unknown setting heat"),
        ("/set grammar x", "unknown setting grammar"),
        ("/set temperature hot", "temperature must be a number"),
        ("/set temperature -1", "temperature"),
        ("/set top_k 1.5", "top_k must be a whole number"),
        ("/set max_tokens 0", "positive"),
        ("/set reasoning perhaps", "reasoning must be one of"),
        ("/set when_full explode", "when_full must be one of drop, stop"),
        ("/show everything", "no everything to show"),
        ("/nonsense", "unknown command /nonsense"),
        ("/read", "needs a file"),
        ("/save", "needs a file"),
        ("/load", "needs a file"),
        ("/load /nowhere/chat.json", "cannot read"),
        ("/save /nowhere/chat.json", "folder does not exist"),
        ("/regen", "nothing to answer"),
        ("/edit x", "no question to edit"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(commands: Commands, text: str, message: str) -> None:
    before = (commands.session.conversation, commands.session.sampling, commands.session.reasoning)
    with pytest.raises(GgufkitError, match=message):
        commands.take(text)
    assert (commands.session.conversation, commands.session.sampling, commands.session.reasoning) == before


def test_show_tells_about_model_messages_prompt_and_template(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, commands, "hello")
    assert "context         512 tokens" in said(capsys, commands, "/show")[1]
    assert "between <think> and </think>" in said(capsys, commands, "/show info")[1]
    assert said(capsys, commands, "/show messages")[1] == "user: hello\n\nassistant: Hi 🙂!\n"
    assert "<|im_start|>user\nhello<|im_end|>" in said(capsys, commands, "/show prompt")[1]
    assert "enable_thinking" in said(capsys, commands, "/template")[1]
    assert "without reasoning" in said(capsys, commands, "/show reasoning")[1]
    assert "top_p           0.95" in said(capsys, commands, "/show settings")[1]


def test_a_space_in_front_sends_what_looks_like_a_command(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, commands, " /exit")[0] == "Hi 🙂!\n"
    assert not commands.left
    said(capsys, commands, "/etc/passwd is a file")
    assert commands.session.conversation.exchanges == 2
    commands.take("/bye")
    assert commands.left


def test_a_chat_is_saved_and_loaded_and_a_session_is_kept_after_every_reply(
    commands: Commands, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    _, notes = said(
        capsys, commands, "hello", "/set temp 0.3", f"/save {file}", "/clear", "/set temp 0", f"/load {file}"
    )
    assert "1 exchange saved to" in notes
    assert f"going on with 1 exchange from {file}" in notes
    assert commands.session.conversation.last_question == "hello"
    assert commands.session.sampling == SamplingOptions(temperature=0.3)
    kept = Commands(commands.session, Wishes(session=tmp_path / "kept.json"), LineEditor())
    said(capsys, kept, "more")

    def turns(name: str) -> int:
        return len(json.loads((tmp_path / name).read_text())["turns"])

    assert turns("kept.json") == 4
    said(capsys, kept, f"/save {tmp_path / 'copy.json'}", "and more")
    assert (turns("copy.json"), turns("kept.json")) == (4, 6)
    _, notes = said(capsys, kept, f"/load {file}", "from there")
    assert f"replies are kept there from now on; {tmp_path / 'kept.json'} stays as it is" in notes
    assert (turns("chat.json"), turns("kept.json")) == (4, 6)


def test_a_question_behind_files_is_changed_without_going_through_them(
    commands: Commands, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[str] = []

    def change(_prompt: str, line: str = "") -> str:
        offered.append(line)
        return line.replace("sum up", "translate")

    monkeypatch.setattr(LineEditor, "can_prefill", True)
    monkeypatch.setattr(LineEditor, "read", lambda _self, prompt, line="": change(prompt, line))
    (tmp_path / "notes.txt").write_text("first\n\nsecond\n" * 20)
    said(capsys, commands, f"/read {tmp_path / 'notes.txt'}", "sum up\nplease", "/edit", "/edit")
    assert offered == ["sum up", "please", "translate", "please"]
    question = commands.session.conversation.last_question or ""
    assert question.startswith("first\n\nsecond")
    assert question.endswith("second\n\ntranslate\nplease")
    said(capsys, commands, f"/save {tmp_path / 'chat.json'}", f"/load {tmp_path / 'chat.json'}")
    with pytest.raises(UsageError, match="too many to go through"):  # what was typed of it is not known any more
        commands.take("/edit")
    monkeypatch.setattr(LineEditor, "read", lambda *_: "")
    assert "the question stays as it was" in said(capsys, commands, "short", "/edit")[1]
    assert commands.session.conversation.last_question == "short"


def test_a_terminal_gets_all_text_and_nothing_that_acts_on_it() -> None:
    persian, flag = "\u0646\u0627\u0645\u0647\u200c\u0647\u0627", "🏴\U000e0067\U000e007f"
    text = f"👨\u200d👩\u200d👧 你好\u3000世界 {persian} l\u2019\u202fété {flag}\tend\n"
    assert printable(text.replace("\n", "\r\n")) == text
    assert printable("\x1b[2J\x9b1m\x07\b") == "\ufffd[2J\ufffd1m\ufffd\ufffd"
    assert printable("\u202eevil\u2066\x7f") == "\ufffdevil\ufffd\ufffd"


def test_stats_tell_how_full_the_context_is(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert " of 512 tokens of context in use" in said(capsys, commands, "hello", "/stats")[1]
    for number in range(30):
        said(capsys, commands, f"a question that takes some room, number {number}")
    assert "at the beginning dropped" in said(capsys, commands, "/stats")[1]
    assert "user (dropped): hello" in said(capsys, commands, "/show messages")[1]


# ---- reading lines


def test_the_history_has_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GGUFKIT_CHAT_HISTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "ggufkit" / "chat_history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert history_file() == Path.home() / ".local/state/ggufkit/chat_history"
    monkeypatch.setenv("GGUFKIT_CHAT_HISTORY", str(tmp_path / "mine"))
    assert history_file() == tmp_path / "mine"
    monkeypatch.setenv("GGUFKIT_CHAT_HISTORY", "none")
    assert history_file() is None


def test_nothing_to_answer_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="nothing to answer"):
        question(None, Wishes())
    assert question("hello", Wishes()) == "hello"
    with pytest.raises(UsageError, match="do not go together"):
        Wishes(reasoning="on", sampling={"grammar": "root ::= [a-z]"})
