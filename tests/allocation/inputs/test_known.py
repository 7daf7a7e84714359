"""What rounded inputs cost: measured once for each matrix, and weighed by what its weights have cost."""

from dataclasses import replace
from pathlib import Path

import pytest
import random_models

from ggufkit.allocation import workplace
from ggufkit.allocation.choices import Choices
from ggufkit.allocation.inputs.known import Rounding, input_costs, roundings_of
from ggufkit.allocation.model import open_model
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.prediction import Prediction
from ggufkit.allocation.sensitivity import Sensitivity
from ggufkit.allocation.targets import like
from ggufkit.allocation.texts import Document, Use, deal
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.progress import silent
from ggufkit.quantization.options import QuantizeOptions

T = TensorType


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.write(tmp_path_factory.mktemp("inputs") / "model-F16.gguf")


@pytest.mark.engine
def test_every_matrix_is_measured_and_the_result_kept(model_file: Path, tmp_path: Path) -> None:
    running = replace(OptimizeOptions().running, threads=1)
    options = OptimizeOptions(chunk_tokens=64, quantize=QuantizeOptions(threads=1), running=running, folder=tmp_path)
    model = open_model(model_file, options.quantize, "usual", [like("Q4_K_M")], ())
    texts = deal([Document("text", tuple(random_models.text(6000).split("\n\n")))], [Use.PROBING, Use.CHOOSING])
    probing = workplace.setting_of(model, options, "an identity", texts, Use.PROBING, 4)
    found = roundings_of(model, probing, tmp_path, silent)
    multiplied = {choice.name for choice in model.choices if len(choice.types) > 1}
    assert multiplied - found.keys() <= {"token_embd.weight"}
    for rounding in found.values():
        assert 0 < rounding.inputs[32] < rounding.inputs.get(256, 1.0)
        assert rounding.inputs[32] < rounding.weights
    kept = next(tmp_path.glob("inputs-*.json"))
    before = kept.stat().st_mtime_ns
    assert roundings_of(model, probing, tmp_path, silent) == found
    assert kept.stat().st_mtime_ns == before
    kept.write_text("{")
    assert roundings_of(model, probing, tmp_path, silent) == found


def test_a_change_costs_what_it_cost_when_the_weights_made_it(model_file: Path) -> None:
    tensor = next(each for each in read_header(model_file).tensors if each.name == "blk.0.ffn_up.weight")
    choice = Choices(tensor, (T.Q3_K, T.Q4_K, T.Q5_0, T.F16))
    name = choice.name
    errors = {name: {T.Q3_K: 0.04, T.Q4_K: 0.01, T.Q5_0: 0.005, T.F16: 0.0}}
    rounding = {name: Rounding(T.Q3_K, 0.02, {32: 0.0001, 256: 0.0004})}
    costs = input_costs([choice], {name: Sensitivity(0.5, T.Q3_K)}, rounding, errors)
    assert costs[name] == pytest.approx({T.Q3_K: 0.01, T.Q4_K: 0.01, T.Q5_0: 0.0025, T.F16: 0})
    # Probed in another type, whose rounding changes a quarter of it: the same nats for a quarter of the change.
    costs = input_costs([choice], {name: Sensitivity(0.5, T.Q4_K)}, rounding, errors)
    assert costs[name][T.Q4_K] == pytest.approx(0.04)
    assert input_costs([choice], {}, rounding, errors)[name][T.Q4_K] == 0
    assert input_costs([choice], {name: Sensitivity(0.5, T.Q3_K)}, {}, errors)[name][T.Q4_K] == 0


def test_predictions_add_it() -> None:
    costs = {"a": {T.Q4_K: 0.2, T.Q5_0: 0.1, T.F16: 0.0}}
    inputs = {"a": {T.Q4_K: 0.03, T.Q5_0: 0.01, T.F16: 0.0}}
    prediction = Prediction(costs, ((0.1, 0.2), (0.4, 0.8)), scale=1.5, inputs=inputs)
    assert prediction.of({"a": T.Q4_K}) == pytest.approx(1.5 * (0.4 + 0.03))
    assert prediction.of({"a": T.Q5_0}) == pytest.approx(1.5 * (0.2 + 0.01))
    assert prediction.of({"a": T.F16}) == 0
    assert prediction.of_inputs({"a": T.Q5_1}) == 0.01  # not in the pool: as others of its blocks
