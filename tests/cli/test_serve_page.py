"""The chat page of `ggufkit serve` in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
import served
import tiny_model
from browser import ENTER, ESCAPE, Browser
from served import Running

import ggufkit

pytestmark = [pytest.mark.engine, pytest.mark.slow]

DEMO = Path(ggufkit.__file__).parent / "demo_model"
REPLIES = "return [...document.querySelectorAll('.message.assistant .content')].map(each => each.textContent)"
IDLE = "return document.getElementById('stop').disabled && document.getElementById('chat').ariaBusy == 'false'"


@pytest.fixture(scope="module", autouse=True)
def _there_is_a_browser() -> None:
    if reason := browser.why_not():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    ggufkit.convert(DEMO, folder / "demo-F16.gguf")
    with served.running("serve", folder / "demo-F16.gguf", "--port", "0", "-t", "1", "--alias", "sums") as running:
        yield running


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser.browser() as opened:
        yield opened


def test_a_conversation_by_keyboard_alone(server: Running, window: Browser) -> None:
    window.open(server.where)
    window.wait("return document.getElementById('model').textContent == 'sums'")
    window.run("document.getElementById('temperature').value = 0")
    for number, (question, answer) in enumerate((("What is 38 + 47?", "= 85"), ("What is 12 + 9?", "= 21"))):
        window.type("#question", question + ENTER)
        window.wait(f"return document.querySelectorAll('.figures').length == {number + 1}")
        window.wait(IDLE)
        assert window.run(REPLIES)[number].endswith(answer)
    assert window.run("return document.activeElement.id") == "question"
    assert "per second" in window.text(".figures")
    window.click("#new")
    assert window.run(REPLIES) == []


def test_nothing_is_asked_of_anyone_else_and_nothing_goes_wrong(server: Running, window: Browser) -> None:
    window.requested(), window.complaints()
    window.open(server.where)
    window.wait("return document.getElementById('model').textContent == 'sums'")
    asked = [url for url in window.requested() if not url.startswith("data:")]
    assert f"{server.where}/page.js" in asked
    assert [url for url in asked if not url.startswith(server.where)] == []
    assert window.complaints() == []


def test_what_a_model_writes_is_text(server: Running, window: Browser) -> None:
    window.open(server.where)
    hostile = "<img src=x onerror=alert(1)>\n```html\n<b>bold</b>\n```\nend"
    window.run("show('assistant', arguments[0])", hostile)
    assert window.run("return document.querySelectorAll('#chat img, #chat b').length") == 0
    assert window.text("#chat pre").strip() == "<b>bold</b>"


def test_everything_has_a_name_and_contrast(server: Running, window: Browser) -> None:
    window.open(server.where)
    assert window.role("#question") == ("textbox", "Your question")
    assert window.role("#send") == ("button", "Send")
    assert window.role("#stop") == ("button", "Stop")
    assert window.role("#chat") == ("log", "Conversation")
    controls = "return [...document.querySelectorAll('input, textarea, button')]"
    assert window.run(controls + ".filter(each => !(each.labels?.length || each.innerText)).length") == 0
    value = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])"
    pairs = (("text", "ground"), ("text", "raised"), ("quiet", "raised"), ("on-accent", "accent"), ("bad", "raised"))
    for theme in ("light", "dark"):
        window.run("useTheme(arguments[0])", theme)
        for pair in pairs:
            first, second = (window.run(value, f"--{name}") for name in pair)
            assert contrast(first, second) >= 4.5, (theme, pair)


def test_dark_is_chosen_and_kept(server: Running, window: Browser) -> None:
    window.open(server.where)
    ground = "return getComputedStyle(document.body).backgroundColor"
    window.run("localStorage.clear(); useTheme('light')")
    light = window.run(ground)
    window.click("#theme")
    dark = window.run(ground)
    assert light != dark
    window.open(server.where)
    window.wait("return document.documentElement.dataset.theme == 'dark'")
    assert window.run(ground) == dark
    assert window.run("return document.getElementById('theme').getAttribute('aria-pressed')") == "true"


def test_a_reply_is_streamed_and_stops(folder: Path, window: Browser) -> None:
    model = tiny_model.saying(folder / "endless.gguf", "abc", endless=True, training_context=1 << 16)
    with served.running("serve", model, "--port", "0", "-t", "1", "-c", "65536", "-np", "1") as server:
        window.open(server.where)
        for end in ("click", "key"):
            window.type("#question", "go" + ENTER)
            window.wait(REPLIES + ".at(-1)?.length > 20")
            assert not window.run(IDLE)
            window.click("#stop") if end == "click" else window.type("#stop", ESCAPE)
            window.wait(IDLE)
            assert window.text("#state") == "stopped"
            served.wait_for(lambda: server.metric("llamacpp:requests_processing") == 0, "the server goes on")
        assert len(window.run(REPLIES)) == 2


def test_a_key_is_asked_for_and_a_dead_server_is_told(folder: Path, server: Running, window: Browser) -> None:
    (folder / "keys").write_text("the-key\n")
    arguments = ("serve", folder / "demo-F16.gguf", "--port", "0", "-t", "1", "--api-key-file", folder / "keys")
    with served.running(*arguments) as locked:
        window.open(locked.where)
        window.wait("return !document.getElementById('key-form').hidden")
        window.type("#key", "the-key" + ENTER)
        window.wait("return document.getElementById('state').textContent == 'ready'")
        window.type("#question", "What is 7 + 8?" + ENTER)
        window.wait("return document.querySelectorAll('.figures').length == 1")
        assert "the-key" not in window.run("return location.href + document.body.innerText")
    window.type("#question", "Are you there?" + ENTER)
    window.wait("return document.querySelectorAll('.message.failed').length == 1")
    assert window.run("return document.getElementById('question').value") == "Are you there?"


def contrast(first: str, second: str) -> float:
    """The contrast of two colours such as #1b1f24 (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(colour.strip()[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    brighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)
