"""Two models by meaning: the same weights in other types, damaged ones, other metadata, other files."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from ggufkit.errors import GgufFileError
from ggufkit.evaluation.difference import Values, compare

SHAPE = (8, 256)


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def write(path: Path, tensors: dict[str, tuple[np.ndarray, Kind]], **keys: object) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        add[type(value)](key.replace("__", "."), value)
    for name, (values, kind) in tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def verdict(folder: Path, left: tuple[np.ndarray, Kind], right: tuple[np.ndarray, Kind]) -> Values:
    found = compare(write(folder / "l.gguf", {"w": left}), write(folder / "r.gguf", {"w": right}))
    assert found.compared == 1
    return found.tensors[0].values if found.tensors else Values.IDENTICAL


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_1])
def test_the_same_weights_in_another_type(tmp_path: Path, kind: Kind) -> None:
    assert verdict(tmp_path, (weights(), Kind.F32), (weights(), kind)) is Values.ROUNDING
    assert verdict(tmp_path, (weights(), kind), (weights(), kind)) is Values.IDENTICAL
    assert verdict(tmp_path, (weights(), kind), (weights(), Kind.F16)) in {Values.ROUNDING, Values.IDENTICAL}


def test_values_that_both_types_hold_are_identical(tmp_path: Path) -> None:
    exact = np.round(weights() * 16) / 16
    assert verdict(tmp_path, (exact, Kind.F32), (exact, Kind.F16)) is Values.IDENTICAL


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0])
def test_other_weights_are_different(tmp_path: Path, kind: Kind) -> None:
    assert verdict(tmp_path, (weights(), Kind.F32), (weights(1), kind)) is Values.DIFFERENT
    assert verdict(tmp_path, (weights(), Kind.F32), (-weights(), kind)) is Values.DIFFERENT


def test_one_weight_that_is_off(tmp_path: Path) -> None:
    damaged = weights()
    damaged[3, 5] += 0.01
    assert verdict(tmp_path, (weights(), Kind.F16), (damaged, Kind.F16)) is Values.DIFFERENT
    damaged[3, 5] = np.nan
    assert verdict(tmp_path, (weights(), Kind.F32), (damaged, Kind.F32)) is Values.DIFFERENT
    assert verdict(tmp_path, (damaged, Kind.F32), (damaged, Kind.F16)) is Values.ROUNDING


def test_metadata_by_meaning(tmp_path: Path) -> None:
    tokens = [f"token{n}" for n in range(100)]
    others = [*tokens[:50], "other", *tokens[51:]]
    one = write(tmp_path / "1.gguf", {}, a__name="x", a__number=3, tokens=tokens, gone="x", a__short=[1, 2])
    two = write(tmp_path / "2.gguf", {}, a__number=3.0, a__name="y", tokens=others, a__short=[1, 3], split__count=1)
    found = {each.key: (each.left, each.right) for each in compare(one, two).metadata}
    assert found.pop("tokens") == tuple(f"1 of 100 differ, first at 50: {text!r}" for text in ("token50", "other"))
    assert found == {"a.name": ("'x'", "'y'"), "gone": ("'x'", None), "a.short": ("[1, 2]", "[1, 3]")}
    assert compare(one, two, ignored=["a.*", "gone", "tokens"]).is_nothing()


def test_tensors_that_are_missing_or_of_another_shape(tmp_path: Path) -> None:
    one = write(tmp_path / "1.gguf", {"a": (weights(), Kind.F32), "b": (weights(), Kind.F32)})
    two = write(tmp_path / "2.gguf", {"b": (weights().reshape(4, 512), Kind.F32), "c": (weights(), Kind.F32)})
    found = {each.name: (each.left_shape, each.right_shape) for each in compare(one, two).tensors}
    assert found == {"a": ((256, 8), None), "b": ((256, 8), (512, 4)), "c": (None, (256, 8))}
    assert not compare(one, two).is_nothing(rounding=True)


def test_what_counts_as_nothing(tmp_path: Path) -> None:
    one = write(tmp_path / "1.gguf", {"a": (weights(), Kind.F32)}, general__file_type=0)
    two = write(tmp_path / "2.gguf", {"a": (weights(), Kind.Q8_0)}, general__file_type=7)
    assert not compare(one, two).is_nothing()
    assert compare(one, two).is_nothing(rounding=True)
    assert not compare(one, two, with_values=False).is_nothing(rounding=True)
    assert compare(one, one).is_nothing()


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "1.gguf", {"a": (weights(), Kind.F32)})
    cut = tmp_path / "2.gguf"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GgufFileError, match="incomplete"):
        compare(path, cut)
