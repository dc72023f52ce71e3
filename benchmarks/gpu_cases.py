"""What gpu_check.py measures: cases, competitors, and how a device is timed.

A competitor makes crops on a device from the same images, [3, height, width] there or in pinned memory. Its output is
compared with the CPU path's before it is timed, over memory that holds NaN. Timings:

alone   one call on a device that is idle, the host's part included; the L2 cache is written over before it
queued  calls one behind the other, as a data pipeline makes them, per call; what the last one left in the L2 is there
device  one call that is wholly queued before the device begins with it, so that the host's part is hidden; cold L2
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

import torch

import maxcrops as mc
from maxcrops.preprocess import Preprocessor
from maxcrops.profiling._peers import Molmo2Peer, require
from maxcrops.profiling.harness import OutputsDifferError

Timing: TypeAlias = Literal["alone", "queued", "device"]

MODELS = ("molmo2", "molmo")
SIZES = ((551, 676), (1080, 1920), (3024, 4032))
BATCHES = (64, 1, 8)
DISTINCT = 4  # images of a batch; the others are copies, at other addresses
L2: dict[Timing, str] = {"alone": "cold", "queued": "warm", "device": "cold"}
_cuda: Any = torch.cuda  # in parts without types
SECONDS = 0.4  # of timing, per row
WARM_UP = 3
OURS, CPU, TRANSFORMERS = "maxcrops", "maxcrops, CPU and transfer", "transformers, device"
TORCHVISION, COMPILED = "torchvision v2", "torch.compile"

# -- cases ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A batch of images of one size."""

    model: str
    size: tuple[int, int]
    max_crops: int
    batch: int
    source: Literal["device", "pinned"]
    dtype: Literal["bfloat16", "float32"]

    @property
    def name(self) -> str:
        height, width = self.size
        return f"{self.model} {height}x{width} max_crops {self.max_crops} x {self.batch} {self.source} {self.dtype}"

    @property
    def distance(self) -> int:
        """Steps from the most important case."""
        steps = SIZES.index(self.size) + (0, 0, 1)[BATCHES.index(self.batch)]
        return steps + (self.max_crops != 12) + (self.source != "device") + (self.dtype != "bfloat16")

    @property
    def spec(self) -> mc.Spec:
        return mc.get_spec(self.model)

    @cached_property
    def layout(self) -> Any:
        height, width = self.size
        return mc.layout(self.spec, height=height, width=width, max_crops=self.max_crops)


def cases() -> list[Case]:
    """Most important first. float32, which only doubles what is written, where nothing else differs."""
    every = [
        Case(model, size, max_crops, batch, source, dtype)
        for size in SIZES
        for max_crops in (12, 24)
        for source in ("device", "pinned")
        for dtype in ("bfloat16", "float32")
        for batch in BATCHES
        for model in MODELS
        if dtype == "bfloat16" or (max_crops == 12 and source == "device")
    ]
    return sorted(every, key=lambda case: case.distance)


@dataclass(frozen=True)
class Work:
    """The least that a batch takes, whoever does it: the source read once, the crops written once, and the float
    operations of the resize and the normalisation (a fused multiply-add is one), without any address."""

    bytes_read: int
    bytes_written: int
    operations: int

    def seconds(self, bytes_per_second: float, operations_per_second: float) -> tuple[float, float]:
        """That the bytes and the operations allow."""
        return (self.bytes_read + self.bytes_written) / bytes_per_second, self.operations / operations_per_second


def work_of(case: Case) -> Work:
    height, width = case.size
    crops, patches, values = Preprocessor(case.spec, max_crops=case.max_crops).output_shape([case.size])
    if case.model == "molmo2":
        # Three products and three fused ones, two sums to round and two bounds, three to normalise.
        operations = crops * patches * values * 13
    else:
        operations = crops * patches * values * 4  # two bounds, two to normalise
        for view in case.layout.views:
            _, _, rows, cols = view.content
            operations += 3 * height * cols * (2 * _taps(width, cols)) + 3 * rows * cols * (2 * _taps(height, rows))
    size = 2 if case.dtype == "bfloat16" else 4
    return Work(
        case.batch * 3 * height * width, case.batch * crops * patches * values * size, case.batch * int(operations)
    )


def _taps(length: int, out: int) -> float:
    """In the mean; a triangle's support is twice the scale where that is more than 1."""
    return 0.5 if length == out else 2 * max(length / out, 1)


