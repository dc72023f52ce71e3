"""Molmo of 2024 as a module for the dry run, as transformers has no class of it.

The geometry is that of the published checkpoints: their ``config.json`` says what the language model is, and their
``modeling_molmo.py`` fixes the rest (https://huggingface.co/allenai/Molmo-7B-D-0924; allenai/molmo, olmo/model.py and
olmo/config.py)::

    ViT         CLIP ViT-L/14 at 336 px without its last layer: 23 layers of 1024, 16 heads, MLP of 4096, 576 patches
                and a class token; the outputs of layers -2 and -9 are joined to 2048 features a patch
    adapter     every 2 x 2 patches of a crop are pooled by cross-attention with 16 heads, whose query is their mean
                (batch: samples x crops x 144), then a gated MLP as wide as the language model's
    language    Qwen2 (grouped queries, biases), OLMo (norms after the blocks, and of queries and keys) or OLMoE
    model       (64 experts, 8 a token)

What memory depends on is kept as the original has it, in the order in which it happens:

- the ViT returns the outputs of all its layers, which live until two of them are joined;
- the class token's features are a view of the joined features, and are kept to the end of the forward pass;
- the embedding table and its 128 new rows are joined at every step, which copies the table;
- a float32 mask of [batch, 1, S, S] is made once, and cast to the dtype of the queries in every layer;
- keys and values are repeated to the number of query heads in every layer, and the cache holds them unrepeated;
- queries and keys turn to float32 in the rotary embedding; those of the ViT and the adapter for their attention too.

The original also forbids the memory-efficient attention kernel, for the whole process: :data:`DISABLED_KERNELS`.

One thing differs: the experts of OLMoE share the tokens evenly, as which expert a token takes depends on weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache as once
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from maxcrops.exceptions import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from maxcrops.planning.dryrun._attention import Kernel

DISABLED_KERNELS: tuple[Kernel, ...] = ("efficient",)
"""Kernels of scaled_dot_product_attention that Molmo turns off when it is built: ``enable_mem_efficient_sdp(False)``
in ``modeling_molmo.py`` and in the training code. As its language model always has a mask, which flash attention
cannot take, it runs the math kernel where cuDNN's is not available."""


@dataclass(frozen=True, kw_only=True)
class MolmoGeometry:
    """The sizes of a Molmo, by their names in ``config.json``.

    Those of the ViT have their names in ``VisionBackboneConfig``, and stand in no published file: all share them.
    """

    hidden_size: int
    intermediate_size: int
    """Twice the width of the gated MLP, as both its inputs are made at once."""
    num_hidden_layers: int
    num_attention_heads: int
    embedding_size: int
    """Rows of the embedding table and of the output layer."""
    num_key_value_heads: int | None = None
    """None: as many as attention heads."""
    additional_vocab_size: int = 128
    """Rows for the image tokens, in a table of their own and without outputs."""
    qkv_bias: bool = False
    attention_layer_norm: bool = False
    """Norms of queries and keys, over all heads together."""
    norm_after: bool = False
    layer_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    moe_num_experts: int | None = None
    moe_top_k: int | None = None
    image_size: int = 336
    image_patch_size: int = 14
    image_emb_dim: int = 1024
    image_num_heads: int = 16
    image_num_layers: int = 23
    image_mlp_dim: int = 4096
    image_norm_eps: float = 1e-5
    vit_layers: tuple[int, ...] = (-2, -9)
    image_pooling_h: int = 2
    image_pooling_w: int = 2

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MolmoGeometry:
        """Reads a ``config.json``.

        Raises:
            ConfigError: a size is missing, not a positive integer, or does not divide as it must.
            UnsupportedError: a variant that no published checkpoint has.
        """
        for key, only in (("layer_norm_type", "rms"), ("clip_qkv", None), ("weight_tying", False)):
            if config.get(key, only) != only:
                raise UnsupportedError(
                    f"[dry_run] {key} must be {only!r} for a Molmo, as in all that were published, got {config[key]!r}"
                )
        given: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name in config:
                value = config[field.name]
                given[field.name] = tuple(value) if isinstance(value, list) else value
            elif field.default is dataclasses.MISSING:
                raise ConfigError(f"[dry_run] a Molmo's config.json must have {field.name}, got none")
        geometry = cls(**given)
        geometry._check()
        return geometry

    def _check(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"[dry_run] {field.name} must be a positive integer, got {value!r}")
        for name, whole, part in (
            ("hidden_size", self.hidden_size, self.num_attention_heads),
            ("num_attention_heads", self.num_attention_heads, self.key_value_heads),
            ("intermediate_size", self.intermediate_size, 2),
            ("image_emb_dim", self.image_emb_dim, self.image_num_heads),
            ("image_size", self.image_size, self.image_patch_size),
        ):
            if part < 1 or whole % part:
                raise ConfigError(f"[dry_run] {name} must be a multiple of {part}, got {whole}")
        if not all(-self.image_num_layers <= layer < self.image_num_layers for layer in self.vit_layers):
            raise ConfigError(f"[dry_run] vit_layers must be among {self.image_num_layers}, got {self.vit_layers}")
        if (self.moe_num_experts is None) != (self.moe_top_k is None):
            raise ConfigError("[dry_run] moe_num_experts and moe_top_k must both be given or neither")

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def patches_per_side(self) -> int:
        """Patches along a side of a crop."""
        return self.image_size // self.image_patch_size


