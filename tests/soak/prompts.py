"""What people send to a server in a day: both models in many forms, and every third prompt cancelled or wrong.

All is drawn from one seed, so a day can be repeated.
"""

import random
import shutil
from dataclasses import dataclass

from in_comfyui import place_cogvideox_files, save_narrow_files, save_random_lora
from PIL import Image

CANCELLED_IN = {  # node: seconds after its start that Cancel may come at most
    "ExVideoSVDLoader": 0.1,
    "ExVideoCogVideoXLoader": 0.1,
    "ExVideoSVDConditioning": 0.2,
    "ExVideoSampler": 1.5,
    "VAEDecode": 0.5,
    "ExVideoSave": 0.2,
}
FORMATS = (
    "mp4, h264",
    "mp4, h265",
    "mp4, av1",
    "webm, vp9",
    "webm, av1",
    "mov, prores",
    "mkv, h264",
    "gif, gif",
    "webp, webp",
)
SIDES = (100, 300, 900)  # of pictures
SVD = ("demo svd", "demo 128 frames")
NARROW_SVD = ("narrow_svd.safetensors", "narrow_extension.safetensors")
PARTS = ("transformer", "text_encoder", "vae")
DEMO_COG = ("demo cogvideox",) * 3
NARROW_COG = tuple(f"cogvideox_{part}.safetensors" for part in PARTS)
LORAS = {DEMO_COG: "demo 129 frames", NARROW_COG: "cogvideox_lora.safetensors"}
CUT_OFF, OTHER_LORA, IN_THE_WAY = "cut_off.safetensors", "of_another_width.safetensors", "a_file"


@dataclass
class Job:
    """One prompt.

    Attributes:
        expected: success, interrupted, error (while it runs) or refused (before).
        cancel: the node in which it is cancelled, and so many seconds after that has started.
        is_left: whether the client goes away while it runs.
    """

    what: str
    prompt: dict
    expected: str = "success"
    cancel: tuple[str, float] | None = None
    is_left: bool = False


