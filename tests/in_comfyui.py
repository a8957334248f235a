"""What the tests of the nodes share: files for a server, and a model with conditioning inside of ComfyUI."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import narrow_cogvideox
import numpy as np
import torch
from narrow_svd import TINY, fill, save_files
from PIL import Image
from safetensors.torch import load_file, save_file

from exvideo_core.families.cogvideox.files import COGVIDEOX_TRANSFORMER, COGVIDEOX_VAE, EXVIDEO_COGVIDEOX, T5_XXL
from exvideo_core.families.cogvideox.text_encoder import TextEncoderConfig, build_t5
from exvideo_core.families.svd.files import EXVIDEO_SVD, SVD_XT
from exvideo_core.video import save_video
from host.graph import nodes_of, read_graph, to_prompt

WORKFLOWS = sorted((Path(__file__).resolve().parents[1] / "workflows").glob("*.json"))
SVD_WORKFLOW, COGVIDEOX_WORKFLOW = (
    WORKFLOWS[0].with_name(f"exvideo_{name}.json") for name in ("svd_128f", "cogvideox_129f")
)
# What makes a workflow quick on the narrow model.
SMALL = {
    "ExVideoSVDConditioning": {"width": 128, "height": 128, "frames": 6},
    "ExVideoCogVideoXLatent": {"width": 48, "height": 32, "frames": 9},
    "ExVideoSampler": {"steps": 2},
}
VIDEO_FRAMES = 10  # of the video that a workflow starts from
TABLE = 12  # frames the narrow extension knows


def save_narrow_files(folder):
    """svd_xt.safetensors and an extension for TABLE frames."""
    # ComfyUI's CLIPVisionEncode returns the last layer but one, too
    two_layers = replace(TINY.image_encoder, num_hidden_layers=2)
    return save_files(folder, replace(TINY, image_encoder=two_layers), TABLE)


def place_files(base, workflows):
    """The files that the workflows name, narrow, where their notes say they go; and their pictures."""
    for folder in ("checkpoints", "exvideo", "frame_interpolation", "upscale_models"):
        (base / "models" / folder).mkdir(parents=True, exist_ok=True)
    checkpoint, extension = save_narrow_files(base)
    shutil.move(checkpoint, base / "models" / SVD_XT.folder / SVD_XT.name)
    shutil.move(extension, base / "models" / EXVIDEO_SVD.folder / EXVIDEO_SVD.name)
    nodes = [node for path in workflows for node in read_graph(path)["nodes"]]
    place_inputs(base / "input", nodes)
    if any(node["type"] == "ExVideoCogVideoXLoader" for node in nodes):
        place_cogvideox_files(base, PUBLISHED)
    for node in nodes:
        for model in node["properties"].get("models", []):
            file = base / "models" / model["directory"] / model["name"]
            if not file.exists():
                STOCK[node["type"]](file)


def place_inputs(folder, nodes):
    """Pictures and videos of the names that the workflows have."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.linear_gradient("L").convert("RGB").resize((160, 140))
    for node in nodes:
        if node["type"] == "LoadImage":
            picture.save(folder / node["widgets_values"][0])
        if node["type"] == "LoadVideo":
            small_ones = (picture.rotate(9 * i).resize((64, 48)) for i in range(VIDEO_FRAMES))
            turned = [torch.tensor(np.asarray(frame)) / 255 for frame in small_ones]
            save_video(torch.stack(turned), folder / node["widgets_values"][0], 8)


def save_interpolation(path):
    """RIFE in its published form and as narrow as ComfyUI takes it, random."""
    head, width = 4, 8
    weights = {"encode.cnn0": (16, 3, 3, 3), "encode.cnn1": (16, 16, 3, 3), "encode.cnn2": (16, 16, 3, 3)}
    weights["encode.cnn3"] = (16, head, 4, 4)
    for i in range(5):
        incoming = 7 + 2 * head if i == 0 else 8 + 4 + 8 + 2 * head
        weights[f"block{i}.conv0.0.0"] = (width // 2, incoming, 3, 3)
        weights[f"block{i}.conv0.1.0"] = (width, width // 2, 3, 3)
        weights[f"block{i}.lastconv.0"] = (width, 4 * 13, 4, 4)
        weights |= {f"block{i}.convblock.{k}.conv": (width, width, 3, 3) for k in range(8)}
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator) / 30 for name, shape in weights.items()}
    for name, (outgoing, incoming, *_) in weights.items():
        is_transposed = "cnn3" in name or "lastconv" in name
        tensors[f"{name}.bias"] = torch.zeros(incoming if is_transposed else outgoing)
    tensors |= {f"block{i}.convblock.{k}.beta": torch.ones(1, width, 1, 1) for i in range(5) for k in range(8)}
    save_file(tensors, path)


