"""Numbers of things have the right form of the noun."""

from ggufkit.counting import counted


def test_one_thing_is_singular_and_all_else_plural() -> None:
    assert [counted(count, "prompt") for count in (0, 1, 2, 1024)] == [
        "0 prompts",
        "1 prompt",
        "2 prompts",
        "1,024 prompts",
    ]
    assert counted(1, "matrix", "matrices") == "1 matrix"
    assert counted(2, "key differs", "keys differ") == "2 keys differ"
