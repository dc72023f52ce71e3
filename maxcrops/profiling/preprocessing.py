"""Preprocessing pixels: ours per instruction set, thread count and dtype, beside the model's own code.

For each image size and max_crops a case compares and times, through one interface:

- the peer (transformers, or Molmo's own pipeline) with one and with two threads, and with its result made bfloat16;
- maxcrops into memory that the caller keeps, into its own, which it takes back when nothing refers to it, and into
  pages that the process has not had before;
- the memory floor: the output filled once, past the caches, and the whole source read once. Ratios are to that of one
  thread. An image that is shrunk a lot can take less, as not all of its rows are read.

A ratio to the peer is one of equal thread counts and dtypes, except where a row's name says what it is against: our
bfloat16 against our float32, and our one thread against two of the peer. torch rounds differently with one thread and
with more, in some 20 pixels of a million and by one step, so its one-thread output is compared with our variant of that
arithmetic. Further cases run whole images in two Python threads at once, and load JPEG files in threads and in worker
processes.
"""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from maxcrops import _core
from maxcrops.preprocess import Preprocessor
from maxcrops.profiling._peers import PEERS, Peer, require
from maxcrops.profiling.harness import Case, CaseMaker, Competitor, repeat
from maxcrops.specs import Spec

Size: TypeAlias = tuple[int, int]
"""(height, width), pixels."""
Source: TypeAlias = Literal["photo", "noise"]

SIZES: tuple[Size, ...] = ((480, 640), (1080, 1920), (3024, 4032), (1237, 811))
"""A thumbnail, a screen, a 12 megapixel camera, and two odd primes' worth of misalignment."""
MAX_CROPS = (8, 12, 24)

_ISA = "MAXCROPS_CPU_ISA"
_FILES = 8  # JPEG files of a loader's epoch
_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "motorcycle_left.png",
                "retina.jpg", "rocket.jpg")  # fmt: skip
_CELL = 504  # px of a photograph in the mosaic
# OpenMP threads of torch look for work for some milliseconds after a call, on the core that the next one needs.
_REST = 0.01


def cases(
    spec: Spec,
    *,
    sizes: Sequence[Size] = SIZES,
    max_crops: Sequence[int] = MAX_CROPS,
    sources: Sequence[Source] = ("photo",),
    rounds: int = 15,
    quick: bool = False,
) -> list[CaseMaker]:
    """The cases of one model, for ``harness.measure_all``.

    Args:
        spec: a model with a pixel path and a peer.
        sizes: of the images.
        max_crops: values of the knob; noise has the first alone, as its content makes no difference to the work.
        sources: photographs from scikit-image's wheel, noise, or both.
        rounds: of timing, per case.
        quick: the instruction set in use alone, float32 alone, and no concurrency.

    Raises:
        ImportError: a peer's package is missing; the message names the extra to install.
        ValueError: the model has no peer.
    """
    if spec.family not in PEERS or spec.pixels is None:
        raise ValueError(f"[bench] preprocess has peers for {', '.join(PEERS)}, not for {spec.key}")
    require("torch", "torchvision", "transformers")
    makers: list[CaseMaker] = []
    for source in sources:
        for size in sizes:
            for crops in max_crops if source == "photo" else max_crops[:1]:
                makers.append(partial(_one_image, spec, size, crops, source, rounds, quick))
    if not quick:
        size = sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2]
        crops = spec.max_crops if spec.max_crops in max_crops else max_crops[0]
        source = sources[0]
        makers.append(partial(_python_threads, spec, size, crops, source, rounds))
        makers.append(partial(_loader, spec, size, crops, source, rounds, processes=False))
        makers.append(partial(_loader, spec, size, crops, source, rounds, processes=True))
    return makers


# -- images --------------------------------------------------------------------------------------------------------


