"""What the process of a sweep's point does: loads the model and its processor, and answers questions in batches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maxcrops.data.questions import Question, open_image
from maxcrops.exceptions import ConfigError
from maxcrops.planning.dryrun import _models
from maxcrops.planning.dryrun._configs import load_config
from maxcrops.planning.dryrun._request import Attention, Dtype
from maxcrops.profiling._child import Taken, label_of
from maxcrops.profiling._memory import Memory, memory_of
from maxcrops.profiling._torchvision import declare_missing
from maxcrops.specs import Spec

if TYPE_CHECKING:
    from PIL import Image

QUESTION = "{question}"
"""What stands for the question in a prompt."""


@dataclass(frozen=True, kw_only=True)
class SweepSetup:
    """One point of a sweep."""

    model: str
    """A folder with weights, a processor and a tokenizer."""
    spec: Spec
    max_crops: int
    device: str
    """As torch names it."""
    dtype: Dtype
    attention: Attention
    prompt: str
    new_tokens: int
    memory_limit: int | None = None
    """Bytes beside what the imports take."""


@dataclass
class _Loaded:
    setup: SweepSetup
    model: Any
    processor: Any
    memory: Memory


_loaded: _Loaded | None = None
"""Of this process."""


def load(setup: SweepSetup, taken: Taken) -> None:
    """Builds the model and the processor, which ``answer`` then uses."""
    global _loaded
    with contextlib.suppress(ImportError):  # a processor that needs torchvision will say so itself
        declare_missing()
    import transformers

    from maxcrops.integrations.transformers import accelerate, set_max_crops

    kind: Any = transformers.AutoProcessor
    processor = kind.from_pretrained(setup.model, local_files_only=True)
    processor = accelerate(processor, strict=False)
    set_max_crops(processor, setup.spec, setup.max_crops)
    tokenizer = _tokenizer_of(processor)
    tokenizer.padding_side = "left"  # a decoder goes on from the last token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = dict(load_config(setup.model))
    if setup.spec.knob in config:  # where the model works out the grid again, as by image_grid_pinpoints
        config[setup.spec.knob] = getattr(processor.image_processor, setup.spec.knob)
    _models.import_class(config)
    memory = memory_of(setup.device, setup.memory_limit)
    memory.enforce()
    taken["capacity_bytes"] = memory.capacity
    model = _models.build_real(
        config, dtype=setup.dtype, attention=setup.attention, device=setup.device, weights=setup.model
    )
    taken["fixed_bytes"] = memory.in_use()
    memory.begin()
    _loaded = _Loaded(setup, model, processor, memory)


def answer(questions: Sequence[Question], taken: Taken) -> None:
    """Answers a batch. What cannot be read or prepared is named in `bad`, and the rest answered without it.

    Taken are, by the questions' row numbers as text: `answers`; `bad`, reasons; `sizes`, (height, width) of the image;
    `prompt_tokens`; `image_tokens`, those of the prompt that the text alone has not. And `preprocess_seconds`,
    `generate_seconds`, `new_tokens`, all generated in the batch, padding included; and the memory's peaks since the
    model was loaded.
    """
    assert _loaded is not None
    setup, memory = _loaded.setup, _loaded.memory
    memory.enforce()
    taken.update(answers={}, bad={}, sizes={}, prompt_tokens={}, image_tokens={}, new_tokens=0)
    taken.update(preprocess_seconds=0.0, generate_seconds=0.0)
    started = time.perf_counter()
    images: dict[int, Image.Image] = {}
    for question in questions:
        try:
            images[question.row] = open_image(question)
        except Exception as error:  # decoders raise whatever they like on broken bytes
            taken["bad"][str(question.row)] = _reason(error)
    rows, inputs = _prepare([question for question in questions if question.row in images], images, taken["bad"])
    taken["preprocess_seconds"] = time.perf_counter() - started
    if not rows:
        return
    for question, padded, mask in zip(rows, inputs["input_ids"], inputs["attention_mask"], strict=True):
        key, image, ids = str(question.row), images[question.row], padded[mask.bool()].tolist()
        taken["sizes"][key] = (image.height, image.width)
        taken["prompt_tokens"][key] = len(ids)
        taken["image_tokens"][key] = len(ids) - _text_tokens(question, ids)
    started = time.perf_counter()
    texts, taken["new_tokens"] = _generate(inputs, setup)
    taken["generate_seconds"] = time.perf_counter() - started
    taken["answers"] = {str(question.row): text for question, text in zip(rows, texts, strict=True)}
    taken.update(memory.peaks())


def _generate(inputs: Any, setup: SweepSetup) -> tuple[list[str], int]:
    """Greedily: an answer that is drawn by chance could not be compared."""
    import torch

    assert _loaded is not None
    inputs = inputs.to(setup.device, dtype=getattr(torch, setup.dtype))  # of pixels; integers keep theirs
    with torch.inference_mode():
        ids = _loaded.model.generate(
            **inputs,
            max_new_tokens=setup.new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
        )
    ids = ids[:, inputs["input_ids"].shape[1] :].cpu()  # waits for the device
    texts = _tokenizer_of(_loaded.processor).batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts], ids.numel()


def _prepare(
    questions: Sequence[Question], images: dict[int, Image.Image], bad: dict[str, str]
) -> tuple[Sequence[Question], Any]:
    """(the questions that could be prepared, the model's inputs for them); the reasons of the others go to `bad`."""
    if not questions:
        return questions, None
    try:
        return questions, _process(questions, images)
    except Exception as error:
        if label_of(error) != "error":
            raise
        if len(questions) == 1:
            bad[str(questions[0].row)] = _reason(error)
            return (), None
    good = [question for question in questions if _prepare([question], images, bad)[0]]
    return good, _process(good, images) if good else None


def _process(questions: Sequence[Question], images: dict[int, Image.Image]) -> Any:
    assert _loaded is not None
    texts = [_text(question) for question in questions]
    return _loaded.processor(
        text=texts,
        images=[[images[question.row]] for question in questions],
        padding=True,
        return_tensors="pt",
        **_special_tokens(texts[0]),
    )


def _text(question: Question) -> str:
    assert _loaded is not None
    text = _loaded.setup.prompt.replace(QUESTION, question.question)
    if not getattr(_loaded.processor, "chat_template", None):
        return text
    content = [{"type": "image"}, {"type": "text", "text": text}]
    rendered: str = _loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return rendered


def _special_tokens(text: str) -> dict[str, bool]:
    """Arguments of tokenising: a text that begins with the first token gets no second one.

    ``apply_chat_template`` of transformers does the same where it tokenises; many templates write that token.
    """
    assert _loaded is not None
    first = _tokenizer_of(_loaded.processor).bos_token
    return {"add_special_tokens": False} if first and text.startswith(first) else {}


def _text_tokens(question: Question, ids: list[int]) -> int:
    """Tokens of the prompt `ids` beside the image's: those of its text, whose placeholder is one of them.

    A processor may set the first token itself, which the tokenizer leaves out.
    """
    assert _loaded is not None
    tokenizer, text = _tokenizer_of(_loaded.processor), _text(question)
    plain: list[int] = tokenizer(text, **_special_tokens(text))["input_ids"]
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id  # as Molmo2's does
    set_by_processor = plain[:1] != [first] == ids[:1]
    return len(plain) - 1 + set_by_processor


def _tokenizer_of(processor: Any) -> Any:
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ConfigError(
            f"[sweep] model must have a tokenizer in its processor, got {type(processor).__name__}; save a whole"
            " processor to the folder"
        )
    return tokenizer


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