def place(base):
    """Model files, also bad ones, and pictures of several sizes."""
    for folder in ("checkpoints", "exvideo", "loras"):
        (base / "models" / folder).mkdir(parents=True, exist_ok=True)
    place_cogvideox_files(base)
    for file, folder, name in zip(save_narrow_files(base), ("checkpoints", "exvideo"), NARROW_SVD, strict=True):
        shutil.move(file, base / "models" / folder / name)
    whole = (base / "models" / "checkpoints" / NARROW_SVD[0]).read_bytes()
    (base / "models" / "checkpoints" / CUT_OFF).write_bytes(whole[: len(whole) // 2])
    (base / "models" / "loras" / CUT_OFF).write_bytes(whole[:5000])
    save_random_lora(base / "models" / "loras" / OTHER_LORA, width=24)
    (base / "input").mkdir(exist_ok=True)
    for side in SIDES:
        Image.linear_gradient("L").convert("RGB").resize((side, side * 3 // 4)).save(base / "input" / f"{side}.png")
    (base / "output").mkdir(exist_ok=True)
    (base / "output" / IN_THE_WAY).write_text("not a folder")


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def jobs(count, seed):
    """So many jobs, of which a third is cancelled or fails."""
    rng = random.Random(seed)
    ends = (["success"] * 4 + ["cancelled", "failing"]) * (count // 6 + 1)
    rng.shuffle(ends)
    return [_job(rng, end, number) for number, end in enumerate(ends[:count])]


def _job(rng, end, number):
    make = rng.choice((svd, svd, svd_longer, cogvideox, cogvideox, stock))
    job = make(rng, number)
    if end == "cancelled":
        kinds = [node["class_type"] for node in job.prompt.values()]
        kind = rng.choice([name for name in ("ExVideoSampler", *CANCELLED_IN) if name in kinds])
        job.cancel, job.expected = (kind, rng.uniform(0, CANCELLED_IN[kind])), "interrupted"
    elif end == "failing":
        job = rng.choice(FAULTS)(rng, number)
    elif rng.random() < 0.1:
        job.is_left = True
    return job


# what works


def svd(rng, number):
    """A picture to a clip, plain or with one of the things that people add."""
    extra = rng.choice(("", "", "speed", "keyframes", "init_video", "tiled", "windows"))
    side = rng.choice((128, 136, 160))
    load = _svd_files(rng)
    frames = rng.choice((8, 12) if NARROW_SVD[1] in load["inputs"].values() else (8, 12, 16))
    prompt = {
        "load": load,
        "picture": _picture(rng),
        "told": _told(rng, frames, side),
        "sample": _sampler(rng, number, "told"),
        "decode": _decode(),
        "save": _save(rng, "svd"),
    }
    ADDED.get(extra, lambda _: None)(prompt)
    return Job(f"svd {extra}".strip(), prompt)


def _add_speed(prompt):
    steps = {"in_a_row": 2, "first_steps": 1, "last_steps": 1}
    source = prompt["sample"]["inputs"]["model"]
    prompt["speed"] = node("ExVideoSpeed", model=source, threshold=0.3, **steps)
    prompt["sample"]["inputs"]["model"] = ["speed", 0]


def _add_keyframes(prompt):
    prompt["told"]["inputs"] |= {"keyframes": ["picture", 0], "keyframe_indices": "2"}


def _add_init_video(prompt):
    frames = prompt["told"]["inputs"]["frames"]
    prompt["video"] = node("RepeatImageBatch", image=["picture", 0], amount=frames)
    prompt["told"]["inputs"]["init_video"] = ["video", 0]
    prompt["sample"]["inputs"]["denoise"] = 0.6


def _add_tiles(prompt):
    tiles = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    prompt["decode"] = node("VAEDecodeTiled", samples=["sample", 0], vae=["load", 2], **tiles)


def _add_windows(prompt):
    windows = {"context_length": 6, "context_overlap": 2, "context_schedule": "standard_static", "context_stride": 1}
    windows |= {"closed_loop": False, "fuse_method": "pyramid", "dim": 0, "freenoise": False}
    windows |= {"cond_retain_index_list": "", "latent_retain_index_list": ""}
    windows |= {"split_conds_to_windows": False, "causal_window_fix": True}
    prompt["told"]["inputs"]["frames"] = 12
    prompt["windows"] = node("ContextWindowsManual", model=["load", 0], **windows)
    prompt["sample"]["inputs"]["model"] = ["windows", 0]


ADDED = {
    "speed": _add_speed,
    "keyframes": _add_keyframes,
    "init_video": _add_init_video,
    "tiled": _add_tiles,
    "windows": _add_windows,
}


def svd_longer(rng, number):
    """A clip and one that goes on from it, joined."""
    frames = rng.choice((6, 12))
    prompt = {
        "load": _svd_files(rng),
        "picture": _picture(rng),
        "told": _told(rng, frames),
        "sample": _sampler(rng, number, "told"),
        "told_again": _told(rng, frames, continue_from=["sample", 0], shared_frames=1),
        "sample_again": _sampler(rng, number, "told_again"),
        "join": node("ExVideoSVDJoin", first=["sample", 0], second=["sample_again", 0], shared_frames=1),
        "decode": _decode("join"),
        "save": _save(rng, "longer"),
    }
    return Job("svd longer", prompt)


def cogvideox(rng, number):
    """A sentence to a clip, with a LoRA or without."""
    files = rng.choice((DEMO_COG, DEMO_COG, NARROW_COG))
    strength = rng.choice((0.0, 0.5, 1.0, 1.0))
    text = " ".join(rng.choices(("a red circle", "a blue square", "moves right", "bounces", "on black"), k=3))
    size = {"width": rng.choice((64, 96, 128)), "height": 96, "frames": rng.choice((9, 17))}
    named = dict(zip(PARTS, files, strict=True))
    prompt = {
        "load": node("ExVideoCogVideoXLoader", **named, weight_dtype=rng.choice(("default", "fp32", "bf16"))),
        "positive": node("CLIPTextEncode", clip=["load", 1], text=text),
        "negative": node("CLIPTextEncode", clip=["load", 1], text=""),
        "latent": node("ExVideoCogVideoXLatent", **size),
        "sample": _sampler(rng, number),
        "decode": _decode(),
        "save": _save(rng, "cogvideox"),
    }
    if strength:
        _add_lora(prompt, LORAS[files], strength)
    if rng.random() < 0.3:
        _add_speed(prompt)
    return Job(f"cogvideox, LoRA {strength:g}", prompt)


def _add_lora(prompt, lora, strength=1.0):
    prompt["lora"] = node("ExVideoLoRAApply", model=["load", 0], lora=lora, strength=strength)
    prompt["sample"]["inputs"]["model"] = ["lora", 0]


def stock(rng, number):
    """ComfyUI's own sampler, decoded and shown by its own nodes."""
    links = {"model": ["load", 0], "positive": ["told", 0], "negative": ["told", 1], "latent_image": ["told", 2]}
    chosen = {"steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    prompt = {
        "load": _svd_files(rng),
        "picture": _picture(rng),
        "told": _told(rng, 8),
        "sample": node("KSampler", seed=number, **links, **chosen),
        "decode": _decode(),
        "save": node("PreviewImage", images=["decode", 0]),
    }
    return Job("stock sampler", prompt)


def _svd_files(rng):
    checkpoint, extension = rng.choice((SVD, SVD, NARROW_SVD))
    extension = rng.choice((extension, extension, "none"))
    dtype = rng.choice(("default", "default", "fp32", "bf16", "fp8_e4m3fn"))
    return node("ExVideoSVDLoader", checkpoint=checkpoint, extension=extension, weight_dtype=dtype)


def _picture(rng):
    return node("LoadImage", image=f"{rng.choice(SIDES)}.png")


def _told(rng, frames, width=128, **more):
    size = {"width": width, "height": 128, "frames": frames}
    told = {"fps": 7, "motion_bucket_id": rng.randrange(256), "noise_augmentation": 0.02, "seed": 0}
    parts = {"clip_vision": ["load", 1], "vae": ["load", 2], "image": ["picture", 0]}
    return node("ExVideoSVDConditioning", **parts, **size, **told, **more)


def _sampler(rng, number, told=None):
    """Of SVD, told by that node, or of CogVideoX."""
    names = ("positive", "negative", "latent")
    links = {name: [told, place] if told else [name, 0] for place, name in enumerate(names)}
    return node(
        "ExVideoSampler",
        model=["load", 0],
        **links,
        seed=number,
        steps=rng.choice((3, 5, 8)),
        guidance_min=0.0,
        guidance_max=rng.choice((0.0, 1.0, 3.0)) if told else 0.0,
        denoise=1.0,
        normalize=rng.choice(("auto", "on", "off")),
        contrast=0.0,
        preset=rng.choice(("as set", "as set", "as set", "low memory")),
        preview=rng.choice(("animated", "animated", "off")),
    )


def _decode(latent="sample"):
    return node("VAEDecode", samples=[latent, 0], vae=["load", 2])


def _save(rng, prefix):
    return node(
        "ExVideoSave",
        images=["decode", 0],
        fps=8.0,
        format=rng.choice(FORMATS),
        quality=rng.choice(("low", "high", "best")),
        filename_prefix=f"{rng.choice(('a', 'b'))}/{prefix}",
        poster=rng.random() < 0.3,
    )


# what does not


def refused(rng, number):
    """A mistake in a widget: the server says so before it runs."""
    if rng.random() < 0.5:
        job, load, size = svd(rng, number), "checkpoint", ("told", "width", 130)
    else:
        job, load, size = cogvideox(rng, number), "transformer", ("latent", "frames", 12)
    ways = {
        "a format that there is not": ("save", "format", "avi, divx"),
        "a name out of the folder": ("save", "filename_prefix", "../../clip"),
        "a name behind a file": ("save", "filename_prefix", f"{IN_THE_WAY}/clip"),
        "a file that is not there": ("load", load, "nowhere.safetensors"),
        "a size that does not work": size,
    }
    what = rng.choice(sorted(ways))
    where, name, value = ways[what]
    job.prompt[where]["inputs"][name] = value
    return Job(f"refused: {what}", job.prompt, "refused")


def failing_svd(rng, number, what=None):
    """What is only seen in the run, because it comes through a link or out of a file."""
    prompt = svd(rng, number).prompt
    what = what or rng.choice(sorted(MISTAKES))
    MISTAKES[what](prompt)
    return Job(f"failing: {what}", prompt, "error")


def _too_many_frames(prompt):
    prompt["load"]["inputs"] |= {"checkpoint": SVD[0], "extension": SVD[1]}
    prompt["told"]["inputs"] |= {"frames": 130}
    prompt["told"]["inputs"].pop("init_video", None)
    prompt["sample"]["inputs"]["model"] = ["load", 0]


def _odd_width(prompt):
    prompt["number"] = node("PrimitiveInt", value=131)
    prompt["told"]["inputs"]["width"] = ["number", 0]


def _cut_off(prompt):
    prompt["load"]["inputs"]["checkpoint"] = CUT_OFF


def _of_another_base(prompt):
    prompt["load"]["inputs"] |= {"checkpoint": SVD[0], "extension": NARROW_SVD[1]}


def _bad_name(prompt):
    prompt["text"] = node("PrimitiveString", value=f"{IN_THE_WAY}/clip")
    prompt["save"]["inputs"]["filename_prefix"] = ["text", 0]


MISTAKES = {
    "too many frames": _too_many_frames,
    "odd width": _odd_width,
    "checkpoint cut off": _cut_off,
    "extension of another base": _of_another_base,
    "bad name": _bad_name,
}


def failing_cogvideox(rng, number, what=None):
    """The same of CogVideoX."""
    prompt = cogvideox(rng, number).prompt
    what = what or rng.choice(("LoRA that does not fit", "LoRA cut off", "latent of the other model"))
    if what == "latent of the other model":
        prompt["latent"] = node("EmptyLatentImage", width=128, height=128, batch_size=4)
    else:
        _add_lora(prompt, OTHER_LORA if what == "LoRA that does not fit" else CUT_OFF)
    return Job(f"failing: {what}", prompt, "error")


FAULTS = (refused, failing_svd, failing_svd, failing_cogvideox)
