"""Pipelines whose large network streams: the same clips, with LoRAs, 8-bit weights and two devices."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import narrow_cogvideox
import pytest
import torch
from narrow_svd import TINY, build_unet, noise, save_files
from safetensors.torch import save_file
from torch import Tensor, nn

from exvideo_core import CogVideoXPipeline, SVDPipeline, apply_lora, load_cogvideox, load_svd
from exvideo_core.families.cogvideox import pipeline as cogvideox
from exvideo_core.families.svd import pipeline as svd
from exvideo_core.families.svd.lazy_frames import HostTensor
from exvideo_core.lora import remove_loras
from exvideo_core.nn.fp8 import store_in_fp8
from exvideo_core.runtime.weight_streaming import BlocksOf, weights_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def svd_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_files(tmp_path_factory.mktemp("svd"), TINY, extension_frames=8)


@pytest.fixture(scope="module")
def cog_files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("cogvideox")
    transformer, vae = narrow_cogvideox.save_files(folder)
    width, lora = narrow_cogvideox.TINY.transformer.width, {}
    for index, name in enumerate(("to_q", "to_v")):
        lora[f"blocks.1.attn1.{name}.lora_A.default.weight"] = noise(2, width, seed=index)
        lora[f"blocks.1.attn1.{name}.lora_B.default.weight"] = noise(width, 2, seed=index + 5)
    save_file(lora, folder / "lora.safetensors")
    return SimpleNamespace(transformer=transformer, vae=vae, lora=folder / "lora.safetensors")


def svd_clip(pipe: SVDPipeline) -> Tensor:
    picture = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(0))
    return pipe(picture, num_frames=3, height=128, width=128, num_inference_steps=2).latents


def cog_clip(pipe: CogVideoXPipeline) -> Tensor:
    texts = {"prompt_embeds": noise(1, 5, 8, seed=1), "negative_prompt_embeds": noise(1, 5, 8, seed=2)}
    return pipe(**texts, num_frames=9, height=32, width=48, num_inference_steps=2).latents


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_svd_streamed_makes_the_same_clip(svd_files: tuple[Path, Path], dtype: torch.dtype, device: str) -> None:
    streamed = load_svd(*svd_files, dtype=dtype, device=device, stream=True)
    # over the same memory, for where weights lie decides on the order of the CPU's sums
    whole = SVDPipeline(streamed.unet, streamed.vae, streamed.image_encoder)
    clips = [svd_clip(pipe) for pipe in (streamed, whole, streamed)]

    assert streamed.unet.offload_skip is HostTensor  # so the skips wait in main memory, too
    assert (streamed.device, streamed.dtype) == (CPU, dtype)
    assert torch.equal(clips[0], clips[1])
    assert torch.equal(clips[0], clips[2])
    torch.testing.assert_close(clips[0], svd_clip(load_svd(*svd_files, dtype=dtype, device="cpu")), atol=1e-3, rtol=0)


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_cogvideox_streamed_makes_the_same_clip(cog_files: SimpleNamespace, dtype: torch.dtype, device: str) -> None:
    paths = {"vae": cog_files.vae, "dtype": dtype}
    streamed = load_cogvideox(cog_files.transformer, **paths, device=device, stream=True)
    whole = CogVideoXPipeline(streamed.transformer, streamed.vae)
    clips = [cog_clip(pipe) for pipe in (streamed, whole)]

    assert (streamed.device, streamed.dtype) == (CPU, dtype)
    assert torch.equal(*clips)
    loaded = load_cogvideox(cog_files.transformer, **paths, device="cpu")
    torch.testing.assert_close(clips[0], cog_clip(loaded), atol=1e-3, rtol=0)


def test_loras_come_and_go_while_weights_stream(cog_files: SimpleNamespace) -> None:
    pipe = load_cogvideox(cog_files.transformer, vae=cog_files.vae, device="cpu", stream=True)
    before = cog_clip(pipe)
    apply_lora(pipe, cog_files.lora)
    with_lora = cog_clip(pipe)
    whole = cog_clip(CogVideoXPipeline(pipe.transformer, pipe.vae))
    remove_loras(pipe.transformer)

    assert torch.equal(with_lora, whole)
    assert not torch.equal(with_lora, before)
    assert torch.equal(cog_clip(pipe), before)


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_weights_that_were_rounded_to_8_bits_stream(cog_files: SimpleNamespace, device: str) -> None:
    pipe = load_cogvideox(cog_files.transformer, vae=cog_files.vae, device=device, stream=True)
    before = cog_clip(pipe)
    store_in_fp8(pipe.transformer)

    assert torch.equal(cog_clip(pipe), cog_clip(CogVideoXPipeline(pipe.transformer, pipe.vae)))
    assert not torch.equal(cog_clip(pipe), before)


def test_only_what_a_lora_changed_is_packed_anew(cog_files: SimpleNamespace) -> None:
    pipe = load_cogvideox(cog_files.transformer, vae=cog_files.vae, device="cpu", stream=True)
    assert pipe.stream
    before = pipe.stream.memories
    apply_lora(pipe, cog_files.lora)
    pipe.stream.pack(pipe.transformer)

    assert [new is old for new, old in zip(pipe.stream.memories, before, strict=True)] == [True, False]


@pytest.mark.parametrize(
    ("network", "blocks_of"),
    [(build_unet(TINY, 8), svd.blocks_of), (narrow_cogvideox.build_transformer(), cogvideox.blocks_of)],
    ids=["svd", "cogvideox"],
)
def test_nearly_all_weights_are_in_blocks(network: nn.Module, blocks_of: BlocksOf) -> None:
    streamed = {id(weight) for block in blocks_of(network) for weight in weights_of(block)}
    left = {name for name, weight in network.named_parameters() if id(weight) not in streamed}
    small = r"(time_embed(ding)?|label_emb|out|patch_embed|norm_(final|out)|proj_out|output_blocks\.\d+\.\d\.conv)\."

    assert all(re.match(small, name) for name in left)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams, events and locked pages are CUDA's")
@pytest.mark.parametrize("device", ["cuda", "cuda:0,cuda:0"])
def test_on_cuda_the_same_clips_of_less_memory(
    svd_files: tuple[Path, Path], cog_files: SimpleNamespace, device: str
) -> None:
    streamed = load_svd(*svd_files, device=device, stream=True)
    cog = load_cogvideox(cog_files.transformer, vae=cog_files.vae, device=device, stream=True)
    assert streamed.stream
    assert all(memory.memory.is_pinned() for memory in streamed.stream.memories)
    assert all(not weight.is_cuda for block in svd.blocks_of(streamed.unet) for weight in weights_of(block))

    for _ in range(3):  # what comes too late or too early shows sooner or later
        torch.testing.assert_close(svd_clip(streamed), svd_clip(load_svd(*svd_files, device="cuda")))
        whole = load_cogvideox(cog_files.transformer, vae=cog_files.vae, device="cuda")
        torch.testing.assert_close(cog_clip(cog), cog_clip(whole))
