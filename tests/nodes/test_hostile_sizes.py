"""Weight files whose tensors tell of networks that cannot be: the loaders answer in words, as the core does."""

from pathlib import Path

import pytest
import torch

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus" / "weights"

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize("name", ["width_that_no_head_divides", "head_of_nothing", "a_thousand_layers"])
def test_a_transformer_that_cannot_be_is_refused_in_words(pack, name):
    with pytest.raises(
        pack.errors.CheckpointError, match=r"sizes that no such network has|it has 1000 layers|have another shape"
    ):
        pack.cogvideox.loading._load_model(CORPUS / name, torch.float32)


@pytest.mark.parametrize("name", ["vae_without_levels", "vae_of_scalars"])
def test_an_autoencoder_that_cannot_be_is_refused_in_words(pack, name):
    part = pack.cogvideox.loading.read_vae(CORPUS / name)

    with pytest.raises(pack.errors.CheckpointError):
        pack.cogvideox.loading.CogVAE(part.weights, part.source)


def test_an_autoencoder_of_odd_widths_is_refused_in_words(pack):
    weights = {"decoder.conv_in.weight": torch.zeros(7, 4, 3, 3)}
    weights |= {"encoder.down.0.block.0.conv1.weight": torch.zeros(7, 7, 3, 3)}

    with pytest.raises(pack.errors.CheckpointError, match=r"^odd\.safetensors has tensors in sizes"):
        pack.svd.vae.SVDVAE(weights, "odd.safetensors")
