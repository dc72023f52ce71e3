"""No image token is cut off in silence: each way of losing some is refused, with the row and the fix."""

from __future__ import annotations

import doctest
import logging
import pickle
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import all_cases

import maxcrops as mc
import maxcrops.data.guard as module

SIZES = [(300, 400), (500, 300), (200, 900), (378, 378)]
EVIDENCE = ("sizes", "image_grids", "both")


@pytest.fixture(scope="module")
def processor(oracle: Callable[[str], ModuleType]) -> Any:
    """Molmo2's own, with a tokenizer made on the spot and at most four crops."""
    processor = oracle("molmo2").Oracle(max_crops=4).processor
    processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


@pytest.fixture(scope="module")
def samples(processor: Any) -> list[dict[str, Any]]:
    """One image each, three tokens of text or so around it; sample 1 has two."""
    made = []
    for index, images in enumerate(([SIZES[0]], [SIZES[1], SIZES[2]], [SIZES[3]])):
        pixels = [np.full((*size, 3), index, dtype=np.uint8) for size in images]
        text = "\n\n" + "<|image|>" * len(images) + "\n\n\n"
        out = processor(images=pixels, text=text, return_tensors="np", input_data_format="channels_last")
        made.append({**out, "input_ids": out["input_ids"][0], "sizes": images, "path": f"photos/{index}.jpg"})
    return made


SPEC = mc.get_spec("molmo2").replace(max_crops=4)
IMAGE_KEYS = ("pixel_values", "image_token_pooling", "image_grids", "image_num_crops")


def collate(samples: list[dict[str, Any]], *, pad: int = 0, length: int | None = None) -> dict[str, Any]:
    """Pads to the longest, or to a length: what does not fit is cut."""
    rows = [np.asarray(sample["input_ids"])[:length] for sample in samples]
    width = length or max(map(len, rows))
    ids = np.full((len(rows), width), pad)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    together = {key: np.concatenate([np.asarray(sample[key]) for sample in samples]) for key in IMAGE_KEYS}
    return {"input_ids": ids, "attention_mask": mask, **together}


def slicing(length: slice) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Pads, then slices, as many collators do."""

    def sliced(samples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(samples)
        return {**batch, **{key: batch[key][:, length] for key in ("input_ids", "attention_mask")}}

    return sliced


def packing(length: int | None) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """All samples in one row, cut."""

    def packed(samples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(samples)
        ids = np.concatenate([sample["input_ids"] for sample in samples])[:length]
        return {**batch, "input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}

    return packed


def only(evidence: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples without sizes, where the processor's outputs are to be all that is known."""
    if evidence != "image_grids":
        return samples
    return [{key: value for key, value in sample.items() if key != "sizes"} for sample in samples]


def guarded(collator: Callable[[Any], Any], processor: Any, evidence: str = "both", **settings: Any) -> mc.Guard:
    def without(samples: Any) -> Any:
        batch = collator(samples)
        return {key: value for key, value in batch.items() if evidence != "sizes" or key != "image_grids"}

    settings = {"max_sequence_length": 4096, "processor": processor, **settings}
    return mc.guard(without, SPEC, **settings)


# -- what is whole passes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("collator", [collate, packing(None)], ids=["padded", "packed"])
def test_whole_batches_pass(processor: Any, samples: Any, evidence: str, collator: Any) -> None:
    guard = guarded(collator, processor, evidence)
    batch = guard(only(evidence, samples))
    assert batch["input_ids"].shape[0] in (1, len(samples))
    lengths = guard.check(batch, only(evidence, samples))
    assert lengths.truncated == ()
    np.testing.assert_array_equal(lengths.real, lengths.predicted)
    assert lengths.real.sum() == sum(len(sample["input_ids"]) for sample in samples)


def test_text_may_be_cut(processor: Any, samples: Any) -> None:
    longest = max(len(sample["input_ids"]) for sample in samples)
    assert guarded(slicing(slice(longest - 1)), processor)(samples)["input_ids"].shape[1] == longest - 1


def test_text_alone_passes(processor: Any) -> None:
    guard = mc.Guard(SPEC, max_sequence_length=64, processor=processor)
    assert guard.check({"input_ids": [[1, 2, 1], [1]]}).real.tolist() == [3, 1]


def test_torch_tensors_of_the_cpu_pass(processor: Any, samples: Any) -> None:
    import torch

    batch = {key: torch.as_tensor(value) for key, value in collate(samples).items()}
    assert mc.Guard(SPEC, processor=processor, max_sequence_length=4096).check(batch).truncated == ()


