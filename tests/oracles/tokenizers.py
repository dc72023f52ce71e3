"""A tokenizer made on the spot: every special token is one token, and so is a run of two newlines."""

from __future__ import annotations

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


def make_tokenizer(specials: list[str], **named: str) -> PreTrainedTokenizerFast:
    """`named` become attributes of the tokenizer as well (image_token="<image>")."""
    model = models.BPE(vocab={"<unk>": 0, "\n": 1, "\n\n": 2}, merges=[("\n", "\n")], unk_token="<unk>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token="<unk>", eos_token="<eos>", extra_special_tokens=dict(named)
    )
    tokenizer.add_special_tokens({"additional_special_tokens": specials}, replace_extra_special_tokens=False)
    return tokenizer


def count(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """Tokens of a text, none of them unknown."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    return len(ids)
