"""What the guard adds to making a batch: eight images of 1080x1920 px, Molmo2, one thread.

Run:  python benchmarks/bench_guard.py [ROUNDS]     prints milliseconds of the thread's time

No step of a model is in it: a step that took less than making its batch would wait for batches. Rounds interleave all
runs; the guard is timed alone, after a batch has been made and its own data have left the caches, as the difference of
two long runs is mostly noise.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import maxcrops as mc
from maxcrops.profiling._torchvision import declare_missing

declare_missing()

from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor  # noqa: E402

torch.set_num_threads(1)

IMAGES = 8
HEIGHT, WIDTH = 1080, 1920
TEXT = 300
IDS = list(range(151936, 151941))  # five neighbours, as in the vocabulary of the checkpoints
SPEC = mc.get_spec("molmo2-8b")
TOKENS = mc.layout(SPEC, height=HEIGHT, width=WIDTH).sequence_tokens


def main(rounds: int) -> None:
    """Times and prints."""
    rng = np.random.default_rng(0)
    preprocess = mc.Preprocessor(SPEC, dtype="bfloat16", num_threads=1)
    samples = [
        {
            "image": torch.from_numpy(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)),
            "input_ids": torch.tensor([1] * TEXT + [IDS[0]] * TOKENS + [2] * row),  # lengths differ: there is padding
            "sizes": [(HEIGHT, WIDTH)],
            "path": f"{row}.jpg",
        }
        for row in range(IMAGES)
    ]

    theirs = Molmo2ImageProcessor(max_crops=SPEC.max_crops)

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        ids = torch.nn.utils.rnn.pad_sequence([sample["input_ids"] for sample in samples], batch_first=True)
        images = preprocess([sample["image"] for sample in samples])
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), **images}

    def theirs_alone() -> Any:
        images = [sample["image"] for sample in samples]
        return theirs(images, input_data_format="channels_last", return_tensors="pt")

    guard = mc.Guard(SPEC, max_sequence_length=4096, image_token_ids=IDS)
    batch = collate(samples)
    runs: dict[str, Callable[[], Any]] = {
        "images, transformers": theirs_alone,
        "batch, maxcrops, bfloat16": lambda: collate(samples),
        "guard": lambda: guard.check(batch, samples),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.thread_time()
            run()
            seconds[name].append(time.thread_time() - started)
    for name, times in seconds.items():
        p20, median, p80 = np.quantile(times, [0.2, 0.5, 0.8]) * 1e3
        share = statistics.median(alone / other for alone, other in zip(seconds["guard"], times, strict=True))
        print(f"{name:<26} {median:8.3f} ms ({p20:.3f} to {p80:.3f})" + f", {share:.2%} of it" * (name != "guard"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 51)
