"""What a training run is told: typed, with unknown keys refused, read from YAML and written out with every default.

The same configuration gives the same run on any number of GPUs: `batch_size` counts the clips of a step on all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from ..errors import ExVideoError
from ..families.cogvideox.vae import TEMPORAL_FACTOR
from ..families.svd.vae import SCALING_FACTOR
from ..files import quoted, read_small
from ..lora.attach import ATTENTION
from ..nn.attention import BACKENDS

_MOST_BYTES = 30_000  # of a configuration; one with every default has 4,000
_DEEPEST = 10  # levels of sections, lists and maps
_MOST_PROBLEMS = 6  # that a message tells

# Every field is Annotated with the sentence that `write_template` puts behind it.


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Course and results of a run."""

    name: Annotated[str, "of the exported files"] = "extension"
    output: Annotated[str, "folder for checkpoints, exports, logs and validation videos"] = "output/training"
    seed: Annotated[int, "of data order, noise and new weights"] = 0
    steps: Annotated[int, "optimizer steps; the published extension had some 10,000s"] = 8000
    batch_size: Annotated[int, "clips of a step, of all GPUs together; a multiple of their number"] = 8
    engine: Annotated[Literal["fsdp", "deepspeed"], "what shards gradients and optimizer over several GPUs"] = "fsdp"
    precision: Annotated[Literal["bf16", "fp32"], "of all that is frozen; what is trained is fp32 in any case"] = "bf16"
    checkpointing: Annotated[bool, "compute each block twice in place of keeping its activations"] = True
    attention: Annotated[str, f"kernel: {', '.join(BACKENDS)}"] = "sdpa"
    average: Annotated[float, "decay of the averaged weights that are evaluated and exported; 0: the last ones"] = 0.999
    save_every: Annotated[int, "steps between checkpoints; each is also exported"] = 500
    keep_last: Annotated[int, "checkpoints and exports to keep"] = 3
    held_out_every: Annotated[int, "steps between held-out losses; 0: never"] = 500
    validate_every: Annotated[int, "steps between validation videos; 0: never"] = 0
    export_format: Annotated[Literal["fp16", "bf16", "fp32"], "of the exported files"] = "fp16"
    tensorboard: Annotated[bool, "also log for TensorBoard; log.csv is always written"] = False


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights are changed."""

    kind: Annotated[
        Literal["adamw", "adamw8bit", "muon"],
        "adamw8bit has a quarter of the memory (needs torchao); muon (not with deepspeed) learns fast from little data",
    ] = "adamw"
    learning_rate: Annotated[float, "full rate, of AdamW"] = 1e-5
    muon_rate: Annotated[float, "full rate of matrices and convolutions with muon; the rest goes to AdamW"] = 4e-3
    weight_decay: Annotated[float, "of AdamW"] = 0.01
    beta1: Annotated[float, "of AdamW"] = 0.9
    beta2: Annotated[float, "of AdamW"] = 0.999
    warmup_steps: Annotated[int, "steps in which the rate rises from 0"] = 100
    hold: Annotated[float, "share of the steps at the full rate, before it falls to 0 in a line; 1: it never falls"] = (
        1.0
    )
    clip_norm: Annotated[float, "longest gradient; 0: any"] = 1.0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which clips, and how they are cut."""

    source: Annotated[
        str, "folder of videos, metadata.json, .jsonl or .csv; or procedural: small moving pictures, drawn as needed"
    ] = "videos"
    width: Annotated[int, "pixels; frames are resized to cover, and cropped"] = 512
    height: Annotated[int, "pixels"] = 512
    fps: Annotated[float | None, "take frames at this rate; null: every stride-th, whatever the rate"] = None
    stride: Annotated[int, "1: every frame"] = 1
    clips_per_video: Annotated[int, "clips, starting anywhere in the video"] = 1
    windows: Annotated[
        tuple[int, ...],
        "frames that a step looks at, in turn, from anywhere in the clip; []: all. Short ones are cheap",
    ] = ()
    held_out: Annotated[int, "clips that are never trained on"] = 4
    max_bad_share: Annotated[float, "the run stops if more of the videos cannot be used"] = 0.5
    cache: Annotated[str | None, "folder for encoded clips; null: in the output folder"] = None
    pictures: Annotated[int, "of source procedural: how many"] = 96
    photographs: Annotated[bool, "of source procedural: photographs as well (needs scikit-image, matplotlib)"] = False


