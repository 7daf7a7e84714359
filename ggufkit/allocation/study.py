"""What is known of a model when it was measured: enough to solve any budget, without measuring again."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ggufkit.allocation.candidates import pick
from ggufkit.allocation.choices import Choices, Types
from ggufkit.allocation.corrections import corrected_sensitivities, questions, to_correct
from ggufkit.allocation.inputs.known import Rounding, input_costs
from ggufkit.allocation.measuring import Measurer
from ggufkit.allocation.model import Model
from ggufkit.allocation.options import Effort
from ggufkit.allocation.prediction import Prediction, corrected
from ggufkit.allocation.probes import COARSER, Group, groups_of, reference_of
from ggufkit.allocation.row_errors import Errors
from ggufkit.allocation.sensitivity import (
    Costs,
    Curve,
    Sensitivity,
    but_for_lattices,
    costs_of,
    curve_ratio,
    error_ratio,
    from_priors,
    from_probes,
    larger_of,
    mean_of,
    sum_of,
    times,
)
from ggufkit.allocation.type_curve import curve_of, curve_types, uniform
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.progress import Progress

_ABOVE_FLOOR = 5.0  # times the floor: what a probe must measure, or it is repeated with a coarser type
_FIRST = 10  # probes, after which the time can be told better


@dataclass(frozen=True, slots=True)
class Study:
    """Sensitivities and types' ratios, in several opinions; the best trusted comes first.

    All of it is measured as ggml's encoder rounds. `gains` are the shares of errors that are left where files are made
    with better scales.
    """

    choices: tuple[Choices, ...]
    errors: Errors
    curve: Curve
    sensitivities: Mapping[str, Sensitivity]
    floor: float
    uniform: tuple[tuple[Types, float], ...]
    roundings: Mapping[str, Rounding]
    gains: Errors = field(default_factory=dict)

    @property
    def of_weights(self) -> Mapping[str, Costs]:
        """What the rounding of weights costs, by each way to compare types."""
        return {name: times(costs, self.gains) for name, costs in self.of_ggml.items()}

    @property
    def of_ggml(self) -> Mapping[str, Costs]:
        """What it costs as ggml's encoder rounds."""
        errors = error_ratio(self.errors)
        curve = but_for_lattices(curve_ratio(self.curve), self.errors)
        ways = {
            "errors and curve": larger_of(errors, curve),
            "curve": curve,
            "errors": errors,
            "their mean": mean_of(errors, curve),
        }
        return {name: costs_of(self.choices, self.sensitivities, way) for name, way in ways.items()}

    @property
    def of_inputs(self) -> Costs:
        """What the rounding of inputs costs."""
        return input_costs(self.choices, self.sensitivities, self.roundings, self.errors)

    @property
    def opinions(self) -> Mapping[str, Costs]:
        """Costs of both, by each way to compare types."""
        inputs = self.of_inputs
        return {name: sum_of(costs, inputs) for name, costs in self.of_weights.items()}

    @property
    def weight_costs(self) -> Costs:
        """Costs of rounded weights, by the opinion that is trusted most."""
        return next(iter(self.of_weights.values()))

    @property
    def ggml_costs(self) -> Costs:
        """Costs of weights as ggml's encoder rounds them, by that opinion."""
        return next(iter(self.of_ggml.values()))

    @property
    def costs(self) -> Costs:
        """Costs of both, by that opinion."""
        return sum_of(self.weight_costs, self.of_inputs)

    @property
    def prediction(self) -> Prediction:
        """Foretell divergences."""
        return replace(self.prediction_of_ggml, costs=self.weight_costs)

    @property
    def prediction_of_ggml(self) -> Prediction:
        """Foretell those of weights as ggml's encoder rounds them."""
        return corrected(self.ggml_costs, self.uniform, self.of_inputs)

    def gain(self, types: Types) -> float:
        """Say what better scales leave of the divergence that these types cost, as a share."""
        before, after = (
            sum(Prediction(costs, ()).cost(name, types) for name in costs)
            for costs in (self.ggml_costs, self.weight_costs)
        )
        return after / before if before > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Questions:
    """What will be measured, known before anything is."""

    curve: tuple[tuple[TensorType, Types], ...]
    groups: tuple[Group, ...]


