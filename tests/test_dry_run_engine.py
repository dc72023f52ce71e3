"""A dry run sees what the allocator sees: the same lives, in the same order, on weights that take no memory."""

from __future__ import annotations

import gc
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from dry_run_models import IMAGE, MODELS, TEXT_TOKENS, Small

import maxcrops as mc
from maxcrops.exceptions import ConfigError, DryRunError, UnsupportedError
from maxcrops.planning.dryrun import _engine, _hybrid, _imports, _inputs, _models, _parts
from maxcrops.planning.dryrun._events import CATEGORIES, EventLog
from maxcrops.planning.dryrun._launch import PHASES
from maxcrops.planning.dryrun._molmo import build_molmo
from maxcrops.planning.dryrun._recorder import Recorder
from maxcrops.planning.dryrun._request import Point, RunRequest
from maxcrops.planning.dryrun._worker import Worker

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

MADE_BEFORE = ("weights", "inputs", "optimizer states")
RUNS = ("prefill", "train", "train, checkpointing")


@pytest.fixture(autouse=True, scope="module")
def _libraries() -> Iterator[None]:
    from oracles.torchvision_ops import declare_missing

    declare_missing()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # scratch memory of the CPU's kernels grows with threads
    yield
    torch.set_num_threads(threads)


class Nobody:
    """Whom the steps of a real run tell where they are."""

    phase = "load"
    scale = 1.0

    def mark(self, tensors: object, category: object) -> None: ...


def run_steps(model: Any, inputs: dict[str, Any], run: str, step: Any, new_tokens: int = 3) -> None:
    if run.startswith("train"):
        _engine.train(model, inputs, step, Nobody())
    elif run == "generate":
        _engine.generate(model, inputs, new_tokens, Nobody())
    else:
        _engine.prefill(model, inputs, Nobody())


def real_model(small: Small, dtype: str) -> Any:
    if small.config["model_type"] == "molmo":
        return build_molmo(small.config, dtype).eval()
    config = _models._parsed(small.config["model_type"], small.full_config)
    kind = _models._class_of(config)
    return kind._from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()


def real_events(small: Small, run: str, *, dtype: str = "float32", trainable: Any = "all", optimizer: Any) -> list[int]:
    """Bytes that the CPU's allocator gave (or, negative, took back) in one run of a real model, in order."""
    from torch.profiler import ProfilerActivity, profile

    training = run.startswith("train")
    model = real_model(small, dtype)
    inputs = small.make_inputs(labels=training)
    step = None
    if training:
        _models.set_trainable(model, trainable)
        if "checkpointing" in run:
            # States of random numbers, which a checkpoint keeps, are in the host's memory on a GPU too.
            kwargs = {"use_reentrant": False, "preserve_rng_state": False}
            (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)(kwargs)
        step = _engine.make_optimizer(model, optimizer)
        for parameter in step.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        step.step()  # so that it has its states
        step.zero_grad()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run_steps(model, inputs, run, step)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def fakes(
    small: Small, run: str, *, dtype: Any = "float32", trainable: Any = "all", attention: Any = "sdpa"
) -> tuple[Any, dict[str, Any], _hybrid.Hybrid]:
    """The same model on fakes, its inputs, and the hybrid that runs it."""
    training = run.startswith("train")
    hybrid = _hybrid.Hybrid()
    model = _models.build(small.full_config, dtype=dtype, attention=attention, hybrid=hybrid)
    if training:
        _models.set_trainable(model, trainable)
        if "checkpointing" in run:
            _models.enable_checkpointing(model)
    return model, small.make_inputs(labels=training), hybrid


def dry_log(
    small: Small, run: str, *, optimizer: Any = "adamw_foreach", platform: Any = None, **model: Any
) -> EventLog:
    """The same run on fakes, with the CPU's own attention unless there is a platform."""
    mode: Any = "train" if run.startswith("train") else run
    return _engine.record(*fakes(small, run, **model), mode=mode, new_tokens=3, optimizer=optimizer, platform=platform)


