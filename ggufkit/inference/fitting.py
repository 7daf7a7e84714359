"""Which layers go to which device: pure arithmetic over what each layer takes and what each device has free.

llama.cpp keeps the first layers with the CPU and cuts the rest, in order, into runs for the devices: workers first,
then this machine's GPUs. The output counts as one more layer behind the last block (llama-model.cpp, load_tensors).
Shares are given to it as whole numbers of layers, so that what is planned here is what happens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

_ROOM = 0.05  # of a device's free memory, which is left to fragmentation and to others
_GPU_ROOM = 256 << 20  # more of a GPU, for its driver's own buffers
# A worker that lends a CPU reports all of its memory as free (ggml-cpu.cpp), whatever else it holds.
_TRUST_IN_UNUSED = 0.7


class Kind(Enum):
    """What a device is."""

    CPU = "cpu"
    WORKER = "worker"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Device:
    """A device in llama.cpp's order; memory in bytes."""

    name: str
    kind: Kind
    memory_free: int
    memory_total: int
    buffer_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a model takes, in bytes; `weights`, `experts` and `cache` have one entry for each block.

    Attributes:
        weights: all weights of a block, the experts' included.
        experts: those of experts alone.
        cache: keys, values and states of past tokens.
        input: token embeddings, which stay with the CPU.
        output: what comes behind the last block.
        compute: the buffer that each device that takes part needs at most.
    """

    weights: tuple[int, ...]
    experts: tuple[int, ...]
    cache: tuple[int, ...]
    input: int
    output: int
    compute: int

    @property
    def layers(self) -> int:
        """Return the number of blocks, and one for the output."""
        return len(self.weights) + 1

    def layer(self, index: int, experts_with_cpu: int = 0) -> int:
        """Return what one layer takes, the last of which is the output; of some blocks the experts stay behind."""
        if index == len(self.weights):
            return self.output
        left = self.experts[index] if index < experts_with_cpu else 0
        return self.weights[index] + self.cache[index] - left


@dataclass(frozen=True, slots=True)
class Choice:
    """How many layers go to devices, the last ones of the model; how many to each; and whose experts stay behind."""

    counts: tuple[int, ...]
    experts_with_cpu: int = 0
    output_with_cpu: bool = False

    @property
    def gpu_layers(self) -> int:
        """Return the number of layers that are not with the CPU."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Share:
    """What one device holds: blocks `first` up to but not including `end`, and perhaps the output; in bytes."""

    device: Device
    first: int
    end: int
    has_output: bool
    weights: int
    cache: int
    compute: int
    experts_of_others: int = field(default=0)

    @property
    def needed(self) -> int:
        """Return all that it must hold."""
        return self.weights + self.cache + self.compute

    @property
    def fits(self) -> bool:
        """Tell whether that is free."""
        return self.needed <= self.device.memory_free


def capacity(device: Device, compute: int) -> int:
    """Return how many bytes of layers a device may be given."""
    free = device.memory_free
    if device.kind is Kind.WORKER and device.memory_free == device.memory_total:
        free = int(free * _TRUST_IN_UNUSED)
    room = int(free * _ROOM) + (_GPU_ROOM if device.kind is Kind.GPU else 0)
    return max(0, free - room - compute)


