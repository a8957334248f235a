"""Sampling with the reference's defaults; a stock sampler graph gives the same clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from . import families
from .comfy_bridge import latent_file, sampling
from .comfy_bridge.estimates import ProgressText
from .comfy_bridge.presets import AS_SET, PRESETS, prepared, summary
from .comfy_bridge.preview import AnimatedPreview, has_colours
from .comfy_bridge.resume import Run
from .host import show_text

_ANIMATED = "animated"
_NORMALIZE = {"auto": None, "on": True, "off": False}


class ExVideoSampler(io.ComfyNode):
    """Samples the latents of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoSampler",
            display_name="ExVideo Sampler",
            category="ExVideo/sampling",
            description="Samples the clip like the model's reference. SVD: Euler steps on Karras noise levels, "
            "guidance that may rise over the frames, and the finish that ExVideo's clips need. CogVideoX: DDIM.",
            search_aliases=[
                "ksampler",
                "video sampler",
                "svd sampler",
                "cogvideox sampler",
                "denoise",
                "采样器",
                "采样",
                "图生视频",
                "文生视频",
            ],
            inputs=[
                io.Model.Input("model", tooltip="SVD or CogVideoX, from one of ExVideo's loaders."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="From ExVideo SVD Conditioning; for CogVideoX the prompt, from CLIP Text Encode.",
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="From ExVideo SVD Conditioning; for CogVideoX the negative prompt, from CLIP Text "
                    "Encode; it may be empty.",
                ),
                io.Latent.Input(
                    "latent", tooltip="From ExVideo SVD Conditioning or ExVideo CogVideoX Latent: size and length."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise that the clip is made from: another seed gives another clip, the same "
                    "seed the same clip.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="Steps from noise to clip: more is finer, and takes as much longer. 50 is the "
                    "reference's, 25 often does.",
                ),
                io.Float.Input(
                    "guidance_min",
                    default=0.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="How closely the first frame follows picture or prompt: higher is closer and harsher; 1 "
                    "in both is none, in half the time. 0 chooses: 2 with ExVideo's SVD, 1 with plain SVD, 7 with "
                    "CogVideoX.",
                ),
                io.Float.Input(
                    "guidance_max",
                    default=0.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance of the last frame; frames in between rise linearly. 0 chooses: 2 with ExVideo's "
                    "SVD, 3 with plain SVD, 7 with CogVideoX, which has one for all frames.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of init_video is resampled, from 0 to 1: lower stays closer to it. 1 without "
                    "one; 0.5 suits a larger second pass.",
                ),
                io.Combo.Input(
                    "normalize",
                    options=list(_NORMALIZE),
                    tooltip="Gives every frame the brightness and contrast of the whole clip, so that late ones do "
                    "not fade. auto: on with ExVideo's SVD, else off.",
                    advanced=True,
                ),
                io.Float.Input(
                    "contrast",
                    default=0.0,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    tooltip="Factor on the result's contrast: lower is paler, higher harsher. 0 chooses: 1.2 with "
                    "ExVideo's SVD, else 1.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "method",
                    options=families.methods(),
                    default=sampling.AUTO,
                    optional=True,
                    tooltip="Solver and noise levels. auto: the reference's, ddim for CogVideoX, Euler for SVD. ddim "
                    "trailing: CogVideoX as in diffusers. dpm++ 2m: second order, both models.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default=AS_SET,
                    optional=True,
                    tooltip="as set: the values above. quality: the reference's 50 steps, all computed, even behind "
                    "ExVideo Speed. fast: 25 steps, and step reuse 0.08; the clip differs a little. low memory: the "
                    "same clip in smaller chunks, with weights offloaded to main memory; slower.",
                ),
                io.Combo.Input(
                    "preview",
                    options=[_ANIMATED, "off"],
                    default=_ANIMATED,
                    optional=True,
                    tooltip="Shows all frames on the node while it samples, at most once a second. off computes "
                    "nothing for it.",
                ),
                io.Boolean.Input(
                    "keep_latents",
                    default=False,
                    optional=True,
                    tooltip="Also saves the finished latents, before decoding, as latents/ExVideo_00001_.latent "
                    "into the output folder. ComfyUI's Load Latent reads it from the input folder.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    optional=True,
                    tooltip="A run that was cancelled, failed or was killed resumes after its last saved step when the "
                    "same graph is queued again, and gives the same clip. off starts over, and saves no steps.",
                    advanced=True,
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The finished clip, for VAE Decode or a second pass.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        seed: int,
        steps: int,
        guidance_min: float,
        guidance_max: float,
        denoise: float,
        normalize: str,
        contrast: float,
        method: str = sampling.AUTO,
        preset: str = AS_SET,
        preview: str = _ANIMATED,
        keep_latents: bool = False,
        resume: bool = True,
    ) -> io.NodeOutput:
        chosen = PRESETS[preset]
        steps, method = chosen.steps or steps, chosen.method or method
        settings = sampling.Settings(steps=steps, guidance=(guidance_min, guidance_max), denoise=denoise, method=method)
        family = families.adapter_of(model)
        heading = summary(preset, chosen, model)
        hidden = cls.hidden
        fps = family.latent_fps(latent["samples"], positive) if preview == _ANIMATED else None
        watch = Watching(hidden.unique_id, latent["samples"], heading, fps)
        given = {
            "seed": seed,
            "settings": settings,
            "positive": positive,
            "negative": negative,
            "latent": latent,
            "preset": chosen,
        }
        samples = sampling.sample(
            family.plan,
            prepared(model, chosen),
            positive,
            negative,
            latent,
            settings,
            seed=seed,
            watch=watch,
            solver_of=Run(hidden.prompt, hidden.unique_id, given) if resume else None,
        )
        finished = sampling.finish(family.finish(model), samples, _NORMALIZE[normalize], contrast)
        if keep_latents:
            show_text(hidden.unique_id, latent_file.keep(finished["samples"], hidden.prompt, hidden.extra_pnginfo))
        return io.NodeOutput(finished)


@dataclass(frozen=True)
class Watching:
    """Shows a run on the node: text about time and memory, and the clip as it develops.

    Attributes:
        node_id: of the sampler, in the prompt that runs.
        latents: that the run starts from.
        heading: first line of the text.
        fps: latent frames per second of the animated preview; None shows no preview.
    """

    node_id: str | None
    latents: Tensor
    heading: str
    fps: float | None

    def __call__(self, plan: sampling.Plan) -> sampling.OnStep:
        shown: list[sampling.OnStep] = [ProgressText(self.node_id, plan, self.latents, self.heading)]
        latent_format = plan.model.model.latent_format
        if self.fps is not None and has_colours(latent_format):
            shown.append(AnimatedPreview(self.node_id, latent_format, self.fps, len(plan.levels) - 1))

        def on_step(step: int, denoised: Tensor) -> None:
            for each in shown:
                each(step, denoised)

        return on_step
