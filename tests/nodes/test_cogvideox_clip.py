"""CogVideoX's text encoder in the stock CLIPTextEncode."""

import pytest
import torch
from in_comfyui import TEXT_WIDTH, relative

from exvideo_core.families.cogvideox.checkpoint import read_text_encoder
from exvideo_core.families.cogvideox.pipeline import build_text_encoder
from exvideo_core.families.cogvideox.text_encoder import Tokenizer

LONG = "a red circle moves right over a blue field, " * 40
PROMPTS = ["a red circle moves right on blue", "", "Élan vital — 红色的圆; tabs\tand\nlines, 3.5%!", LONG]


@pytest.fixture
def clip(cog):
    return cog.clip


def encode(clip, prompt):
    from nodes import CLIPTextEncode

    return CLIPTextEncode().encode(clip, prompt)[0]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_embedding_equals_the_cores(clip, cog_files, prompt):
    core = build_text_encoder(read_text_encoder(cog_files[1]))
    with torch.inference_mode():
        wanted = core([prompt])

    ((found, _others),) = encode(clip, prompt)

    assert found.shape == (1, 226, TEXT_WIDTH)
    assert relative(found, wanted) <= 2e-5  # ComfyUI scales the keys up, and attention scales them down again


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_equal_the_cores(clip, prompt):
    (batch,) = clip.tokenize(prompt)["t5xxl"]

    assert [token for token, _weight in batch] == Tokenizer()([prompt])[0].tolist()


def test_weights_in_brackets_count(clip):
    plain, heavier = (encode(clip, text)[0][0] for text in ("a red circle", "a (red:1.5) circle"))

    assert 1e-3 < relative(heavier, plain) < 1


def test_lora_loaders_find_the_layers(clip):
    import comfy.lora

    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})

    name = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"
    assert keys[name].removesuffix(".weight").endswith("SelfAttention.q")


def test_copy_for_another_device(clip):
    factory, arguments = clip.patcher.cached_patcher_init[:2]

    fresh = factory(*arguments, disable_dynamic=True)

    assert fresh.model is not clip.cond_stage_model
    for name, weight in clip.cond_stage_model.state_dict().items():
        assert torch.equal(fresh.model.state_dict()[name], weight)


def test_saved_by_the_stock_node_it_loads_again(pack, clip, tmp_path, monkeypatch):
    import folder_paths
    from comfy_extras.nodes_model_merging import CLIPSave

    if not hasattr(clip, "state_dict_for_saving"):
        pytest.skip("CLIPSave of this ComfyUI saves what is on the device")
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    CLIPSave().save(clip, "encoder")
    (file,) = tmp_path.glob("encoder_t5xxl_*.safetensors")
    again = pack.cogvideox.loading._load_clip(file)

    assert torch.equal(encode(again, "a red circle")[0][0], encode(clip, "a red circle")[0][0])


def test_nothing_is_left_on_the_meta_device(clip):
    assert not [name for name, weight in clip.cond_stage_model.named_parameters() if weight.is_meta]
    assert not [name for name, buffer in clip.cond_stage_model.named_buffers() if buffer.is_meta]