def made_in_run(log: EventLog) -> np.ndarray[Any, np.dtype[np.bool_]]:
    before = [place for place, name in enumerate(log.operators) if name in MADE_BEFORE]
    return ~np.isin(log.operator, before)


def peak_of_run(log: EventLog) -> int:
    """Most bytes beyond what was there before, as the CPU's allocator counts them: not rounded."""
    return int(log.live_bytes(1).max() - log.num_bytes[~made_in_run(log)].sum())


def alive_at_peak(log: EventLog, rounding: int = 512) -> np.ndarray[Any, np.dtype[np.bool_]]:
    alive = np.zeros(len(log.num_bytes), np.bool_)
    last = int(log.live_bytes(rounding).argmax()) + 1
    for allocation, is_free in zip(log.event_allocation[:last], log.event_is_free[:last], strict=True):
        alive[allocation] = not is_free
    return alive


def by_category(log: EventLog, chosen: Any) -> dict[str, int]:
    return {name: int(log.num_bytes[chosen & (log.category == i)].sum()) for i, name in enumerate(CATEGORIES)}


# -- lifetimes -------------------------------------------------------------------------------------------------------


def assert_same_lives(small: Small, run: str, **settings: Any) -> None:
    settings = {"optimizer": "adamw_foreach", **settings}
    real = real_events(small, run, **settings)
    log = dry_log(small, run, **settings)
    real_peak = int(np.cumsum(real).max())
    assert abs(peak_of_run(log) - real_peak) <= 1e-3 * real_peak
    # Every tensor of the dry run is one of the real run, which has scratch memory of the CPU's kernels beside. (The
    # first convolution, whose output the CPU's kernel makes in other pieces, may be one more.)
    sizes = Counter(int(size) for size in log.num_bytes[made_in_run(log)] if size > 20_000)
    assert (sizes - Counter(size for size in real if size > 20_000)).total() <= 1
    assert sizes.total() > 100


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.oracle)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", [name if name != "smolvlm" else slow(name) for name in MODELS])  # as idefics3
def test_peak_is_that_of_the_real_allocator(name: str, run: str) -> None:
    assert_same_lives(MODELS[name], run)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("molmo2", "train"),
        ("gemma3", "generate"),
        *(slow(name, "train") for name in ("internvl", "gemma3", "qwen2_5_vl")),
    ],
)
def test_peak_is_that_of_the_real_allocator_in_bfloat16(name: str, run: str) -> None:
    assert_same_lives(MODELS[name], run, dtype="bfloat16")


@pytest.mark.parametrize(
    ("trainable", "run"),
    [
        ("frozen_vision", "train"),
        ("connector", "train, checkpointing"),
        slow("frozen_vision", "train, checkpointing"),
        slow("connector", "train"),
    ],
)
def test_peak_is_that_of_the_real_allocator_where_parts_are_frozen(trainable: str, run: str) -> None:
    assert_same_lives(MODELS["molmo2"], run, trainable=trainable)


def test_peak_is_that_of_the_real_allocator_with_fused_adamw() -> None:
    assert_same_lives(MODELS["llava_next"], "train, checkpointing", optimizer="adamw_fused")


@pytest.mark.parametrize(
    ("name", "run"), [("molmo2", "prefill"), ("internvl", "train"), *(slow("molmo2", run) for run in RUNS[1:])]
)
def test_peak_is_that_of_memtracker(name: str, run: str) -> None:
    """MemTracker, put on top, counts the same run. Without an optimizer: it misses states that are made before."""
    from torch.distributed._tools.mem_tracker import MemTracker

    model, inputs, hybrid = fakes(MODELS[name], run)
    tracker = MemTracker()
    tracker.track_external(model, *inputs.values())
    mode: Any = "train" if run.startswith("train") else run
    log = _engine.record(model, inputs, hybrid, mode=mode, optimizer="none", around=lambda: tracker)
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    assert peak["Total"] == log.live_bytes(1).max()


# -- what is fake and what is not ------------------------------------------------------------------------------------


def request(small: Small, **changes: Any) -> RunRequest:
    assert small.spec is not None
    return RunRequest(
        **{"config": small.config, "spec": small.spec, "point": small.point(), "dtype": "float32", **changes}
    )


