"""Our VAE in the stock nodes: the same frames whatever memory is free and whatever tile sizes are asked for."""

import pytest
import torch


@pytest.fixture
def vae(loaded):
    return loaded[2]


@pytest.fixture
def latents():
    return torch.randn(11, 4, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("free", [2**20, 2**40])
def test_stock_decode_does_not_depend_on_free_memory(vae, latents, monkeypatch, free):
    import comfy.model_management

    from nodes import VAEDecode

    frames = VAEDecode().decode(vae, {"samples": latents})[0]
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_args, **_options: free)

    assert torch.equal(VAEDecode().decode(vae, {"samples": latents})[0], frames)


def test_decoded_frames_are_what_comfyui_expects(vae, latents):
    frames = vae.decode(latents)

    assert frames.shape == (11, 128, 192, 3)
    assert frames.dtype == torch.float32
    assert frames.min() >= 0
    assert frames.max() <= 1


def test_stock_tiled_decode_gives_the_same(vae, latents):
    from nodes import VAEDecodeTiled

    tiled = VAEDecodeTiled().decode(vae, {"samples": latents}, 64, overlap=16, temporal_size=8, temporal_overlap=4)[0]

    assert torch.equal(tiled, vae.decode(latents))


def test_stock_encodes_agree_and_cut_to_whole_cells(vae):
    from nodes import VAEEncode, VAEEncodeTiled

    frames = torch.rand(2, 133, 130, 4)  # with transparency
    encoded = VAEEncode().encode(vae, frames)[0]["samples"]

    assert encoded.shape == (2, 4, 16, 16)
    assert torch.equal(encoded, vae.encode(frames[:, 2:130, 1:129]))
    assert torch.equal(VAEEncodeTiled().encode(vae, frames, 512, 64)[0]["samples"], encoded)


def test_encoding_equals_the_cores_network(vae):
    frames = torch.rand(1, 128, 128, 3)

    assert torch.equal(vae.encode(frames), vae.first_stage_model.encode(frames.movedim(-1, 1) * 2 - 1))


@pytest.mark.parametrize("call", ["decode", "encode"])
def test_cancel_stops_within_one_piece(vae, monkeypatch, call):
    import comfy.model_management as management

    pieces = []

    def cancel_at_second():
        pieces.append(1)
        if len(pieces) == 2:
            raise management.InterruptProcessingException

    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", cancel_at_second)
    given = torch.zeros(16, 4, 16, 16) if call == "decode" else torch.zeros(16, 128, 128, 3)

    with pytest.raises(management.InterruptProcessingException):
        getattr(vae, call)(given)
    assert len(pieces) == 2


def test_progress_counts_windows(vae, monkeypatch):
    import comfy.utils

    seen = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_args, **_more: seen.append((value, total))
    )
    vae.decode(torch.zeros(16, 4, 16, 16))

    assert seen[-1][0] == seen[-1][1]
    assert seen[-1][1] == 3  # windows of 8 frames, 4 apart


def test_attributes_that_stock_nodes_read(vae):
    vae.throw_exception_if_invalid()

    assert vae.spacial_compression_encode() == 8
    assert vae.spacial_compression_decode() == 8
    assert vae.temporal_compression_decode() is None
    assert vae.latent_channels == 4
    assert vae.model_size() > 0


def test_copy_for_another_device(vae):
    factory, arguments = vae.patcher.cached_patcher_init[:2]

    fresh = factory(*arguments, disable_dynamic=True)

    for name, weight in vae.get_sd().items():
        assert torch.equal(fresh.model.state_dict()[name], weight)


def test_no_alarming_words_in_the_log(pack, files, caplog):
    pack.svd.loading.load_svd(*files, torch.float32)

    assert "VAE" not in " ".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
