"""CogVideoX's text encoder: T5 v1.1's encoder (arXiv:1910.10683) from `transformers`, with its padding.

Weight files contain no tokenizer, so T5's is part of this package (see NOTICE).
Shapes: B prompts, L tokens, D channels of the embedding.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...nn.nan_check import checked
from ...nn.sizes import Shapes, complete, count

if TYPE_CHECKING:
    from transformers import T5EncoderModel

MAX_TOKENS = 226  # prompts are padded or truncated to this length
VOCABULARY = 32128  # rows of T5's token embeddings; the tokenizer uses 32,100 of them
_TOKENIZER = Path(__file__).with_name("t5_tokenizer.json.gz")


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """T5 v1.1's encoder, XXL as published; the names are those of transformers' configuration."""

    d_model: int = 4096
    num_layers: int = 24
    num_heads: int = 64
    d_kv: int = 64
    d_ff: int = 10240  # of the gated feed-forwards
    relative_attention_num_buckets: int = 32
    vocab_size: int = VOCABULARY

    @classmethod
    @complete(
        "encoder of T5 v1.1",
        " Choose the text_encoder of THUDM/CogVideoX-5b or a file like t5xxl_fp16.safetensors, or download it again if "
        "it is incomplete.",
    )
    def from_shapes(cls, shapes: Shapes) -> TextEncoderConfig:
        """Infer the sizes from names and shapes."""
        layers = count(shapes, "encoder.block.*.layer.0.SelfAttention.q.weight")
        vocabulary, width = shapes["shared.weight"]
        buckets, heads = shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return cls(
            d_model=width,
            num_layers=layers,
            num_heads=heads,
            d_kv=shapes["encoder.block.0.layer.0.SelfAttention.q.weight"][0] // heads,
            d_ff=shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
            relative_attention_num_buckets=buckets,
            vocab_size=vocabulary,
        )


def build_t5(config: TextEncoderConfig) -> T5EncoderModel:
    """An encoder of the given sizes, without weights."""
    from transformers import T5Config, T5EncoderModel  # slow to import, only needed here

    return T5EncoderModel(T5Config(**asdict(config), feed_forward_proj="gated-gelu"))


class Tokenizer:
    """T5's tokenizer: prompts to ids [B, L], truncated, ended by </s> (1) and padded with <pad> (0)."""

    def __init__(self, length: int = MAX_TOKENS) -> None:
        from tokenizers import Tokenizer as Backend  # comes with transformers

        self._backend = Backend.from_str(gzip.decompress(_TOKENIZER.read_bytes()).decode())
        self._backend.enable_truncation(length)
        self._backend.enable_padding(length=length, pad_id=0, pad_token="<pad>")

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([self._backend.encode(prompt).ids for prompt in prompts])


class TextEncoder(nn.Module):
    """Prompts to embeddings [B, 226, D], in the dtype of the weights; `tokenizer` makes ids [B, L] of them."""

    def __init__(self, t5: T5EncoderModel, tokenizer: Callable[[Sequence[str]], Tensor]) -> None:
        super().__init__()
        self.t5 = t5
        self.tokenizer = tokenizer
        t5.encoder.embed_tokens = t5.shared  # tie again: loading gave each a parameter of its own

    def forward(self, prompts: Sequence[str]) -> Tensor:
        ids = self.tokenizer(prompts).to(self.t5.shared.weight.device)

        def encode() -> Tensor:
            # no attention mask: CogVideoX was trained with the embeddings of padding tokens
            return self.t5(ids).last_hidden_state

        return checked(encode(), self.t5, encode, {})

    def to(self, *args: Any, **kwargs: Any) -> TextEncoder:  # noqa: ANN401  as in nn.Module
        """Move and convert; with float16, the last layers of the feed-forwards stay float32.

        Their outputs overflow float16 with the published weights (`T5PreTrainedModel._keep_in_fp32_modules`).
        """
        super().to(*args, **kwargs)
        if self.t5.shared.weight.dtype == torch.float16:
            for name, layer in self.t5.named_modules():
                if name.endswith(".wo"):
                    layer.float()
        return self
