"""Builds a small Molmo2 and a dataset whose accuracy over max_crops is known before it is measured.

Run:  python benchmarks/legible_task.py OUT_FOLDER [--seed N]     minutes on two cores; writes
          OUT_FOLDER/model           weights, configuration, tokenizer and processor, as from_pretrained reads them
          OUT_FOLDER/dataset.jsonl   held-out questions (image, question, answers), with the images beside it
          OUT_FOLDER/expected.json   the knee, and the share of legible images and the accuracy at each max_crops

A digit is drawn in fine texture on a flat ground, such that an image shows it where it is cut at its own resolution and
is flat, to the last bit, at every max_crops that is too low for that. The dataset holds as many images for each number
of crops that they need. Those of a group differ in their digit alone, so a model that cannot see it answers exactly
one of ten: with L(k) the share of images that need at most k crops,

    accuracy(k) = L(k) x accuracy where legible + (1 - L(k)) / 10

and the knee is the largest need. Only the accuracy where legible is measured, on images that are not in the dataset.

Note [A texture that shrinking erases]
Molmo2 resizes bilinearly without antialiasing. From n + 1 pixels to n, output i is (1 - f) x[i] + f x[i + 1] with
f = (2 i + 1) / 2n. One stripe, up to a factor, is mapped to zero by all outputs, and so are its repetitions:

    x[i + 1] = -x[i] (2 (n - i) - 1) / (2 i + 1)       1 -3 1 for n = 2, 1 -5 5 -1 for n = 3, 3 -21 35 -21 3 for n = 4

The resize is separable, so the product of two stripes is erased where the rows are shrunk by the ratio of one or the
columns by that of the other, whatever happens along the other axis, and any of its blocks may be left out. ``texture``
reads from ``mc.layout`` how each lower max_crops shrinks an image and finds the two stripes; a shape that is shrunk by
too many ratios (1 x 3 by 2/4 and 3/4 along one axis) is refused. Texture and ground are integers, and the ground is
constant, so that rounding to bytes removes the errors of float32.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import maxcrops as mc
from maxcrops.integrations.transformers import accelerate
from maxcrops.profiling._torchvision import declare_missing

declare_missing()

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import (  # noqa: E402
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging  # noqa: E402

CROP_SIZE, PATCH_SIZE, MARGINS = 80, 20, (1, 1)  # pixels, pixels, patches
WINDOW_SIZE = CROP_SIZE - sum(MARGINS) * PATCH_SIZE
SPEC = mc.get_spec("molmo2", crop_size=CROP_SIZE, patch_size=PATCH_SIZE, overlap_margins=MARGINS)
NEEDS: dict[int, tuple[tuple[int, int], ...]] = {
    2: ((1, 2), (2, 1)),
    4: ((2, 2),),
    6: ((2, 3), (3, 2)),
    8: ((2, 4), (4, 2)),
}
"""Crops that an image needs, and the grids (rows, cols) of such images."""
KNEE = max(NEEDS)
MAX_CROPS = range(1, 13)
"""What the model is trained at, and what is expected is stated for."""
QUESTION = "Which digit is hidden?"

# -- images --------------------------------------------------------------------------------------------------------

AMPLITUDE = 105  # a multiple of the peaks of all stripes and of their products: 3, 5, 15, 35, 105
GROUND = (AMPLITUDE, 255 - AMPLITUDE)  # colours that leave the texture room in 0..255
PLAIN = 4  # pixels; side of a block along an axis without a stripe, divides every side
DIGITS = np.pad(  # [digit, row, column], a row and a column of space behind
    [
        [[cell == "#" for cell in row] for row in digit.split()]
        for digit in (
            "### #.# #.# #.# ###", ".#. ##. .#. .#. ###", "### ..# ### #.. ###", "### ..# ### ..# ###",
            "#.# #.# ### ..# ..#", "### #.. ### ..# ###", "### #.. ### #.# ###", "### ..# ..# ..# ..#",
            "### #.# ### #.# ###", "### #.# ### ..# ###",
        )
    ],
    ((0, 0), (0, 1), (0, 1)),
)  # fmt: skip


def stripe(kept: int) -> list[Fraction]:
    """What shrinking kept + 1 pixels to kept maps to zero, its first pixel 1."""
    values = [Fraction(1)]
    for i in range(kept):
        values.append(-values[-1] * (2 * (kept - i) - 1) / (2 * i + 1))
    return values


def size_of(grid: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the image that is cut into a grid at its own resolution, pixels."""
    rows, cols = (WINDOW_SIZE * (crops - 1) + CROP_SIZE for crops in grid)
    return rows, cols


