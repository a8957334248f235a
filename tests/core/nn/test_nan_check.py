"""NaN and Inf are found, and the layer or weight they come from is named, however that layer is computed."""

import narrow_cogvideox
import pytest
import torch
from narrow_svd import build_image_encoder, build_pipeline, build_unet, noise

from exvideo_core.errors import NumberError
from exvideo_core.families.svd.pipeline import SVDPipeline
from exvideo_core.families.svd.unet import blocks_of
from exvideo_core.nn.nan_check import checked, describe_nonfinite, is_finite
from exvideo_core.nn.step_cache import Reuse, StepCache
from exvideo_core.runtime.weight_streaming import WeightStream

OVER_TIME = "input_blocks.4.1.time_stack.0.ff.net.2"
PER_FRAME = "output_blocks.4.0.in_layers.2"


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


def unet_call(unet, dtype=torch.float32):
    x, context, ids = noise(3, 8, 9, 10), noise(1, unet.config.context_dim), torch.tensor([[5.0, 127, 0.02]])
    return lambda memory=None: unet(x.to(dtype), torch.tensor(0.3), context.to(dtype), ids, memory=memory)


def complaint(network, call):
    with pytest.raises(NumberError) as told:
        checked(call(), network, call, {})
    return str(told.value)


def layer_of(network, name):
    return network.get_submodule(name)


@pytest.mark.parametrize(("name", "factor", "kind"), [(OVER_TIME, 3e4, " (over time)"), (PER_FRAME, 6e4, "")])
@pytest.mark.parametrize("chunk_bytes", [2**28, 2**13])
def test_the_block_of_a_unet_that_overflows_float16_is_named(name, factor, kind, chunk_bytes):
    unet = build_unet(extension_frames=8).half()
    unet.chunk_bytes = chunk_bytes
    call = unet_call(unet, torch.float16)
    assert is_finite(call())
    layer_of(unet, name).weight.mul_(factor)

    said = complaint(unet, call)

    assert said.startswith(f"{name}{kind}: float16 overflowed: ")
    assert "gave infinity (" in said
    assert "65504" in said
    assert "bf16" in said


def test_the_block_of_cogvideox_that_overflows_float16_is_named():
    transformer = narrow_cogvideox.build_transformer(narrow_cogvideox.NARROW.transformer).half()
    x, context = noise(1, 16, 3, 4, 6).half(), noise(1, 10, 40).half()
    transformer.transformer_blocks[1].ff.net[2].weight.mul_(4e4)

    said = complaint(transformer, lambda: transformer(x, 500, context))

    assert said.startswith("transformer_blocks.1.ff.net.2: float16 overflowed")


@pytest.mark.parametrize(
    "name",
    [
        "time_embed.0.weight",
        "input_blocks.0.0.bias",
        "input_blocks.1.0.time_stack.in_layers.2.weight",
        "input_blocks.1.0.out_layers.0.weight",
        "middle_block.1.extension.mix.weight",
        "middle_block.1.extension.positions.weight",
        "middle_block.1.transformer_blocks.0.attn1.to_v.weight",
        "middle_block.1.time_mixer.mix_factor",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.1.time_stack.0.norm3.weight",
        "out.2.weight",
    ],
)
def test_a_weight_that_is_no_number_is_named(name):
    unet = build_unet(extension_frames=8)
    unet.get_parameter(name).flatten()[0] = torch.nan

    said = complaint(unet, unet_call(unet))

    assert f"the weight {name}" in said.replace(" with ", " ")
    assert "holds NaN (" in said
    assert "SHA-256" in said


def test_a_weight_too_large_for_the_format_it_is_converted_to_is_named():
    network = torch.nn.ModuleDict({"narrow": torch.nn.Linear(4, 4)})
    weight = network["narrow"].weight
    weight[1, 1] = 1e5  # of a file in float32

    said = complaint(network, lambda: torch.nn.functional.linear(torch.ones(4).half(), weight.half()))

    assert said.startswith("the weight narrow.weight holds infinity (1 of 16 values) in float16. ")


