"""Sound files for the fuzzers to begin with, as small as each format allows, and the words of its texts."""

import json
import shutil
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import nn

from exvideo_core.families.cogvideox import config as cogvideox
from exvideo_core.families.cogvideox.text_encoder import TextEncoderConfig, build_t5
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import CogVideoXVAE
from exvideo_core.families.svd.config import ImageEncoderConfig, UNetConfig, VAEConfig
from exvideo_core.families.svd.image_encoder import build_clip
from exvideo_core.families.svd.save import published_layout, save_extension, save_svd
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE
from exvideo_core.registry import training_recipes
from exvideo_core.runtime.resume import Point, SavedRun
from exvideo_core.training.config import write_template
from exvideo_core.video import save_video
from exvideo_core.weights.preview_colours import BIAS, FACTORS

from .readers import NARROW, SHARD

CORPUS = Path(__file__).with_name("corpus")
_UNET = UNetConfig(
    widths=(8,), blocks_per_level=1, attention_levels=(0,), context_dim=8, time_dim=8, id_dim=4, extension_frames=3
)
_FULL_UNET = UNetConfig(widths=(8, 8, 8, 8), context_dim=8, time_dim=8, id_dim=4, extension_frames=3)
_CLIP = ImageEncoderConfig(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=8,
    patch_size=2,
    image_size=4,
    projection_dim=8,
)
_T5 = TextEncoderConfig(d_model=8, num_layers=1, num_heads=1, d_kv=8, d_ff=8, relative_attention_num_buckets=2)


def write(reader, folder):
    """Sound files of a reader and the malformed ones of its corpus, into a folder; their paths."""
    _WRITERS[reader](folder)
    for path in (CORPUS / {"training_videos": "videos"}.get(reader, reader)).iterdir():
        shutil.copy(path, folder)
    return sorted(folder.iterdir())


def _zeros(build):
    """Zeros in the shapes of a network."""
    with torch.device("meta"):
        network: nn.Module = build()
    return {name: torch.zeros(weight.shape, dtype=torch.float8_e5m2) for name, weight in network.state_dict().items()}


def _weights(folder):
    unet = _zeros(lambda: SVDUNet(_UNET))
    vae = _zeros(lambda: VAE(VAEConfig(widths=(8,), blocks_per_level=1), True))
    clip = {name: weight for name, weight in _zeros(lambda: build_clip(_CLIP)).items() if "position_ids" not in name}
    save_svd(folder / "svd.safetensors", unet, vae, clip)
    save_file(published_layout(unet, {}, {}), folder / "unet.safetensors", {"format": "pt"})
    save_extension(folder / "extension.safetensors", _zeros(lambda: SVDUNet(_FULL_UNET)))
    few = {name: weight for name, weight in load_file(folder / "extension.safetensors").items() if ".7." in name}
    save_file(few, folder / "extension.safetensors")  # all 528 would make each execution 20 times slower
    save_file(_zeros(lambda: VAE(VAEConfig(widths=(8,), blocks_per_level=1), False)), folder / "vae.safetensors")
    save_file(clip, folder / "clip.safetensors")
    save_file(_zeros(lambda: CogVideoXTransformer(NARROW)), folder / "transformer.safetensors")
    config = cogvideox.VAEConfig(widths=(8, 8), blocks_per_level=1)
    save_file(_zeros(lambda: CogVideoXVAE(config)), folder / "cogvideox_vae.safetensors")
    t5 = _zeros(lambda: build_t5(_T5))
    t5["shared.weight"] = torch.zeros(32128, 1, dtype=torch.float8_e4m3fn)
    t5.pop("encoder.embed_tokens.weight", None)
    save_file(t5, folder / "t5.safetensors")
    latents = torch.zeros(1, 4, 1, 1)
    SavedRun(folder / "saved_run").begin("run", latents, 5, {}).keep(Point(2, latents), at_once=True)
    notes = {FACTORS: json.dumps([[0.1, 0.2, 0.3]] * 4), BIAS: "[0, 0, 0]"}
    formats = (torch.float64, torch.bfloat16, torch.float8_e5m2, torch.bool, torch.int64, torch.uint8)
    save_file({str(kind): torch.zeros(2).to(kind) for kind in formats}, folder / "formats.safetensors", notes)
    clip = {"latents": torch.zeros(1, 4, 1, 1), "picture": torch.zeros(3, 8, 8), "fps": torch.tensor(8.0)}
    save_file(clip, folder / "clip_of_cache.safetensors")