LARGE = {
    "model_type": "molmo2",
    "text_config": {
        **MODELS["molmo2"].config["text_config"],
        "hidden_size": 4096,
        "head_dim": 128,
        "vocab_size": 150_000,
    },
    "vision_config": MODELS["molmo2"].config["vision_config"],
    "adapter_config": {**MODELS["molmo2"].config["adapter_config"], "text_hidden_size": 4096},
    "image_patch_id": 150_005,
}


def test_a_fake_run_takes_no_memory() -> None:
    """Masks of S x S, logits of S x 150,000 and weights: some 30 GB, of which the process gets nothing."""
    import resource

    small = Small(LARGE, MODELS["molmo2"].spec)
    _engine.observe(request(MODELS["molmo2"]))  # what libraries take the first time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    point = Point(batch_size=4, sizes=(small.size,), text_tokens=16_000)
    log = _engine.observe(request(small, point=point, mode="train"))
    assert log.live_bytes().max() > 30e9
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 300e6


@pytest.mark.parametrize("mode", ["prefill", "generate", "train"])
def test_two_runs_are_the_same(mode: Any) -> None:
    def log() -> EventLog:
        return _engine.observe(request(MODELS["idefics3"], mode=mode, gradient_checkpointing=True))

    first, second = log(), log()
    assert first.signature() == second.signature()
    assert (first.num_bytes == second.num_bytes).all()
    assert first.flops == second.flops


@pytest.fixture(scope="module")
def child() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("molmo", "prefill"),
        ("molmo2", "prefill"),
        ("internvl", "train"),
        ("llava_next", "prefill"),
        ("idefics3", "prefill"),
    ],
)
def test_what_a_child_does_not_import_changes_nothing(child: Worker, name: str, mode: Any) -> None:
    asked = request(MODELS[name], mode=mode, gradient_checkpointing=True)
    there, here = child.run(_engine.observe_in_child, asked), _engine.observe(asked)
    for field in fields(EventLog):
        assert np.array_equal(getattr(there, field.name), getattr(here, field.name)), field.name
    for package in _imports.NOT_NEEDED:
        with pytest.raises(DryRunError, match=f"ModuleNotFoundError.* {package} "):
            child.run(import_module, package)


def test_another_batch_has_the_same_events() -> None:
    """What fits over batches rely on."""
    small = MODELS["molmo2"]
    logs = [_engine.observe(request(small, point=small.point(batch))) for batch in (2, 3)]
    assert logs[0].signature() == logs[1].signature()
    assert (logs[1].num_bytes >= logs[0].num_bytes).all()


def test_ties_are_kept() -> None:
    small = MODELS["internvl"]
    text = small.config["text_config"]
    tied, untied = (
        {**small.config, "text_config": {**text, "tie_word_embeddings": tie}, "tie_word_embeddings": tie}
        for tie in (True, False)
    )
    model = _models.build(tied, dtype="float32", attention="sdpa", hybrid=_hybrid.Hybrid())
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    weights = [
        by_category(_engine.observe(request(small, config=config)), True)["weights"] for config in (tied, untied)
    ]
    assert weights[1] - weights[0] == text["vocab_size"] * text["hidden_size"] * 4
    for config in (tied, untied):
        assert_same_lives(Small(config, small.spec), "train")


# -- what is said of a run -------------------------------------------------------------------------------------------


def test_categories_of_training() -> None:
    log = dry_log(MODELS["molmo2"], "train")
    weights = by_category(log, True)["weights"]
    # Weights in float32, with as much for each gradient and twice as much for AdamW's states; buffers have none.
    assert by_category(log, True)["gradients"] == pytest.approx(weights, rel=1e-3)
    assert by_category(log, True)["optimizer"] == pytest.approx(2 * weights, rel=1e-3)
    assert by_category(log, True)["kv_cache"] == 0
    at_peak = by_category(log, alive_at_peak(log))
    assert at_peak["activations"] > at_peak["temporaries"] > 0
    phases = {PHASES[phase] for phase in log.phase}
    assert phases == {"load", "forward", "backward", "optimizer"}
    recomputed = dry_log(MODELS["molmo2"], "train, checkpointing")
    assert peak_of_run(recomputed) < peak_of_run(log) / 2