def test_what_is_infinite_on_purpose_and_reaches_nothing_is_no_fault():
    layer = torch.nn.Linear(3, 3)

    def masked():
        scores = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
        return layer(scores.softmax(-1)) * torch.inf

    assert complaint(layer, masked).startswith("the network: finite inputs gave infinity (9 of 9 values)")


def test_memory_that_nobody_has_written_is_not_looked_at():
    layer = torch.nn.Linear(3, 3)

    def used():
        torch.empty(3, 3).fill_(torch.nan)
        room = torch.empty(2, 3, 3)
        room.copy_(torch.full((2, 3, 3), torch.nan)).copy_(torch.ones(2, 3, 3))
        return layer(room) / torch.zeros(3)

    assert complaint(layer, used).startswith("the network: finite inputs gave infinity (18 of 18 values)")


def test_what_comes_from_elsewhere_than_pytorch_is_said_to():
    layer = torch.nn.Linear(3, 3)
    foreign = torch.full((2, 3), torch.nan)  # as a kernel of another package would leave its result

    said = complaint(layer, lambda: layer(foreign))

    assert "from a tensor that held such values already" in said
    assert "attention" in said


def test_inputs_are_named_before_any_layer_is_looked_for():
    layer, calls = torch.nn.Linear(3, 3), []
    with pytest.raises(NumberError, match=r"the picture holds infinity .1 of 3 values., before the network"):
        checked(
            torch.tensor(torch.nan), layer, lambda: calls.append(1), {"the picture": torch.tensor([1, 2, torch.inf])}
        )

    assert not calls


def test_a_result_that_is_whole_the_second_time_is_said_to_be():
    layer = torch.nn.Linear(3, 3)
    with pytest.raises(NumberError, match="but not in a second run"):
        checked(torch.tensor(torch.nan), layer, lambda: layer(torch.ones(3)), {})


def test_a_search_without_memory_says_so():
    layer = torch.nn.Linear(3, 3)

    def again():
        raise torch.OutOfMemoryError

    with pytest.raises(NumberError, match="out of memory"):
        checked(torch.tensor(torch.nan), layer, again, {})


def test_nothing_of_the_search_remains():
    unet = build_unet(extension_frames=8)
    call = unet_call(unet)
    before = call()
    weight = unet.get_parameter("out.2.weight")
    kept = weight.clone()
    weight.fill_(torch.inf)
    complaint(unet, call)
    weight.copy_(kept)

    assert torch.equal(call(), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_a_look_at_the_result_is_all_that_an_ordinary_run_costs():
    unet = build_unet(extension_frames=8)
    result = unet_call(unet)()

    def never():
        raise AssertionError("computed again")

    assert checked(result, unet, never, {"x": torch.tensor(torch.nan)}) is result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.complex64])
def test_every_number_format_can_be_looked_at(dtype):
    x = torch.ones(3).to(dtype)
    assert is_finite(x)
    x = torch.tensor([1, torch.nan, 1]).to(dtype)
    assert not is_finite(x)
    if not dtype.is_complex:
        assert describe_nonfinite(x) == "NaN (1 of 3 values)"


def test_counts_and_nothing_at_all_are_finite():
    assert is_finite(torch.arange(3))
    assert is_finite(torch.ones(0, 3))


# runs


def test_a_run_says_step_and_layer():
    pipeline = build_pipeline(extension_frames=8)
    pipeline.unet.get_parameter("out.2.bias")[0] = torch.inf
    with pytest.raises(NumberError, match=r"^step 1 of 3: the weight .*out.2.bias holds infinity"):
        pipeline(torch.rand(128, 128, 3), num_frames=2, height=128, width=128, num_inference_steps=3)


