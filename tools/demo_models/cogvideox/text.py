"""The demo's text encoder: a small T5 with the real one's vocabulary, taught to say which scene a sentence means.

Every token's embedding, the padding's too, is made to tell all four words of the scene. So the transformer, which is
shown the same 226 tokens without a mask, finds them wherever it looks, and an unknown word does little harm.

Shapes: B prompts, L tokens, D channels of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exvideo_core.families.cogvideox.text_encoder import TextEncoderConfig, Tokenizer, build_t5
from exvideo_core.training.procedural.shapes import (
    ALL_WORDS,
    COLOURS,
    GROUNDS,
    MOTIONS,
    SENTENCES,
    SHAPES,
    TRAINED,
    Words,
)

DEMO_TEXT_ENCODER = TextEncoderConfig(d_model=64, num_layers=2, num_heads=2, d_kv=32, d_ff=128)
_ANSWERS = (len(COLOURS), len(SHAPES), len(MOTIONS), len(GROUNDS))


def sentences() -> list[str]:
    """All that the demo's text encoder is taught, and the empty prompt."""
    return ["", *(words.prompt(sentence) for words in ALL_WORDS for sentence in SENTENCES)]


class TextLesson(nn.Module):
    """The encoder with rows for the tokens that occur, and a layer that reads the four words off its results."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = Tokenizer()
        self.used = torch.unique(self.tokenizer(sentences()))
        self.t5 = build_t5(DEMO_TEXT_ENCODER)
        self.t5.shared.requires_grad_(False)  # the table is put together when training is done
        self.rows = nn.Parameter(torch.randn(len(self.used), DEMO_TEXT_ENCODER.d_model))
        self.reader = nn.Linear(DEMO_TEXT_ENCODER.d_model, sum(_ANSWERS))

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings as the finished encoder gives them, [B, 226, D]."""
        places = torch.searchsorted(self.used, self.tokenizer(prompts))
        return self.t5(inputs_embeds=self.rows[places]).last_hidden_state

    @torch.no_grad()
    def finished(self) -> dict[str, Tensor]:
        """The encoder's weights; tokens that never occurred have the mean of those that did."""
        weights = {name: weight.clone() for name, weight in self.t5.state_dict().items() if "embed_tokens" not in name}
        table = self.rows.mean(dim=0).repeat(DEMO_TEXT_ENCODER.vocab_size, 1)
        table[self.used] = self.rows
        return weights | {"shared.weight": table}


def text_loss(lesson: TextLesson, count: int, generator: torch.Generator) -> Tensor:
    """Cross entropy of the four words, read off every token of trained combinations."""
    chosen = torch.randint(0, len(TRAINED), (count,), generator=generator)
    kinds = torch.randint(0, len(SENTENCES), (count,), generator=generator)
    words = [TRAINED[index] for index in chosen]
    embeddings_BLD = lesson([w.prompt(SENTENCES[kind]) for w, kind in zip(words, kinds, strict=True)])
    answers = lesson.reader(embeddings_BLD).split(_ANSWERS, dim=-1)
    rights = _right(words)[..., None].expand(-1, -1, embeddings_BLD.shape[1])
    losses = [F.cross_entropy(answer.mT, right) for answer, right in zip(answers, rights.unbind(1), strict=True)]
    return torch.stack(losses).sum()


@torch.no_grad()
def understood(lesson: TextLesson, words: Sequence[Words]) -> float:
    """Share of the four words that every token on its own tells rightly, over these combinations."""
    embeddings_BLD = lesson([w.prompt() for w in words])
    answers = lesson.reader(embeddings_BLD).split(_ANSWERS, dim=-1)
    answered = torch.stack([answer.argmax(-1) for answer in answers], dim=-1)
    return float((answered == _right(words)[:, None]).float().mean())


def _right(words: Sequence[Words]) -> Tensor:
    return torch.tensor([[w.colour, w.shape, w.motion, w.ground] for w in words])