def _lora(folder):
    q, k, ff = "blocks.0.attn1.to_q", "transformer.transformer_blocks.0.attn1.to_k", "lora_unet_blocks_0_ff_proj"
    _save_pairs(folder / "published", {f"{q}.lora_A.default.weight": (2, 16), f"{q}.lora_B.default.weight": (16, 2)})
    _save_pairs(folder / "peft", {f"{k}.lora_A.weight": (2, 16), f"{k}.lora_B.weight": (16, 2)})
    kohya = {f"{ff}.lora_down.weight": (2, 16), f"{ff}.lora_up.weight": (16, 2), f"{ff}.alpha": ()}
    _save_pairs(folder / "kohya", kohya)
    both = {"blocks.0.attn1.to_q.lora_A.weight": (2, 16), "blocks.0.attn1.to_q.lora_B.weight": (16, 2)}
    _save_pairs(folder / "two", both | {"proj_out.lora_A.weight": (3, 16), "proj_out.lora_B.weight": (64, 3)})


def _save_pairs(path, shapes):
    save_file({name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, path)


def _folders(folder):
    second = SHARD.replace("00001-of", "00002-of")
    index = {"weight_map": {"a": SHARD, "b": second}, "metadata": {"total_size": 16}}
    (folder / "index").write_text(f"=== model.safetensors.index.json\n{json.dumps(index)}\n")
    (folder / "folder").write_text("=== config.json\n{}\n=== model.fp16.safetensors\n")


def _configs(folder):
    for target, recipe in training_recipes().items():
        (folder / target).write_text(write_template(recipe().config))
        (folder / f"{target}_short").write_text(f"target: {target}\ndata: {{source: videos, windows: [8, 1_6]}}\n")


def _records(folder):
    texts = {
        "metadata.json": '[{"path": "clip.mp4", "caption": "a red circle"}, {"video": "sub/clip.mp4"}]',
        "metadata.jsonl": '{"path": "clip.mp4", "text": "a"}\n{"file_name": "b.mp4"}\n',
        "metadata.csv": 'path,caption\nclip.mp4,"a, b"\n',
        "index.jsonl": json.dumps(
            {
                "path": "/x.mp4", "size": 8, "mtime_ns": 1, "width": 8, "height": 8, "time_base": "1/90000",
                "first_pts": 0, "steps": [[3003, 4], [3004, 1]],
            }
        ) + '\n{"path": "/y.mp4", "size": 1, "mtime_ns": 2, "reason": "is short"}\n',
        "run.json": json.dumps({"step": 2, "fingerprint": "0", "config": {"target": "svd", "run": {"seed": 1}}}),
        "log.csv": "step,loss,seconds\n1,0.5,1.0\n2,0.25,1.0\n",
        "huggingface": "HTTP/1.1 302 Found\nLocation: https://cdn.example/f\nX-Linked-Size: 7\n"
        f'X-Linked-Etag: "{"ab" * 32}"\nX-Repo-Commit: c0ffee12\n\n',
        "modelscope": "HTTP/1.1 200 OK\n\n" + json.dumps(
            {"Data": {"Files": [{"Path": "vae/diffusion_pytorch_model.safetensors", "Size": 7, "Sha256": "ab" * 32}]}}
        ),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_bytes(f"{name}\n{text}".encode())


def _pictures(folder):
    picture = Image.new("RGB", (8, 6), "red")
    ImageDraw.Draw(picture).ellipse((1, 1, 6, 5), "blue")
    upright = Image.Exif()
    upright[0x0112] = 6  # to be turned
    for kind, modes in {"png": ("RGB", "RGBA", "P"), "jpeg": ("RGB", "CMYK"), "webp": ("RGB",)}.items():
        for mode in modes:
            picture.convert(mode).save(folder / f"{mode}.{kind}", exif=upright)
    for kind, mode in (("gif", "P"), ("bmp", "RGB"), ("tiff", "RGB"), ("tiff", "F"), ("ppm", "RGB")):
        picture.convert(mode).save(folder / f"{mode}.{kind}")
    picture.convert("L").convert("I;16").save(folder / "16_bits.png")
    frames = [picture.rotate(90 * turn).convert("P") for turn in range(3)]
    frames[0].save(folder / "three.gif", save_all=True, append_images=frames[1:], duration=40)
    clip = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    save_video(clip, folder / "three.webp", fps=8, metadata={"prompt": '{"1": {}}'})


def _videos(folder):
    clip = torch.linspace(0, 1, 3 * 16 * 16 * 3).reshape(3, 16, 16, 3)
    for name in ("h264.mp4", "prores.mov", "vp9.webm", "frames.gif"):
        save_video(clip, folder / name, fps=8)
    save_video(clip, folder / "hevc.mp4", fps=8, codec="h265", metadata={"prompt": "{}"})


_HEADER = (
    '"dtype"',
    '"shape"',
    '"data_offsets"',
    '"__metadata__"',
    '"F32"',
    '"F8_E4M3"',
    "[0, 0]",
    "-1",
    "1e999",
    "[",
    "{",
)
WORDS = {
    "weights": _HEADER,
    "lora": (*_HEADER, ".lora_A.weight", ".lora_B.weight", ".lora_up.weight", ".alpha", "blocks.0.attn1.to_q"),
    "folders": (
        "=== ", SHARD, "model.safetensors.index.json", "model.fp16.safetensors", "-00001-of-99999.safetensors", "../",
        '"weight_map"', '{"weight_map": {"a": ', ".safetensors", "/etc/passwd", "[", "null", "1e999",
    ),
    "configs": (
        "target: svd", "run: ", "data: ", "model: ", "objective: ", "optimizer: ", "name: ", "windows: [", "&a ",
        "*a", "<<: ", "!!python/object/apply:os.system [", "!!binary ", "!!timestamp ", "!!int ", "!!float ", "!!set ",
        "2001-02-30", "0x", "1:30:00", ".inf", ".nan", "1e400", "? ", "- ", "{", "[", "%YAML 1.1", "---",
    ),
    "records": (
        '"path"', '"caption"', '"steps": [[', '"first_pts"', '"time_base": "1/0"', '"width"', '"reason"', '"step"',
        '"config"', "Content-Length: ", "Location: http://[", "X-Linked-Size: ", "X-Linked-Etag: ", "Retry-After: ",
        "HTTP/1.1 206 Partial", "Transfer-Encoding: chunked", '"Sha256"', '"Size"', '"Data"', '"Files"', "{", "[",
        "=====",
    ),
    "pictures": ("Exif", "IHDR", "IDAT", "acTL", "fcTL", "iCCP", "zTXt", "VP8X", "ANMF", "NETSCAPE2.0", "II*", "MM"),
    "videos": ("moov", "trak", "stsz", "stts", "avcC", "hvcC", "mdat", "elst", "dref", "url ", "#EXTM3U", "ffconcat"),
    "training_videos": ("moov", "trak", "stsz", "stts", "avcC", "hvcC", "mdat", "elst", "dref", "url ", "GIF89a"),
}  # fmt: skip
_WRITERS = {
    "weights": _weights,
    "lora": _lora,
    "folders": _folders,
    "configs": _configs,
    "records": _records,
    "pictures": _pictures,
    "videos": _videos,
    "training_videos": _videos,
}