# -- six ways of losing image tokens -------------------------------------------------------------------------------


def refusal(run: Callable[[], Any]) -> mc.TruncatedImageError:
    with pytest.raises(mc.TruncatedImageError) as caught:
        run()
    assert caught.value.rows
    return caught.value


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_collator_that_slices(processor: Any, samples: Any, evidence: str) -> None:
    limit = len(samples[1]["input_ids"]) - 10  # all but the longest row are whole
    guard = guarded(slicing(slice(limit)), processor, evidence, max_sequence_length=limit)
    error = refusal(lambda: guard(only(evidence, samples)))
    [row] = error.rows
    assert (row.row, row.sample) == (1, "photos/1.jpg")
    assert row.expected == int(mc.count_tokens(SPEC, samples[1]["sizes"]).sum())
    assert f"raise the sequence length from {limit} to {limit + 10}" in str(error)


def test_fix_fits(processor: Any, samples: Any) -> None:
    """The named max_crops is the largest at which the row fits."""
    limit = len(samples[1]["input_ids"]) - 10
    error = refusal(lambda: guarded(slicing(slice(limit)), processor, max_sequence_length=limit)(samples))
    value = int(str(error).partition("lower max_crops to ")[2].partition(" ")[0])
    text = len(samples[1]["input_ids"]) - error.rows[0].expected
    used = [text + mc.count_tokens(SPEC, samples[1]["sizes"], max_crops=n).sum() for n in (value, value + 1)]
    assert used[0] <= limit < used[1]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_tokenizer_that_truncates(processor: Any, samples: Any, side: str, padding: str) -> None:
    """The tokens are gone before anything is collated; images are given as their sizes, to a plain check."""
    texts = []
    for sample in samples:
        images = [processor.replace_image_token(sample, index) for index in range(len(sample["sizes"]))]
        texts.append("\n\n" + "".join(images) + "\n")
    tokenizer = processor.tokenizer
    whole = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    tokenizer.truncation_side = tokenizer.padding_side = side
    limit = sorted(whole)[-1] - 8
    try:
        batch = tokenizer(texts, truncation=True, max_length=limit, padding=padding, return_tensors="pt")
    finally:
        tokenizer.truncation_side = tokenizer.padding_side = "right"
    guard = mc.Guard(SPEC, max_sequence_length=4096, processor=processor)
    error = refusal(lambda: guard.check(batch, sizes=[sample["sizes"] for sample in samples]))
    assert [row.row for row in error.rows] == [1]
    assert f"to {whole[1] - 1} or more" in str(error)  # a line break is cut off too, and nothing tells


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("lost", [5, 400, 700, 1000])
def test_packed_row_that_is_cut(processor: Any, samples: Any, evidence: str, lost: int) -> None:
    lengths = [len(sample["input_ids"]) for sample in samples]
    limit = sum(lengths) - lost
    owner = int(np.searchsorted(np.cumsum(lengths), limit, side="right"))
    guard = guarded(packing(limit), processor, evidence, max_sequence_length=limit)
    error = refusal(lambda: guard(only(evidence, samples)))
    assert error.rows[0].row == 0
    assert error.rows[0].sample == f"sample {owner}, photos/{owner}.jpg"
    assert f"to {sum(lengths)}" in str(error)


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("cut", [None, 0, 1])
def test_several_packed_rows(processor: Any, samples: Any, evidence: str, cut: int | None) -> None:
    """Samples 0 and 1 in one row, 2 and 0 again in the next; fewer rows than samples."""
    four = only(evidence, [*samples, samples[0]])

    def packed(given: Any) -> Any:
        rows = [np.concatenate([sample["input_ids"] for sample in given[at : at + 2]]) for at in (0, 2)]
        ids = [row[: -10 if index == cut else None].tolist() for index, row in enumerate(rows)]
        return {**collate(given), "input_ids": ids, "attention_mask": None}

    guard = guarded(packed, processor, evidence)
    if cut is None:
        assert len(guard(four)["input_ids"]) == 2
        return
    error = refusal(lambda: guard(four))
    owner = 2 * cut + 1
    assert error.rows[0].row == cut
    assert error.rows[0].sample == f"sample {owner}, {four[owner]['path']}"