# -- devices -------------------------------------------------------------------------------------------------------


class Device(Protocol):
    """What is asked of a device. Tests have one that is none."""

    torch_device: torch.device

    def place(self, image: torch.Tensor, source: str) -> torch.Tensor:
        """A new copy on the device, or in pinned memory."""

    def samples(self, run: Callable[[], Any], timing: Timing) -> list[float]:
        """Seconds of single calls."""


class CudaDevice:
    """The current one."""

    def __init__(self) -> None:
        self.properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.torch_device = torch.device("cuda", torch.cuda.current_device())
        self.l2_bytes: int = self.properties.L2_cache_size
        self._flushed = torch.empty(2 * self.l2_bytes, dtype=torch.uint8, device=self.torch_device)

    def place(self, image: torch.Tensor, source: str) -> torch.Tensor:
        return image.pin_memory() if source == "pinned" else image.to(self.torch_device)

    def samples(self, run: Callable[[], Any], timing: Timing) -> list[float]:
        for _ in range(WARM_UP):
            run()
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        host = time.perf_counter() - started
        torch.cuda.synchronize()
        whole = time.perf_counter() - started
        if timing == "queued":
            calls = min(max(int(SECONDS / 10 / whole), 2), 200)
            return [self._elapsed(run, calls)[0] / calls for _ in range(7)]
        rounds = min(max(int(SECONDS / whole), 5), 50)
        pause, samples = 2 * host, list[float]()
        while len(samples) < rounds:
            self._flushed.zero_()
            if timing == "device":
                _cuda._sleep(int(pause * 2e9))  # cycles; no clock of a GPU is faster
            else:
                torch.cuda.synchronize()
            seconds, began_early = self._elapsed(run)
            if timing != "device" or not began_early:
                samples.append(seconds)
            elif (pause := 2 * pause) > 1:
                raise RuntimeError("the host waits for the device")
        return samples

    def _elapsed(self, run: Callable[[], Any], calls: int = 1) -> tuple[float, bool]:
        """Seconds, and whether the device began before the host was done."""
        begin, end = (_cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        began_early = bool(begin.query())
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000, began_early

    def copy_bandwidth(self, source: str = "device", num_bytes: int = 1 << 30) -> float:
        """Bytes a second: read plus written on the device, or, from pinned memory, moved to it."""
        data = torch.empty(num_bytes, dtype=torch.uint8, device=self.torch_device)
        given = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True) if source == "pinned" else data.clone()
        seconds = sorted(self.samples(lambda: data.copy_(given, non_blocking=True), "device"))
        return (1 if source == "pinned" else 2) * num_bytes / seconds[len(seconds) // 2]


def count_launches(run: Callable[[], Any]) -> int:
    """Kernels that a call launches, of whatever library."""
    from torch.profiler import ProfilerActivity, profile

    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return len(kernels_of(profiler.events()))


def kernels_of(events: Any) -> list[str]:
    """Names of what ran on the device, copies and fills left out."""
    from torch._C._autograd import DeviceType

    on_device = [event.name for event in events if event.device_type == DeviceType.CUDA]
    return [name for name in on_device if not name.startswith(("Memcpy", "Memset"))]


def ragged_launches(model: str, device: Device, count: Callable[[Callable[[], Any]], int]) -> int:
    """Of one call with images of all sizes."""
    spec = mc.get_spec(model)
    images = [device.place(noise((97 + 61 * index, 300 - 31 * index), index), "device") for index in range(6)]
    preprocess = Preprocessor(spec, dtype="bfloat16")
    return count(lambda: preprocess(images, input_data_format="channels_first"))


# -- competitors ---------------------------------------------------------------------------------------------------


class Stacked:
    """A model's own steps on a batch of images of one size, by torchvision's v2 functions: [crops, patches, values]."""

    def __init__(self, case: Case, device: torch.device) -> None:
        _, functional = require("torchvision", "torchvision.transforms.v2.functional")
        rule = case.spec.pixels
        assert rule is not None
        self._functional, self._rule, self._crop, self._device = functional, rule, case.spec.crop, device
        self._views = [(view.canvas, view.content) for view in case.layout.views]
        self._dtype = getattr(torch, case.dtype)
        self.cut: Callable[[torch.Tensor], torch.Tensor] = self._cut

    def __call__(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.cut(torch.stack([image.to(self._device, non_blocking=True) for image in images]))

    def _cut(self, images: torch.Tensor) -> torch.Tensor:
        views = [self._patches(self._canvas(images, *view)) for view in self._views]
        return torch.cat(views, dim=1).flatten(0, 1).to(self._dtype)

    def _canvas(self, images: torch.Tensor, canvas: tuple[int, int], content: tuple[int, ...]) -> Any:
        """float32 [images, 3, height, width], normalised."""
        functional, rule = self._functional, self._rule
        top, left, height, width = content
        mean, std = list(rule.image_mean), list(rule.image_std)
        if rule.resize == "bilinear_antialias":
            pixels = functional.to_dtype(images, torch.float32, scale=True)
            pixels = functional.resize(pixels, [height, width], antialias=True).clamp(0, 1)
            pixels = functional.pad(pixels, [left, top, canvas[1] - width - left, canvas[0] - height - top])
        else:
            pixels = functional.resize(images.float(), [height, width], antialias=False).round().clamp(0, 255)
            mean, std = [255 * value for value in mean], [255 * value for value in std]
        return functional.normalize(pixels, mean, std)

    def _patches(self, canvas: Any) -> Any:
        """[images, crops, patches, values]."""
        crop = self._crop
        side, patch = crop.crop_size, crop.patch_size
        step = side - sum(crop.overlap_margins) * patch
        crops = canvas.unfold(2, side, step).unfold(3, side, step)  # [images, 3, rows, cols, side, side]
        split = crops.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
        # images, rows, cols, patch rows, patch cols, rows in it, cols in it, channels
        ordered = split.permute(0, 2, 3, 4, 6, 5, 7, 1)
        return ordered.reshape(canvas.shape[0], -1, (side // patch) ** 2, 3 * patch**2)


@dataclass(frozen=True)
class Competitor:
    name: str
    run: Callable[[], torch.Tensor]
    bound: float = 0.0
    """Largest difference from the CPU path's output."""
    timings: tuple[Timing, ...] = ("queued", "alone")


def bound_of(case: Case) -> float:
    """Of other code on another device: Molmo2's pixels may round to the next of 256 steps; a float sum in another
    order, with weights from coordinates of 12 bits and more, stays within a quarter of one. bfloat16 rounds behind."""
    assert case.spec.pixels is not None
    std = min(case.spec.pixels.image_std)
    largest = max(1, *((1 - mean) / std for mean in case.spec.pixels.image_mean))
    rounding = largest / 128 if case.dtype == "bfloat16" else 1e-5  # of two values
    return (1 if case.model == "molmo2" else 0.25) / 255 / std + rounding


def competitors(case: Case, images: Sequence[torch.Tensor], device: torch.device) -> Iterator[Callable[[], Competitor]]:
    """Makers, so that a missing package costs one competitor alone. Ours first."""
    dtype: Any = getattr(torch, case.dtype)
    settings: Any = {"dtype": case.dtype, "max_crops": case.max_crops}
    crops, patches, values = Preprocessor(case.spec, **settings).output_shape([case.size])
    shape = (case.batch * crops, patches, values)

    def ours() -> Competitor:
        preprocess = Preprocessor(case.spec, **settings)
        out = torch.full(shape, math.nan, dtype=dtype, device=device)

        def run() -> torch.Tensor:
            preprocess(images, out=out, input_data_format="channels_first")
            return out

        # The CPU sums Molmo's taps as this does, but the bound of its spec is all that is promised.
        bound = 0.0 if case.model == "molmo2" else 2e-6 if case.dtype == "float32" else 2**-6
        return Competitor(OURS, run, bound, ("queued", "device", "alone"))

    def cpu() -> Competitor:
        preprocess = Preprocessor(case.spec, backend="cpu", **settings)
        given = [image.cpu() for image in images]
        out = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")

        def run() -> torch.Tensor:
            preprocess(given, out=out, input_data_format="channels_first")
            return out.to(device)

        return Competitor(CPU, run, 0.0, ("alone",))

    def transformers() -> Competitor:
        processor = Molmo2Peer(case.spec, case.max_crops)._processor

        def run() -> torch.Tensor:
            batch = processor(list(images), device=device, return_tensors="pt", input_data_format="channels_first")
            made: torch.Tensor = batch["pixel_values"].to(dtype)
            return made

        return Competitor(TRANSFORMERS, run, bound_of(case))

    def torchvision() -> Competitor:
        stacked = Stacked(case, device)
        return Competitor(TORCHVISION, lambda: stacked(images), bound_of(case))

    def compiled() -> Competitor:
        stacked = Stacked(case, device)
        stacked.cut = torch.compile(stacked.cut, dynamic=False)
        return Competitor(COMPILED, lambda: stacked(images), bound_of(case))

    yield ours
    if case.model == "molmo2":
        yield transformers
    yield torchvision
    if case.source == "pinned":
        yield cpu
    if case.batch == 64 and (case.max_crops, case.source, case.dtype) == (12, "device", "bfloat16"):
        yield compiled  # each compilation takes many seconds


# -- rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What was measured of one competitor."""

    model: str
    height: int
    width: int
    max_crops: int
    batch: int
    source: str
    dtype: str
    competitor: str
    timing: str
    l2: str
    rounds: int
    seconds_median: float
    """Of a batch."""
    seconds_p20: float
    seconds_p80: float
    images_per_second: float
    floor_seconds: float
    """Bytes read and written over the bandwidth of a copy on the device; or, if longer, the images' over that to it."""
    share_of_floor: float
    """1 where nothing can be faster."""
    largest_difference: float
    """From the CPU path's output."""
    share_different: float
    """Of its values."""


def noise(size: tuple[int, int], seed: int) -> torch.Tensor:
    """uint8 [3, height, width]."""
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def difference(expected: torch.Tensor, got: torch.Tensor) -> tuple[float, float]:
    """(largest, share of values) of an output whose images repeat those of `expected`; infinite if shapes do not."""
    if got.dtype != expected.dtype or got.shape[1:] != expected.shape[1:] or len(got) == 0:
        return math.inf, 1.0
    largest, different, crops = 0.0, 0, len(expected)
    for begin in range(0, len(got), crops):
        part = got[begin : begin + crops].float()
        distance = (part - expected[: len(part)].float()).abs()
        largest = max(largest, float(distance.nan_to_num(nan=math.inf).max()))
        different += int((distance != 0).sum())
    return largest, different / got.numel()


def rows_of(
    case: Case, device: Device, floor_seconds: float, has_time: Callable[[], bool], say: Callable[[str], None]
) -> Iterator[Row]:
    """A row per competitor and timing, until there is no time.

    Raises:
        OutputsDifferError: ours is not the CPU path's; nothing was timed.
    """
    distinct = [noise(case.size, seed) for seed in range(min(case.batch, DISTINCT))]
    images = [device.place(distinct[index % len(distinct)], case.source) for index in range(case.batch)]
    cpu = Preprocessor(case.spec, dtype=case.dtype, max_crops=case.max_crops, backend="cpu")
    expected = next(iter(cpu(distinct, input_data_format="channels_first").values())).to(device.torch_device)
    for make in competitors(case, images, device.torch_device):
        if not has_time():
            return
        try:
            competitor = make()
            output = competitor.run()
            largest, share = difference(expected, output)
            if len(output) * len(distinct) != len(expected) * case.batch or largest > competitor.bound:
                raise OutputsDifferError(
                    f"{competitor.name} differs by {largest:.3g}, {competitor.bound:.3g} are allowed; it was not timed"
                )
            del output
            for timing in competitor.timings:
                if not has_time():
                    return
                samples = device.samples(competitor.run, timing)
                yield _row(case, competitor.name, timing, samples, floor_seconds, (largest, share))
        except OutputsDifferError as error:
            if make.__name__ == "ours":
                raise
            say(f"{case.name}: {error}")
        except (ImportError, RuntimeError) as error:  # not installed, not compiled, out of memory
            if make.__name__ == "ours":
                raise
            say(f"{case.name}: {make.__name__} left out: {str(error).splitlines()[0]}")


def _row(
    case: Case, name: str, timing: Timing, samples: Sequence[float], floor: float, differs: tuple[float, float]
) -> Row:
    ordered = sorted(samples)
    count = len(ordered)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return Row(
        case.model, *case.size, case.max_crops, case.batch, case.source, case.dtype, name, timing, L2[timing], count,
        _digits(median), _digits(ordered[count // 5]), _digits(ordered[-1 - count // 5]), _digits(case.batch / median),
        _digits(floor), _digits(floor / median), *map(_digits, differs),
    )  # fmt: skip


def _digits(value: float) -> float:
    return float(f"{value:.5g}")