def questions_of(model: Model, effort: Effort, told: Collection[str] = ()) -> Questions:
    """List what will be measured of a model; the tensors in `told` need no probe."""
    kinds = curve_types(model.choices)
    asked = [choice for choice in model.choices if choice.name not in told]
    groups = () if effort is Effort.FAST else groups_of(asked, one_by_one=effort is Effort.THOROUGH)
    return Questions(tuple((kind, uniform(model.choices, kind)) for kind in kinds), groups)


def study(
    model: Model,
    asked: Questions,
    errors: Errors,
    measurer: Measurer,
    progress: Progress,
    told: Callable[[Sequence[float]], None],
    foretold: Mapping[str, Sensitivity] | None = None,
    roundings: Mapping[str, Rounding] | None = None,
    gains: Errors | None = None,
) -> Study:
    """Measure the floor, the curve and the probes. `told` gets the seconds of the first probes once they are known.

    What is `foretold` of tensors, without a probe, counts for them. `roundings` are what rounded inputs do,
    `gains` what better scales leave of errors.

    Raises:
        As `Measurer.measure`.
    """
    floor = max(0.0, measurer.measure([{}], progress, "Measuring the floor")[0].kld)
    found = measurer.measure([types for _, types in asked.curve], progress, "Measuring types")
    measured = {kind: one.kld for (kind, _), one in zip(asked.curve, found, strict=True)}
    usual = TensorType.Q3_K if TensorType.Q3_K in measured else next(iter(measured))
    curve = curve_of(measured, floor, errors, usual)
    level = tuple((types, one.kld - floor) for (_, types), one in zip(asked.curve, found, strict=True))
    if asked.groups:
        new = [group.types for group in asked.groups if measurer.known(group.types) is None][:_FIRST]
        first = measurer.measure(new, progress, "Probing, first")
        if first:
            told([one.seconds for one in first])
        probes = measurer.measure([group.types for group in asked.groups], progress, "Probing")
        groups, klds = list(asked.groups), [one.kld for one in probes]
        faint = [number for number, kld in enumerate(klds) if kld < _ABOVE_FLOOR * floor]
        by_name = {choice.name: choice for choice in model.choices}
        for number in faint:
            types = {name: reference_of(by_name[name], COARSER) for name in groups[number].types}
            groups[number] = Group(groups[number].name, types)
        again = measurer.measure([groups[number].types for number in faint], progress, "Probing again, coarser")
        for number, one in zip(faint, again, strict=True):
            klds[number] = one.kld
        sensitivities: Mapping[str, Sensitivity] = {
            **from_probes(groups, klds, model.choices, floor),
            **(foretold or {}),
        }
    else:
        sensitivities = {**from_priors(model.choices, errors, curve, tied=model.is_tied), **(foretold or {})}
    return Study(model.choices, errors, curve, sensitivities, floor, level, roundings or {}, gains or {})


def in_the_mix(model: Model, known: Study, budget: int, measurer: Measurer, progress: Progress) -> Study:
    """Correct the sensitivities of the costliest tensors where they are: in what would be chosen for a budget."""
    costs = known.ggml_costs
    picked = pick(model, budget, known.costs)
    if picked is None:
        return known
    types = {name: kind for name, kind in model.types_of(picked.options).items() if kind.is_quantized}
    names = to_correct(types, costs)
    answers = measurer.measure(questions(types, names), progress, "Correcting")
    changed = corrected_sensitivities(known.sensitivities, types, costs, names, [one.kld for one in answers])
    return replace(known, sensitivities=changed)