def test_frozen_parts_have_neither_gradients_nor_states() -> None:
    small = MODELS["molmo2"]
    logs = {name: dry_log(small, "train", trainable=name) for name in ("all", "frozen_vision", "connector")}
    model, *_ = fakes(small, "train")
    sizes = Counter[str]()
    for name, parameter in model.named_parameters():
        sizes[_parts.part_of(name)] += parameter.numel() * 4
    trained = {
        "all": sizes.total(),
        "frozen_vision": sizes["language_model"] + sizes["connector"],
        "connector": sizes["connector"],
    }
    for name, log in logs.items():
        assert by_category(log, True)["gradients"] == trained[name]
        assert by_category(log, True)["optimizer"] == 2 * trained[name]


def test_kv_cache_grows_by_what_is_decoded() -> None:
    small = MODELS["internvl"]
    text = small.config["text_config"]
    prompt = small.make_inputs(labels=False)["input_ids"].shape[1]
    layers, head_dim = text["num_hidden_layers"], text["hidden_size"] // text["num_attention_heads"]
    layer = 2 * 2 * text["num_key_value_heads"] * head_dim * 4  # keys and values of a token of both samples

    def most_cached(mode: Any, new_tokens: int) -> int:
        point = Point(batch_size=2, sizes=(small.size,), text_tokens=TEXT_TOKENS, new_tokens=new_tokens)
        log = _engine.observe(request(small, point=point, mode=mode))
        cached = np.where(log.category == CATEGORIES.index("kv_cache"), log.num_bytes, 0)[log.event_allocation]
        return int(np.cumsum(np.where(log.event_is_free, -cached, cached)).max())

    assert most_cached("prefill", 1) == prompt * layers * layer
    for new_tokens in (1, 2, 3, 50):
        tokens = prompt + new_tokens
        # The keys of one layer, or its values, are there twice while the new one is joined to them.
        assert most_cached("generate", new_tokens) == tokens * layers * layer + (tokens - 1) * layer // 2


def test_steps_that_are_left_out_count() -> None:
    """Arithmetic of many decoded tokens, of which two are run, is that of all."""
    small = MODELS["internvl"]

    def flops(new_tokens: int) -> int:
        point = Point(batch_size=2, sizes=(small.size,), text_tokens=TEXT_TOKENS, new_tokens=new_tokens)
        return sum(_engine.observe(request(small, point=point, mode="generate")).flops.values())

    steps = [flops(count) for count in (1, 2, 3, 4, 5)]
    differences = np.diff(steps)
    assert (differences > 0).all()
    # A step costs as much as the one before and a fixed bit more, as its cache is longer by one.
    assert (np.diff(differences) == np.diff(differences)[0]).all()


def test_molmo2_keeps_the_hidden_states_of_its_vision_encoder() -> None:
    log = dry_log(MODELS["molmo2"], "prefill")
    layers = re.compile(r"model\.vision_tower\.layers\.\d+$")
    adapter = log.modules.index("model.multi_modal_projector")
    before_adapter = int(np.flatnonzero(log.module[log.event_allocation] == adapter)[0])
    alive = np.zeros(len(log.num_bytes), np.bool_)
    for allocation, is_free in zip(
        log.event_allocation[:before_adapter], log.event_is_free[:before_adapter], strict=True
    ):
        alive[allocation] = not is_free
    states = [place for place in np.flatnonzero(alive) if layers.match(log.modules[log.module[place]])]
    config = MODELS["molmo2"].config["vision_config"]
    assert len({log.modules[log.module[place]] for place in states}) == config["num_hidden_layers"]
    assert len({int(log.num_bytes[place]) for place in states}) == 1
    assert {CATEGORIES[log.category[place]] for place in states} == {"activations"}