def fit(sizes: Sizes, cpu: Device, devices: Sequence[Device]) -> Choice:
    """Choose for `-ngl auto`.

    GPUs get as much as fits, for they are faster than the CPU; one of them all, where it has room. Of a mixture of
    experts that does not fit, first the experts of some blocks stay with the CPU, then whole layers. What is left is
    shared by the workers and this machine's CPU in proportion to their memory: whoever names workers wants them used.
    """
    workers = [device for device in devices if device.kind is Kind.WORKER]
    gpus = [device for device in devices if device.kind is Kind.GPU]
    room = [capacity(gpu, sizes.compute) for gpu in gpus]
    for index, space in enumerate(room):
        if not workers and space == max(room) and space >= _total(sizes, 0, 0):
            return Choice(tuple(sizes.layers if each == index else 0 for each in range(len(gpus))))
    if gpus and not workers and any(sizes.experts) and _total(sizes, 0, 0) > sum(room):
        for kept in range(1, len(sizes.weights) + 1):
            counts = _fill(sizes, room, kept)
            if sum(counts) == sizes.layers:
                return Choice(tuple(counts), experts_with_cpu=kept)
    on_gpus = _fill(sizes, room, 0)
    rest = sizes.layers - sum(on_gpus)
    if not workers:
        return Choice(tuple(on_gpus))
    participants = [cpu, *workers]
    blocks = min(rest, len(sizes.weights))  # the output is no block, and stays here when no GPU takes it
    free = [capacity(device, sizes.compute) for device in participants]
    free[0] = max(0, free[0] - sizes.input)
    average = max(1, sum(sizes.layer(index) for index in range(blocks)) // max(1, blocks))
    parts = _proportional(blocks, free, [each // average for each in free])[1:]
    with_output = rest > blocks and any(parts)
    if with_output:
        # llama.cpp counts the output to the last device; its weights are sent back here.
        parts[max(index for index, part in enumerate(parts) if part)] += 1
    return Choice((*parts, *on_gpus), output_with_cpu=with_output)


def shares(sizes: Sizes, cpu: Device, devices: Sequence[Device], choice: Choice) -> list[Share]:
    """Say what each device that takes part will hold, the CPU first."""
    blocks = len(sizes.weights)
    first = max(0, sizes.layers - choice.gpu_layers)
    kept = sum(sizes.experts[: min(choice.experts_with_cpu, blocks)][first:])
    output_here = first > blocks or choice.output_with_cpu
    found = [_share(sizes, cpu, 0, min(first, blocks), has_output=output_here, experts_of_others=kept)]
    for device, count in zip(devices, choice.counts, strict=True):
        end = first + count
        has_output = end > blocks and count > 0 and not choice.output_with_cpu
        if count:
            found.append(
                _share(sizes, device, first, min(end, blocks), has_output=has_output, kept=choice.experts_with_cpu)
            )
        first = end
    return found


def split_counts(layers: int, proportions: Sequence[float]) -> tuple[int, ...]:
    """Cut a number of layers as llama.cpp does for `--tensor-split`: layer i goes where i / layers falls."""
    total, bounds, so_far = sum(proportions), [], 0.0
    for part in proportions:
        so_far += part
        bounds.append(so_far / total)
    counts = [0] * len(bounds)
    for layer in range(layers):
        place = next((index for index, bound in enumerate(bounds) if layer / layers < bound), len(bounds) - 1)
        counts[place] += 1
    return tuple(counts)


def _share(
    sizes: Sizes, device: Device, first: int, end: int, *, has_output: bool, kept: int = 0, experts_of_others: int = 0
) -> Share:
    is_cpu = device.kind is Kind.CPU
    weights = sum(sizes.weights[first:end]) - (0 if is_cpu else sum(sizes.experts[first : min(end, kept)]))
    weights += (sizes.input if is_cpu else 0) + (sizes.output if has_output else 0) + experts_of_others
    return Share(device, first, end, has_output, weights, sum(sizes.cache[first:end]), sizes.compute, experts_of_others)


def _total(sizes: Sizes, first: int, experts_with_cpu: int) -> int:
    return sum(sizes.layer(index, experts_with_cpu) for index in range(first, sizes.layers))


def _fill(sizes: Sizes, room: Sequence[int], experts_with_cpu: int) -> list[int]:
    """Give devices the last layers that fit, each in proportion to its room when all fits."""
    counts, layer = [0] * len(room), sizes.layers - 1
    whole = _total(sizes, 0, experts_with_cpu)
    spare = max(0, sum(room) - whole)
    for index in reversed(range(len(room))):
        # Where there is room to spare, every device keeps its part of it.
        left = room[index] - (spare * room[index] // sum(room) if sum(room) else 0)
        is_last = not any(room[:index])
        left = room[index] if is_last else left
        while layer >= 0 and sizes.layer(layer, experts_with_cpu) <= left:
            left -= sizes.layer(layer, experts_with_cpu)
            counts[index] += 1
            layer -= 1
    return counts


def _proportional(count: int, weights: Sequence[int], most: Sequence[int]) -> list[int]:
    """Cut a number into whole parts in proportion to weights, each at least 1 where there are enough.

    No part is above its `most`, but for the first one, which takes what nobody has room for.
    """
    total = sum(weights)
    if not total:
        return [count, *(0 for _ in weights[1:])]
    exact = [count * weight / total for weight in weights]
    parts = [int(each) for each in exact]
    for index in sorted(range(len(parts)), key=lambda index: parts[index] - exact[index])[: count - sum(parts)]:
        parts[index] += 1
    for index, part in enumerate(parts):
        if not part and most[index] and (largest := max(parts)) > 1:
            parts[parts.index(largest)] -= 1
            parts[index] = 1
    over = [max(0, part - limit) if index else 0 for index, (part, limit) in enumerate(zip(parts, most, strict=True))]
    parts = [part - excess for part, excess in zip(parts, over, strict=True)]
    for index in [*range(1, len(parts)), 0]:
        taken = min(sum(over), max(0, most[index] - parts[index])) if index else sum(over)
        parts[index] += taken
        over = [sum(over) - taken]
    return parts
