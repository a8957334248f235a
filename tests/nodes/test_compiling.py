"""ComfyUI's Torch Compile node: the clip is the same, and made by compiled chains."""

import shutil
import sys

import pytest
from in_comfyui import relative

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(
        shutil.which("g++") is None and shutil.which("clang++") is None,
        reason="torch.compile needs a C++ compiler on the CPU",
    ),
]


@pytest.mark.parametrize("kind", ["svd", "cogvideox"])
def test_stock_node_compiles_chains_and_the_clip_is_the_same(pack, request, kind):
    from comfy.patcher_extension import WrappersMP
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    run = request.getfixturevalue({"svd": "run", "cogvideox": "cog"}[kind])
    fused = sys.modules[pack.errors.__name__.replace(".errors", ".nn.fused")]
    seen = []

    def watch(executor, *args, **kwargs):
        seen.append(fused.is_fused())
        return executor(*args, **kwargs)

    model = TorchCompileModel.execute(run.model, "inductor").result[0]
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", watch)
    exact = run.sample(steps=1)

    assert relative(run.sample(model, steps=1), exact) <= 1e-5
    assert seen
    assert all(seen)
    assert not fused.is_fused()  # for others it is as before
    assert relative(run.sample(steps=1), exact) <= 1e-6
