"""CogVideoX's VAE in the stock nodes: the same frames whatever memory is free."""

import pytest
import torch
from in_comfyui import relative

from exvideo_core.families.cogvideox.checkpoint import read_vae
from exvideo_core.families.cogvideox.pipeline import build_vae


@pytest.fixture
def vae(cog):
    return cog.vae


@pytest.fixture
def latents():
    return torch.randn(1, 16, 5, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("free", [2**20, 2**40])
def test_stock_decode_does_not_depend_on_free_memory(vae, latents, monkeypatch, free):
    import comfy.model_management

    from nodes import VAEDecode

    frames = VAEDecode().decode(vae, {"samples": latents})[0]
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_args, **_options: free)

    assert frames.shape == (17, 32, 48, 3)
    assert frames.dtype == torch.float32
    assert (frames.min() >= 0) & (frames.max() <= 1)
    assert torch.equal(VAEDecode().decode(vae, {"samples": latents})[0], frames)


def test_decoding_equals_the_cores(vae, latents, cog_files):
    with torch.inference_mode():
        wanted = (build_vae(read_vae(cog_files[2])).decode(latents) + 1) / 2

    assert relative(vae.decode(latents)[0], wanted[0].clamp(0, 1).movedim(0, -1)) <= 1e-6


def test_clips_of_a_batch_are_decoded_alone(vae, latents):
    other = latents.flip(-1)

    both = vae.decode(torch.cat([latents, other]))

    assert both.shape == (2, 17, 32, 48, 3)
    assert torch.equal(both[1], vae.decode(other)[0])


def test_stock_tiled_decode_cuts_height_and_width_only(vae, monkeypatch):
    from nodes import VAEDecodeTiled

    latents = torch.randn(1, 16, 3, 4, 40)
    tiles = []
    decode = type(vae.first_stage_model).decode_spans
    monkeypatch.setattr(
        type(vae.first_stage_model),
        "decode_spans",
        lambda self, z, progress, tile, *others: tiles.append(tile) or decode(self, z, progress, tile, *others),
    )

    tiled = VAEDecodeTiled().decode(vae, {"samples": latents}, 256, overlap=64, temporal_size=8, temporal_overlap=4)[0]

    assert tiles == [32]
    assert tiled.shape == (9, 32, 320, 3)
    assert 0 < relative(tiled, vae.decode(latents)[0]) < 1


def test_stock_encodes_agree_and_cut_to_whole_cells(vae):
    from nodes import VAEEncode, VAEEncodeTiled

    frames = torch.rand(13, 37, 50, 4)  # with transparency
    encoded = VAEEncode().encode(vae, frames)[0]["samples"]

    assert encoded.shape == (1, 16, 4, 4, 6)
    assert torch.equal(encoded, vae.encode(frames[:, 2:34, 1:49, :3]))
    assert torch.equal(VAEEncodeTiled().encode(vae, frames, 512, 64)[0]["samples"], encoded)
    pixels = frames[:, 2:34, 1:49, :3].movedim(-1, 0)[None] * 2 - 1
    assert torch.equal(encoded, vae.first_stage_model.encode(pixels))


@pytest.mark.parametrize("call", ["decode", "encode"])
def test_cancel_stops_within_one_piece(vae, monkeypatch, call):
    import comfy.model_management as management

    pieces = []

    def cancel_at_second():
        pieces.append(1)
        if len(pieces) == 2:
            raise management.InterruptProcessingException

    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", cancel_at_second)
    given = torch.zeros(1, 16, 9, 4, 4) if call == "decode" else torch.zeros(33, 32, 32, 3)

    with pytest.raises(management.InterruptProcessingException):
        getattr(vae, call)(given)
    assert len(pieces) == 2


def test_memory_that_ends_leads_to_smaller_tiles(vae, monkeypatch, caplog):
    latents, sides = torch.zeros(1, 16, 3, 4, 72), []
    decode = type(vae)._decode

    def needs_less(self, z, side):
        sides.append(side)
        if side > 20:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return decode(self, z, side)

    monkeypatch.setattr(type(vae), "_decode", needs_less)

    assert vae.decode(latents).shape == (1, 9, 32, 576, 3)
    assert sides == [72, 36, 18]
    assert "tiles of 18 latent cells" in caplog.text


def test_other_errors_are_not_taken_for_it(vae, monkeypatch):
    def fail(*_args):
        raise RuntimeError("broken")

    monkeypatch.setattr(type(vae), "_decode", fail)
    with pytest.raises(RuntimeError, match="broken"):
        vae.decode(torch.zeros(1, 16, 3, 4, 72))


def test_other_latents_are_refused_in_words(vae, pack):
    with pytest.raises(pack.errors.ExVideoError, match="this latent is not CogVideoX's"):
        vae.decode(torch.zeros(6, 4, 16, 16))


def test_attributes_that_stock_nodes_read(vae):
    vae.throw_exception_if_invalid()

    assert vae.spacial_compression_encode() == 8
    assert vae.spacial_compression_decode() == 8
    assert vae.temporal_compression_decode() == 4
    assert vae.upscale_ratio[0](33) == 129
    assert vae.downscale_ratio[0](129) == 33
    assert (vae.latent_channels, vae.latent_dim) == (16, 3)
    assert vae.model_size() > 0


def test_copy_for_another_device(vae):
    factory, arguments = vae.patcher.cached_patcher_init[:2]

    fresh = factory(*arguments, disable_dynamic=True)

    for name, weight in vae.get_sd().items():
        assert torch.equal(fresh.model.state_dict()[name], weight)


def test_saved_by_the_stock_node_it_loads_again(vae, tmp_path, monkeypatch):
    import folder_paths
    from comfy_extras.nodes_model_merging import VAESave

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    VAESave().save(vae, "vae")
    (file,) = tmp_path.glob("vae_*.safetensors")

    weights = read_vae(file).weights
    assert all(torch.equal(weights[name], weight) for name, weight in vae.get_sd().items())