def test_backward_knows_its_modules() -> None:
    """Weights' gradients are made by the module that owns them."""
    log = dry_log(MODELS["internvl"], "train, checkpointing")
    made = Counter(
        log.modules[module]
        for module, category in zip(log.module, log.category, strict=True)
        if CATEGORIES[category] == "gradients"
    )
    model, *_ = fakes(MODELS["internvl"], "train")
    owners = Counter(name.rpartition(".")[0] for name, _ in model.named_parameters())
    agree = sum((made & owners).values())
    assert agree > 0.95 * owners.total()


def test_flops_are_those_of_flop_counter_mode() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for run in RUNS:
        model, inputs, hybrid = fakes(MODELS["gemma3"], run)
        counter = FlopCounterMode(display=False)
        mode: Any = "train" if run.startswith("train") else run
        log = _engine.record(model, inputs, hybrid, mode=mode, around=lambda counter=counter: counter)
        assert sum(log.flops.values()) == counter.get_total_flops()
        assert set(log.flops) == {"vision", "connector", "language_model"}


# -- CUDA's kernels --------------------------------------------------------------------------------------------------


def test_platform_decides_the_attention_kernel() -> None:
    small = MODELS["molmo2"]
    half = _engine.observe(request(small, dtype="bfloat16"))
    assert set(half.attention_kernels) == {"flash", "efficient"}
    assert any("efficient_attention" in name for name in half.operators)
    assert "cuBLAS workspace" in half.operators
    full = _engine.observe(request(small, dtype="float32"))
    assert set(full.attention_kernels) == {"efficient"}
    flash = _engine.observe(request(MODELS["internvl"], dtype="bfloat16", attention="flash_attention_2", mode="train"))
    assert flash.attention_kernels == ("flash",)
    eager = _engine.observe(request(MODELS["internvl"], dtype="bfloat16", attention="eager"))
    assert eager.attention_kernels == ()
    assert "_softmax" in eager.operators


def test_launches_beyond_the_grid_are_named() -> None:
    """Molmo2's adapter attends once a feature: this batch of its flash attention ends at 65535."""
    small = MODELS["molmo2"]
    assert small.spec is not None
    features = mc.layout(small.spec, height=small.size[0], width=small.size[1]).connector_outputs
    most = 65535 // features
    passing, failing = (
        _engine.observe(request(small, point=small.point(batch), dtype="bfloat16")) for batch in (most, most + 1)
    )
    assert passing.launches == ()
    (launch,) = failing.launches
    assert launch.module == "model.multi_modal_projector.image_pooling_2d"
    assert (launch.phase, launch.kernel, launch.limit) == ("forward", "flash", 65535)
    assert launch.size == launch.shape[0] == (most + 1) * features
    assert launch.largest_batch == most
    assert launch.remedy == f"a batch of {most} passes; for more, split this call along its batch"


# -- models and inputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, small in MODELS.items() if small.spec is not None])
def test_sequences_are_as_long_as_the_spec_says(name: str) -> None:
    small = MODELS[name]
    assert small.spec is not None
    inputs = small.make_inputs(labels=True)
    image = mc.layout(small.spec, height=small.size[0], width=small.size[1])
    assert inputs["input_ids"].shape == (2, image.sequence_tokens + TEXT_TOKENS)
    assert inputs["labels"].shape == inputs["input_ids"].shape
    assert int((inputs["labels"][0] != -100).sum()) == TEXT_TOKENS


