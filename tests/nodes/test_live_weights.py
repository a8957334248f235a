"""What ComfyUI's layers tell the core of their weights is what they compute with when they are called."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exvideo_core.nn.effective_weights import effective_weights

FP8 = torch.float8_e4m3fn


@pytest.fixture
def layers_of(pack):
    """The pack's layers, from one of ComfyUI's families."""
    from comfy import ops

    def make(family="disable_weight_init", dtype=torch.float32, compute_dtype=torch.float32):
        operations = getattr(ops, family) if isinstance(family, str) else family
        return pack.comfy_bridge.compat.layers(operations, dtype, compute_dtype, "cpu")

    return make


def filled(layer):
    """With random weights, which are rounded to what it stores."""
    generator = torch.Generator().manual_seed(sum(weight.numel() for weight in layer.parameters()))
    for weight in layer.parameters():
        weight.requires_grad_(False)
        weight.copy_(torch.randn(weight.shape, generator=generator))
    return layer


def linears(layers):
    return [filled(layers.Linear(8, size, bias=bias)) for size, bias in ((4, True), (6, True), (2, True))]


def told(layer, x):
    """The product with what the layer tells."""
    return F.linear(x, *effective_weights(layer, x))


def assert_same(layers, x):
    with torch.inference_mode():
        for layer in layers:
            torch.testing.assert_close(told(layer, x), layer(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("disable_weight_init", torch.float32), ("manual_cast", torch.bfloat16), ("manual_cast", FP8)],
)
def test_what_is_told_is_what_is_computed_with(layers_of, family, dtype):
    assert_same(linears(layers_of(family, dtype)), torch.randn(5, 8))


@pytest.mark.parametrize(("family", "dtype"), [("disable_weight_init", torch.float32), ("manual_cast", FP8)])
def test_what_a_lora_adds_at_the_call_is_told(layers_of, family, dtype):
    layers = linears(layers_of(family, dtype))
    layers[1].weight_function = [lambda weight: 2 * weight]
    layers[1].bias_function = [lambda bias: bias + 3]
    x = torch.randn(5, 8)

    assert_same(layers, x)
    with torch.inference_mode():
        torch.testing.assert_close(
            told(layers[1], x), 2 * F.linear(x, layers[1].weight.float()) + layers[1].bias.float() + 3
        )


def test_kernels_tell_their_weights(layers_of):
    layers = layers_of("manual_cast", FP8)
    x, convolution, norm = torch.randn(1, 8, 4, 4), filled(layers.Conv2d(8, 4, 3)), filled(layers.GroupNorm(2, 8))

    with torch.inference_mode():
        torch.testing.assert_close(F.conv2d(x, *effective_weights(convolution, x)), convolution(x))
        torch.testing.assert_close(F.group_norm(x, 2, *effective_weights(norm, x)), norm(x))


def test_a_table_keeps_its_type_when_numbers_look_it_up(layers_of):
    table, ids = filled(layers_of("manual_cast", torch.bfloat16, torch.bfloat16).Embedding(5, 8)), torch.tensor([1, 4])

    with torch.inference_mode():
        assert effective_weights(table, ids)[0].dtype == torch.bfloat16
        assert effective_weights(table, torch.ones(1))[0].dtype == torch.float32


def test_lent_memory_is_copied_and_given_back(pack, layers_of, monkeypatch):
    from comfy import ops

    layer, given_back = linears(layers_of())[0], []
    buffer = layer.weight.clone(), layer.bias.clone()

    def lend(_layer, **_asked):
        return *buffer, ("a stream", *buffer)

    def take_back(_layer, weight, bias, lent):
        given_back.append(lent)
        weight.zero_()  # the next layer's weights arrive
        bias.zero_()

    monkeypatch.setattr(ops, "cast_bias_weight", lend)
    monkeypatch.setattr(ops, "uncast_bias_weight", take_back)
    with torch.inference_mode():
        weight, bias = effective_weights(layer, torch.ones(1, 8))

    assert given_back == [("a stream", *buffer)]
    assert torch.equal(weight, layer.weight)
    assert torch.equal(bias, layer.bias)


def test_resident_weights_are_not_copied(layers_of):
    layer = linears(layers_of())[0]

    with torch.inference_mode():
        assert effective_weights(layer, torch.ones(1, 8))[0].data_ptr() == layer.weight.data_ptr()


def test_layers_with_a_way_of_their_own_are_called(layers_of):
    from comfy import ops

    class Quantised(ops.manual_cast.Linear):
        def forward_comfy_cast_weights(self, x):
            return 5 * super().forward_comfy_cast_weights(x)

    own = SimpleNamespace(**{**vars(ops.disable_weight_init), "Linear": Quantised})
    layers, x = linears(layers_of(own)), torch.randn(5, 8)

    with torch.inference_mode():
        assert effective_weights(layers[0], x) is None
        assert effective_weights(linears(layers_of("fp8_ops"))[0], x) is None


def test_a_layer_whose_forward_was_replaced_is_called(layers_of):
    layer, x = linears(layers_of())[0], torch.randn(5, 8)
    original = layer.forward
    layer.forward = lambda x: original(x) + 1  # as ComfyUI's LoRA bypass does

    with torch.inference_mode():
        assert effective_weights(layer, x) is None


def test_a_cancelled_run_stops_where_weights_are_asked_for(layers_of):
    from comfy import model_management

    layer = linears(layers_of())[0]
    model_management.interrupt_current_processing(True)
    with pytest.raises(model_management.InterruptProcessingException), torch.inference_mode():
        effective_weights(layer, torch.ones(1, 8))


def test_they_are_still_comfyuis_classes(layers_of):
    from comfy import ops

    layer, x = filled(layers_of("manual_cast").Linear(8, 4)), torch.randn(1, 8)

    assert isinstance(layer, ops.manual_cast.Linear)
    assert type(layer).__name__ == "Linear"
    assert hasattr(layer, "comfy_cast_weights")
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def lora_patches(model):
    """One for each matrix of the network, under ComfyUI's names."""
    from comfy.weight_adapter.lora import LoRAAdapter

    generator = torch.Generator().manual_seed(1)
    return {
        f"diffusion_model.{name}.weight": LoRAAdapter(
            set(),
            (*(torch.randn(size, generator=generator) for size in ((layer.out_features, 1), (1, layer.in_features))),
             None, None, None, None),
        )
        for name, layer in model.model.diffusion_model.named_modules()
        if isinstance(layer, nn.Linear)
    }  # fmt: skip


@pytest.mark.parametrize("budget", [1, 1e12], ids=["offloaded", "resident"])
def test_every_layer_of_a_loaded_model_tells_what_it_computes_with(loaded, budget):
    model = loaded[0].clone()
    patches = lora_patches(model)
    assert model.add_patches(patches, 0.5)
    bare = {name: weight.clone() for name, weight in model.model.diffusion_model.state_dict().items()}
    try:
        model.patch_model(torch.device("cpu"), lowvram_model_memory=budget)
        with torch.inference_mode():
            for name, layer in model.model.diffusion_model.named_modules():
                if isinstance(layer, nn.Linear):
                    x = torch.randn(2, layer.in_features)
                    weight, bias = effective_weights(layer, x)
                    torch.testing.assert_close(F.linear(x, weight, bias), layer(x))
                    assert not torch.equal(weight, bare[f"{name}.weight"])  # the LoRA is there
        functions = [len(layer.weight_function) for layer in model.model.modules() if isinstance(layer, nn.Linear)]
        assert (max(functions) > 0) is (budget == 1)  # it was what this test is about
    finally:
        model.unpatch_model(torch.device("cpu"))
