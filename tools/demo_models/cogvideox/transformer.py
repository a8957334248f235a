"""The demo's transformer: where a shape is, of what colour and on what ground, at every latent frame.

It learns single latent frames first, each at any place of the base's clips: the scene is a function of the words and
the place, so this is the cheapest way to see many of both. Whole clips then teach that the frames of one clip agree.

Shapes: B scenes, C channels, T latent frames, H W latent cells, L tokens, D channels of the text.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exvideo_core.families.cogvideox.config import TransformerConfig
from exvideo_core.families.cogvideox.objective import noisy_timesteps
from exvideo_core.families.cogvideox.procedural import cells
from exvideo_core.families.cogvideox.text_encoder import MAX_TOKENS
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.sampling.denoisers import add_noise
from exvideo_core.sampling.schedules import zero_snr_alphas
from exvideo_core.training.procedural.shapes import SENTENCES, TRAINED, Scenes

from .text import TextLesson

DEMO_TRANSFORMER = TransformerConfig(width=192, layers=6, hidden=768, time_dim=96, text_dim=64)
BASE_FRAMES = 13  # latent frames of the base's clips: 49 frames, one period of every motion
_TEXT_TOKENS = 16  # tokens in training: those of the longest sentence, and one that stands for the padding
_STRIDE = 4  # frames of a latent frame
_NOISINESS = 1.6  # a flat picture is seen through much noise, so all is decided there
_NO_PROMPT = 0.1  # share of the scenes that are learned without words, for guidance


class Prompts:
    """Embeddings of all trained sentences, the 226 tokens of each cut down to 16.

    The padding's embeddings are nearly the same, and the transformer gives text no positions: one of them that
    attention counts as often as there were is as good, at a fifth of the work (see `attention_with_padding`).
    """

    def __init__(self, lesson: TextLesson) -> None:
        self.table = torch.stack([self._embed(lesson, sentence) for sentence in SENTENCES])  # [S, N, L, D]
        self.none_LD = shortened(lesson([""]))[0].detach()

    @torch.no_grad()
    def _embed(self, lesson: TextLesson, sentence: str) -> Tensor:
        prompts = [words.prompt(sentence) for words in TRAINED]
        return torch.cat([shortened(lesson(prompts[i : i + 20])) for i in range(0, len(prompts), 20)])

    def draw(self, chosen_B: Tensor, generator: torch.Generator) -> Tensor:
        """Sentences for trained combinations, the demo's own more often than the others; some without words."""
        count = len(chosen_B)
        kinds_B = torch.randint(0, len(SENTENCES), (count,), generator=generator)
        kinds_B = torch.where(torch.rand(count, generator=generator) < 0.5, 0, kinds_B)
        context_BLD = self.table[kinds_B, chosen_B]
        silent_B = torch.rand(count, generator=generator) < _NO_PROMPT
        return torch.where(silent_B[:, None, None], self.none_LD, context_BLD)


def shortened(context_BLD: Tensor) -> Tensor:
    """226 tokens to 16: the first 15, and the mean of the others, which are padding."""
    rest = context_BLD[:, _TEXT_TOKENS - 1 :].mean(dim=1, keepdim=True)
    return torch.cat([context_BLD[:, : _TEXT_TOKENS - 1], rest], dim=1)


def attention_with_padding(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """Attention to which the last of the 16 text tokens counts as the 211 it stands for."""
    bias = torch.zeros(k_BNLD.shape[2])
    bias[_TEXT_TOKENS - 1] = math.log(MAX_TOKENS - _TEXT_TOKENS + 1)
    # written out: for so few tokens faster than the fused kernel, above all backwards
    scores = q_BNLD @ k_BNLD.mT / math.sqrt(q_BNLD.shape[-1]) + bias
    return scores.softmax(dim=-1).to(v_BNLD.dtype) @ v_BNLD


def trainee() -> CogVideoXTransformer:
    """A transformer as it starts: every block's results are gated to nothing, and so is the prediction."""
    model = CogVideoXTransformer(DEMO_TRANSFORMER, attention=attention_with_padding)
    for name, p in model.named_parameters():
        if ".linear." in name or name.startswith("proj_out."):
            nn.init.zeros_(p)
    return model


def draw_times(clips: int, frames: int, limit: int, generator: torch.Generator) -> Tensor:
    """Numbers of latent frames, [clips, frames]: neighbours, from anywhere below `limit`."""
    start = torch.randint(0, limit - frames + 1, (clips, 1), generator=generator)
    return start + torch.arange(frames)


def velocity_loss(
    model: CogVideoXTransformer, prompts: Prompts, times_BT: Tensor, generator: torch.Generator
) -> Tensor:
    """Squared error of v at these latent frames; where the shape is, it counts four times."""
    clips = len(times_BT)
    chosen_B = torch.randint(0, len(TRAINED), (clips,), generator=generator)
    scenes = Scenes.draw(tuple(TRAINED[index] for index in chosen_B), generator)
    newest_BT = _STRIDE * times_BT
    before_BT = (newest_BT - 2).clamp(min=0)
    clean_BCTHW = cells(scenes.frames(newest_BT), scenes.frames(before_BT))
    mask_B1THW = F.max_pool3d(scenes.masks(newest_BT)[:, None], (1, 8, 8))
    timestep_B = noisy_timesteps(clips, _NOISINESS, generator)
    alpha = zero_snr_alphas()[timestep_B].view(-1, 1, 1, 1, 1)
    noise = torch.randn(clean_BCTHW.shape, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
        v_BCTHW = model(add_noise(clean_BCTHW, noise, alpha), timestep_B, prompts.draw(chosen_B, generator), times_BT)
    target_BCTHW = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean_BCTHW
    weight = 1 + 3 * mask_B1THW
    return ((v_BCTHW.float() - target_BCTHW).square() * weight).mean() / weight.mean()


def base_loss(
    model: CogVideoXTransformer, prompts: Prompts, step: int, steps: int, generator: torch.Generator
) -> Tensor:
    """One step of the base: single latent frames first, then also whole clips."""
    is_clips = step > 0.6 * steps and step % 3 > 0
    clips, frames = (6, BASE_FRAMES) if is_clips else (64, 1)
    return velocity_loss(model, prompts, draw_times(clips, frames, BASE_FRAMES, generator), generator)