@dataclass(frozen=True, kw_only=True)
class SVDModel:
    """What is extended, and how."""

    checkpoint: Annotated[str, "svd_xt.safetensors, a diffusers folder, or demo"] = "svd_xt.safetensors"
    extension: Annotated[str | None, "a published or own one to go on from; null: a new one"] = None
    num_frames: Annotated[int, "length of the new extension's clips"] = 128
    trainable: Annotated[
        Literal["temporal", "new"], "temporal: all 528 tensors of the published file; new: positions and convolutions"
    ] = "temporal"
    position_init: Annotated[
        Literal["folded", "sinusoid"], "past frame 24 a new table walks back and forth (published), or counts on"
    ] = "folded"
    base_frames: Annotated[int, "length of the base's clips; held-out loss is told apart there"] = 25


@dataclass(frozen=True, kw_only=True)
class SVDObjective:
    """What is learned at which noise level."""

    noise_levels: Annotated[
        Literal["schedule", "lognormal"], "schedule: evenly over the sampler's (published; half are above 15)"
    ] = "schedule"
    lognormal_mean: Annotated[float, "of ln sigma; SVD's own training: 0.7"] = 0.7
    lognormal_std: Annotated[float, "SVD's own training: 1.6"] = 1.6
    weighting: Annotated[
        Literal["script", "velocity"], "script: x0 error times sqrt(1 + sigma^2) / sigma (published); velocity: v error"
    ] = "script"
    target_scale: Annotated[float, "train towards latents this much stronger; published: 1.01"] = 1.01
    latent_scale: Annotated[float, "of the clips' latents; 0.13025 as the published script, which greys"] = (
        SCALING_FACTOR
    )
    condition_dropout: Annotated[float, "share of the clips learned without the picture, for guidance"] = 0.1
    image_noise: Annotated[float, "median of the noise on the conditioning picture; 0: none (published)"] = 0.02
    image_noise_std: Annotated[float, "of its logarithm; 0: always the median"] = 0.5


@dataclass(frozen=True, kw_only=True)
class CogVideoXModel:
    """What is extended, and how."""

    transformer: Annotated[str, "file, shards or folder of CogVideoX-5b, or demo"] = "CogVideoX-5b"
    vae: Annotated[str, "likewise"] = "CogVideoX-5b"
    text_encoder: Annotated[str, "likewise"] = "CogVideoX-5b"
    lora: Annotated[str | None, "one to go on from; null: a new one"] = None
    num_frames: Annotated[int, "length of the clips, 8 k + 1"] = 129
    rank: Annotated[int, "of a new LoRA"] = 64
    alpha: Annotated[float | None, "a new LoRA is multiplied by alpha / rank; null: by 1"] = None
    targets: Annotated[tuple[str, ...], "ends of the names of the layers to change"] = ATTENTION
    base_frames: Annotated[int, "length of the base's clips; held-out loss is told apart there"] = 49


@dataclass(frozen=True, kw_only=True)
class CogVideoXObjective:
    """What is learned at which noise level."""

    noisiness: Annotated[float, "1: all timesteps alike; more: the noisy ones more often"] = 1.0
    condition_dropout: Annotated[float, "share of the clips learned without the prompt, for guidance"] = 0.1


@dataclass(frozen=True, kw_only=True)
class SVDTraining:
    """Post-tune Stable Video Diffusion to longer clips."""

    target: Annotated[Literal["svd"], "svd: clips from a picture"] = "svd"
    run: RunConfig = field(default_factory=lambda: RunConfig(name="exvideo_svd"))
    model: SVDModel = field(default_factory=SVDModel)
    data: DataConfig = field(default_factory=DataConfig)
    objective: SVDObjective = field(default_factory=SVDObjective)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True, kw_only=True)
class CogVideoXTraining:
    """Post-tune CogVideoX-5B to longer clips by a LoRA."""

    target: Annotated[Literal["cogvideox"], "cogvideox: clips from a sentence"] = "cogvideox"
    run: RunConfig = field(default_factory=lambda: RunConfig(name="exvideo_cogvideox"))
    model: CogVideoXModel = field(default_factory=CogVideoXModel)
    data: DataConfig = field(default_factory=lambda: DataConfig(width=720, height=480, fps=8))
    objective: CogVideoXObjective = field(default_factory=CogVideoXObjective)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-4))


Training = SVDTraining | CogVideoXTraining
TARGETS: dict[str, type[Training]] = {"svd": SVDTraining, "cogvideox": CogVideoXTraining}