@pytest.mark.parametrize("name", [name for name, small in MODELS.items() if small.spec is not None])
def test_fake_pixels_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound they are fake; models that look for padding in them find none, as in ones."""
    small = MODELS[name]
    assert small.spec is not None
    real = _engine.observe(request(small))
    monkeypatch.setattr(_inputs, "MOST_REAL_VALUES", 1000)
    hybrid = _hybrid.Hybrid()
    inputs = _inputs.make_inputs(name, IMAGE, small.spec, small.point(), hybrid)
    assert hybrid.is_fake(inputs["images" if name == "molmo" else "pixel_values"])
    fake = _engine.observe(request(small))
    assert fake.signature() == real.signature()
    assert fake.num_bytes.tolist() == real.num_bytes.tolist()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"config": {}}, UnsupportedError, "model_type must be one of"),
        ({"config": {"model_type": "qwen2_5_vl"}}, UnsupportedError, "whose inputs are known"),
        ({"config": {**MODELS["internvl"].config, "downsample_ratio": "half"}}, ConfigError, "internvl accepts"),
        ({"spec": mc.get_spec("molmo2")}, ConfigError, "spec must be of the model's family, internvl"),
        ({"spec": mc.get_spec("internvl", crop_size=112)}, ConfigError, "must describe the same model"),
        ({"point": Point(batch_size=0, sizes=((9, 9),))}, ValueError, "batch_size must be at least 1"),
        ({"point": Point(batch_size=1, sizes=())}, ValueError, "images in a sample must be at least 1"),
        ({"torch_version": "2.0"}, ValueError, "torch_version must be 2.6 or newer"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        _engine.observe(request(MODELS["internvl"], **changes))


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"model_type": "newest_vl", "auto_map": {"AutoConfig": "x.Y"}}, UnsupportedError, "is not run"),
        ({"model_type": "newest_vl"}, UnsupportedError, "use a newer transformers"),
        ({"model_type": "llama"}, UnsupportedError, "model must take images"),
        ({"architectures": ["A"]}, ConfigError, "model_type must be in the model's configuration"),
        ({"model_type": "internvl", "text_config": {"num_attention_heads": 0}}, ConfigError, "accepts"),
    ],
)
def test_what_is_no_model_is_refused(config: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        _models.build(config, dtype="bfloat16", attention="sdpa", hybrid=_hybrid.Hybrid())


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("model.vision_tower.encoder.layers.3.mlp.fc1", "vision"),
        ("model.visual.blocks.0.attn", "vision"),
        ("model.visual.merger.mlp.2", "connector"),
        ("model.vision_backbone.image_pooling_2d.wq", "connector"),
        ("model.vision_backbone.image_vit.transformer.resblocks.4", "vision"),
        ("model.connector.modality_projection.proj", "connector"),
        ("model.image_newline", "connector"),
        ("model.language_model.layers.0.self_attn.q_proj", "language_model"),
        ("lm_head", "language_model"),
    ],
)
def test_parts_are_told_by_names(path: str, part: str) -> None:
    assert _parts.part_of(path) == part


def test_hybrid_runs_what_decides_and_fakes_what_fills() -> None:
    hybrid = _hybrid.Hybrid()
    fake = hybrid.fake(torch.empty(3, 5, device="meta"))
    pixels = torch.ones(3, 1500, 1500)
    with _hybrid.dispatch_mode(hybrid.run):
        assert not hybrid.is_fake(torch.arange(10) < 5)
        rows = torch.arange(10_000)
        assert hybrid.is_fake(rows[:, None] >= rows[None])  # 10^8 elements out of 2 * 10^4
        assert not hybrid.is_fake(pixels == 0)
        assert hybrid.is_fake(torch.zeros(3000, 3000))
        mask = torch.tensor([True, False, True])
        assert fake[mask].shape == (2, 5)
        assert fake.masked_select(mask[:, None]).shape == (10,)
        assert fake[mask[:, None].expand(3, 5)].shape == (10,)
        real = torch.ones(3, 5)
        real[mask] = fake[mask]
        assert real[1].tolist() == [1] * 5
        assert real[0].tolist() == [0] * 5
        assert bool(fake.sum() > 0)  # every condition holds
        counts = (fake > 0).sum(1)
        assert (counts != 5).tolist() == [True] * 3
        assert fake[fake > 0].shape == (15,)


def test_hooks_are_removed() -> None:
    hooks = torch.nn.modules.module
    before = len(hooks._global_forward_pre_hooks), len(hooks._global_forward_hooks)
    model, _, hybrid = fakes(MODELS["internvl"], "prefill")
    with pytest.raises(ZeroDivisionError), Recorder(model, hybrid).watching():
        1 / 0  # noqa: B018
    assert (len(hooks._global_forward_pre_hooks), len(hooks._global_forward_hooks)) == before
    assert gc.isenabled()
