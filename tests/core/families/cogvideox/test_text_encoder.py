"""Prompts to numbers, numbers to embeddings: T5 as CogVideoX was trained with it."""

from __future__ import annotations

import base64
import copy
import gzip
import hashlib
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from narrow_svd import fill, random_weights

from exvideo_core.errors import CheckpointError
from exvideo_core.families.cogvideox import text_encoder
from exvideo_core.families.cogvideox.text_encoder import (
    MAX_TOKENS,
    VOCABULARY,
    TextEncoder,
    TextEncoderConfig,
    Tokenizer,
    build_t5,
)
from exvideo_core.weights.assign import assign_weights

NARROW = TextEncoderConfig(d_model=32, num_layers=3, num_heads=4, d_kv=16, d_ff=48, relative_attention_num_buckets=16)
# of the 32,100 pieces with their scores, and of the rules for characters, in Google's sentencepiece model for T5
PIECES = "d4ccf5dea9af9d795873f6efdd7046883bde15eee32bdd90bdd037f18d699a4f"
CHARACTERS = "ce10d747170c5e102c99b841d1cdea976d54405ebc44791f9c3636741a894d8f"
SCRIPTS = """
a red circle moves right on blue A man's café naïve Straße 北京 東京タワー مرحبا привет 한국어 हिन्दी ไทย
🙂 👩‍👩‍👧 x² ½ ﬁ ㎞ … — “quote” 3.14 1,000,000 http://a.b/c?d=e <extra_id_0> </s> <pad> <unk> ▁ e\u0301
\uff21\uff11 hello, world! (a:1.2) [x] {y} #tag @me 50% C++ <b> & ~ ` ^ | \\ € © \x00 \x07 \ufeff \u200b ' "
CamelCase ALLCAPS \U0001d54f
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    """The tokenizer's file."""
    file = Path(text_encoder.__file__).with_name("t5_tokenizer.json.gz")
    assert file.stat().st_size < 600_000
    contents: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    return contents


def build_encoder(config: TextEncoderConfig = NARROW, seed: int = 0) -> TextEncoder:
    t5 = build_t5(config).eval()
    fill(t5, seed)
    return TextEncoder(t5, Tokenizer())


def prompts(count: int) -> list[str]:
    """Odd ones, then words of many scripts in any order, then any characters."""
    pick, words = random.Random(0), SCRIPTS.split()
    odd = ["", " ", "\n", " leading", "trailing ", "two  spaces", "line\nbreak", "tab\there", "a\r\nb", "\u3000wide"]
    odd += ["</s>", "a </s> b", "a</s>b", "<extra_id_0>", "x<extra_id_5>y", "a▁b", "word " * 300, "é" * 500]
    mixed = [pick.choice(" \n").join(pick.choices(words, k=pick.randint(1, 25))) for _ in range(count)]
    glued = ["".join(pick.choices(words, k=5)) for _ in range(count)]
    planes = [(32, 127), (32, 0x3000), (0x3000, 0xD7FF), (0xE000, 0x1FBFF)]
    noise = ["".join(chr(pick.randrange(*pick.choice(planes))) for _ in range(30)) for _ in range(count)]
    return odd + mixed + glued + noise


def transformers_tokenizer(shipped: dict[str, Any]) -> Any:
    """transformers' own T5Tokenizer over the same pieces."""
    from transformers import T5Tokenizer

    return T5Tokenizer(
        vocab=[tuple(piece) for piece in shipped["model"]["vocab"]],
        _spm_precompiled_charsmap=base64.b64decode(shipped["normalizer"]["precompiled_charsmap"]),
    )


# tokens


def test_every_word_of_a_plain_sentence_is_one_token(tokenizer: Tokenizer) -> None:
    ids_BL = tokenizer(["a red circle moves right on blue", "A cat."])

    assert ids_BL.shape == (2, MAX_TOKENS)
    assert ids_BL.dtype == torch.int64
    # "▁" and "a" apart, then a token a word, </s>, and padding
    assert ids_BL[0, :10].tolist() == [3, 9, 1131, 8196, 6914, 269, 30, 1692, 1, 0]
    assert ids_BL[1, :5].tolist() == [71, 1712, 5, 1, 0]
    assert int(ids_BL[:, 10:].sum()) == 0


def test_an_empty_prompt_is_its_end(tokenizer: Tokenizer) -> None:
    assert tokenizer([""])[0].tolist() == [1] + [0] * (MAX_TOKENS - 1)


@pytest.mark.parametrize("words", [225, 226, 5000])
def test_long_prompts_are_cut_before_their_end(tokenizer: Tokenizer, words: int) -> None:
    ids_BL = tokenizer([" ".join(["red"] * words)])

    assert ids_BL[0].tolist() == [1131] * 225 + [1]


def test_the_pieces_are_those_of_t5(shipped: dict[str, Any]) -> None:
    pieces = "\n".join(f"{piece} {score!r}" for piece, score in shipped["model"]["vocab"])

    assert len(shipped["model"]["vocab"]) == 32_100
    assert hashlib.sha256(pieces.encode()).hexdigest() == PIECES
    assert hashlib.sha256(shipped["normalizer"]["precompiled_charsmap"].encode()).hexdigest() == CHARACTERS


