"""The documentation's numbers about memory are the code's, at the real sizes."""

from pathlib import Path

import pytest
import torch

from exvideo_core.families.cogvideox.config import TransformerConfig
from exvideo_core.families.cogvideox.training_config import CogVideoXTraining
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.svd.config import UNetConfig
from exvideo_core.families.svd.training import trained_units
from exvideo_core.families.svd.training_config import SVDTraining
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.lora import new_lora
from exvideo_core.training.dry_run import footprint_table

PAGE = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")


def svd(scope):
    """Frozen and trained numbers of SVD, extended to 128 frames."""
    with torch.device("meta"):
        unet = SVDUNet(UNetConfig(extension_frames=128))
    trained = sum(p.numel() for unit in trained_units(unet, scope).values() for p in unit.parameters())
    return sum(p.numel() for p in unet.parameters()) - trained, trained, SVDTraining()


def cogvideox():
    """Frozen and trained numbers of CogVideoX-5B and a LoRA of the usual rank."""
    config = CogVideoXTraining()
    with torch.device("meta"):
        transformer = CogVideoXTransformer(TransformerConfig())
        lora = new_lora(transformer, config.model.targets, rank=config.model.rank)
    trained = sum(pair.down.numel() + pair.up.numel() for pair in lora.pairs.values())
    return sum(p.numel() for p in transformer.parameters()), trained, config


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (lambda: svd("temporal"), "`trainable: temporal`: 833.0 million parameters"),
        (lambda: svd("new"), "`trainable: new`: 336.2 million parameters"),
        (cogvideox, "LoRA of rank 64 on to_q, to_k, to_v and to_out.0: 66.1 million parameters"),
    ],
    ids=["svd temporal", "svd new", "cogvideox"],
)
def test_memory_tables_are_what_the_code_counts(count, said):
    frozen, trained, config = count()
    _, found, rest = PAGE.partition(said)

    assert found
    assert f"{trained / 1e6:.1f} million" in said
    assert rest.partition("|")[2].startswith(footprint_table(frozen, trained, config.run, config.optimizer)[1:])
