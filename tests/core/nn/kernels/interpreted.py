"""Runs every kernel in Triton's interpreter, which needs no GPU, and prints errors as JSON lines.

A process of its own, because Triton decides at its import whether it interprets.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.nn.functional as F
from torch import Tensor

from exvideo_core.families.cogvideox import norms, rope
from exvideo_core.nn import group_norm
from exvideo_core.nn.kernels import (
    added_residual,
    channel_statistics,
    gated_gelu,
    gated_product,
    group_scale,
    latent_scaled,
    layer_norm,
    norm_rope,
    scaled,
)
from exvideo_core.nn.kernels.operators import items

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def drawn(*shape: int, dtype: torch.dtype, shift: float = 0) -> Tensor:
    """Seeded numbers whose spread differs from channel to channel."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator) * (1 + torch.arange(shape[-1]) % 5) + shift).to(dtype)


def report(name: str, case: str, result: Tensor, twin: Tensor, exact: Tensor) -> None:
    """Print the relative norms of two differences to a result in float64."""
    errors = [float((each.double() - exact).norm() / exact.norm().clamp(min=1e-9)) for each in (result, twin)]
    print(json.dumps({"kernel": name, "case": case, "kernel_error": errors[0], "twin_error": errors[1]}))


def check_statistics(dtype: torch.dtype, shape: tuple[int, int, int], shift: float) -> None:
    x_NLC = drawn(*shape, dtype=dtype, shift=shift)
    results = [torch.full((shape[0], shape[2]), torch.nan) for _ in range(2)]
    channel_statistics.launch(x_NLC, *results)
    twins = torch.var_mean(x_NLC.float(), 1, correction=0)[::-1]
    exact = torch.var_mean(x_NLC.double(), 1, correction=0)[::-1]
    for name, *values in zip(("mean", "variance"), results, twins, exact, strict=True):
        report("channel_statistics", f"{name} {dtype} {shape} {shift}", *values)


def check_scaled(dtype: torch.dtype, shape: tuple[int, int, int], shared: bool, silu: bool) -> None:
    x_NLC = drawn(*shape, dtype=dtype)
    factor, summand = (drawn(1 if shared else shape[0], shape[2], dtype=torch.float32, shift=n) for n in (0, 2))
    result = torch.full_like(x_NLC, torch.nan)
    scaled.launch(x_NLC, factor, summand, silu, result)
    activate = F.silu if silu else torch.clone
    twin = activate(x_NLC.float() * factor[:, None] + summand[:, None]).to(dtype)
    exact = activate(x_NLC.double() * factor[:, None].double() + summand[:, None].double())
    report("scaled", f"{dtype} {shape} {shared} {silu}", result, twin, exact)


def check_rows_of_images() -> None:
    """Some rows of channels-last images, which are no dense tensor."""
    x_BCHW = drawn(3, 9, 5, 40, dtype=torch.float32).permute(0, 3, 1, 2)[:, :, 2:7]
    x_NLC, factor = items(x_BCHW), drawn(3, 40, dtype=torch.float32)
    assert x_NLC is not None
    result = torch.full(x_NLC.shape, torch.nan)
    scaled.launch(x_NLC, factor, factor, True, result)
    twin = F.silu(x_BCHW * factor[..., None, None] + factor[..., None, None]).permute(0, 2, 3, 1).flatten(1, 2)
    report("scaled", "rows", result, twin, twin.double())


