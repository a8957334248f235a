"""The counter against sums done by hand, and against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from exvideo_core.estimate.counting import Elsewhere, count, counting


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("layer", "shape", "flops"),
    [
        (nn.Linear(5, 7), (2, 3, 5), 2 * 6 * 5 * 7),
        (nn.Linear(5, 7, bias=False), (2, 3, 5), 2 * 6 * 5 * 7),
        (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 8, 10), 2 * 2 * 80 * 4 * 6 * 9),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 10), 2 * 2 * 20 * 4 * 6 * 9),
        (nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)), (1, 4, 5, 2, 3), 2 * 30 * 4 * 6 * 3),
        (nn.GroupNorm(2, 4), (2, 4, 8, 10), 0),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_a_layer_has_two_operations_for_each_multiplication(layer, shape, flops):
    assert count(lambda: layer.to("meta")(meta(*shape))).total_flops == flops


def test_products_of_any_spelling_count():
    a, b, c = meta(2, 3, 5), meta(2, 5, 7), meta(2, 3, 7)
    calls = [
        lambda: a @ b,
        lambda: torch.einsum("bik,bkj->bij", a, b),
        lambda: torch.baddbmm(c, a, b),
        lambda: c.baddbmm_(a, b),
        lambda: torch.bmm(a, b, out=c),
    ]

    assert [count(call).flops for call in calls] == [{"product": 2 * 2 * 3 * 5 * 7}] * 5
    assert count(lambda: meta(3, 7).addmm_(a[0], b[0])).total_flops == 2 * 3 * 5 * 7


@pytest.mark.parametrize("is_named", [False, True])
def test_attention_counts_both_products_and_holds_no_scores(is_named):
    q, k, v = meta(2, 3, 100, 8), meta(2, 3, 50, 8), meta(2, 3, 50, 4)
    call = {"query": q, "key": k, "value": v} if is_named else {}
    counts = count(lambda: F.scaled_dot_product_attention(*(() if is_named else (q, k, v)), **call))

    assert counts.flops == {"attention": 2 * 2 * 3 * 100 * 50 * (8 + 4)}
    assert counts.peak == 4 * 2 * 3 * 100 * 4
    assert counts.moved == {"attention": 4 * 2 * 3 * (100 * (8 + 4) + 50 * (8 + 4))}


def test_operations_equal_torch_s_own_counter():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(3, 8, 3, padding=1)
            self.mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))

        def forward(self, x):
            x = self.conv(x).flatten(2).transpose(1, 2)
            q = self.mlp(x).unflatten(-1, (2, 4)).transpose(1, 2)
            return F.scaled_dot_product_attention(q, q, q)

    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as torchs:
        Network()(meta(2, 3, 4, 5, 6))
    counts = count(lambda: Network()(meta(2, 3, 4, 5, 6)))

    assert set(counts.flops) == {"convolution", "product", "attention"}
    assert counts.total_flops == torchs.get_total_flops()


def test_the_peak_is_what_lives_at_the_same_time():
    x = meta(100)  # 400 bytes, not counted

    def call():
        a = x + 1
        b = torch.cat([a, a])
        del a
        c = b[:50] * 2
        return b, c

    assert count(call).peak == 400 + 800  # while `b` is made


def test_what_is_freed_in_between_does_not_count():
    layers, x = nn.Sequential(*(nn.Linear(100, 100) for _ in range(10))).to("meta"), meta(1, 100)

    assert count(lambda: layers(x)).peak == 2 * 400  # one in, one out


def test_views_inputs_and_weights_take_nothing():
    layer, x = nn.Linear(6, 6).to("meta"), meta(4, 6)

    def call():
        y = x.t().reshape(2, 12).unsqueeze(0).expand(9, 2, 12)[1:]
        x.add_(1)
        return layer.weight.t(), y.permute(1, 0, 2)

    assert count(lambda: x.view(2, 12)).peak == 0
    assert count(call).peak == 4 * 24  # the reshape of a transposed tensor is a copy


def test_views_keep_their_storage_alive():
    x = meta(100)

    def call():
        part = (x + 1)[:1]
        return part, x + 1

    assert count(call).peak == 800


def test_number_formats_have_their_sizes():
    x = meta(100)

    assert count(x.half).peak == 200
    assert count(x.double).peak == 800


def test_elementwise_operations_move_what_they_read_and_write():
    x, row = meta(10, 10), meta(1, 10)

    assert count(lambda: x + row).moved == {"elementwise": 400 + 40 + 400}
    assert count(lambda: x + row.expand(10, 10)).moved == {"elementwise": 400 + 40 + 400}
    assert count(lambda: x.add_(row)).moved == {"elementwise": 400 + 40 + 400}
    assert count(lambda: x.copy_(row)).moved == {"elementwise": 40 + 400}
    assert count(lambda: torch.mul(x, x, out=meta(10, 10))).moved == {"elementwise": 3 * 400}
    assert count(lambda: x.view(100)[:50]).moved == {}
    assert count(lambda: torch.empty(10)).moved == {}


def test_what_gradients_need_is_alive():
    x = meta(100).requires_grad_()
    with counting() as tally:
        y = x.sin().cos()
        forward = tally.now
        y.sum().backward()

    assert forward == 800  # the sine is kept for the gradient of the cosine
    assert tally.peak >= 1200
    del y


def test_operations_are_counted_but_for_views():
    x = meta(4, 6)

    assert count(lambda: (x + 1).view(24)[:5].add_(2)).operations == 2
    assert count(lambda: F.scaled_dot_product_attention(x, x, x)).operations == 1


def test_what_waits_elsewhere_takes_nothing_until_a_part_comes_back():
    x = meta(8, 4, 3, 5).contiguous(memory_format=torch.channels_last)

    def call():
        skip = Elsewhere(x + 1)
        return skip[2:4]

    part = call()
    assert (part.shape, part.dtype, part.stride()) == ((2, 4, 3, 5), x.dtype, x.stride())
    assert count(lambda: Elsewhere(x)[:]).peak == x.nbytes
    assert count(call).peak == x.nbytes  # while the skip was made


def test_inference_mode_changes_no_count():
    layer, x = torch.nn.Linear(8, 4, device="meta"), torch.empty(3, 8, device="meta")
    wanted = count(lambda: layer(x) @ torch.empty(4, 2))

    with torch.inference_mode():
        assert count(lambda: layer(x) @ torch.empty(4, 2)) == wanted