@dataclass
class MolmoCacheLayer:
    """[batch, key_value_heads, tokens so far, head size] each."""

    keys: Tensor
    values: Tensor


class MolmoCache:
    """Keys and values of every layer, by the names that transformers' ``DynamicCache`` has.

    The first ones are kept as they are, where a DynamicCache copies them.
    """

    def __init__(self) -> None:
        self.layers: list[MolmoCacheLayer] = []

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.layers[0].keys.shape[-2] if self.layers else 0

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Appends to a layer, or makes the next; returns all that it has."""
        import torch

        if layer == len(self.layers):
            self.layers.append(MolmoCacheLayer(keys, values))
        else:
            old = self.layers[layer]
            keys, values = torch.cat((old.keys, keys), dim=-2), torch.cat((old.values, values), dim=-2)
            self.layers[layer] = MolmoCacheLayer(keys, values)
        return keys, values


@dataclass
class MolmoOutput:
    """What the model returns."""

    logits: Tensor
    """[batch, tokens or logits_to_keep, embedding_size]"""
    loss: Tensor | None = None
    """Scalar, if labels were given."""
    past_key_values: MolmoCache | None = None
    """If use_cache: what was given, with this step's keys and values, or a new one."""


def build_molmo(
    config: Mapping[str, Any], dtype: str = "bfloat16", attention: str = "sdpa", *, autocast: bool = True
) -> nn.Module:
    """A Molmo with the geometry of `config`, on the current default device (``with torch.device("meta")``).

    Args:
        config: its ``config.json``.
        dtype: of all parameters.
        attention: "sdpa"; the original knows no other for inference and training.
        autocast: as under ``torch.autocast`` to `dtype`, which the training code and the model card use: the attention
            of the ViT and the adapter runs in `dtype`, the loss in float32. Otherwise both attentions run in float32,
            as the original casts for them, and the loss in `dtype`.

    Returns:
        A module in training mode: ``forward(input_ids, images=, image_masks=, image_input_idx=, ...) -> MolmoOutput``,
        with ``gradient_checkpointing_enable()`` and ``config``, whose ``image_token_id`` marks patches.

    Raises:
        ConfigError, UnsupportedError: as :meth:`MolmoGeometry.from_config`; another `attention` is unsupported.
    """
    import torch

    if attention != "sdpa":
        raise UnsupportedError(
            f"[dry_run] attention must be 'sdpa' for a Molmo of 2024, whose code calls nothing else, got {attention!r};"
            " leave attention out"
        )
    geometry = MolmoGeometry.from_config(config)
    # The image tokens follow the table's rows: start, end, patch, column. The original finds places by index instead.
    described = SimpleNamespace(**{**config, "model_type": "molmo", "image_token_id": geometry.embedding_size + 2})
    model: nn.Module = _classes()(described, geometry, autocast).to(getattr(torch, dtype))
    return model