def gated(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def check_gated_gelu(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x_RC = drawn(*shape, dtype=dtype)
    result = torch.full((shape[0], shape[1] // 2), torch.nan, dtype=dtype)
    gated_gelu.launch(x_RC, result)
    report("gated_gelu", f"{dtype} {shape}", result, gated(x_RC), gated(x_RC.double()))


def check_gated_product(dtype: torch.dtype, rows: int, channels: int, hidden: int) -> None:
    x_RC, weight_GC, bias_G = (
        drawn(*shape, dtype=dtype) for shape in ((rows, channels), (2 * hidden, channels), (2 * hidden,))
    )
    weight_GC /= 16
    result = torch.full((rows, hidden), torch.nan, dtype=dtype)
    gated_product.launch(x_RC, weight_GC, bias_G, result)
    twin = gated(F.linear(x_RC.float(), weight_GC.float(), bias_G.float())).to(dtype)
    exact = gated(F.linear(x_RC.double(), weight_GC.double(), bias_G.double()))
    report("gated_product", f"{dtype} {rows} {channels} {hidden}", result, twin, exact)


def check_added_residual(
    dtype: torch.dtype, shape: tuple[int, int, int], shared: bool, share: float | None, count: int
) -> None:
    x_NLC = drawn(*shape, dtype=dtype)
    residuals_NLC = [drawn(*shape, dtype=dtype, shift=index + 1) for index in range(count)]
    bias_NC = drawn(1 if shared else shape[0], shape[2], dtype=torch.float32)

    def summed(wide: torch.dtype) -> Tensor:
        return x_NLC.to(wide) + (share or 1) * (
            sum(each.to(wide) for each in residuals_NLC) + bias_NC[:, None].to(wide)
        )

    twin, exact = summed(torch.float32).to(dtype), summed(torch.float64)
    added_residual.launch(x_NLC, residuals_NLC, bias_NC, torch.tensor([share or 1.0]))
    report("added_residual", f"{dtype} {shape} {shared} {share} {count}", x_NLC, twin, exact)


def check_layer_norm(dtype: torch.dtype, shape: tuple[int, int, int], first: int | None, eps: float) -> None:
    """Of a view with its first axes swapped; shifted if it is not modulated."""
    length, batch, channels = shape
    x_LBC = drawn(batch, length, channels, dtype=dtype, shift=20).transpose(0, 1)
    parts = (1, 1) if first is None else (2, batch)
    factor_PBC, summand_PBC = (drawn(*parts, channels, dtype=torch.float32, shift=n) for n in (1, 0))
    shift_C = drawn(channels, dtype=torch.float32, shift=3) if first is None else None
    result = torch.full(shape, torch.nan, dtype=dtype)
    layer_norm.launch(x_LBC, shift_C, factor_PBC, summand_PBC, first or 0, eps, result)

    def normed(wide: torch.dtype) -> Tensor:
        x = F.layer_norm(x_LBC.to(wide) + (0 if shift_C is None else shift_C.to(wide)), (channels,), eps=eps)
        part = (torch.arange(length) >= (first or 0)).long() if len(factor_PBC) > 1 else torch.zeros(length).long()
        return x * factor_PBC[part].to(wide) + summand_PBC[part].to(wide)

    report("layer_norm", f"{dtype} {shape} {first}", result, normed(torch.float32).to(dtype), normed(torch.float64))


def check_latent_scaled(
    dtype: torch.dtype, frames: int, cells: tuple[int, int], ratio: int, repeats: int, lead: int
) -> None:
    """Frames of a larger map, which are apart; a latent cell is `ratio` times `ratio` positions."""
    (h, w), channels = cells, 40
    x_BCFHW = drawn(1, frames, h * ratio + 1, w * ratio, channels, dtype=dtype).movedim(-1, 1)[:, :, :, :-1]
    latent_frames = (frames - 1 + lead) // repeats + 1
    of_cells = [drawn(1, latent_frames, h, w, channels, dtype=dtype, shift=n).movedim(-1, 1) for n in (1, 0)]
    scale = [drawn(channels, dtype=torch.float32, shift=n).view(-1, 1, 1, 1) for n in (1, 2)]
    x_FLC = items(x_BCFHW)
    assert x_FLC is not None
    result = torch.full(x_FLC.shape, torch.nan, dtype=dtype)
    flat = [each[0].permute(1, 2, 3, 0).flatten(1, 2).contiguous() for each in of_cells]
    latent_scaled.launch(x_FLC, *(each.flatten() for each in scale), *flat, w * ratio, w, repeats, lead, result)
    wide = (each.double() for each in (x_BCFHW, *scale, *of_cells))
    twin, exact = (
        norms.latent_scaled_silu.twin(*given, repeats, lead).movedim(1, -1).flatten(0, 1).flatten(1, 2)
        for given in ((x_BCFHW, *scale, *of_cells), wide)
    )
    report("latent_scaled", f"{dtype} {frames} {cells} {ratio} {repeats} {lead}", result, twin, exact)


def check_norm_rope(dtype: torch.dtype, shape: tuple[int, int, int, int], for_each: bool) -> None:
    length, batch, _, dim = shape
    x_LBND, (weight_D, bias_D) = drawn(*shape, dtype=dtype), (drawn(dim, dtype=dtype, shift=n) for n in (1, 0))
    angles = drawn(length, batch if for_each else 1, 1, dim // 2, dtype=torch.float32)
    result, factors = x_LBND.clone(), rope.freqs_cis(angles)
    norm_rope.launch(result, weight_D, bias_D, torch.view_as_real(factors)[:, :, 0].flatten(-2), 1e-6)

    def rotated(wide: torch.dtype) -> Tensor:
        given = (each.to(wide) for each in (x_LBND, weight_D, bias_D))
        pairs = torch.view_as_complex(normed(*given).unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * factors.to(pairs.dtype)).flatten(-2)

    def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (dim,), weight, bias, 1e-6)

    report("norm_rope", f"{dtype} {shape} {for_each}", result, rotated(torch.float32).to(dtype), rotated(torch.float64))


def check_group_scale(dtype: torch.dtype, shape: tuple[int, int, int], groups: int, shift: str) -> None:
    """Of means near 300 as well, whose squares would lose the variance."""
    items, _, channels = shape
    mean_NPC, variance_NPC = drawn(*shape, dtype=torch.float32, shift=300), drawn(*shape, dtype=torch.float32).square()
    weight_C, bias_C = (drawn(channels, dtype=dtype, shift=each) for each in (1, 0))
    shift_NC = {"none": torch.zeros(1, channels), "shared": drawn(1, channels, dtype=dtype)}.get(shift)
    shift_NC = drawn(items, channels, dtype=dtype) if shift_NC is None else shift_NC
    given = (mean_NPC, variance_NPC, weight_C, bias_C, shift_NC)
    results = [torch.full((items, channels), torch.nan) for _ in range(2)]
    group_scale.launch(*given, groups, 1e-5, *results)
    twins = group_norm.group_scale.twin(*given, groups, 1e-5)
    exact = group_norm.group_scale.twin(*(each.double() for each in given), groups, 1e-5)
    for name, *values in zip(("factor", "summand"), results, twins, exact, strict=True):
        report("group_scale", f"{name} {dtype} {shape} {groups} {shift}", *values)


def main() -> int:
    torch.set_num_threads(1)
    for dtype in DTYPES:
        for shape in ((2, 64, 320), (1, 77, 40), (3, 1, 8), (2, 1100, 64), (1, 513, 65)):
            check_statistics(dtype, shape, 0)
            check_scaled(dtype, shape, shared=shape[0] == 3, silu=True)
        check_statistics(dtype, (1, 1200, 40), 300)
        for shape in ((3, 2560), (1, 16), (5, 4098)):
            check_gated_gelu(dtype, shape)
        for shape in ((2, 33, 40), (1, 3, 130)):
            check_added_residual(dtype, shape, shared=True, share=None, count=1)
            check_added_residual(dtype, shape, shared=False, share=0.3, count=3)
        check_added_residual(dtype, (2, 33, 40), shared=False, share=None, count=2)
        check_layer_norm(dtype, (7, 3, 320), None, 1e-5)
        check_layer_norm(dtype, (9, 1, 40), None, 1e-5)
        check_layer_norm(dtype, (5, 2, 3072), 2, 1e-5)
        check_layer_norm(dtype, (5, 1, 24), 0, 1e-6)
        check_latent_scaled(dtype, 3, (3, 5), 2, 4, 3)
        check_latent_scaled(dtype, 2, (7, 6), 1, 1, 0)
        check_norm_rope(dtype, (7, 2, 3, 64), for_each=True)
        check_norm_rope(dtype, (13, 2, 5, 16), for_each=False)
        check_scaled(dtype, (2, 77, 40), shared=False, silu=False)
        if dtype == torch.float16:  # the interpreter multiplies the bits of bfloat16 as integers
            check_gated_product(dtype, 130, 40, 72)
            check_gated_product(dtype, 1100, 32, 64)  # more than a band of tiles
        check_group_scale(dtype, (3, 1, 64), 32, "none")
        check_group_scale(dtype, (2, 130, 120), 8, "shared")
        check_group_scale(dtype, (2, 5, 30), 3, "for each")
    check_rows_of_images()
    return 0


if __name__ == "__main__":
    sys.exit(main())
