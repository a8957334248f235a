"""The two reference implementations at narrow widths, driven as they are.

DiffSynth-Studio 1.1.9 writes its widths into its constructors and imports everything it knows on `import diffsynth`.
So single submodules are imported, full-size networks are built without memory (on the meta device), and their
layers are narrowed before weights go in, through DiffSynth's own converters. diffusers takes widths as settings; its
weights go through our own key maps.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from narrow_svd import NARROW, Sizes
from torch import Tensor, nn

from benchmarks.references import diffsynth
from exvideo_core.families.svd.keys import unet_from_diffusers, vae_from_diffusers

Weights = Mapping[str, Tensor]

# diffusers 0.42.1 hands torch tensors to NumPy 2 in a way both announce to end
EXPECTED_WARNINGS = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

# DiffSynth-Studio 1.1.9


def diffsynth_unet(file: Weights, extension: Weights | None = None) -> nn.Module:
    """DiffSynth's UNet over an sgm checkpoint, with an extension in its published names."""
    frames = extension["blocks.7.positional_embedding.embeddings"].shape[0] if extension else None
    cls = diffsynth("models.svd_unet").SVDUNet

    def narrow(size: int) -> int:
        return {1024: NARROW.unet.context_dim}.get(size, size // 10 if size % 320 == 0 else size)

    unet = narrowed(lambda: cls(add_positional_conv=frames), narrow)
    load_strictly(unet, cls.state_dict_converter().from_civitai(file), extension)
    return unet


def diffsynth_decoder(file: Weights) -> nn.Module:
    """DiffSynth's temporal decoder over an sgm checkpoint."""
    cls = diffsynth("models.svd_vae_decoder").SVDVAEDecoder
    return load_strictly(narrowed(cls, quarter), cls.state_dict_converter().from_civitai(file))


def diffsynth_encoder(file: Weights) -> nn.Module:
    """DiffSynth's image autoencoder, first half, over an sgm checkpoint."""
    cls = diffsynth("models.svd_vae_encoder").SVDVAEEncoder
    return load_strictly(narrowed(cls, quarter), cls.state_dict_converter().from_civitai(file))


def diffsynth_image_encoder(file: Weights) -> nn.Module:
    """DiffSynth's CLIP vision tower over an sgm checkpoint."""
    cls = diffsynth("models.svd_image_encoder").SVDImageEncoder
    sizes = NARROW.image_encoder
    tower = cls(
        embed_dim=sizes.hidden_size,
        num_encoder_layers=sizes.num_hidden_layers,
        encoder_intermediate_size=sizes.intermediate_size,
        projection_dim=sizes.projection_dim,
        num_heads=sizes.num_attention_heads,
        head_dim=sizes.hidden_size // sizes.num_attention_heads,
    )
    return load_strictly(tower, cls.state_dict_converter().from_civitai(file))


def diffsynth_pipeline(file: Weights, extension: Weights | None = None) -> Any:
    """DiffSynth's own SVD pipeline, in float32 on the CPU."""
    diffsynth("models.svd_unet")  # makes the packages
    models, schedulers = (importlib.import_module(f"diffsynth.{name}") for name in ("models", "schedulers"))
    models.ModelManager = None  # only named in signatures
    for name in ("SVDImageEncoder", "SVDUNet", "SVDVAEEncoder", "SVDVAEDecoder"):
        submodule = "svd_" + name.removeprefix("SVD").replace("VAE", "VAE_").replace("ImageE", "Image_E").lower()
        setattr(models, name, getattr(diffsynth(f"models.{submodule}"), name))
    schedulers.ContinuousODEScheduler = diffsynth("schedulers.continuous_ode").ContinuousODEScheduler
    pipe = diffsynth("pipelines.svd_video").SVDVideoPipeline(device="cpu", torch_dtype=torch.float32)
    pipe.unet = diffsynth_unet(file, extension)
    pipe.vae_encoder, pipe.vae_decoder = diffsynth_encoder(file), diffsynth_decoder(file)
    pipe.image_encoder = diffsynth_image_encoder(file)
    return pipe


def with_published_eps(decoder: nn.Module) -> nn.Module:
    """DiffSynth's decoder with the norms of sgm and diffusers: 1e-5 over time, 1e-6 at the end, it has the reverse."""
    decoder = copy.deepcopy(decoder)
    temporal = diffsynth("models.svd_vae_decoder").TemporalResnetBlock
    for block in decoder.modules():
        if isinstance(block, temporal):
            block.norm1.eps = block.norm2.eps = 1e-5
    decoder.conv_norm_out.eps = 1e-6
    return decoder


def unet_with_diffusers_eps(unet: nn.Module) -> nn.Module:
    """DiffSynth's UNet with 1e-6 where diffusers has that and it has 1e-5: the norm in front of each transformer, and
    the norms of the residual blocks over time on the lowest level up.
    """
    unet = copy.deepcopy(unet)
    module = diffsynth("models.svd_unet")
    over_time = [block for block in unet.blocks if isinstance(block, module.TemporalResnetBlock)]
    for block in over_time[10:13]:  # after 8 on the way down and 2 in the middle
        block.norm1.eps = block.norm2.eps = 1e-6
    for block in unet.blocks:
        if isinstance(block, module.AttentionBlock):
            block.norm.eps = 1e-6
    return unet


def quarter(size: int) -> int:
    return size // 4 if size % 128 == 0 else size


def narrowed(build: Callable[[], nn.Module], narrow: Callable[[int], int]) -> nn.Module:
    """A network built at full size, without memory, whose parameters and their layers' settings then shrink."""
    with torch.device("meta"):
        network = build()
    for module in network.modules():
        for name in ("in_features", "out_features", "in_channels", "out_channels", "num_channels", "normalized_shape"):
            size = getattr(module, name, None)
            if isinstance(size, int):
                setattr(module, name, narrow(size))
            elif isinstance(size, tuple):
                setattr(module, name, tuple(map(narrow, size)))
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.full(tuple(map(narrow, weight.shape)), torch.nan)))
    for module in network.modules():
        if hasattr(module, "head_dim"):  # a head has 64 channels, or all there are
            width = module.to_q.out_features
            module.num_heads = min(module.num_heads, max(1, width // 64))
            module.head_dim = width // module.num_heads
    return network


def load_strictly(network: nn.Module, weights: Weights, extension: Weights | None = None) -> nn.Module:
    network.load_state_dict({**weights, **(extension or {})})  # strict: every name and shape fits
    return network.eval().requires_grad_(False)


# diffusers

# scheduler_config.json of stabilityai/stable-video-diffusion-img2vid-xt
PUBLISHED_SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "steps_offset": 1,
}


def diffusers_unet(ours: Weights, sizes: Sizes = NARROW) -> Any:
    """diffusers' UNet with our weights."""
    from diffusers import UNetSpatioTemporalConditionModel

    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=sizes.unet.widths,
        num_attention_heads=tuple(max(1, width // 64) for width in sizes.unet.widths),
        addition_time_embed_dim=sizes.unet.id_dim,
        projection_class_embeddings_input_dim=3 * sizes.unet.id_dim,
        cross_attention_dim=sizes.unet.context_dim,
    )
    return _load_mapped(unet, unet_from_diffusers, ours)


def diffusers_vae(ours: Weights, sizes: Sizes = NARROW) -> Any:
    """diffusers' autoencoder with our weights."""
    from diffusers import AutoencoderKLTemporalDecoder

    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=sizes.vae.widths,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae.widths),
        layers_per_block=sizes.vae.blocks_per_level,
    )
    return _load_mapped(vae, vae_from_diffusers, ours)


def diffusers_pipeline(pipe: Any) -> Any:
    """diffusers' own SVD pipeline, with the weights of ours and the scheduler settings of the published model."""
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    reference = StableVideoDiffusionPipeline(
        vae=diffusers_vae(pipe.vae.state_dict()),
        image_encoder=pipe.image_encoder.clip,
        unet=diffusers_unet(pipe.unet.state_dict()),
        scheduler=EulerDiscreteScheduler(**PUBLISHED_SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )
    reference.set_progress_bar_config(disable=True)
    return reference


def _load_mapped(network: nn.Module, key_map: Callable[[list[str]], dict[str, str]], ours: Weights) -> nn.Module:
    own = network.state_dict()
    weights = {old: ours[new].reshape(own[old].shape) for old, new in key_map(list(own)).items()}
    network.load_state_dict(weights)
    assert len(set(key_map(list(own)).values())) == len(ours)  # and nothing of ours is left over
    return network.eval().requires_grad_(False)