def texture(grid: tuple[int, int]) -> npt.NDArray[np.int64]:
    """One block of the texture of an image that fills a grid, int64 [rows, cols], erased by every lower max_crops.

    Raises:
        ValueError: no two stripes are erased by all of them.
    """
    height, width = size_of(grid)
    layouts = [mc.layout(SPEC, height=height, width=width, max_crops=k) for k in range(1, math.prod(grid) + 1)]
    if layouts[-1].grid != grid or layouts[-1].canvas != (height, width):
        raise ValueError(f"[texture] {height}x{width} must be cut as it is into {grid}, got {layouts[-1]}")
    shrunk = {(Fraction(one.canvas[0], height), Fraction(one.canvas[1], width)) for one in layouts[:-1]}
    for down, across in product(*map(_erasable, zip(*shrunk, strict=True))):
        if all((down < 1 and rows == down) or (across < 1 and cols == across) for rows, cols in shrunk):
            lines = [stripe(ratio.numerator) if ratio < 1 else [Fraction(1)] * PLAIN for ratio in (down, across)]
            block = np.multiply.outer(*lines)
            block *= AMPLITUDE / abs(block).max()
            texels = block.astype(np.int64)
            if (texels != block).any():
                raise ValueError(f"[texture] AMPLITUDE must make the texture of {grid} integral, got {AMPLITUDE}")
            return texels
    raise ValueError(f"[texture] grid must be shrunk by one ratio along either axis, got {grid} and {sorted(shrunk)}")


def _erasable(ratios: Iterable[Fraction]) -> list[Fraction]:
    """1, for no stripe, and those of the ratios that a stripe exists for."""
    return [Fraction(1), *sorted({one for one in ratios if one.denominator - one.numerator == 1}, reverse=True)]


TEXTURES = {grid: texture(grid) for grids in NEEDS.values() for grid in grids}