@once
def _classes() -> type[nn.Module]:
    """Defines the modules, for which torch must be loaded; returns the outermost."""
    import torch
    from torch import nn
    from torch.nn import functional  # Attention is looked up in it at every call, as the dry run replaces it there.
    from torch.utils.checkpoint import checkpoint

    def finite_(bias: Tensor) -> Tensor:
        """-inf would turn rows that see nothing into NaN."""
        return bias.masked_fill_(bias == float("-inf"), torch.finfo(bias.dtype).min)

    class RMSNorm(nn.Module):
        def __init__(self, size: int, eps: float) -> None:
            super().__init__()
            self.eps = eps
            self.weight = nn.Parameter(torch.ones(size))

        def forward(self, x: Tensor) -> Tensor:
            dtype = x.dtype
            x = x.to(torch.float32)
            variance = x.pow(2).mean(-1, keepdim=True)
            x = x * torch.rsqrt(variance + self.eps)
            x = x.to(dtype)
            return self.weight * x

    class LayerNormFp32(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            weight, bias = self.weight.to(torch.float32), self.bias.to(torch.float32)
            normed = functional.layer_norm(x.to(torch.float32), self.normalized_shape, weight, bias, self.eps)
            return normed.to(x.dtype)

    class QuickGELU(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(1.702 * x)

    class ImageAttention(nn.Module):
        """Attention of the ViT (features: 1 layer's) and of the adapter (those of all vit_layers, joined)."""

        def __init__(self, geometry: MolmoGeometry, num_layers: int, autocast: bool) -> None:
            super().__init__()
            width = geometry.image_emb_dim
            self.num_heads = geometry.image_num_heads
            self.autocast = autocast
            self.wq = nn.Linear(num_layers * width, width)
            self.wk = nn.Linear(num_layers * width, width)
            self.wv = nn.Linear(num_layers * width, width)
            self.wo = nn.Linear(width, width)

        def heads(self, x: Tensor) -> Tensor:
            return x.reshape(*x.shape[:2], self.num_heads, -1)

        def forward(self, queries: Tensor, others: Tensor | None = None) -> Tensor:
            if others is None:
                others = queries
            q, k, v = self.wq(queries), self.wk(others), self.wv(others)
            q, k, v = self.heads(q), self.heads(k), self.heads(v)
            dtype = q.dtype
            q, k = q.to(torch.float32), k.to(torch.float32)
            if not self.autocast:
                v = v.to(torch.float32)
            # Both copies live as long as the call: the original's arguments, and what autocast makes of them.
            inputs = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
            cast = [x.to(dtype if self.autocast else torch.float32) for x in inputs]
            output = functional.scaled_dot_product_attention(cast[0], cast[1], cast[2], is_causal=False)
            del inputs, cast
            output = output.transpose(1, 2).to(dtype)
            output = output.reshape(*output.shape[:2], -1)
            mixed: Tensor = self.wo(output)
            return mixed

    class ImageMLP(nn.Module):
        def __init__(self, geometry: MolmoGeometry) -> None:
            super().__init__()
            self.w1 = nn.Linear(geometry.image_emb_dim, geometry.image_mlp_dim)
            self.act = QuickGELU()
            self.w2 = nn.Linear(geometry.image_mlp_dim, geometry.image_emb_dim)

        def forward(self, x: Tensor) -> Tensor:
            x = self.w1(x)
            x = self.act(x)
            x = self.w2(x)
            return x

    class ResidualAttentionBlock(nn.Module):
        def __init__(self, geometry: MolmoGeometry, autocast: bool) -> None:
            super().__init__()
            self.attention = ImageAttention(geometry, 1, autocast)
            self.feed_forward = ImageMLP(geometry)
            self.attention_norm = nn.LayerNorm(geometry.image_emb_dim, eps=geometry.image_norm_eps)
            self.ffn_norm = nn.LayerNorm(geometry.image_emb_dim, eps=geometry.image_norm_eps)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attention(self.attention_norm(x))
            x = x + self.feed_forward(self.ffn_norm(x))
            return x

    class VisionTransformer(nn.Module):
        gradient_checkpointing = False

        def __init__(self, geometry: MolmoGeometry, autocast: bool) -> None:
            super().__init__()
            width, patch = geometry.image_emb_dim, geometry.image_patch_size
            self.class_embedding = nn.Parameter(torch.zeros(width))
            self.positional_embedding = nn.Parameter(torch.zeros(geometry.patches_per_side**2 + 1, width))
            self.patch_embedding = nn.Linear(3 * patch * patch, width, bias=False)
            self.pre_ln = LayerNormFp32(width, eps=geometry.image_norm_eps)
            self.resblocks = nn.ModuleList(
                ResidualAttentionBlock(geometry, autocast) for _ in range(geometry.image_num_layers)
            )

        def forward(self, images: Tensor) -> list[Tensor]:
            """[crops, patches, pixels of one] -> each layer's output, [crops, 1 + patches, image_emb_dim]."""
            x = self.patch_embedding(images)
            token = self.class_embedding.view(1, 1, -1).expand(x.shape[0], -1, -1)
            x = torch.cat([token.to(x.dtype), x], dim=1)
            # The original splits the table to stretch it for other crop sizes, and joins it again.
            table = torch.cat([self.positional_embedding[None, :1], self.positional_embedding[None, 1:]], dim=1)
            x = x + table.to(x.dtype)
            del table
            x = self.pre_ln(x)
            outputs = []
            for block in self.resblocks:
                recompute = self.gradient_checkpointing and self.training
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
                outputs.append(x)
            return outputs

    class Projector(nn.Module):
        def __init__(self, geometry: MolmoGeometry) -> None:
            super().__init__()
            width = geometry.intermediate_size // 2
            self.w1 = nn.Linear(geometry.image_emb_dim, width, bias=False)
            self.w2 = nn.Linear(width, geometry.hidden_size, bias=False)
            self.w3 = nn.Linear(geometry.image_emb_dim, width, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            projected: Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
            return projected

    class VisionBackbone(nn.Module):
        gradient_checkpointing = False

        def __init__(self, geometry: MolmoGeometry, autocast: bool) -> None:
            super().__init__()
            self.geometry = geometry
            self.image_vit = VisionTransformer(geometry, autocast)
            self.image_pooling_2d = ImageAttention(geometry, len(geometry.vit_layers), autocast)
            self.image_projector = Projector(geometry)
            self.pad_embed = nn.Parameter(torch.zeros(2, geometry.image_emb_dim * len(geometry.vit_layers)))

        def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
            samples, crops, patches, _ = images.shape
            images = images.view(samples * crops, patches, -1)
            not_empty = ~torch.all(images == -1, dim=(1, 2), keepdim=True)  # The collator pads with crops of -1.
            outputs = self.image_vit(images)
            chosen = [outputs[layer] for layer in self.geometry.vit_layers]
            features = torch.cat(chosen, dim=-1)
            del outputs
            class_features = features[:, 0]
            features = features[:, 1:]
            features = features * not_empty
            return features.view(samples, crops, patches, -1), class_features.view(samples, crops, -1)

        def forward(self, images: Tensor, image_masks: Tensor) -> tuple[Tensor, Tensor]:
            """[batch, crops, patches, pixels] -> [batch, crops, pooled patches, hidden_size], and the class token's."""
            samples, crops = images.shape[:2]
            features, class_features = self.encode_image(images)
            all_pad = image_masks == 0
            partial_pad = torch.logical_and(image_masks < 1, torch.logical_not(all_pad)).to(features.dtype)
            all_pad = all_pad.to(features.dtype)
            features = features + self.pad_embed[0] * all_pad.unsqueeze(-1)
            features = features + self.pad_embed[1] * partial_pad.unsqueeze(-1)

            side, rows, cols = (
                self.geometry.patches_per_side,
                self.geometry.image_pooling_h,
                self.geometry.image_pooling_w,
            )
            features = features.reshape(samples, crops, side, side, -1)
            if side % rows == 1:
                features = functional.pad(features, (0, 0, 0, 1, 0, 1))
            height, width = features.shape[2] // rows, features.shape[3] // cols
            features = features.reshape(samples, crops, height, rows, width, cols, -1)
            features = features.permute(0, 1, 2, 4, 3, 5, 6).reshape(samples * crops * height * width, rows * cols, -1)
            query = features.mean(-2, keepdim=True)
            features = self.image_pooling_2d(query, features)
            features = features.reshape(samples, crops, height * width, -1)
            if self.gradient_checkpointing and self.training:
                features = checkpoint(self.image_projector, features, use_reentrant=False)
            else:
                features = self.image_projector(features)
            return features, class_features

    class Embedding(nn.Module):
        def __init__(self, geometry: MolmoGeometry) -> None:
            super().__init__()
            self.embedding = nn.Parameter(torch.zeros(geometry.embedding_size, geometry.hidden_size))
            self.new_embedding = nn.Parameter(torch.zeros(geometry.additional_vocab_size, geometry.hidden_size))

        def forward(self, ids: Tensor) -> Tensor:
            return functional.embedding(ids, torch.cat([self.embedding, self.new_embedding], dim=0))

    class MLP(nn.Module):
        """Gated: the input's two halves are made by one matrix. Named as the original has it, inside the block."""

        def __init__(self, geometry: MolmoGeometry) -> None:
            super().__init__()
            self.norm_after = geometry.norm_after
            self.ff_norm = RMSNorm(geometry.hidden_size, geometry.layer_norm_eps)
            self.ff_proj = nn.Linear(geometry.hidden_size, geometry.intermediate_size, bias=False)
            self.ff_out = nn.Linear(geometry.intermediate_size // 2, geometry.hidden_size, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            if not self.norm_after:
                x = self.ff_norm(x)
            x = self.ff_proj(x)
            value, gate = x.chunk(2, dim=-1)
            x = functional.silu(gate) * value
            del value, gate
            x = self.ff_out(x)
            return self.ff_norm(x) if self.norm_after else x

    class Expert(nn.Module):
        def __init__(self, geometry: MolmoGeometry) -> None:
            super().__init__()
            width = geometry.intermediate_size // 2
            self.gate_proj = nn.Linear(geometry.hidden_size, width, bias=False)
            self.up_proj = nn.Linear(geometry.hidden_size, width, bias=False)
            self.down_proj = nn.Linear(width, geometry.hidden_size, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            down: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
            return down

    class Experts(nn.Module):
        def __init__(self, geometry: MolmoGeometry, num_experts: int, top_k: int) -> None:
            super().__init__()
            self.num_experts, self.top_k = num_experts, top_k
            self.ff_norm = RMSNorm(geometry.hidden_size, geometry.layer_norm_eps)
            self.gate = nn.Linear(geometry.hidden_size, num_experts, bias=False)
            self.experts = nn.ModuleList(Expert(geometry) for _ in range(num_experts))

        def forward(self, x: Tensor) -> Tensor:
            shape = x.shape
            x = self.ff_norm(x).view(-1, shape[-1])
            weights = functional.softmax(self.gate(x), dim=1, dtype=torch.float32)
            weights, _ = torch.topk(weights, self.top_k, dim=-1)
            weights = weights.to(x.dtype)
            output = torch.zeros_like(x)
            # Token t takes the experts t * top_k, t * top_k + 1, ... in turn, in place of those that topk chose.
            pairs = torch.arange(x.shape[0] * self.top_k, device=x.device)
            for index, expert in enumerate(self.experts):
                mine = pairs[index :: self.num_experts]
                tokens, ranks = mine // self.top_k, mine % self.top_k
                part = expert(x[tokens]) * weights[tokens, ranks, None]
                output.index_add_(0, tokens, part)
            return output.reshape(shape)

    class Rotary:
        """Sines and cosines of all positions, float32: made at the first call and kept, not as a buffer."""

        def __init__(self, geometry: MolmoGeometry) -> None:
            self.size = geometry.hidden_size // geometry.num_attention_heads
            self.theta = geometry.rope_theta
            self.length = geometry.max_position_embeddings
            self.tables: tuple[Tensor, Tensor] | None = None

        def __call__(self, q: Tensor, k: Tensor, position_ids: Tensor, length: int) -> tuple[Tensor, Tensor]:
            if self.tables is None or self.tables[0].shape[0] < length:
                self.length = max(self.length, length)
                steps = torch.arange(0, self.size, 2, dtype=torch.float32, device=position_ids.device)
                places = torch.arange(self.length, dtype=torch.float32, device=position_ids.device)
                angles = places[:, None] * (1.0 / self.theta ** (steps / self.size))
                angles = torch.cat((angles, angles), dim=-1)
                self.tables = angles.sin(), angles.cos()
            sin, cos = (table[position_ids][:, None] for table in self.tables)
            wide_q, wide_k = q.float(), k.float()
            wide_q = self.turn(wide_q, sin, cos)
            wide_k = self.turn(wide_k, sin, cos)
            return wide_q.type_as(q), wide_k.type_as(k)

        @staticmethod
        def turn(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
            first, second = x.chunk(2, dim=-1)
            return x * cos + torch.cat((-second, first), dim=-1) * sin

    class Block(nn.Module):
        def __init__(self, geometry: MolmoGeometry, rotary: Rotary, index: int) -> None:
            super().__init__()
            self.index = index
            width, eps = geometry.hidden_size, geometry.layer_norm_eps
            self.rotary = rotary
            self.norm_after = geometry.norm_after
            self.num_heads, self.key_value_heads = geometry.num_attention_heads, geometry.key_value_heads
            size = width // self.num_heads
            self.widths = (width, size * self.key_value_heads, size * self.key_value_heads)
            self.attn_norm = RMSNorm(width, eps)
            self.att_proj = nn.Linear(width, sum(self.widths), bias=geometry.qkv_bias)
            self.attn_out = nn.Linear(width, width, bias=False)
            self.q_norm = RMSNorm(self.widths[0], eps) if geometry.attention_layer_norm else None
            self.k_norm = RMSNorm(self.widths[1], eps) if geometry.attention_layer_norm else None
            self.mlp: nn.Module = (
                MLP(geometry)
                if geometry.moe_num_experts is None or geometry.moe_top_k is None
                else Experts(geometry, geometry.moe_num_experts, geometry.moe_top_k)
            )

        def attention(
            self,
            q: Tensor,
            k: Tensor,
            v: Tensor,
            bias: Tensor,
            position_ids: Tensor,
            cache: MolmoCache | None,
        ) -> Tensor:
            batch, length, width = q.shape
            if self.q_norm is not None and self.k_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
            q = q.view(batch, length, self.num_heads, -1).transpose(1, 2)
            k = k.view(batch, length, self.key_value_heads, -1).transpose(1, 2)
            v = v.view(batch, length, self.key_value_heads, -1).transpose(1, 2)
            q, k = self.rotary(q, k, position_ids, bias.shape[-1])
            if cache is not None:
                k, v = cache.update(k, v, self.index)
            total = k.shape[-2]
            bias = bias[:, :, total - length : total, :total]
            if bias.dtype != q.dtype:
                bias = finite_(bias.to(q.dtype))
            if self.num_heads != self.key_value_heads:
                groups = self.num_heads // self.key_value_heads
                keys = k.repeat_interleave(groups, dim=1, output_size=self.num_heads)
                values = v.repeat_interleave(groups, dim=1, output_size=self.num_heads)
            else:
                keys, values = k, v
            attended = functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias, is_causal=False)
            del keys, values
            attended = attended.transpose(1, 2).contiguous().view(batch, length, width)
            mixed: Tensor = self.attn_out(attended)
            return mixed

        def forward(self, x: Tensor, bias: Tensor, position_ids: Tensor, cache: MolmoCache | None) -> Tensor:
            normed = x if self.norm_after else self.attn_norm(x)  # Lives as long as the block runs.
            q, k, v = self.att_proj(normed).split(self.widths, dim=-1)
            attended = self.attention(q, k, v, bias, position_ids, cache)
            if self.norm_after:
                attended = self.attn_norm(attended)
            x = x + attended
            x = x + self.mlp(x)
            return x

    class Transformer(nn.Module):
        def __init__(self, geometry: MolmoGeometry) -> None:
            super().__init__()
            rotary = Rotary(geometry)
            self.wte = Embedding(geometry)
            self.blocks = nn.ModuleList(Block(geometry, rotary, index) for index in range(geometry.num_hidden_layers))
            self.ln_f = RMSNorm(geometry.hidden_size, geometry.layer_norm_eps)
            self.ff_out = nn.Linear(geometry.hidden_size, geometry.embedding_size, bias=False)

    class Molmo(nn.Module):
        gradient_checkpointing = False

        def __init__(self, geometry: MolmoGeometry, autocast: bool) -> None:
            super().__init__()
            self.transformer = Transformer(geometry)
            self.vision_backbone = VisionBackbone(geometry, autocast)
            self.causal_bias: Tensor | None = None

        def causal(self, length: int, device: torch.device) -> Tensor:
            """Kept from step to step, and made anew whenever it is too short, which is at every step of decoding."""
            if self.causal_bias is None or self.causal_bias.shape[-1] < length:
                bias = torch.triu(torch.ones(length, length, dtype=torch.float32, device=device), diagonal=1)
                bias.masked_fill_(bias == 1, torch.finfo(bias.dtype).min)
                self.causal_bias = bias.view(1, 1, length, length)
            return self.causal_bias

        def forward(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None,
            position_ids: Tensor | None,
            images: Tensor | None,
            image_masks: Tensor | None,
            image_input_idx: Tensor | None,
            cache: MolmoCache | None,
            logits_to_keep: int,
        ) -> Tensor:
            batch, length = input_ids.shape
            total = length + (0 if cache is None else cache.get_seq_length())
            # The original returns a new cache, while its caller still holds the one it gave.
            _given = [] if cache is None else list(cache.layers)
            if attention_mask is None:
                attention_mask = functional.pad(input_ids != -1, (total - length, 0), value=True)
            attention_mask = attention_mask[:, :total]
            if position_ids is None:
                position_ids = torch.clamp(torch.cumsum(attention_mask.to(torch.int32), dim=-1) - 1, min=0)
            position_ids = position_ids[:, -length:]

            input_ids = input_ids * (input_ids != -1).to(input_ids.dtype)
            x = self.transformer.wte(input_ids)
            if images is not None:
                if image_masks is None or image_input_idx is None:
                    raise ValueError("[dry_run] images must come with image_masks and image_input_idx")
                images = images.to(self.vision_backbone.image_vit.patch_embedding.weight.dtype)
                features, _class_features = self.vision_backbone(images, image_masks)
                features = features.view(batch, -1, features.shape[-1])
                image_input_idx = image_input_idx.view(batch, -1)
                valid = image_input_idx >= 0
                rows = torch.arange(batch, device=x.device)[:, None].tile(1, features.shape[1])
                x[rows[valid], image_input_idx[valid].long()] += features[valid]

            hidden = attention_mask.to(torch.float32)[:, None, None, :]
            hidden = (1.0 - hidden) * torch.finfo(torch.float32).min
            bias = self.causal(total, x.device)[:, :, :total, :total]
            bias = finite_(bias + hidden)

            for block in self.transformer.blocks:
                if self.gradient_checkpointing and self.training:
                    x = checkpoint(block, x, bias, position_ids, cache, use_reentrant=False)
                else:
                    x = block(x, bias, position_ids, cache)
            if logits_to_keep:
                x = x[:, -logits_to_keep:]
            x = self.transformer.ln_f(x)
            logits: Tensor = self.transformer.ff_out(x)
            return logits

    class MolmoForCausalLM(nn.Module):
        def __init__(self, config: SimpleNamespace, geometry: MolmoGeometry, autocast: bool) -> None:
            super().__init__()
            self.config = config
            self.autocast = autocast
            self.model = Molmo(geometry, autocast)

        def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
            """Recomputes each layer of the ViT and of the language model, and the projector, as the training code does.

            The argument is there because transformers' models have it; checkpointing is never reentrant.
            """
            self._set_checkpointing(True)

        def gradient_checkpointing_disable(self) -> None:
            """Back to keeping all."""
            self._set_checkpointing(False)

        def _set_checkpointing(self, enabled: bool) -> None:
            backbone = self.model.vision_backbone
            for module in (self.model, backbone, backbone.image_vit):
                module.gradient_checkpointing = enabled

        def forward(
            self,
            input_ids: Tensor,
            images: Tensor | None = None,
            image_masks: Tensor | None = None,
            image_input_idx: Tensor | None = None,
            attention_mask: Tensor | None = None,
            position_ids: Tensor | None = None,
            past_key_values: MolmoCache | None = None,
            labels: Tensor | None = None,
            use_cache: bool = True,
            logits_to_keep: int = 0,
        ) -> MolmoOutput:
            """One step.

            Args:
                input_ids: int64 [batch, tokens]; -1 pads.
                images: [batch, crops, patches, pixels of a patch], as the processor makes them.
                image_masks: float32 [batch, crops, patches]: how much of each patch is image.
                image_input_idx: [batch, crops, pooled patches]: the token that a feature is added to; negative: none.
                attention_mask: [batch, tokens so far or more]: 0 hides a token.
                position_ids: [batch, tokens]; by default counted along attention_mask.
                past_key_values: of the step before, which grows; images must be None then.
                labels: int64 [batch, tokens]; token t + 1 is what token t should say, -100 for nothing.
                use_cache: whether to return keys and values.
                logits_to_keep: of the last so many tokens; 0 means all.
            """
            if past_key_values is None and use_cache and not (self.training and self.model.gradient_checkpointing):
                past_key_values = MolmoCache()  # Not where blocks run twice, as they would append twice.
            logits = self.model(
                input_ids,
                attention_mask,
                position_ids,
                images,
                image_masks,
                image_input_idx,
                past_key_values,
                logits_to_keep,
            )
            loss = None
            if labels is not None:
                shifted = logits[..., :-1, :].contiguous()
                shifted = shifted.view(-1, shifted.shape[-1])
                wanted = labels[..., 1:].contiguous().view(-1)
                loss = functional.cross_entropy(shifted.float() if self.autocast else shifted, wanted)
            return MolmoOutput(logits=logits, loss=loss, past_key_values=past_key_values)

    return MolmoForCausalLM