def save_upscaler(path, width=8, growth=32):
    """Real-ESRGAN for four times the size in its published form, of one narrow block, random."""
    shapes = {"conv_first": (width, 3), "conv_last": (3, width)}
    shapes |= dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (width, width))
    for dense, k in itertools.product((1, 2, 3), range(1, 6)):
        shapes[f"body.0.rdb{dense}.conv{k}"] = (growth if k < 5 else width, width + growth * (k - 1))
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(*shape, 3, 3, generator=generator) / 8 for name, shape in shapes.items()}
    biases = {f"{name}.bias": torch.full(shape[:1], 0.5 * (name == "conv_last")) for name, shape in shapes.items()}
    save_file(tensors | biases, path)


# What stands for models that others publish, by the node that loads them.
STOCK = {
    "FrameInterpolationModelLoader": save_interpolation,
    "UpscaleModelLoader": save_upscaler,
    "CheckpointLoaderSimple": Path.touch,  # only listed; see `without_drawing`
}


def small(path, info):
    """A workflow as a prompt that is quick on the narrow models."""
    prompt = to_prompt(read_graph(path), info)
    change(prompt, SMALL)
    for node in nodes_of(prompt, "ExVideoSVDConditioning"):
        if "keyframes" in node["inputs"]:
            node["inputs"]["keyframe_indices"] = "0, 5"
    return without_drawing(prompt)


