"""Colours of previews are fitted to what an autoencoder decodes, and noted in the file beside untouched tensors."""

import json

import torch
from narrow_svd import TINY, save_files
from safetensors import safe_open
from safetensors.torch import load_file

from tools.demo_models.svd import preview_colours
from tools.demo_models.svd.preview_colours import BIAS, FACTORS, fit, main, notes


def test_known_colours_are_found():
    generator = torch.Generator().manual_seed(0)
    factors, bias = torch.randn(4, 3, generator=generator), torch.randn(3, generator=generator)
    latents = torch.randn(5, 4, 6, 7, generator=generator)
    pictures = torch.einsum("nchw,cr->nrhw", latents, factors) + bias.view(1, 3, 1, 1)
    found = fit(latents, pictures.repeat_interleave(8, -1).repeat_interleave(8, -2))

    torch.testing.assert_close(found, (factors, bias), rtol=1e-4, atol=1e-4)
    assert json.loads(notes(*found)[BIAS]) == [round(float(value), 4) for value in bias]


def test_a_checkpoint_gets_notes_and_keeps_its_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(preview_colours, "_PICTURES", 2)
    monkeypatch.setattr(preview_colours, "_SIDE", 32)
    checkpoint, _ = save_files(tmp_path, TINY, 12)
    before = load_file(checkpoint)
    main([str(checkpoint)])
    with safe_open(checkpoint, "pt") as file:
        said = file.metadata()

    after = load_file(checkpoint)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert torch.tensor(json.loads(said[FACTORS])).shape == (4, 3)
    assert len(json.loads(said[BIAS])) == 3