def make_image(size: Size, source: Source) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]: a mosaic of photographs, each cell a fitted one, or noise."""
    height, width = size
    if source == "noise":
        return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    from PIL import Image, ImageOps

    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ImportError("[bench] needs scikit-image, whose wheel carries photographs: pip install scikit-image")
    folder = Path(package.origin).parent / "data"
    mosaic = Image.new("RGB", (width, height))
    columns = -(-width // _CELL)
    for name in _PHOTOGRAPHS[: columns * -(-height // _CELL)]:
        with Image.open(folder / name) as opened:
            cell = ImageOps.fit(opened.convert("RGB"), (_CELL, _CELL))
        first = _PHOTOGRAPHS.index(name)
        for index in range(first, columns * -(-height // _CELL), len(_PHOTOGRAPHS)):
            mosaic.paste(cell, (index % columns * _CELL, index // columns * _CELL))
    return np.array(mosaic)  # a copy, which torch wants writable


# -- one image -----------------------------------------------------------------------------------------------------


@contextmanager
def _one_image(spec: Spec, size: Size, max_crops: int, source: Source, rounds: int, quick: bool) -> Iterator[Case]:
    with _restored() as torch:
        peer = PEERS[spec.family](spec, max_crops)
        image = make_image(size, source)
        isas = [_core.active_isa()] if quick else _core.available_isas()
        # float32 first: the other outputs are compared with the first competitor's.
        competitors = _competitors(torch, spec, peer, image, max_crops, "float32", isas)
        if not quick:
            competitors += _competitors(torch, spec, peer, image, max_crops, "bfloat16", isas[-1:])
            by_name = {one.name: one for one in competitors}
            for threads in (1, 2):
                whole = f"maxcrops, {isas[-1]}, {_threads(threads)}"
                half = by_name[f"{whole}, bfloat16"]
                competitors.append(replace(half, name=f"{half.name}, against its float32", peer=whole))
            alone = by_name[f"maxcrops, {isas[-1]}, {_threads(1)}"]
            peer_name = f"{peer.name}, {_threads(2)}"
            competitors.append(replace(alone, name=f"{alone.name}, against {peer_name}", peer=peer_name))
        yield Case(
            _case_name(spec, size, max_crops, source),
            "images",
            competitors,
            agree=partial(_agree, torch, peer.tolerance),
            rounds=rounds,
            rest=_REST,
        )


def _competitors(
    torch: Any,
    spec: Spec,
    peer: Peer,
    image: npt.NDArray[np.uint8],
    max_crops: int,
    dtype: Literal["float32", "bfloat16"],
    isas: Sequence[str],
) -> list[Competitor]:
    """Every competitor with one dtype of output."""
    half = dtype != "float32"
    shape = Preprocessor(spec, max_crops=max_crops).output_shape([image.shape[:2]])
    tag = f", {dtype}" * half
    rounds_otherwise = _as_one_thread(spec) is not spec

    def peer_name(threads: int, tag: str = tag) -> str:
        return f"{peer.name}, {_threads(threads)}{tag}"

    def floor_name(threads: int) -> str:
        return f"memory floor, {_threads(threads)}{tag}"

    floor = floor_name(1)

    def upstream(threads: int) -> Competitor:
        def run() -> dict[str, Any]:
            batch = peer(image)
            if half:
                batch[peer.pixels] = batch[peer.pixels].to(getattr(torch, dtype))
            return batch

        expected: str | None = peer_name(threads, tag="") if half else ""
        if not half and threads == 1 and rounds_otherwise:
            expected = None  # ours of that rounding is compared with this one instead
        return Competitor(
            peer_name(threads),
            run,
            1,
            threads=threads,
            dtype=dtype,
            setup=partial(torch.set_num_threads, threads),
            peer=peer_name(threads),
            floor=floor,
            same_as=expected,
        )

    def ours(
        isa: str, threads: int, *, output: str = "kept", tensors: bool = False, one_thread_rounding: bool = False
    ) -> Competitor:
        preprocess = Preprocessor(
            _as_one_thread(spec) if one_thread_rounding else spec,
            dtype=dtype,
            backend="cpu",
            num_threads=threads,
            max_crops=max_crops,
        )
        # A buffer each, and no number in it until this competitor writes one. NumPy has no bfloat16, but its bits.
        kept = np.full(shape, 0x7FFF, np.uint16) if half else np.full(shape, np.nan, np.float32)
        out: Any = kept if output == "kept" else None
        given: Any = image
        if tensors:
            given, out = torch.from_numpy(image), torch.from_numpy(kept).view(getattr(torch, dtype))

        def run() -> Any:
            return preprocess(given, out=np.empty(shape, np.float32) if output == "new memory" else out)

        details = "" if output == "kept" else f", {output}"
        details += ", tensors" * tensors + ", torch's one-thread rounding" * one_thread_rounding
        return Competitor(
            f"maxcrops, {isa}, {_threads(threads)}{tag}{details}",
            run,
            1,
            isa=isa,
            threads=threads,
            dtype=dtype,
            setup=partial(_force_isa, isa),
            peer=peer_name(threads),
            floor=floor,
            same_as=peer_name(1) if one_thread_rounding else "",
        )

    competitors = [upstream(2), upstream(1)]
    competitors += [ours(isa, threads) for isa in isas for threads in (1, 2)]
    if half:
        competitors += [ours(isas[-1], threads, tensors=True) for threads in (1, 2)]
    else:
        for output in ("its own memory", "new memory"):
            competitors += [ours(isas[-1], threads, output=output) for threads in (1, 2)]
        if rounds_otherwise:
            competitors.append(ours(isas[-1], 1, one_thread_rounding=True))
    buffer = np.zeros(math.prod(shape) * (2 if half else 4), np.uint8)
    for threads in (1, 2):
        competitors.append(
            Competitor(
                floor_name(threads),
                partial(_core.memory_floor, buffer, image.reshape(-1), threads),
                1,
                threads=threads,
                dtype=dtype,
                peer=floor_name(threads),
                floor=floor,
                same_as=None,
            )
        )
    return competitors


# -- concurrency ---------------------------------------------------------------------------------------------------


@contextmanager
def _python_threads(spec: Spec, size: Size, max_crops: int, source: Source, rounds: int) -> Iterator[Case]:
    """Two Python threads with a thread each, against one: 2 where nothing is shared, 1 where the GIL is held.

    Memory is shared: the rows of the floor, which holds no lock at all, tell how much of it there is for two.
    """
    with _restored() as torch, ThreadPoolExecutor(2, initializer=partial(torch.set_num_threads, 1)) as pool:
        torch.set_num_threads(1)
        peer = PEERS[spec.family](spec, max_crops)
        image = make_image(size, source)

        def competitors(
            name: str,
            call: Callable[[int], Any],
            calls: int,
            dtype: str,
            *,
            isa: str = "",
            has_peer: bool = True,
            same_as: str | None = "",
        ) -> list[Competitor]:
            def work(worker: int) -> Any:
                return repeat(partial(call, worker), calls)()

            def both(workers: int) -> Any:
                return list(pool.map(work, range(workers)))

            alone, together = f"{name}, 1 Python thread", f"{name}, 2 Python threads, against its 1"
            return [
                Competitor(
                    alone,
                    partial(both, 1),
                    calls,
                    isa=isa,
                    dtype=dtype,
                    peer="" if has_peer else alone,
                    same_as=same_as,
                ),
                Competitor(
                    together, partial(both, 2), 2 * calls, isa=isa, threads=2, dtype=dtype, peer=alone, same_as=same_as
                ),
            ]

        def ours(dtype: Literal["float32", "bfloat16"]) -> list[Competitor]:
            half = dtype != "float32"
            tag = f", {dtype}" * half
            preprocess = Preprocessor(
                _as_one_thread(spec), dtype=dtype, backend="cpu", num_threads=1, max_crops=max_crops
            )
            shape = preprocess.output_shape([size])
            outs = [np.full(shape, 0x7FFF, np.uint16) if half else np.full(shape, np.nan, np.float32) for _ in range(2)]
            fills = [np.zeros(math.prod(shape) * (2 if half else 4), np.uint8) for _ in range(2)]
            return [
                *competitors(
                    f"maxcrops{tag}",
                    lambda worker: preprocess(image, out=outs[worker]),
                    8,
                    dtype,
                    isa=_core.active_isa(),
                    has_peer=not half,
                ),
                *competitors(
                    f"memory floor{tag}",
                    lambda worker: _core.memory_floor(fills[worker], image.reshape(-1), 1),
                    8,
                    dtype,
                    has_peer=False,
                    same_as=None,
                ),
            ]

        yield Case(
            f"{_case_name(spec, size, max_crops, source)}, Python threads",
            "images",
            [*competitors(peer.name, lambda _: peer(image), 1, "float32"), *ours("float32"), *ours("bfloat16")],
            agree=partial(_all_agree, torch, peer.tolerance),
            rounds=rounds,
            rest=_REST,
        )


class Jpegs:
    """Files as a data set: an item is decoded and preprocessed by `transform`, which is given the path."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[Path], Any]) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.paths[index])