def without_drawing(prompt):
    """A given picture in place of one that Stable Diffusion draws: its file has 2 GB and no narrow form."""
    drawn = [node_id for node_id, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple"]
    if not drawn:
        return prompt
    stock = ("CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "PreviewImage")
    (picture,) = nodes_of(prompt, "PreviewImage")
    source = picture["inputs"]["images"]
    kept = {node_id: node for node_id, node in prompt.items() if node["class_type"] not in stock}
    kept[source[0]] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": ""}}
    return kept


def change(prompt, values):
    """Set inputs of all nodes of a class, except those that come through a link."""
    for kind, inputs in values.items():
        for node in nodes_of(prompt, kind):
            free = {name: value for name, value in inputs.items() if not isinstance(node["inputs"].get(name), list)}
            node["inputs"] |= free


def sampled(run, model=None, *, seed=3, watch=None, solver_of=None, changed=None, **settings):
    """Latents as ExVideo Sampler samples them; `changed` are inputs in place of the run's own, by name."""
    sampling, model = run.pack.comfy_bridge.sampling, model or run.model
    inputs = {name: getattr(run, name) for name in ("positive", "negative", "latent")} | (changed or {})
    given = run.pack.families.adapter_of(model).plan, model, *inputs.values(), sampling.Settings(**settings)
    with torch.inference_mode():
        return sampling.sample(*given, seed=seed, watch=watch, solver_of=solver_of)["samples"]


def finished(pack, model, latents, normalize=None, contrast=0):
    """Latents as ExVideo Sampler finishes them."""
    finish = pack.families.adapter_of(model).finish(model)
    return pack.comfy_bridge.sampling.finish(finish, {"samples": latents}, normalize, contrast)["samples"]


class Run:
    """A model with the conditioning of a random picture."""

    def __init__(self, pack, model, clip_vision, vae, frames=6):
        self.pack, self.model, self.clip_vision, self.vae = pack, model, clip_vision, vae
        self.size = pack.svd.conditioning.ClipSize(width=128, height=128, frames=frames)
        self.image = torch.rand(1, 150, 140, 3, generator=torch.Generator().manual_seed(1))
        self.positive, self.negative = pack.svd.conditioning.condition(
            clip_vision, vae, self.image, self.size, fps=30, motion_bucket_id=127, noise=0.02, seed=3
        )
        self.latent = pack.svd.conditioning.start_latents(vae, self.size)

    def sample(self, model=None, *, seed=3, latent=None, steps=3, guidance=(2.0, 2.0), denoise=1.0, method="auto"):
        settings = {"steps": steps, "guidance": guidance, "denoise": denoise, "method": method}
        return sampled(self, model, seed=seed, changed=latent and {"latent": latent}, **settings)

    def ksampler(self, model=None, *, seed=3, steps=3, cfg=2.0, sampler="euler", scheduler="karras"):
        from nodes import common_ksampler

        conditions = (self.positive, self.negative, self.latent)
        with torch.inference_mode():
            return common_ksampler(model or self.model, seed, steps, cfg, sampler, scheduler, *conditions)[0]["samples"]


# CogVideoX

TEXT_WIDTH = narrow_cogvideox.TINY.transformer.text_dim
PROMPTS = ("a red circle moves right", "")


def save_cogvideox_files(folder):
    """Transformer, text encoder and VAE."""
    transformer, vae = narrow_cogvideox.save_files(folder)
    return transformer, save_text_encoder(folder), vae


def save_text_encoder(folder):
    """A T5 with its real table of words."""
    t5 = build_t5(TextEncoderConfig(d_model=TEXT_WIDTH, num_layers=2, num_heads=2, d_kv=4, d_ff=16))
    fill(t5)
    weights = {name: weight for name, weight in t5.state_dict().items() if name != "encoder.embed_tokens.weight"}
    save_file(weights, folder / "cogvideox_text_encoder.safetensors")
    return folder / "cogvideox_text_encoder.safetensors"


def save_random_lora(path, rank=2, blocks=2, width=narrow_cogvideox.TINY.transformer.width, alpha=None):
    """A LoRA in the published naming: every projection of the attentions."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer in (f"blocks.{i}.attn1.{name}" for i in range(blocks) for name in ("to_q", "to_k", "to_v", "to_out")):
        weights[f"{layer}.lora_A.default.weight"] = torch.randn(rank, width, generator=generator)
        weights[f"{layer}.lora_B.default.weight"] = torch.randn(width, rank, generator=generator) / 4
        if alpha is not None:
            weights[f"{layer}.alpha"] = torch.tensor(float(alpha))
    save_file(weights, path)
    return path


# The names that the example workflows have.
PUBLISHED = {file.folder: file.name for file in (COGVIDEOX_TRANSFORMER[0], T5_XXL, COGVIDEOX_VAE, EXVIDEO_COGVIDEOX)}


def place_cogvideox_files(base, names=None):
    """The files where people put them, with a LoRA; `names` by folder are those of the published files."""
    files = [*save_cogvideox_files(base), save_random_lora(base / "cogvideox_lora.safetensors")]
    for file, folder in zip(files, PUBLISHED, strict=True):
        target = base / "models" / folder / (names[folder] if names else file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if "-of-00002" in target.name:
            split(file, target)
        else:
            shutil.move(file, target)


def split(file, first):
    """One file as two shards, of which `first` is the first."""
    weights = list(load_file(file).items())
    save_file(dict(weights[::2]), first)
    save_file(dict(weights[1::2]), first.with_name(first.name.replace("00001-of", "00002-of")))


def cogvideox_prompt():
    """A graph from two sentences to a file, on the files of `place_cogvideox_files`."""

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    names = {part: f"cogvideox_{part}.safetensors" for part in ("transformer", "text_encoder", "vae")}
    return {
        "load": node("ExVideoCogVideoXLoader", **names, weight_dtype="fp32"),
        "lora": node("ExVideoLoRAApply", model=["load", 0], lora="cogvideox_lora.safetensors", strength=1.0),
        "positive": node("CLIPTextEncode", clip=["load", 1], text="a red circle moves right"),
        "negative": node("CLIPTextEncode", clip=["load", 1], text=""),
        "latent": node("ExVideoCogVideoXLatent", width=48, height=32, frames=17),
        "sample": node(
            "ExVideoSampler",
            model=["lora", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent=["latent", 0],
            seed=3,
            steps=2,
            guidance_min=0.0,
            guidance_max=0.0,
            denoise=1.0,
            normalize="auto",
            contrast=0.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node(
            "ExVideoSave",
            images=["decode", 0],
            fps=8.0,
            format="mp4, h264",
            quality="high",
            filename_prefix="exvideo/cogvideox",
        ),
    }


class CogRun:
    """CogVideoX with the conditioning of two prompts, for a clip of 17 frames of 48x32 pixels."""

    width, height, frames = 48, 32, 17

    def __init__(self, pack, model, clip, vae):
        self.pack, self.model, self.clip, self.vae = pack, model, clip, vae
        self.positive, self.negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in PROMPTS)
        self.latent = pack.cogvideox.latent.start_latents(self.width, self.height, self.frames)

    def sample(self, model=None, *, seed=3, latent=None, steps=4, guidance=(7.0, 7.0), denoise=1.0, method="auto"):
        settings = {"steps": steps, "guidance": guidance, "denoise": denoise, "method": method}
        return sampled(self, model, seed=seed, changed=latent and {"latent": latent}, **settings)

    def ksampler(self, model=None, *, seed=3, steps=4, cfg=7.0, sampler="euler", scheduler="normal", latent=None):
        from nodes import common_ksampler

        conditions = (self.positive, self.negative, latent or self.latent)
        with torch.inference_mode():
            return common_ksampler(model or self.model, seed, steps, cfg, sampler, scheduler, *conditions)[0]["samples"]


def relative(found, wanted):
    """Distance of two tensors, as a part of the wanted one's size."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())
