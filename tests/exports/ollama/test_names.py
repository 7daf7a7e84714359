"""Names as Ollama takes and refuses them."""

import pytest

from ggufkit.errors import UsageError
from ggufkit.exports.ollama import parse_name


@pytest.mark.parametrize(
    ("text", "path", "short"),
    [
        ("m", "registry.ollama.ai/library/m/latest", "m:latest"),
        ("m:Q4_K_M", "registry.ollama.ai/library/m/Q4_K_M", "m:Q4_K_M"),
        ("me/m", "registry.ollama.ai/me/m/latest", "me/m:latest"),
        ("hf.co/me/m.v1:1.5", "hf.co/me/m.v1/1.5", "hf.co/me/m.v1:1.5"),
        ("localhost:5000/a-b/c_d:x", "localhost:5000/a-b/c_d/x", "localhost:5000/a-b/c_d:x"),
        ("https://h/n/m", "h/n/m/latest", "h/n/m:latest"),
        ("h" * 255 + "/n/m", "h" * 255 + "/n/m/latest", "h" * 255 + "/n/m:latest"),
    ],
)
def test_names_and_their_defaults(text: str, path: str, short: str):
    assert str(parse_name(text).path) == path
    assert parse_name(text).short == short


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "m:", ":x", "/m", "n/", "a/b/c/d", "m m", ".m", "-m", "n.n/m", "m:t/", "m:a b", "ä", "../m", "m/.."),
        *("m:" + "t" * 81, "m" * 81, "h" * 256 + "/n/m", "m\n", "a//b"),
    ],
)
def test_what_is_no_name_is_refused(text: str):
    with pytest.raises(UsageError, match="no name for a model"):
        parse_name(text)