@pytest.mark.parametrize("seed", range(30))
def test_any_loss_is_refused(seed: int) -> None:
    """Random rows of random images: what is cut at random is refused exactly when an image token went with it."""
    rng = np.random.default_rng(seed)
    spec = mc.get_spec("llava-v1.6-mistral-7b")
    sizes = [[tuple(map(int, pair)) for pair in rng.integers(50, 1500, (rng.integers(0, 3), 2))] for _ in range(4)]
    rows = []
    for group in sizes:
        row = [1] * int(rng.integers(1, 30))
        for tokens in mc.count_tokens(spec, group).tolist():
            row += [7] * tokens + [1] * int(rng.integers(0, 30))
        rows.append(row)
    start, stop = rng.integers(0, 20), max(map(len, rows)) - rng.integers(0, 900)
    cut = [row[start:stop] or [1] for row in rows]
    lost = [row for row in range(4) if cut[row].count(7) != rows[row].count(7)]
    guard = mc.Guard(spec, max_sequence_length=10**6, image_token_ids=[7], on_truncation="warn")
    assert [row.row for row in guard.check({"input_ids": cut}, sizes=sizes).truncated] == lost
    whole = mc.Guard(spec, max_sequence_length=int(stop), image_token_ids=[7], on_truncation="warn")
    beyond = [row for row in range(4) if rows[row][:stop].count(7) != rows[row].count(7)]
    assert [row.row for row in whole.check({"input_ids": rows}, sizes=sizes).truncated] == beyond


@pytest.mark.parametrize("key", IMAGE_KEYS)
@pytest.mark.parametrize("evidence", EVIDENCE)
def test_crops_cut_and_tokens_kept(processor: Any, samples: Any, evidence: str, key: str) -> None:
    def cut(samples: Any) -> Any:
        batch = collate(samples)
        return {**batch, key: batch[key][:-1]}

    if evidence == "sizes" and key in ("image_token_pooling", "image_grids"):
        pytest.skip("its length is known by image_grids alone")
    error = refusal(lambda: guarded(cut, processor, evidence)(only(evidence, samples)))
    assert error.rows[0].row == 2
    assert error.rows[0].sample == "photos/2.jpg"


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_left_truncation(processor: Any, samples: Any, evidence: str) -> None:
    limit = len(samples[1]["input_ids"]) - 10
    error = refusal(lambda: guarded(slicing(slice(-limit, None)), processor, evidence)(only(evidence, samples)))
    assert 1 in {row.row for row in error.rows}


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_padding_to_a_shorter_maximum(processor: Any, samples: Any, evidence: str) -> None:
    limit = len(samples[0]["input_ids"]) - 100
    guard = guarded(lambda given: collate(given, length=limit), processor, evidence)
    error = refusal(lambda: guard(only(evidence, samples)))
    cut = [row for row, sample in enumerate(samples) if len(sample["input_ids"]) > limit + 5]
    assert [row.row for row in error.rows] == cut
    assert cut[:2] == [0, 1]


def test_row_beyond_the_limit_is_refused_before_it_is_cut(processor: Any, samples: Any) -> None:
    limit = len(samples[1]["input_ids"]) - 10
    error = refusal(lambda: guarded(collate, processor, max_sequence_length=limit)(samples))
    assert [row.row for row in error.rows] == [1]


def test_without_samples_the_first_row_that_does_not_add_up_is_named(processor: Any, samples: Any) -> None:
    limit = len(samples[1]["input_ids"]) - 10
    guard = mc.Guard(SPEC, max_sequence_length=4096, processor=processor)
    error = refusal(lambda: guard.check(slicing(slice(limit))(samples)))
    assert [row.row for row in error.rows] == [1]
    assert error.rows[0].sample is None


def test_molmo_features_without_a_place() -> None:
    """image_input_idx of Molmo's processor: where each feature goes, negative where it is dropped."""
    guard = mc.Guard(mc.get_spec("molmo-7b-d"), image_token_ids=[9], counted="features")
    ids = np.array([[1, 9, 9, 9, 2], [1, 9, 9, 2, 0]])
    placed = np.array([[[1, 2], [3, -100]], [[1, 2], [-1, -1]]])
    assert guard.check({"input_ids": ids, "image_input_idx": placed}).truncated == ()
    for batch, row in (
        ({"input_ids": ids[:, :3], "image_input_idx": placed}, 0),
        ({"input_ids": ids[:, 2:], "image_input_idx": placed}, 0),
        ({"input_ids": ids, "image_input_idx": placed[:, :1]}, 0),
        ({"input_ids": np.where(ids == 2, 9, ids)[:, :4], "image_input_idx": placed}, 1),
    ):
        assert refusal(lambda batch=batch: guard.check(batch)).rows[0].row == row


