"""Recipes as files: what is written is read back, and what is no recipe is refused in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.errors import InputError
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization import recipe
from ggufkit.quantization.recipe import Recipe, RecipeText, Role

HASH = "0123456789abcdef" * 4
FULL = Recipe(
    tensors={"token_embd.weight": TensorType.Q6_K, "blk.0.attn_q.weight": TensorType.IQ4_XS},
    architecture="llama",
    file_type="Q4_K_M",
    model_name="A model: 100 % <odd> $ = ^#",
    model_sha256=HASH,
    layout_sha256=HASH,
    imatrix_sha256=HASH,
    budget_bytes=2683520,
    file_bytes=2683500,
    predicted_kld=0.00061,
    measured_kld=6.54e-05,
    measured_kld_999=0.0057,
    measured_on=Role.TEST,
    refined=True,
    equalized=True,
    made_by="ggufkit 0.1.0",
    texts=(RecipeText(Role.CALIBRATION, "a:b c.txt", HASH), RecipeText(Role.DEVELOPMENT, "ü.md", HASH)),
)


def as_json(given_recipe: Recipe) -> str:
    return json.dumps(recipe.to_json(given_recipe))


@pytest.mark.parametrize("write", [recipe.text, as_json])
def test_every_fact_comes_back(write: Callable[[Recipe], str]) -> None:
    assert recipe.parse(write(FULL)) == FULL
    bare = Recipe(tensors={"a": TensorType.F16})
    assert recipe.parse(write(bare)) == bare


@given(name=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=63))
def test_every_name_is_matched_by_its_pattern_alone(name: str) -> None:
    written = recipe.text(Recipe(tensors={name: TensorType.Q4_K, f"{name}.bias": TensorType.F32}))
    assert recipe.parse(written).tensors == {name: TensorType.Q4_K, f"{name}.bias": TensorType.F32}
    # As llama-quantize reads it: words, cut at the first `=`, made lower case, searched for.
    patterns = [word.partition("=")[0].lower() for word in written.split()]
    assert [pattern for pattern in patterns if re.search(pattern, name)] == [patterns[1]]


def test_a_list_of_anchored_names_without_facts_is_a_recipe() -> None:
    found = recipe.parse(r"^blk\.0\.ffn_up\.weight$=q5_k   ^output\.weight$=F16")
    assert found.tensors == {"blk.0.ffn_up.weight": TensorType.Q5_K, "output.weight": TensorType.F16}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "names no tensor"),
        ("attn_v=q8_0", "not of the form"),
        ("^blk.0.attn_v.weight$=q8_0", "not of the form"),  # `.` means any character
        (r"^blk\.(0|1)\.attn_v$=q8_0", "not of the form"),
        ("^a$=q9_k", "unknown tensor type"),
        ("^a$=q8_k", "unknown tensor type"),  # a type of intermediate results only
        ("^a$=q8_0 ^a$=q4_0", "named twice"),
        ("^#ggufkit-recipe:2$=f32 ^a$=q8_0", "newer"),
        ("^#ggufkit-recipe:one$=f32 ^a$=q8_0", "no number"),
        ("^#budget_bytes:-5$=f32 ^a$=q8_0", "budget_bytes"),
        ("^#predicted_kld:nan$=f32 ^a$=q8_0", "predicted_kld"),
        ("^#model_sha256:12ab$=f32 ^a$=q8_0", "model_sha256"),
        ("^#text:exam:a:" + HASH + "$=f32 ^a$=q8_0", "a text"),
        ("{", "not valid JSON"),
        ("{}", "schema_version"),
        ('{"schema_version": 1, "tensors": []}', "schema_version"),
        ('{"schema_version": true, "tensors": {"a": "q8_0"}}', "version"),
        ('{"schema_version": 1, "tensors": {"a": 5}}', "no string"),
        ('{"schema_version": 1, "tensors": {"a": "q8_0"}, "texts": [3]}', "a text"),
        ('{"schema_version": 1, "tensors": {"a": "q8_0"}, "refined": "yes"}', "refined"),
        ('{"schema_version": 1, "tensors": {"a": "q8_0"}, "equalized": 1}', "equalized"),
        ('{"schema_version": 1, "tensors": {"a": "q8_0"}, "measured_on": []}', "measured_on"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.recipe"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as refused:
        recipe.read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.recipe"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not text"):
        recipe.read(path)
    with pytest.raises(InputError, match="cannot read"):
        recipe.read(tmp_path)
