"""What is foretold of a file comes from its mix, and from what the others were against theirs; never from itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from ggufkit.allocation import mix
from ggufkit.allocation.choices import Types
from ggufkit.allocation.ledger import Measured
from ggufkit.allocation.verification import Candidate, Verified
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.progress import silent

# name: (divergence of the mix on the probing text, that of the file on other text)
FILES = {"preset": (1.0, 1.1), "one": (0.5, 0.6), "other": (0.4, 1.6), "third": (0.3, 0.39)}
TYPES = dict(zip(FILES, (TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K, TensorType.Q3_K), strict=True))


@dataclass
class Scratch:
    """Stands in for a scratch copy of a model: answers by the type of its only quantized tensor."""

    floor: float = 0.01

    def measure(self, asked: Sequence[Types], *_: object) -> list[Measured]:
        names = {kind: name for name, kind in TYPES.items()}
        assert all(types.keys() == {"a"} for types in asked)  # the other one is as it is in the source
        return [Measured(FILES[names[types["a"]]][0] + self.floor, (), 0.0) for types in asked]


def foretold(
    names: Sequence[str],
    wanted: Sequence[str],
    of_inputs: Callable[[Types], float] = lambda _: 0.0,
    gain: Callable[[Types], float] = lambda _: 1.0,
) -> dict[str, float]:
    verified = [
        Verified(
            Candidate(name, {"a": TYPES[name], "norm": TensorType.F32}, 0, 7.0, 7.0, is_preset=name == "preset"),
            Measured(FILES[name][1], (), 0.0),
        )
        for name in names
    ]
    chosen = [each for each in verified if each.candidate.name in wanted]
    scratch = cast("Any", Scratch())
    found = mix.foretold(scratch, verified, chosen, scratch.floor, of_inputs, gain, silent)
    return {each.candidate.name: each.candidate.predicted for each in found}


def test_the_median_of_the_other_files_counts() -> None:
    found = foretold(list(FILES), list(FILES))
    assert found["one"] == pytest.approx(0.5 * 1.3)  # of 1.1, 4 and 1.3
    assert found["other"] == pytest.approx(0.4 * 1.2)  # of 1.1, 1.2 and 1.3, not its own 4
    assert found["third"] == pytest.approx(0.3 * 1.2)


def test_one_other_file_is_enough_and_none_leaves_the_mix_as_it_is() -> None:
    assert foretold(["preset", "one"], ["preset", "one"]) == pytest.approx({"preset": 1.2, "one": 0.55})
    assert foretold(["one"], ["one"]) == pytest.approx({"one": 0.5})


def test_rounded_inputs_are_added() -> None:
    found = foretold(["preset", "one"], ["preset", "one"], lambda types: 0.1 if types["a"] is TYPES["one"] else 0.0)
    assert found == pytest.approx({"preset": 1.0, "one": 0.6 * 1.1})  # of 0.6 / 0.6, and of 1.1


def test_better_scales_leave_a_share_of_the_mix_but_not_of_rounded_inputs() -> None:
    found = foretold(["one"], ["one"], lambda _: 0.1, lambda types: 0.8 if types["a"] is TYPES["one"] else 0.0)
    assert found == pytest.approx({"one": 0.8 * 0.5 + 0.1})


def test_what_was_not_measured_as_a_mix_keeps_what_was_foretold_of_it() -> None:
    assert foretold(list(FILES), ["preset", "one"]) == pytest.approx(
        {"preset": 1.2, "one": 0.55, "other": 7.0, "third": 7.0}
    )