def test_a_run_that_breaks_later_says_when_and_the_next_one_is_as_before():
    pipeline = build_pipeline(extension_frames=8)
    settings = {"num_frames": 2, "height": 128, "width": 128, "num_inference_steps": 3}
    image = torch.rand(128, 128, 3)
    before = pipeline(image, **settings).latents
    bias = pipeline.unet.get_parameter("out.2.bias")
    kept = bias.clone()
    with pytest.raises(NumberError, match=r"^step 2 of 3: the weight out.2.bias holds NaN"):
        pipeline(image, **settings, callback=lambda *_: bias.fill_(torch.nan))
    bias.copy_(kept)

    assert torch.equal(pipeline(image, **settings).latents, before)


def test_cogvideox_says_step_and_layer():
    pipeline = narrow_cogvideox.build_pipeline()
    pipeline.transformer.get_parameter("transformer_blocks.0.norm1.linear.weight")[0, 0] = torch.nan
    with pytest.raises(
        NumberError, match=r"^step 1 of 2: the weight .*transformer_blocks.0.norm1.linear.weight holds NaN"
    ):
        pipeline("a dog", num_frames=9, height=32, width=48, num_inference_steps=2)


def test_a_prompt_that_is_no_number_is_refused_before_the_first_step():
    pipeline = narrow_cogvideox.build_pipeline()
    embedding = torch.full((1, 4, 8), torch.nan)
    with pytest.raises(NumberError, match=r"^the prompt's embedding holds NaN"):
        pipeline(prompt_embeds=embedding, negative_prompt_embeds=embedding, num_frames=9, height=32, width=48)


def test_the_text_encoder_names_its_layer():
    encoder = narrow_cogvideox.build_text_encoder()
    encoder.t5.get_parameter("encoder.block.0.layer.1.DenseReluDense.wo.weight")[0] = torch.nan
    with pytest.raises(NumberError, match=r"the weight encoder.block.0.layer.1.DenseReluDense.wo.weight holds NaN"):
        encoder(["a dog"])


def test_the_image_encoder_names_its_layer():
    encoder = build_image_encoder()
    encoder.clip.get_parameter("visual_projection.weight")[0] = torch.nan
    with pytest.raises(NumberError, match=r"the weight visual_projection.weight holds NaN"):
        encoder(torch.rand(1, 3, 64, 64))


def test_step_reuse_that_overflows_is_told_apart():
    unet = build_unet(extension_frames=8)
    cache = StepCache(Reuse(threshold=0.99, first_steps=1, last_steps=0), steps=3)
    call = unet_call(unet)
    cache.begin()
    call(cache.branch(0))
    branch = cache.branch(0).part(0)
    branch.computed["last"]["rest"].fill_(torch.inf)
    cache.begin()
    with pytest.raises(NumberError, match="turn it off"):
        checked(call(cache.branch(0)), unet, call, {})


def test_guidance_that_makes_infinity_of_numbers_is_blamed_itself():
    pipeline = narrow_cogvideox.build_pipeline()
    with pytest.raises(NumberError, match="after the last step the latents hold"):
        pipeline("a dog", num_frames=9, height=32, width=48, num_inference_steps=1, guidance_scale=1e39)


@pytest.mark.parametrize("is_streamed", [False, True])
@torch.inference_mode(False)
def test_streamed_weights_and_second_devices_have_their_names(is_streamed):
    network = build_pipeline(extension_frames=8)
    name = "input_blocks.4.1.time_stack.0.ff.net.2.weight"
    network.unet.get_parameter(name).data[0] = torch.nan
    stream = WeightStream(blocks_of, is_locked=False) if is_streamed else None
    devices = [torch.device("cpu")] * 2
    pipeline = SVDPipeline(network.unet, network.vae, network.image_encoder, devices=devices, stream=stream)
    if stream:
        stream.place(network.unet, devices[0], torch.float32)

    with pytest.raises(NumberError, match=f"^step 1 of 2: the weight {name} holds NaN"):
        pipeline(torch.rand(128, 128, 3), num_frames=2, height=128, width=128, num_inference_steps=2)