def test_all_kinds_of_text_become_the_tokens_of_transformers(tokenizer: Tokenizer, shipped: dict[str, Any]) -> None:
    reference = transformers_tokenizer(shipped)
    texts = prompts(200)

    expected = reference(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    found = tokenizer(texts).tolist()

    assert [text for text, ours, theirs in zip(texts, found, expected, strict=True) if ours != theirs] == []


# embeddings


@torch.inference_mode()
def test_prompts_become_embeddings_of_all_226_tokens() -> None:
    encoder = build_encoder()
    texts = ["a red circle", "", "a blue square moves left"]
    embeddings_BLD = encoder(texts)

    assert embeddings_BLD.shape == (3, MAX_TOKENS, NARROW.d_model)
    assert embeddings_BLD.isfinite().all()
    for index, text in enumerate(texts):
        torch.testing.assert_close(encoder([text])[0], embeddings_BLD[index], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_padding_is_attended_to() -> None:
    encoder = build_encoder()
    expected = encoder(["a red circle"])
    short = TextEncoder(encoder.t5, Tokenizer(length=8))

    assert float((short(["a red circle"]) - expected[:, :8]).abs().max()) > 0.01


@pytest.mark.parity
@torch.inference_mode()
def test_embeddings_are_those_of_diffusers(shipped: dict[str, Any]) -> None:
    pipelines = pytest.importorskip("diffusers.pipelines.cogvideo.pipeline_cogvideox")
    encoder, texts = build_encoder(), prompts(2)
    reference = SimpleNamespace(
        text_encoder=encoder.t5, tokenizer=transformers_tokenizer(shipped), _execution_device="cpu"
    )

    expected = pipelines.CogVideoXPipeline._get_t5_prompt_embeds(reference, texts)

    torch.testing.assert_close(encoder(texts), expected, rtol=0, atol=1e-6)


# number formats


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    expected, embedding = build_encoder()(["a red circle"]), build_encoder().to("cpu", dtype)(["a red circle"])

    assert embedding.dtype == dtype
    assert float((embedding.float() - expected).square().mean().sqrt()) < 0.05 * float(expected.std())


@torch.inference_mode()
def test_results_beyond_float16_stay_right_in_float16() -> None:
    encoder = build_encoder()
    for name, weight in encoder.named_parameters():
        if name.endswith(".wo.weight"):
            weight.mul_(1e4)
        if name.endswith(".wi_1.weight"):
            weight.mul_(100)  # of results up to a million, of which float16 has a fifteenth
    expected = encoder(["a red circle"])

    found = copy.deepcopy(encoder).to(torch.float16)(["a red circle"])

    assert found.dtype == torch.float16
    assert float((found.float() - expected).square().mean().sqrt()) < 0.05 * float(expected.std())


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float16_weights_are_used_in_other_formats(dtype: torch.dtype) -> None:
    half = {name: weight.half() for name, weight in build_encoder().t5.state_dict().items()}
    with torch.device("meta"):
        t5 = build_t5(NARROW)
    assign_weights(t5, half, "t5xxl_fp16.safetensors")
    encoder = TextEncoder(t5.eval(), Tokenizer()).to("cpu", dtype)

    assert {weight.dtype for weight in encoder.parameters()} == {dtype}
    assert encoder(["a red circle"]).dtype == dtype


# weights


def test_weights_are_assigned_uncopied_and_the_table_is_one() -> None:
    with torch.device("meta"):
        t5 = build_t5(NARROW)
    weights = random_weights({name: tuple(weight.shape) for name, weight in t5.state_dict().items()})
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    assign_weights(t5, weights, "t5.safetensors")
    encoder = TextEncoder(t5, Tokenizer())

    assert not any(tensor.is_meta for tensor in [*encoder.parameters(), *encoder.buffers()])
    assert t5.shared.weight.data_ptr() == weights["shared.weight"].data_ptr()
    assert len([weight for weight in encoder.parameters() if len(weight) == VOCABULARY]) == 1
    assert encoder.to(torch.bfloat16).t5.encoder.embed_tokens.weight is t5.shared.weight


@pytest.mark.parametrize("config", [TextEncoderConfig(), NARROW], ids=["published", "narrow"])
def test_sizes_are_read_from_the_weights(config: TextEncoderConfig) -> None:
    with torch.device("meta"):
        weights = build_t5(config).state_dict()

    assert TextEncoderConfig.from_shapes({name: tuple(weight.shape) for name, weight in weights.items()}) == config


def test_what_no_weight_tells_is_as_published() -> None:
    """config.json of google/t5-v1_1-xxl and of CogVideoX-5b's text_encoder."""
    with torch.device("meta"):
        config = build_t5(NARROW).config

    assert (config.is_gated_act, config.dense_act_fn) == (True, "gelu_new")
    assert (config.relative_attention_max_distance, config.layer_norm_epsilon) == (128, 1e-6)


@pytest.mark.parametrize("missing", ["shared.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"])
def test_an_incomplete_encoder_is_an_error(missing: str) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in build_t5(NARROW).state_dict().items()}
    del shapes[missing]

    with pytest.raises(CheckpointError, match=r"not a complete encoder of T5 v1\.1"):
        TextEncoderConfig.from_shapes(shapes)
