"""Reading, checking, merging and saving whole models, on narrow files with all the names of the real ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from exvideo_core.cli.inspect import inspect
from exvideo_core.errors import CheckpointError
from exvideo_core.families.svd.checkpoint import read_svd
from exvideo_core.families.svd.config import UNetConfig, VAEConfig
from exvideo_core.families.svd.keys import extension_to_sgm
from exvideo_core.families.svd.save import save_extension, save_svd
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE
from exvideo_core.weights.assign import assign_weights
from exvideo_core.weights.safetensors_files import open_weights

GOLDEN: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parents[3] / "golden" / "weight_names.json.gz").read_bytes())
)
UNET = "model.diffusion_model."
VISION = "conditioner.embedders.0.open_clip.model.visual."
EMBEDDER = "conditioner.embedders.3.encoder."
FRAMES = 8  # 128 narrowed

Weights = dict[str, Tensor]


def narrowed(size: int) -> int:
    return size // 40 if size % 320 == 0 else size // 16 if size % 128 == 0 else size


def weights_of(file: str) -> Weights:
    torch.manual_seed(0)
    shapes = GOLDEN["files"][file].items()
    return {name: torch.randn([narrowed(size) for size in shape], dtype=torch.float16) for name, shape in shapes}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """svd_xt.safetensors and extension.safetensors, narrow."""
    folder = tmp_path_factory.mktemp("models")
    save_file(weights_of("svd_xt"), folder / "svd_xt.safetensors")
    save_file(weights_of("exvideo_svd_128f"), folder / "extension.safetensors")
    return folder


def assert_same(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def save_diffusers(folder: Path, svd: Weights, suffix: str = "") -> None:
    """The same weights as a diffusers folder, made with the recorded maps rather than the rules under test."""
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        shapes = GOLDEN["files"][f"svd_xt_{part}_diffusers"]
        weights = {old: svd[new] for old, new in GOLDEN["maps"][part].items()}
        weights = {name: w.reshape([narrowed(size) for size in shapes[name]]).clone() for name, w in weights.items()}
        save_file(weights, folder / part / f"diffusion_pytorch_model{suffix}.safetensors")
    (folder / "image_encoder").mkdir()
    encoder = weights_of("svd_xt_image_encoder_diffusers")
    encoder["vision_model.embeddings.position_ids"] = torch.arange(257)[None]
    save_file(encoder, folder / "image_encoder" / f"model{suffix}.safetensors")


def changed(source: Path, target: Path, change: Callable[[Weights], object]) -> Path:
    weights = load_file(source)
    change(weights)
    save_file(weights, target)
    return target


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def test_a_single_file_is_split_into_the_three_networks(folder: Path) -> None:
    file = load_file(folder / "svd_xt.safetensors")
    svd = read_svd(folder / "svd_xt.safetensors")

    assert shapes_of(svd.unet) == {n.removeprefix(UNET): tuple(w.shape) for n, w in file.items() if n.startswith(UNET)}
    assert len(svd.unet) == 1428
    assert len(svd.vae) == 374
    assert svd.image_encoder.keys() == GOLDEN["files"]["svd_xt_image_encoder_diffusers"].keys()
    assert (svd.extension_frames, svd.sources) == (None, ("svd_xt.safetensors",))


def test_the_encoder_comes_from_the_image_embedder(folder: Path) -> None:
    file = load_file(folder / "svd_xt.safetensors")
    vae = read_svd(folder / "svd_xt.safetensors").vae

    assert torch.equal(vae["encoder.conv_in.weight"], file[f"{EMBEDDER}encoder.conv_in.weight"])
    assert torch.equal(vae["quant_conv.bias"], file[f"{EMBEDDER}quant_conv.bias"])
    assert torch.equal(vae["decoder.conv_in.weight"], file["first_stage_model.decoder.conv_in.weight"])


def test_without_an_image_embedder_the_encoder_is_the_first_stage_s(folder: Path, tmp_path: Path) -> None:
    def drop_embedder(weights: Weights) -> None:
        for name in [name for name in weights if name.startswith(EMBEDDER)]:
            del weights[name]

    path = changed(folder / "svd_xt.safetensors", tmp_path / "svd.safetensors", drop_embedder)
    vae = read_svd(path).vae

    assert torch.equal(vae["encoder.conv_in.weight"], load_file(path)["first_stage_model.encoder.conv_in.weight"])
    assert not any(name.startswith("quant_conv") for name in vae)
    with torch.device("meta"):
        assign_weights(VAE(VAEConfig.from_shapes(shapes_of(vae)), quantised=False), vae, path.name)


def test_the_weights_of_opened_files_fill_the_networks_exactly(folder: Path) -> None:
    svd = read_svd(open_weights(folder / "svd_xt.safetensors"), open_weights(folder / "extension.safetensors"))
    with torch.device("meta"):
        unet = SVDUNet(UNetConfig.from_shapes(shapes_of(svd.unet)))
        vae = VAE(VAEConfig.from_shapes(shapes_of(svd.vae)))

    assign_weights(unet, svd.unet, "svd_xt.safetensors")
    assign_weights(vae, svd.vae, "svd_xt.safetensors")

    assert unet.state_dict().keys() == svd.unet.keys()
    assert unet.get_parameter("out.0.bias").data_ptr() == svd.unet["out.0.bias"].data_ptr()
    assert not any(weight.is_meta for module in (unet, vae) for weight in module.state_dict().values())


def test_an_extension_replaces_480_tensors_adds_48_and_keeps_the_rest(folder: Path) -> None:
    base = read_svd(folder / "svd_xt.safetensors").unet
    svd = read_svd(folder / "svd_xt.safetensors", folder / "extension.safetensors")
    extension = {extension_to_sgm(n): w for n, w in load_file(folder / "extension.safetensors").items()}

    assert len(svd.unet) == 1428 + 48
    assert svd.extension_frames == FRAMES
    assert svd.sources == ("svd_xt.safetensors", "extension.safetensors")
    assert len(extension.keys() & base.keys()) == 480
    for name, weight in svd.unet.items():
        assert torch.equal(weight, extension.get(name, base.get(name))), name


def test_a_diffusers_folder_gives_the_same_networks(folder: Path, tmp_path: Path) -> None:
    single = read_svd(folder / "svd_xt.safetensors", folder / "extension.safetensors")
    save_diffusers(tmp_path, load_file(folder / "svd_xt.safetensors"), suffix=".fp16")
    svd = read_svd(tmp_path, folder / "extension.safetensors")

    for part in ("unet", "vae"):
        assert_same(getattr(svd, part), getattr(single, part))
    assert svd.image_encoder.keys() == single.image_encoder.keys()


def test_a_folder_without_all_its_parts_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()

    with pytest.raises(CheckpointError, match="is not a diffusers folder of SVD: vae and image_encoder missing"):
        read_svd(tmp_path)


def test_a_saved_checkpoint_reads_back_with_its_extension(folder: Path, tmp_path: Path) -> None:
    svd = read_svd(folder / "svd_xt.safetensors", folder / "extension.safetensors")
    save_svd(tmp_path / "saved.safetensors", svd.unet, svd.vae, svd.image_encoder)

    again = read_svd(tmp_path / "saved.safetensors")

    assert again.extension_frames == FRAMES
    for part in ("unet", "vae", "image_encoder"):
        assert_same(getattr(again, part), getattr(svd, part))


def test_the_first_stage_of_a_saved_checkpoint_needs_no_quant_conv(folder: Path, tmp_path: Path) -> None:
    svd = read_svd(folder / "svd_xt.safetensors")
    save_svd(tmp_path / "saved.safetensors", svd.unet, svd.vae, svd.image_encoder)
    file = load_file(tmp_path / "saved.safetensors")
    vae = {name: weight.float() for name, weight in svd.vae.items()}
    x = torch.randn(1, 32, 5, 7)

    expected = nn.functional.conv2d(x, vae["encoder.conv_out.weight"], vae["encoder.conv_out.bias"], padding=1)
    expected = nn.functional.conv2d(expected, vae["quant_conv.weight"], vae["quant_conv.bias"])
    weight, bias = (file[f"first_stage_model.encoder.conv_out.{part}"].float() for part in ("weight", "bias"))

    torch.testing.assert_close(nn.functional.conv2d(x, weight, bias, padding=1), expected, rtol=1e-2, atol=0.2)
    assert not any("quant_conv" in name for name in file if name.startswith("first_stage_model."))


def test_a_checkpoint_saved_by_comfyui_reads_back(folder: Path, tmp_path: Path) -> None:
    """Layout of ImageOnlyCheckpointSave (ComfyUI 0.30): our networks' own names, and notes on the sampling."""
    svd = read_svd(folder / "svd_xt.safetensors", folder / "extension.safetensors")
    weights = {UNET + name: weight for name, weight in svd.unet.items()}
    weights |= {f"first_stage_model.{name}": weight for name, weight in svd.vae.items()}
    weights |= {VISION + name: weight.contiguous() for name, weight in svd.image_encoder.items()}
    notes = {"edm_vpred.sigma_max": torch.tensor(700.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    save_file(weights | notes | {"v_pred": torch.tensor([])}, tmp_path / "saved.safetensors")

    again = read_svd(tmp_path / "saved.safetensors")

    assert again.extension_frames == FRAMES
    assert [shapes_of(getattr(again, part)) for part in ("unet", "vae", "image_encoder")] == [
        shapes_of(getattr(svd, part)) for part in ("unet", "vae", "image_encoder")
    ]


def test_an_extension_over_an_extended_checkpoint_replaces_its_extension(folder: Path, tmp_path: Path) -> None:
    svd = read_svd(folder / "svd_xt.safetensors", folder / "extension.safetensors")
    save_svd(tmp_path / "saved.safetensors", svd.unet, svd.vae, svd.image_encoder)

    def lengthen(weights: Weights) -> None:
        for name in [name for name in weights if name.endswith(".embeddings")]:
            weights[name] = torch.cat([weights[name], weights[name]])

    longer = changed(folder / "extension.safetensors", tmp_path / "longer.safetensors", lengthen)

    assert read_svd(tmp_path / "saved.safetensors", longer).extension_frames == 2 * FRAMES


def test_a_saved_extension_is_the_published_file(folder: Path, tmp_path: Path) -> None:
    svd = read_svd(folder / "svd_xt.safetensors", folder / "extension.safetensors")
    save_extension(tmp_path / "deep" / "mine.safetensors", svd.unet)

    assert_same(load_file(tmp_path / "deep" / "mine.safetensors"), load_file(folder / "extension.safetensors"))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["mine.safetensors"]


def test_a_unet_without_an_extension_is_not_saved_as_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no complete extension \(48 tensors missing"):
        save_extension(tmp_path / "mine.safetensors", read_svd(folder / "svd_xt.safetensors").unet)
    with pytest.raises(CheckpointError, match="differs in 16 of them"):
        save_extension(tmp_path / "mine.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_no_file_and_keeps_the_old_one(folder: Path, tmp_path: Path) -> None:
    svd = read_svd(folder / "svd_xt.safetensors", folder / "extension.safetensors")
    (tmp_path / "mine.safetensors").mkdir()  # cannot be replaced by a file

    with pytest.raises(CheckpointError, match="is a folder"):
        save_extension(tmp_path / "mine.safetensors", svd.unet)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def spoil(name: str, value: float) -> Callable[[Weights], object]:
    return lambda weights: weights[name].view(-1)[-1:].fill_(value)


def cut_table(weights: Weights) -> None:
    weights["blocks.39.positional_embedding.embeddings"] = torch.zeros(5, 16, dtype=torch.float16)


def rename_block(weights: Weights) -> None:
    for name in [name for name in weights if name.startswith("blocks.7.")]:
        weights[name.replace("blocks.7.", "blocks.9.")] = weights.pop(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda w: w.pop("blocks.83.norm_in.bias"),
            r"528 tensors: 1 tensors are missing \(first: blocks\.83\.norm_in\.bias\)",
        ),
        (lambda w: [w.pop(n) for n in list(w) if n.startswith("blocks.175.")], "528 tensors: 33 tensors are missing"),
        (lambda w: w.update(note=torch.zeros(1)), r"1 are unknown \(first: note\)"),
        (
            rename_block,
            r"528 tensors: 33 tensors are missing \(first: blocks\.7\..+33 are unknown \(first: blocks\.9\.",
        ),
        (cut_table, r"1 have another shape \(first: blocks\.39\.pos.+ is \[5, 16\], \[8, 16\] is needed\)"),
        (spoil("blocks.7.norm1.bias", float("nan")), r"in 1 of 528 tensors \(first: blocks\.7\.norm1\.bias\)"),
        (
            spoil("blocks.7.positional_conv.weight", float("inf")),
            r"in 1 of 528 tensors \(first: blocks\.7\.positional_c",
        ),
        (spoil("blocks.7.positional_conv.weight", -float("inf")), "has NaN or Inf in"),
    ],
)
def test_a_faulty_extension_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[Weights], object], words: str
) -> None:
    path = changed(folder / "extension.safetensors", tmp_path / "faulty.safetensors", change)

    with pytest.raises(CheckpointError, match=words) as error:
        read_svd(folder / "svd_xt.safetensors", path)
    assert "faulty.safetensors" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_an_extension_keeps_its_number_format(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    def cast(weights: Weights) -> None:
        weights.update({name: weight.to(dtype) for name, weight in weights.items()})

    path = changed(folder / "extension.safetensors", tmp_path / "cast.safetensors", cast)
    unet = read_svd(folder / "svd_xt.safetensors", path).unet

    assert unet["middle_block.1.extension.mix.weight"].dtype is dtype
    assert unet["out.0.bias"].dtype is torch.float16


def test_nan_is_found_in_float8_too(folder: Path, tmp_path: Path) -> None:
    def cast(weights: Weights) -> None:
        spoil("blocks.7.norm1.bias", float("nan"))(weights)
        weights.update({name: weight.to(torch.float8_e4m3fn) for name, weight in weights.items()})

    path = changed(folder / "extension.safetensors", tmp_path / "cast.safetensors", cast)
    with pytest.raises(CheckpointError, match="in 1 of 528 tensors"):
        read_svd(folder / "svd_xt.safetensors", path)


def test_an_extension_for_other_widths_is_refused(folder: Path, tmp_path: Path) -> None:
    def widen(weights: Weights) -> None:
        weights.update({name: weight.repeat([2] * weight.ndim) for name, weight in weights.items()})

    path = changed(folder / "extension.safetensors", tmp_path / "wide.safetensors", widen)
    with pytest.raises(CheckpointError, match=r"528 have another shape .+ is \[512\], \[256\] is needed"):
        read_svd(folder / "svd_xt.safetensors", path)


def test_swapped_files_are_named(folder: Path) -> None:
    svd, extension = folder / "svd_xt.safetensors", folder / "extension.safetensors"

    with pytest.raises(
        CheckpointError, match=r"^extension\.safetensors is an ExVideo ext.+, not an SVD checkpoint; choo"
    ):
        read_svd(extension)
    with pytest.raises(CheckpointError, match=r"^svd_xt\.safetensors is an SVD checkpoint, not an ExVideo extension"):
        read_svd(svd, svd)


def test_unknown_tensors_in_a_checkpoint_are_refused(folder: Path, tmp_path: Path) -> None:
    path = changed(
        folder / "svd_xt.safetensors", tmp_path / "svd.safetensors", lambda w: w.update(extra=torch.zeros(1))
    )

    with pytest.raises(CheckpointError, match=r"contains 'extra', which is no part of SVD"):
        read_svd(path)


def test_position_tables_of_an_extended_checkpoint_must_agree(folder: Path, tmp_path: Path) -> None:
    svd = read_svd(folder / "svd_xt.safetensors", folder / "extension.safetensors")
    table = "input_blocks.4.1.extension.positions.weight"
    save_svd(tmp_path / "s.safetensors", svd.unet | {table: svd.unet[table][:3]}, svd.vae, svd.image_encoder)

    with pytest.raises(CheckpointError, match=r"different lengths \(\[3, 8\]\)"):
        read_svd(tmp_path / "s.safetensors")


def test_weights_that_do_not_fit_a_module_are_counted() -> None:
    x = torch.zeros(1)
    with torch.device("meta"):
        module = nn.Linear(3, 2)

    with pytest.raises(CheckpointError, match=r"fit Linear: 1 tensors are missing \(first: bias\), 1 are unk"):
        assign_weights(module, {"weight": torch.zeros(2, 3), "other": torch.zeros(1)}, "f")
    with pytest.raises(CheckpointError, match=r"Linear: 1 are unknown \(first: other\)"):
        assign_weights(
            module, {name: torch.zeros(w.shape) for name, w in module.state_dict().items()} | {"other": x}, "f"
        )
    with pytest.raises(CheckpointError, match=r"1 have another shape \(first: weight is \[3, 2\], \[2, 3\] is"):
        assign_weights(module, {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, "f")


def test_inspect_says_what_would_load(folder: Path, tmp_path: Path) -> None:
    svd = read_svd(folder / "svd_xt.safetensors", folder / "extension.safetensors")
    save_svd(tmp_path / "both.safetensors", svd.unet, svd.vae, svd.image_encoder)

    lines = inspect(folder / "extension.safetensors").splitlines()
    assert lines[0] == "extension.safetensors: an ExVideo extension of SVD for 8 frames"
    assert "  tensors     528" in lines
    assert "  format      float16" in lines
    assert "  widths      8, 16, 32" in lines
    assert "  frames      8" in lines
    assert "  loads       yes, over an SVD checkpoint of widths 8, 16, 32, 32" in lines
    assert "  loads       yes\n" in inspect(folder / "svd_xt.safetensors")
    assert "  loads       yes, extended to 8 frames\n" in inspect(tmp_path / "both.safetensors")


def test_inspect_says_why_not(folder: Path, tmp_path: Path) -> None:
    def spoilt(weights: Weights) -> None:
        del weights[f"{UNET}out.2.bias"]

    svd = changed(folder / "svd_xt.safetensors", tmp_path / "svd.safetensors", spoilt)
    nan = spoil("blocks.7.norm1.bias", float("nan"))
    extension = changed(folder / "extension.safetensors", tmp_path / "nan.safetensors", nan)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")

    assert "loads       no: svd.safetensors does not fit SVDUNet: 1 tensors are missing (first: out.2" in inspect(svd)
    assert "loads       no: nan.safetensors has NaN or Inf" in inspect(extension)
    assert "loads       no\n" in inspect(tmp_path / "x.safetensors")


def test_inspect_describes_a_diffusers_folder(folder: Path, tmp_path: Path) -> None:
    save_diffusers(tmp_path / "svd", load_file(folder / "svd_xt.safetensors"))
    text = inspect(tmp_path / "svd")

    assert "unet: the UNet of SVD in diffusers' naming" in text
    assert "svd: SVD in diffusers' layout\n  loads       yes" in text