# -- every family, by the sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted({mc.get_spec(key).family for key in mc.list_specs()}))
def test_every_family_by_sizes(key: str) -> None:
    spec = mc.get_spec(key)
    sizes = [[(600, 800)], [(1000, 500), (300, 300)], []]
    needed = [int(mc.count_tokens(spec, group).sum()) for group in sizes]
    rows = [[1, 2, *[7] * tokens, 3] for tokens in needed]
    guard = mc.Guard(spec, max_sequence_length=2**20, image_token_ids=[7], counted="sequence")
    assert guard.check({"input_ids": rows}, sizes=sizes).real.tolist() == [len(row) for row in rows]
    cut = [rows[0], rows[1][:-2], rows[2]]
    assert [row.row for row in refusal(lambda: guard.check({"input_ids": cut}, sizes=sizes)).rows] == [1]


@pytest.mark.parametrize("family", sorted({case.oracle for case in all_cases()}))
def test_tokens_of_real_processors(
    family: str, oracle: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are read from the processor, and what they stand for from the spec."""
    oracles = oracle(family)
    case = next(case for case in all_cases() if case.oracle == family)
    upstream = oracles.Oracle(**case.upstream)
    if not hasattr(upstream, "preprocess") or not hasattr(oracles, "count"):
        pytest.skip("its oracle tokenises no text")
    texts: list[tuple[Any, str]] = []
    real = oracles.count
    monkeypatch.setattr(oracles, "count", lambda *given: texts.append(given) or real(*given))
    height, width = 600, 800
    upstream.preprocess(height, width)
    if not texts or family in ("gemma3", "lfm2_vl", "minicpmv4_6", "step3p7"):
        pytest.skip("its oracle tokenises no whole text")
    tokenizer, text = texts[-1]
    ids = tokenizer("\n" + text + "\n", add_special_tokens=False, return_tensors="pt")["input_ids"]
    named = [tokenizer.convert_tokens_to_ids("<IMG_ATOM>")] if family == "ovis2" else None
    settings = {"processor": upstream.processor, "image_token_ids": named, "max_crops": case.max_crops}
    guard = mc.Guard(case.spec, max_sequence_length=2**20, **settings)
    assert guard.check({"input_ids": ids}, sizes=[[(height, width)]]).truncated == ()
    assert guard.check({"input_ids": ids, "sizes": [(height, width)]}).truncated == ()
    half = ids.shape[1] // 2
    assert refusal(lambda: guard.check({"input_ids": ids[:, :half]}, sizes=[[(height, width)]])).rows[0].row == 0


def test_crops_of_other_families() -> None:
    spec = mc.get_spec("internvl")
    tokens, crops = (int(mc.count_tokens(spec, [(600, 800)], count=count)[0]) for count in ("sequence_tokens", "crops"))
    guard = mc.Guard(spec, max_sequence_length=2**20, image_token_ids=[7])
    batch = {"input_ids": [[1] + [7] * (tokens - 2)], "pixel_values": np.empty((crops, 3, 2, 2), np.float32)}
    assert guard.counted == "features"
    assert guard.check(batch, sizes=[[(600, 800)]]).truncated == ()
    batch["pixel_values"] = batch["pixel_values"][1:]
    assert "crops of image 0" in str(refusal(lambda: guard.check(batch, sizes=[[(600, 800)]])))


# -- warnings, policies, errors ------------------------------------------------------------------------------------


def test_margin_warns(processor: Any, samples: Any, caplog: pytest.LogCaptureFixture) -> None:
    longest = len(samples[1]["input_ids"])
    with caplog.at_level(logging.INFO, logger="maxcrops"):
        guarded(collate, processor, max_sequence_length=longest + 50)(samples)
    assert f"row 1 (photos/1.jpg) has {longest} of {longest + 50} tokens, 50 to spare" in caplog.text
    assert f"{longest} tokens predicted, {longest} real" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="maxcrops"):
        guarded(collate, processor, max_sequence_length=longest + 50, margin=50)(samples)
    assert not caplog.records


def test_warn_policy_passes_the_batch_on(processor: Any, samples: Any, caplog: pytest.LogCaptureFixture) -> None:
    guard = guarded(slicing(slice(300)), processor, on_truncation="warn", max_sequence_length=300)
    batch = guard(samples)
    assert batch["input_ids"].shape[1] == 300
    assert "photos/1.jpg" in caplog.text
    assert len(guard.check(batch, samples).truncated) >= 2


def test_memory_is_reported_where_cuda_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    assert module.memory_report() == ""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 * 2**29)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2**31)
    assert module.memory_report() == "; GPU memory 1.50 GiB allocated, 2.00 GiB reserved"


def test_images_without_evidence_are_refused() -> None:
    guard = mc.Guard(SPEC, max_sequence_length=64, image_token_ids=[7])
    for batch in ({"input_ids": [[1, 7]]}, {"input_ids": [[1]], "pixel_values": np.zeros((1, 3, 2, 2))}):
        with pytest.raises(mc.UnsupportedError, match="give sizes"):
            guard.check(batch)


def test_videos_are_refused() -> None:
    guard = mc.Guard(SPEC, max_sequence_length=64, image_token_ids=[7])
    with pytest.raises(mc.UnsupportedError, match="video_grids"):
        guard.check({"input_ids": [[1, 7]], "video_grids": np.ones((1, 3))})


def test_ids_on_a_device_are_refused() -> None:
    torch = pytest.importorskip("torch")
    guard = mc.Guard(SPEC, max_sequence_length=64, image_token_ids=[7])
    with pytest.raises(mc.UnsupportedError, match="before it moves"):
        guard.check({"input_ids": torch.empty((1, 2), dtype=torch.int64, device="meta")})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_token_ids": []}, "image_token_ids"),
        ({}, "image_token_ids"),
        ({"processor": SimpleNamespace()}, "names no image token"),
        ({"image_token_ids": [7], "on_truncation": "drop"}, "on_truncation"),
        ({"image_token_ids": [7], "counted": "all"}, "counted"),
        ({"image_token_ids": [7], "max_sequence_length": 0}, "max_sequence_length"),
        ({"image_token_ids": [7], "margin": -1}, "margin"),
    ],
)
def test_wrong_arguments(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mc.Guard(SPEC, **{"max_sequence_length": 64, **settings})


def test_ids_of_configurations() -> None:
    config = SimpleNamespace(
        image_patch_id=5, image_col_id=4, image_start_token_id=3, low_res_image_start_token_id=9, image_end_token_id=6
    )
    assert mc.Guard(SPEC, max_sequence_length=64, processor=config).image_token_ids == (3, 4, 5, 6, 9)
    molmo = SimpleNamespace(special_token_ids={"<im_patch>": 5, "<|image|>": 8})
    assert mc.Guard(SPEC, max_sequence_length=64, processor=molmo).image_token_ids == (5,)


def test_pickle() -> None:
    guard = mc.guard(collate, SPEC, max_sequence_length=64, image_token_ids=[7])
    assert vars(pickle.loads(pickle.dumps(guard))) == vars(guard)
    row = mc.exceptions.TruncatedRow(0, None, 1, 2, "what", "fix")
    error = pickle.loads(pickle.dumps(mc.TruncatedImageError("text", rows=(row,))))
    assert (str(error), error.rows) == ("text", (row,))


def test_docstrings() -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


# -- loaders and Trainer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loader_names_the_row(processor: Any, samples: Any, num_workers: int) -> None:
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        samples,
        batch_size=3,
        num_workers=num_workers,
        collate_fn=guarded(slicing(slice(600)), processor),
        multiprocessing_context="fork" if num_workers else None,
    )
    with pytest.raises(mc.TruncatedImageError, match=r"row 1 \(photos/1\.jpg\) holds"):
        next(iter(loader))


@pytest.fixture
def handler(processor: Any) -> Any:
    from transformers.trainer_callback import CallbackHandler

    from maxcrops.integrations.trainer import guard_callback

    guard = mc.Guard(SPEC, max_sequence_length=600, processor=processor)
    return CallbackHandler([guard_callback(guard)], None, None, None, None)


@pytest.mark.parametrize("wrapped", [False, True])
def test_callback_guards_the_training_loader(handler: Any, samples: Any, wrapped: bool) -> None:
    from torch.utils.data import DataLoader
    from transformers.trainer_callback import TrainerControl, TrainerState

    cut = slicing(slice(600))
    loader: Any = DataLoader(samples, batch_size=3, collate_fn=cut)
    handler.train_dataloader = SimpleNamespace(base_dataloader=loader) if wrapped else loader
    state, control = TrainerState(), TrainerControl()
    handler.on_train_begin(None, state, control)
    with pytest.raises(mc.TruncatedImageError, match="row 1"):
        next(iter(loader))
    handler.on_log(None, state, control, {})
    handler.on_train_end(None, state, control)
    assert loader.collate_fn is cut