def _decode(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as opened:
        opened.load()
        return opened


def _decode_only(path: Path) -> int:
    return int(_decode(path).width)


class _PeerTransform:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def __call__(self, path: Path) -> dict[str, Any]:
        return self.peer(_decode(path))


class _OurTransform:
    def __init__(self, preprocess: Preprocessor) -> None:
        self.preprocess = preprocess

    def __call__(self, path: Path) -> dict[str, Any]:
        return dict(self.preprocess(path, return_tensors="pt"))


@contextmanager
def _loader(spec: Spec, size: Size, max_crops: int, source: Source, rounds: int, *, processes: bool) -> Iterator[Case]:
    """JPEG files through a loader with two workers: torch's DataLoader, or threads of this process."""
    with _restored() as torch, tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        peer = PEERS[spec.family](spec, max_crops)
        # As a worker has one thread, torch's rounding with one thread is what a loader's user gets.
        preprocess = Preprocessor(_as_one_thread(spec), backend="cpu", num_threads=1, max_crops=max_crops)
        paths = _write_jpegs(Path(folder), make_image(size, source))
        with ThreadPoolExecutor(2, initializer=partial(torch.set_num_threads, 1)) as pool:

            def epoch(transform: Callable[[Path], Any]) -> Callable[[], Any]:
                data = Jpegs(paths, transform)
                if not processes:
                    return lambda: _first(pool.map(data.__getitem__, range(len(data))))
                # One batch ahead a worker: what waits lies in shared memory, of which a container may have little.
                loader = torch.utils.data.DataLoader(
                    data, batch_size=None, num_workers=2, persistent_workers=True, prefetch_factor=1
                )
                return lambda: _first(loader)

            def competitor(name: str, transform: Callable[[Path], Any], **columns: Any) -> Competitor:
                return Competitor(name, epoch(transform), len(paths), threads=2, **columns)

            alone = "decoding alone, Pillow"
            how = "DataLoader, 2 workers" if processes else "2 loader threads"
            yield Case(
                f"{_case_name(spec, size, max_crops, source)}, JPEG, {how}",
                "images",
                [
                    competitor(f"{peer.name}, decoding included", _PeerTransform(peer), dtype="float32"),
                    competitor(
                        "maxcrops, decoding included",
                        _OurTransform(preprocess),
                        isa=_core.active_isa(),
                        dtype="float32",
                    ),
                    competitor(alone, _decode_only, peer=alone, same_as=None),
                ],
                agree=partial(_agree, torch, peer.tolerance),
                rounds=rounds,
                rest=_REST,
            )


def _write_jpegs(folder: Path, image: npt.NDArray[np.uint8]) -> list[Path]:
    """The image, moved on a little in each file."""
    from PIL import Image

    paths = [folder / f"{index}.jpg" for index in range(_FILES)]
    for index, path in enumerate(paths):
        Image.fromarray(np.roll(image, 16 * index, axis=1)).save(path, quality=90)
    return paths


def _first(outputs: Iterable[Any]) -> Any:
    """Takes all, as an epoch does, and returns the first."""
    iterator = iter(outputs)
    first = next(iterator)
    for _ in iterator:
        pass
    return first


# -- shared --------------------------------------------------------------------------------------------------------


@contextmanager
def _restored() -> Iterator[Any]:
    """torch, whose thread count is put back behind it, and so is the instruction set."""
    (torch,) = require("torch")
    threads, isa = torch.get_num_threads(), os.environ.get(_ISA)
    try:
        yield torch
    finally:
        torch.set_num_threads(threads)
        os.environ.pop(_ISA, None)
        if isa is not None:
            os.environ[_ISA] = isa


def _force_isa(isa: str) -> None:
    os.environ[_ISA] = isa
    if _core.active_isa() != isa:
        raise RuntimeError(f"[bench] {isa} was asked for and {_core.active_isa()} runs")


def _as_one_thread(spec: Spec) -> Spec:
    """The spec whose pixels are those of torch with one thread."""
    if spec.pixels is not None and spec.pixels.resize == "bilinear_rounded":
        return spec.replace(resize="bilinear_rounded_one_thread")
    return spec


def _case_name(spec: Spec, size: Size, max_crops: int, source: Source) -> str:
    return f"{spec.key}, {size[0]}x{size[1]}, max_crops {max_crops}" + ", noise" * (source == "noise")


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _agree(torch: Any, tolerance: float, expected: dict[str, Any], got: Any) -> bool:
    """Whether all of the peer's tensors are ours; floats within `tolerance`, 0 for the same bits."""
    return all(
        key in got and _same(torch, tolerance, value, _as_tensor(torch, got[key])) for key, value in expected.items()
    )


def _as_tensor(torch: Any, array: Any) -> Any:
    tensor = torch.as_tensor(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _all_agree(torch: Any, tolerance: float, expected: Sequence[Any], got: Sequence[Any]) -> bool:
    """Every worker's output is the first one's."""
    return all(_agree(torch, tolerance, expected[0], output) for output in got)


def _same(torch: Any, tolerance: float, expected: Any, got: Any) -> bool:
    if expected.shape != got.shape:
        return False
    if not tolerance or not expected.is_floating_point():
        # Half precision is float32 rounded once.
        return bool(torch.equal(expected.to(got.dtype), got))
    # A half-precision value is off by half a step in its last of 8 bits at most.
    step = 0.0 if got.dtype == torch.float32 else 2.0**-8
    expected = expected.float()
    return bool(((got.float() - expected).abs() <= tolerance + step * expected.abs()).all())
