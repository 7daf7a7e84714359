"""A whole terminal session, driven through tmux as a person would: what is typed, and what then is on the screen."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed"),
]

CHAT = [sys.executable, "-c", "from ggufkit.cli import main; main()", "chat"]
PATIENCE = 120.0  # seconds; only a test that fails waits so long


class Screen:
    """A tmux session of its own server; nothing is waited for but what must come up on the screen."""

    def __init__(self, socket: Path, state: Path) -> None:
        self.socket = socket
        self.state = state

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self.socket), "-f", "/dev/null", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def start(self, *arguments: str | Path) -> "Screen":
        variables = {**os.environ, "XDG_STATE_HOME": str(self.state), "TERM": "screen", "LC_ALL": "C.UTF-8"}
        variables.pop("GGUFKIT_CHAT_HISTORY", None)
        environment = [f"{name}={value}" for name, value in variables.items() if name != "TMUX"]
        # The shell tells how the program ended: tmux 3.3 may miss the death of its own children.
        script = 'trap : INT; "$@"; echo "left with status $?."; sleep 600'
        program = ["env", "-i", *environment, "sh", "-c", script, "sh", *CHAT, *map(str, arguments)]
        self.tmux(
            *("-u", "new-session", "-d", "-x", "140", "-y", "50", "sleep", "600", ";"),
            *("set-option", "-g", "history-limit", "5000", ";"),
            *("respawn-pane", "-k", *program),
        )
        return self

    def text(self) -> str:
        return self.tmux("capture-pane", "-p", "-J", "-S", "-")

    def says(self, text: str, times: int = 1) -> str:
        """Wait until the screen, with all that scrolled away, holds a text so many times."""
        ended = time.monotonic() + PATIENCE
        while (shown := self.text()).count(text) < times:
            assert time.monotonic() < ended, f"{text!r} did not come {times} times:\n{shown}"
            time.sleep(0.05)
        return shown

    def is_ready(self) -> None:
        """Wait for a prompt with nothing behind it: keys before that go to no line, and Ctrl-D would get lost."""
        ended = time.monotonic() + PATIENCE
        while (self.text().rstrip() or " ").splitlines()[-1].strip() not in {">", "."}:
            assert time.monotonic() < ended, f"no prompt came:\n{self.text()}"
            time.sleep(0.05)

    def type(self, text: str, *, prefilled: bool = False) -> None:
        if not prefilled:
            self.is_ready()
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def exit_status(self) -> int:
        return int(self.says("left with status ").rpartition("left with status ")[2].partition(".")[0])

    def close(self) -> None:
        subprocess.run(["tmux", "-S", str(self.socket), "kill-server"], capture_output=True, check=False, timeout=60)


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    # A socket's path must be short, which pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="tm") as folder:
        screen = Screen(Path(folder) / "s", tmp_path / "state")
        yield screen
        screen.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.saying(tmp_path_factory.mktemp("chat") / "model.gguf", "Hi 🙂!")


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    return tiny_model.saying(folder / "endless.gguf", "abc", endless=True, training_context=1 << 20)


def test_a_session_as_it_is_documented(screen: Screen, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    screen.start(model, "-t", "1", "--temp", "0")
    screen.says("/help lists commands")
    screen.type("hello")
    screen.says("Hi 🙂!")
    screen.says("tokens per second", 1)
    screen.type('"""two')
    screen.says("\n. ")
    screen.type('lines"""')
    screen.says("tokens per second", 2)
    screen.type("/regen")
    screen.says("tokens per second", 3)
    screen.type("/show messages")
    screen.says("user: two\nlines")
    screen.type("/edit")
    screen.says(". two", 1)
    screen.press("Enter")
    screen.says(". lines")
    screen.type(", edited", prefilled=True)
    screen.says("tokens per second", 4)
    screen.type("/edit")
    screen.says(". two", 2)
    screen.press("C-u", "C-d")  # given up
    screen.type("/show prompt")
    screen.says("two\nlines, edited<|im_end|>")
    screen.type(f"/save {file}")
    screen.says("2 exchanges saved to")
    screen.is_ready()
    screen.press("/", "c", "l", "Tab", "Enter")
    screen.says("forgotten")
    screen.type("/stats")
    screen.says("0 of 512 tokens")
    screen.type(f"/load {file}")
    screen.says("going on with 2 exchanges")
    screen.is_ready()
    screen.press("Up", "Up", "Enter")  # the history: /stats again
    screen.says("of 512 tokens of context in use", 2)
    screen.is_ready()
    screen.press("C-d")
    assert screen.exit_status() == 0
    history = screen.state / "ggufkit" / "chat_history"
    assert "hello" in history.read_text().splitlines()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_ctrl_c_keeps_what_was_said_and_leaves_when_pressed_twice(screen: Screen, endless: Path) -> None:
    screen.start(endless, "-t", "1", "--temp", "0")
    screen.says("> ")
    screen.type("hello")
    screen.says("abcabcabc")
    screen.press("C-c")
    screen.says("tokens per second")
    screen.type("/show messages")
    screen.says("assistant: abcabc")
    screen.is_ready()
    screen.press("C-c")
    screen.says("(Ctrl-C again, Ctrl-D or /exit leaves)")
    screen.type("/clear")  # something else in between: it counts anew
    screen.says("forgotten")
    screen.is_ready()
    screen.press("C-c")
    screen.says("(Ctrl-C again, Ctrl-D or /exit leaves)", 2)
    screen.is_ready()
    screen.press("C-c")
    assert screen.exit_status() == 0


def test_reasoning_is_folded_on_the_screen_and_can_be_looked_at(screen: Screen, tmp_path: Path) -> None:
    said = [tiny_model.token("</think>"), *tiny_model.ids("Yes")]
    start = {tiny_model.token(tiny_model.spell("\n")): tiny_model.token("<think>")}
    thinking = tiny_model.chain(tiny_model.token("<think>"), [*tiny_model.ids("hmdu"), *said])
    path = tiny_model.write(tmp_path / "m.gguf", successors=start | thinking, template=tiny_model.CHATML)
    screen.start(path, "-t", "1", "--temp", "0")
    screen.says("> ")
    screen.type("hello")
    screen.says("(thought for ")
    shown = screen.says("tokens per second")
    assert "Yes" in shown
    assert "hmdu" not in shown
    screen.type("/show reasoning")
    screen.says("\nhmdu\n")
    screen.type("/exit")
    assert screen.exit_status() == 0