def draw(grid: tuple[int, int], ground: npt.NDArray[np.int64], digit: int) -> npt.NDArray[np.uint8]:
    """The image of a digit, repeated so that every window of a crop shows it, uint8 [height, width, 3].

    Args:
        grid: (rows, cols) of crops.
        ground: int64 [3], the colour.
        digit: 0 to 9.
    """
    block = TEXTURES[grid]
    cells = [  # of the digit, that the middle of a block is in
        (2 * np.arange(side // period) + 1) * period * count // (2 * WINDOW_SIZE) % count
        for side, period, count in zip(size_of(grid), block.shape, DIGITS.shape[1:], strict=True)
    ]
    inked = DIGITS[digit][np.ix_(*cells)]
    return (ground + np.kron(inked, block)[..., None]).astype(np.uint8)


def draw_ground(rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A colour, int64 [3]."""
    return rng.integers(GROUND[0], GROUND[1] + 1, 3)


def draw_groups(per_need: int, rng: np.random.Generator) -> Iterator[tuple[int, list[npt.NDArray[np.uint8]]]]:
    """(crops needed, images of the ten digits that differ in nothing else), as many of each need."""
    for need, grids in NEEDS.items():
        for index in range(per_need):
            grid, ground = grids[index % len(grids)], draw_ground(rng)
            yield need, [draw(grid, ground, digit) for digit in range(10)]


def legible_share(max_crops: int) -> float:
    """Of the dataset's images, those that are cut at full resolution."""
    return sum(need <= max_crops for need in NEEDS) / len(NEEDS)


# -- model ---------------------------------------------------------------------------------------------------------

TEXT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IMAGE_TOKENS = (
    "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
    "<frame_start>", "<frame_end>", "<|video|>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_processor() -> Any:
    """A Molmo2Processor with a byte-level tokenizer that has merged the words of the question and the chat."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        special_tokens=list(TEXT_TOKENS), initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator([QUESTION, "user\n", "assistant\n"], trainer)
    # Behind the text's, as in the checkpoints: the head has no logits for them.
    tokenizer.add_special_tokens(list(IMAGE_TOKENS))
    bos, _, eos = TEXT_TOKENS
    return Molmo2Processor(
        Molmo2ImageProcessor(
            size={"height": CROP_SIZE, "width": CROP_SIZE},
            patch_size=PATCH_SIZE,
            overlap_margins=list(MARGINS),
            max_crops=KNEE,
        ),
        Molmo2VideoProcessor(),
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=bos, padding_side="left"
        ),
        chat_template=CHAT_TEMPLATE,
    )


def make_model(processor: Any) -> Any:
    """A Molmo2 of random weights (torch's generator)."""
    ids = processor.tokenizer.convert_tokens_to_ids
    # About 1 / sqrt(width). From the default, 0.02 for wide layers, 600 steps teach it to read one image in five.
    scale = {"initializer_range": 0.08}
    vision = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, **scale}
    config = Molmo2Config(
        text_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "vocab_size": ids(IMAGE_TOKENS[0]),
            "additional_vocab_size": len(IMAGE_TOKENS),
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            **scale,
        },
        vision_config={
            **vision,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "image_size": [CROP_SIZE, CROP_SIZE],
            "patch_size": PATCH_SIZE,
        },
        adapter_config={**vision, "intermediate_size": 128, "text_hidden_size": 64, "vision_feature_layer": [1, 0]},
        image_start_token_id=ids("<im_start>"),
        low_res_image_start_token_id=ids("<low_res_im_start>"),
        image_end_token_id=ids("<im_end>"),
        image_patch_id=ids("<im_patch>"),
        frame_start_token_id=ids("<frame_start>"),
        frame_end_token_id=ids("<frame_end>"),
        **scale,
    )
    model = Molmo2ForConditionalGeneration(config)
    for one in (model.config, model.generation_config):
        one.bos_token_id, one.eos_token_id = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
        one.pad_token_id = processor.tokenizer.pad_token_id
    return model


def prompt(processor: Any) -> str:
    """The question about one image, up to where the answer begins."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def train(model: Any, processor: Any, rng: np.random.Generator, *, steps: int, batch_size: int) -> None:
    """Trains on images that are drawn as they are needed, each batch at one max_crops; shows the progress."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    warm_up = max(1, steps // 20)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    grids = list(TEXTURES)
    asked, eos = prompt(processor), processor.tokenizer.eos_token
    model.train()
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=steps, loss=math.nan)
        for _ in range(steps):
            digits = rng.integers(10, size=batch_size).tolist()
            images = [draw(grids[rng.integers(len(grids))], draw_ground(rng), digit) for digit in digits]
            inputs = processor(
                text=[f"{asked}{digit}{eos}" for digit in digits],
                images=images,
                max_crops=int(rng.choice(MAX_CROPS)),
                padding=True,
                return_tensors="pt",
            )
            # Padding is on the left: the last two tokens are the digit and the end, and the one before predicts.
            labels = inputs["input_ids"][:, -3:].clone()
            labels[:, 0] = -100
            loss = model(**inputs, labels=labels, logits_to_keep=3).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.update(task, advance=1, loss=loss.item())
    model.eval()


def answer(model: Any, processor: Any, images: Sequence[Any], *, max_crops: int, batch_size: int = 64) -> list[str]:
    """What the model generates for each image."""
    answers: list[str] = []
    asked = prompt(processor)
    for start in range(0, len(images), batch_size):
        batch = list(images[start : start + batch_size])
        inputs = processor(
            text=[asked] * len(batch), images=batch, max_crops=max_crops, padding=True, return_tensors="pt"
        )
        generated = model.generate(**inputs, do_sample=False, max_new_tokens=4)
        answers += processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


# -- folder --------------------------------------------------------------------------------------------------------


def write_dataset(folder: Path, rng: np.random.Generator, *, groups: int) -> None:
    """Writes dataset.jsonl and images/: for each need, so many groups of ten images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "dataset.jsonl").open("w", encoding="utf-8") as lines:
        for number, (need, images) in enumerate(draw_groups(groups, rng)):
            for digit, image in enumerate(images):
                name = f"images/{need}-{number:03}-{digit}.png"
                Image.fromarray(image).save(folder / name)
                row = {"image": name, "question": QUESTION, "answers": [str(digit)]}
                lines.write(json.dumps({**row, "needs_crops": need, "group": number}) + "\n")


def expectation(accuracy_when_legible: float) -> dict[str, Any]:
    """What expected.json holds."""
    shares = {max_crops: legible_share(max_crops) for max_crops in MAX_CROPS}
    return {
        "knee": KNEE,
        "chance": 0.1,
        "accuracy_when_legible": accuracy_when_legible,
        "legible_share": shares,
        "accuracy": {k: share * accuracy_when_legible + (1 - share) * 0.1 for k, share in shares.items()},
    }


def build(folder: Path, *, seed: int = 0, steps: int = 600, batch_size: int = 32, groups: int = 8) -> dict[str, Any]:
    """Writes the folder; returns what expected.json holds. A seed gives the same folder on the same machine."""
    training, held_out, measured = (np.random.default_rng([seed, part]) for part in range(3))
    write_dataset(folder, held_out, groups=groups)
    torch.manual_seed(seed)
    processor = make_processor()
    model = make_model(processor)
    fast = accelerate(processor)
    train(model, fast, training, steps=steps, batch_size=batch_size)
    for part in (model, processor):
        part.save_pretrained(folder / "model")
    others = [image for _, images in draw_groups(groups, measured) for image in images]
    answers = answer(model, fast, others, max_crops=KNEE)
    expected = expectation(sum(given == str(index % 10) for index, given in enumerate(answers)) / len(others))
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")
    return expected


def main(arguments: Sequence[str] | None = None) -> None:
    """Builds, and prints what to expect and how long it took."""
    parser = argparse.ArgumentParser(description="A small Molmo2 and a dataset whose knee in max_crops is known.")
    parser.add_argument("folder", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600, help="of training (default: %(default)s)")
    parser.add_argument("--groups", type=int, default=8, help="of ten images, for each need (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    logging.disable_progress_bar()  # of writing the weights
    torch.set_num_threads(1)  # these layers are too small to share, and threads that share wait for each other
    started = time.monotonic()
    expected = build(chosen.folder, seed=chosen.seed, steps=chosen.steps, groups=chosen.groups)
    print(f"accuracy where legible {expected['accuracy_when_legible']:.3f}; knee at max_crops {expected['knee']}")
    print(f"wrote {chosen.folder} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