def read_config(path: Path) -> Training:
    """Read and check a YAML file.

    Raises:
        ExVideoError: with every wrong or unknown key and what would be right.
    """
    try:
        text = read_small(path, _MOST_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise ExVideoError(f"the configuration {path} cannot be read: {error}.") from error
    given = _parsed_yaml(text, path.name)
    if not isinstance(given, Mapping) or given.get("target") not in list(TARGETS):
        raise ExVideoError(
            f"{path.name} needs a line 'target: svd' or 'target: cogvideox'. "
            f"`exvideo train --init svd` writes a configuration with every default."
        )
    return parse_config(given, path.name)


def _parsed_yaml(text: str, source: str) -> object:
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            # an alias stands for as much as one likes, and aliases of aliases for more than any memory holds
            if isinstance(event, yaml.AliasEvent):
                raise ExVideoError(f"{source} has aliases (*name), which are not read here: write the values out.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ExVideoError(f"{source} is nested {depth} levels deep; a configuration has sections with values.")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ExVideoError(f"{source} is not YAML: {quoted(str(error))}.") from error
    except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError) as error:
        # the parser's own, for dates and numbers that do not exist
        raise ExVideoError(f"{source} has a value that YAML cannot read ({quoted(str(error))}).") from error


def parse_config(given: Mapping[str, Any], source: str = "the configuration") -> Training:
    """Check what was read from a file; `source` is what messages call it."""
    from pydantic import TypeAdapter, ValidationError

    kind = TARGETS[given["target"]]
    unknown = list(_unknown_keys(kind, given))
    try:
        # not strict, because YAML takes 1e-5 for a string
        config: Training = TypeAdapter(kind).validate_json(json.dumps(_filled(kind, given)))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, not {_shown(e['input'])}" for e in error.errors()]
        raise _wrong(source, [*unknown, *wrong]) from error
    except TypeError as error:  # YAML knows dates and bytes, JSON does not
        raise ExVideoError(f"{source}: {quoted(str(error))}; write it in quotes.") from error
    if problems := [*unknown, *_problems(config)]:
        raise _wrong(source, problems)
    return config


def _wrong(source: str, problems: Sequence[str]) -> ExVideoError:
    shown = [quoted(problem) for problem in problems[:_MOST_PROBLEMS]]
    more = [f"and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
    return ExVideoError(f"{source}: {'; '.join([*shown, *more])}.")


def _filled(kind: type[Training], given: Mapping[str, Any]) -> dict[str, Any]:
    """With the target's own defaults, also in sections that are given in part."""
    defaults = dataclasses.asdict(kind())
    return {
        key: defaults[key] | value if isinstance(value, Mapping) and isinstance(defaults.get(key), dict) else value
        for key, value in given.items()
    }


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def _unknown_keys(kind: type, given: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(kind)
    for key, value in given.items():
        if key not in hints:
            yield f"{prefix}{key} is unknown; known are {', '.join(hints)}"
        elif dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            yield from _unknown_keys(hints[key], value, f"{prefix}{key}.")


def _problems(config: Training) -> Iterator[str]:
    """What no type says."""
    run, data, model, optimizer = config.run, config.data, config.model, config.optimizer
    least = {
        "run.steps": (run.steps, 1),
        "run.batch_size": (run.batch_size, 1),
        "run.save_every": (run.save_every, 1),
        "run.keep_last": (run.keep_last, 1),
        "run.held_out_every": (run.held_out_every, 0),
        "run.validate_every": (run.validate_every, 0),
        "data.stride": (data.stride, 1),
        "data.clips_per_video": (data.clips_per_video, 1),
        "data.held_out": (data.held_out, 0),
        "data.pictures": (data.pictures, 1),
        "model.base_frames": (model.base_frames, 1),
        "optimizer.learning_rate": (optimizer.learning_rate, 0),
        "optimizer.muon_rate": (optimizer.muon_rate, 0),
        "optimizer.clip_norm": (optimizer.clip_norm, 0),
        "optimizer.warmup_steps": (optimizer.warmup_steps, 0),
    }
    sections = {name: vars(section) for name, section in vars(config).items() if name != "target"}
    numbers = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    yield from (
        f"{name} must be finite, not {value}"
        for name, value in numbers.items()
        if isinstance(value, float) and not math.isfinite(value)
    )
    yield from (f"{name} must be at least {low}, not {value}" for name, (value, low) in least.items() if value < low)
    shares = {
        "run.average": run.average,
        "data.max_bad_share": data.max_bad_share,
        "objective.condition_dropout": config.objective.condition_dropout,
        "optimizer.hold": optimizer.hold,
    }
    yield from (f"{name} must be from 0 to 1, not {value}" for name, value in shares.items() if not 0 <= value <= 1)
    if not _is_plain_name(run.name):
        yield f"run.name must be a plain file name without folders, not {run.name!r}"
    if run.average == 1:
        yield "run.average must be below 1: at 1 the average never moves"
    if run.attention not in BACKENDS:
        yield f"run.attention {run.attention!r} is unknown; choose {' or '.join(BACKENDS)}"
    if run.engine == "deepspeed" and optimizer.kind != "adamw":
        yield f"optimizer.kind {optimizer.kind} does not work with engine deepspeed; choose adamw, or engine fsdp"
    if data.fps is not None and (data.fps <= 0 or data.stride != 1):
        yield "data.fps must be positive, and goes without data.stride: one of them says which frames are taken"
    if (run.held_out_every or run.validate_every) and not data.held_out:
        yield "data.held_out is 0, so there is nothing for run.held_out_every and run.validate_every; set them to 0 too"
    if isinstance(config, SVDTraining) and config.objective.latent_scale <= 0:
        yield "objective.latent_scale must be positive"
    yield from _size_problems(config)


def _is_plain_name(name: str) -> bool:
    return bool(re.fullmatch(r'[^/\\:*?"<>|.][^/\\:*?"<>|]{0,99}', name)) and name.isprintable()


def _size_problems(config: Training) -> Iterator[str]:
    data, frames = config.data, config.model.num_frames
    if isinstance(config, SVDTraining):
        multiple, least, longest, unit = 8, 128, frames, "frames"
        shortest = 2
        if frames < 2:
            yield f"model.num_frames must be at least 2, not {frames}"
    else:
        multiple, least, longest, unit = 16, 16, (frames - 1) // TEMPORAL_FACTOR + 1, "latent frames"
        shortest = 1
        if frames < 9 or frames % 8 != 1:
            yield f"model.num_frames must be 8 k + 1 and at least 9, not {frames}"
        if config.model.rank < 1:
            yield f"model.rank must be at least 1, not {config.model.rank}"
    for name, side in (("width", data.width), ("height", data.height)):
        if side < least or side % multiple:
            yield f"data.{name} must be a multiple of {multiple} and at least {least}, not {side}"
    if outside := [window for window in data.windows if not shortest <= window <= longest]:
        yield f"data.windows: {outside[0]} {unit} are not possible, {shortest} to {longest} are"


def fingerprint(config: Training) -> str:
    """Of all that decides the course of a run: a run goes on only under the same one.

    How long it runs and what it writes may change in between.
    """
    free = {"name", "output", "steps", "save_every", "keep_last", "held_out_every", "validate_every", "export_format"}
    free |= {"tensorboard", "engine"}
    plain = dataclasses.asdict(config)
    if config.optimizer.hold == 1:  # else the learning rate depends on it
        free |= {"steps"}
    else:
        free -= {"steps"}
    plain["run"] = {key: value for key, value in plain["run"].items() if key not in free}
    for key in ("cache", "max_bad_share"):
        del plain["data"][key]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def write_template(target: str) -> str:
    """A configuration file with every default, and what each is for."""
    kind = TARGETS[target]
    lines = [f"# {kind.__doc__} Run it: exvideo train CONFIG.yaml"]
    for name, value in vars(kind()).items():
        if dataclasses.is_dataclass(value):
            lines += [f"{name}:", *(f"  {line}" for line in _template_lines(type(value), value))]
        else:
            lines += _template_lines(kind, {name: value}, only=name)
    return "\n".join(lines) + "\n"


def _template_lines(kind: type, values: Any, only: str | None = None) -> Iterator[str]:  # noqa: ANN401  a dataclass or dict
    hints = get_type_hints(kind, include_extras=True)
    plain = values if isinstance(values, dict) else vars(values)
    for name, value in plain.items():
        if only in (None, name):
            yield f"{name}: {_yaml(value)}  # {_choices(hints[name])}{hints[name].__metadata__[0]}"


def _choices(hint: Any) -> str:  # noqa: ANN401  a type
    inner = get_args(hint)[0]
    choices = get_args(inner) if get_origin(inner) is Literal else ()
    return f"{' or '.join(choices)}; " if len(choices) > 1 else ""


def _yaml(value: object) -> str:
    """Of the few kinds there are; JSON is YAML."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
