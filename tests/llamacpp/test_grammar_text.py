"""Grammars that llama.cpp would not get past are told from those that only look like it."""

import pytest

from ggufkit.errors import InputError
from ggufkit.llamacpp.grammar_text import check_grammar, fault_of


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ('root ::= "a"{3,2}', "at least 3 and at most 2"),
        ("root ::= [a-z]{ 3 , # two\n 2 }", "at least 3 and at most 2"),
        ('root ::= ("a" | x){5,4}\nx ::= "b"', "at least 5 and at most 4"),
        ('root ::= "a"{99999999999999999999999999,1}', "at most 1"),
        ('root ::= ("a"?){1,1000}', "1,000 ways"),
        ('root ::= x x x x x x x x x x\nx ::= y y y y y y y y y y\ny ::= "a"?', "100 ways"),
        (f'root ::= "{"a" * 2000}"' + "{2000}", "1,048,576 elements"),
        ("root ::= " + "(" * 600 + '"a"' + ")" * 600, "500 levels"),
        ("\n".join(f"a{n} ::= a{n + 1}" for n in range(3000)) + '\na3000 ::= "x"', "2,000 rules within rules"),
    ],
)
def test_faults_are_named(grammar: str, words: str) -> None:
    assert words in (fault_of(grammar) or "")
    with pytest.raises(InputError, match="the grammar"):
        check_grammar(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a{3,2}" [{3,2}] "\\"{3,2}" # {3,2}',
        'root ::= "a"{2}{3,4} "b"{2,} "c"{0,2000}',
        'root ::= ("a" ("b" ("c")?)?)? "d"',
        "root ::= " + " | ".join(f'"item {number}"' for number in range(3000)),
        'root ::= ws object ws\nobject ::= "{" ws "}"\nws ::= [ \\t\\n]*',
        'root ::= list\nlist ::= item ("," list)?\nitem ::= [0-9]+',
        "root ::= " + '"("' * 600,
        "root ::= <think> !</think>* ",
        'root ::= "unfinished',
        "",
    ],
)
def test_what_only_looks_like_it_passes(grammar: str) -> None:
    assert fault_of(grammar) is None
