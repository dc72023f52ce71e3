"""Our Molmo of 2024 has the published number of parameters, computes what its parts in transformers compute, and
launches and keeps what the original does."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import maxcrops as mc
from maxcrops.exceptions import ConfigError, UnsupportedError
from maxcrops.planning.dryrun._configs import get_config
from maxcrops.planning.dryrun._molmo import MolmoCache, MolmoGeometry, build_molmo

torch = pytest.importorskip("torch")

SPEC = mc.get_spec("molmo-7b-d", max_crops=2)
QWEN2 = {
    "model_type": "molmo",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "embedding_size": 512,
    "vocab_size": 500,
    "qkv_bias": True,
    "layer_norm_type": "rms",
    "layer_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "max_position_embeddings": 64,
    "image_emb_dim": 64,
    "image_num_layers": 4,
    "image_mlp_dim": 96,
    "vit_layers": [-2, -4],
}
OLMO = {**QWEN2, "num_key_value_heads": None, "qkv_bias": False, "attention_layer_norm": True, "norm_after": True}
OLMOE = {**OLMO, "norm_after": False, "moe_num_experts": 4, "moe_top_k": 2}
VARIANTS = pytest.mark.parametrize("config", [QWEN2, OLMO, OLMOE], ids=["qwen2", "olmo", "olmoe"])


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def tiny(config: dict[str, Any], dtype: str = "float32", **options: Any) -> Any:
    model = build_molmo(config, dtype, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms near 1, the rest small, and nothing zero: the original fills its tables with zeros before loading.
            parameter.normal_(float("norm" in name or "ln" in name), 0.1)
    return model


def inputs(batch: int = 2, text: int = 9) -> dict[str, Any]:
    """What the processor makes of one photograph a sample, as the model takes it: a start token stands before it."""
    image = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    made = mc.Preprocessor(SPEC)([image])
    places = torch.from_numpy(made["image_input_idx"]).long()
    places = torch.where(places < 0, places, places + 1)
    ids = torch.randint(1, 500, (batch, 1 + len(made["image_tokens"]) + text))
    arrays = {
        "images": torch.from_numpy(made["images"]),
        "image_masks": torch.from_numpy(made["image_masks"]),
        "image_input_idx": places,
    }
    return {"input_ids": ids, **{name: torch.stack([array] * batch) for name, array in arrays.items()}}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # The hub counts 8.02 billion in Molmo-7B-D; of the others it is their names' 7, 72 and 7 (1 active).
        ("molmo-7b-d", 8_021_025_280),
        ("molmo-7b-o", 7_665_032_192),
        ("molmo-72b", 73_308_285_952),
        ("molmoe-1b", 7_221_875_712),
    ],
)
def test_parameters_are_as_many_as_published(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build_molmo(get_config(name))
    counts: dict[str, int] = {}
    for path, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        part = "vit" if "image_vit" in path else "adapter" if "vision_backbone" in path else "language model"
        counts[part] = counts.get(part, 0) + parameter.numel()
    assert sum(counts.values()) == parameters
    # CLIP ViT-L/14-336 has 303,507,456 with its 24th layer (12,596,224) and its last norm (2,048).
    assert counts["vit"] == 303_507_456 - 12_596_224 - 2_048


@VARIANTS
def test_gradients_reach_every_part(config: dict[str, Any]) -> None:
    model = tiny(config)
    given = inputs()
    loss = model(**given, labels=given["input_ids"], use_cache=False).loss
    loss.backward()
    assert torch.isfinite(loss)
    last = config["image_num_layers"] - 1
    for name, parameter in model.named_parameters():
        if f"resblocks.{last}." in name:
            assert parameter.grad is None, name  # Layer -1 runs, and nobody reads it.
        else:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            # Without tokens of their own the rows for them get nothing; a key's bias moves all scores alike.
            if "new_embedding" not in name and not name.endswith("wk.bias"):
                assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [QWEN2, OLMO], ids=["qwen2", "olmo"])  # OLMoE's experts take turns in each step.
def test_steps_with_a_cache_equal_the_whole(config: dict[str, Any]) -> None:
    model = tiny(config).eval()
    given = inputs(text=6)
    with torch.no_grad():
        whole = model(**given).logits
        ids = given.pop("input_ids")
        prompt = ids.shape[1] - 3
        output = model(ids[:, :prompt], **given, logits_to_keep=1)
        logits = [output.logits]
        for step in range(3):
            output = model(ids[:, prompt + step, None], past_key_values=output.past_key_values)
            logits.append(output.logits)
    assert isinstance(output.past_key_values, MolmoCache)
    assert output.past_key_values.get_seq_length() == ids.shape[1]
    assert output.past_key_values.layers[0].keys.shape[1] == (config["num_key_value_heads"] or 4)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole[:, prompt - 1 :])


def test_padding_changes_nothing() -> None:
    model = tiny(QWEN2).eval()
    given = inputs(batch=1)
    ids = given["input_ids"]
    padded = torch.nn.functional.pad(ids, (0, 5), value=-1)
    empty = {
        name: torch.cat([given[name], torch.full_like(given[name][:, :1], -1)], dim=1)
        for name in ("images", "image_masks", "image_input_idx")
    }
    with torch.no_grad():
        expected = model(**given).logits
        actual = model(padded, **empty).logits[:, : ids.shape[1]]
        masked = model(padded.clamp(min=0), **empty, attention_mask=padded != -1).logits[:, : ids.shape[1]]
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(masked, expected)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """(shape of the queries, shape of the keys, dtype, whether there is a mask) of every call of attention."""
    seen: list[tuple[Any, ...]] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Any, k: Any, v: Any, attn_mask: Any = None, **options: Any) -> Any:
        seen.append((tuple(q.shape), tuple(k.shape), q.dtype, attn_mask is not None))
        return original(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    return seen


@pytest.mark.parametrize("autocast", [True, False])
def test_adapter_attends_in_batches_of_crops_times_144(calls: list[tuple[Any, ...]], autocast: bool) -> None:
    model = tiny(QWEN2, "bfloat16", autocast=autocast).eval()
    given = inputs(batch=3)
    crops, tokens = given["images"].shape[1], given["input_ids"].shape[1]
    assert crops == 3
    with torch.no_grad():
        assert torch.isfinite(model(**given).logits).all()
    images = torch.bfloat16 if autocast else torch.float32
    vit = ((3 * crops, 16, 577, 4), (3 * crops, 16, 577, 4), images, False)
    adapter = ((3 * crops * 144, 16, 1, 4), (3 * crops * 144, 16, 4, 4), images, False)
    language_model = ((3, 4, tokens, 16), (3, 4, tokens, 16), torch.bfloat16, True)
    assert calls == [vit] * 4 + [adapter] + [language_model] * 2


@VARIANTS
def test_checkpointing_recomputes_the_same(config: dict[str, Any], calls: list[tuple[Any, ...]]) -> None:
    given = inputs(batch=1)
    model = tiny(config)

    def step() -> tuple[Any, dict[str, Any], int]:
        model.zero_grad()
        calls.clear()
        loss = model(**given, labels=given["input_ids"]).loss
        loss.backward()
        return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, len(calls)

    loss, gradients, once = step()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    recomputed, again, more = step()
    model.gradient_checkpointing_disable()
    torch.testing.assert_close(recomputed, loss, rtol=0, atol=0)
    torch.testing.assert_close(again, gradients)
    # The ViT's last layer has no backward pass, so it runs once; the adapter's attention is not checkpointed.
    assert (once, more) == (7, 7 + 3 + 2)
    assert step()[2] == once


def test_outputs_of_the_vit_live_until_they_are_joined() -> None:
    model = tiny(QWEN2).eval()
    backbone = model.model.vision_backbone
    outputs: list[Any] = []
    alive: list[int] = []
    for block in backbone.image_vit.resblocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(weakref.ref(output)))

    def count(*_: Any) -> None:
        alive.append(sum(output() is not None for output in outputs))

    backbone.image_vit.register_forward_hook(count)
    backbone.image_pooling_2d.register_forward_pre_hook(count)
    with torch.no_grad():
        model(**inputs(batch=1))
    assert alive == [4, 0]


def test_vit_equals_clip(oracle: Callable[[str], ModuleType]) -> None:
    import transformers

    model = tiny(QWEN2).eval().model.vision_backbone.image_vit
    clip = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            hidden_act="quick_gelu",
        )
    ).eval()
    tensors = {
        "embeddings.class_embedding": model.class_embedding,
        "embeddings.position_embedding.weight": model.positional_embedding,
        # Patches are packed row by row with their colours innermost.
        "embeddings.patch_embedding.weight": model.patch_embedding.weight.view(64, 14, 14, 3).permute(0, 3, 1, 2),
        "pre_layrnorm.weight": model.pre_ln.weight,
        "pre_layrnorm.bias": model.pre_ln.bias,
    }
    names = {
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.out_proj",
        "attention_norm": "layer_norm1",
        "ffn_norm": "layer_norm2",
        "feed_forward.w1": "mlp.fc1",
        "feed_forward.w2": "mlp.fc2",
    }
    for index, block in enumerate(model.resblocks):
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                tensors[f"encoder.layers.{index}.{theirs}.{kind}"] = block.get_parameter(f"{ours}.{kind}")
    load(clip, tensors)
    pixels = torch.rand(2, 24, 14, 24, 14, 3)
    with torch.no_grad():
        actual = model(pixels.permute(0, 1, 3, 2, 4, 5).reshape(2, 576, 588))
        images = pixels.reshape(2, 336, 336, 3).permute(0, 3, 1, 2)
        expected = clip(pixel_values=images, output_hidden_states=True).hidden_states
    assert len(actual) == 4
    for ours, theirs in zip(actual, expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("config", "kind"), [(QWEN2, "Qwen2"), (OLMO, "Olmo2")], ids=["qwen2", "olmo"])
def test_language_model_equals_transformers(
    config: dict[str, Any], kind: str, oracle: Callable[[str], ModuleType]
) -> None:
    import transformers

    model = tiny(config).eval()
    theirs = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=config["num_key_value_heads"] or 4,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            tie_word_embeddings=False,
            pad_token_id=None,
        )
    ).eval()
    transformer = model.model.transformer
    tensors = {
        "model.embed_tokens.weight": transformer.wte.embedding,
        "model.norm.weight": transformer.ln_f.weight,
        "lm_head.weight": transformer.ff_out.weight,
    }
    for index, block in enumerate(transformer.blocks):
        prefix = f"model.layers.{index}."
        for part in ("weight", "bias") if config["qkv_bias"] else ("weight",):
            pieces = getattr(block.att_proj, part).split(block.widths)
            for name, piece in zip("qkv", pieces, strict=True):
                tensors[f"{prefix}self_attn.{name}_proj.{part}"] = piece
        tensors[f"{prefix}self_attn.o_proj.weight"] = block.attn_out.weight
        value, gate = block.mlp.ff_proj.weight.chunk(2)
        tensors[f"{prefix}mlp.up_proj.weight"], tensors[f"{prefix}mlp.gate_proj.weight"] = value, gate
        tensors[f"{prefix}mlp.down_proj.weight"] = block.mlp.ff_out.weight
        after = config.get("norm_after", False)
        first, second = (
            ("post_attention_layernorm", "post_feedforward_layernorm")
            if after
            else ("input_layernorm", "post_attention_layernorm")
        )
        tensors[f"{prefix}{first}.weight"] = block.attn_norm.weight
        tensors[f"{prefix}{second}.weight"] = block.mlp.ff_norm.weight
        if after:
            tensors[f"{prefix}self_attn.q_norm.weight"] = block.q_norm.weight
            tensors[f"{prefix}self_attn.k_norm.weight"] = block.k_norm.weight
    load(theirs, tensors)
    ids = torch.randint(0, 512, (2, 40))
    with torch.no_grad():
        actual, expected = model(ids, labels=ids), theirs(ids, labels=ids)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.loss, expected.loss, rtol=1e-4, atol=1e-4)


def load(model: Any, tensors: dict[str, Any]) -> None:
    """By the ends of the names, as transformers moves its prefixes; what is not given must not be needed."""
    left = dict(tensors)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            key = next((key for key in left if name == key or name.endswith(f".{key}")), None)
            if key is None:
                assert "post_layernorm" in name, name  # CLIP's last norm, which comes after the layers.
            else:
                parameter.copy_(left.pop(key))
    assert not left, sorted(left)


def test_geometry_is_read_from_the_published_names() -> None:
    geometry = MolmoGeometry.from_config(get_config("molmo-7b-o"))
    assert (geometry.key_value_heads, geometry.norm_after, geometry.attention_layer_norm) == (32, True, True)
    assert (geometry.image_num_layers, geometry.vit_layers, geometry.patches_per_side) == (23, (-2, -9), 24)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden_size": 65}, ConfigError, "hidden_size must be a multiple of 4, got 65"),
        ({"num_key_value_heads": 3}, ConfigError, "num_attention_heads must be a multiple of 3, got 4"),
        ({"num_hidden_layers": 0}, ConfigError, "num_hidden_layers must be a positive integer, got 0"),
        ({"embedding_size": "512"}, ConfigError, "embedding_size must be a positive integer, got '512'"),
        ({"vit_layers": [-2, -9]}, ConfigError, r"vit_layers must be among 4, got \(-2, -9\)"),
        ({"moe_num_experts": 8}, ConfigError, "moe_num_experts and moe_top_k must both"),
        ({"layer_norm_type": "default"}, UnsupportedError, "layer_norm_type must be 'rms'"),
        ({"weight_tying": True}, UnsupportedError, "weight_tying must be False"),
    ],
)
def test_wrong_configs_are_told(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_molmo({**QWEN2, **changes})


def test_a_missing_size_is_told() -> None:
    config = {key: value for key, value in QWEN2.items() if key != "intermediate_size"}
    with pytest.raises(ConfigError, match="must have intermediate_size, got none"):
        build_molmo(config)


def test_other_attention_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="attention must be 'sdpa'"):
        build_molmo(QWEN2, attention="flash_attention_2")
