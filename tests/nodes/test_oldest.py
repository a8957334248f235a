"""The oldest supported ComfyUI: one run through its server, and the tests of our objects inside of it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from in_comfyui import SMALL, SVD_WORKFLOW, WORKFLOWS, change, cogvideox_prompt, place_cogvideox_files, place_files

from host.comfyui_trees import OLDEST
from host.environment import Environment
from host.graph import read_graph, to_prompt
from host.validation import find_problems

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
OF_SVD = ("test_model.py", "test_vae.py", "test_windows.py", "test_sampler.py", "test_conditioning.py")
OF_BOTH = ("test_host.py", *(f"test_cogvideox_{part}.py" for part in ("model", "vae", "clip", "lora", "sampler")))
# SVD's tests take longest: each interface of ComfyUI's that they touch is in one of these.
OF_SVD_IN_SHORT = (
    "test_model.py::test_lora_by_the_stock_loader_equals_adding_it_to_the_weights",
    "test_model.py::test_copy_for_another_device_is_a_model_of_its_own",
    "test_model.py::test_checkpoint_saved_with_a_lora_holds_it",
    "test_model.py::test_bare_parameters_follow_the_model",
    "test_model.py::test_layers_made_for_dynamic_memory_load_the_same",
    "test_model.py::test_attention_can_be_overridden",
    "test_model.py::test_diffusion_model_wrappers_are_called",
    "test_model.py::test_previews_have_a_picture",
    "test_model.py::test_works_with_the_stock_conditioning",
    "test_vae.py::test_stock_tiled_decode_gives_the_same",
    "test_vae.py::test_cancel_stops_within_one_piece",
    "test_vae.py::test_attributes_that_stock_nodes_read",
    "test_vae.py::test_copy_for_another_device",
    "test_windows.py::test_windows_keep_absolute_places",
    "test_sampler.py::test_rising_guidance_equals_the_stock_node_for_it",
    "test_sampler.py::test_keyframes_stay",
    "test_sampler.py::test_noise_is_that_of_a_torch_generator",
    "test_conditioning.py::test_graph_equals_the_python_interface",
)


def test_workflow_runs(oldest_comfyui):
    place_files(oldest_comfyui.base, [SVD_WORKFLOW])
    prompt = to_prompt(read_graph(SVD_WORKFLOW), oldest_comfyui.client.object_info())
    change(prompt, SMALL)

    (file,) = oldest_comfyui.client.run(prompt).files
    ours = [line for line in oldest_comfyui.server.failed_imports() if "ExVideo" in line]
    assert ours == []
    assert b"class_type" in oldest_comfyui.client.fetch(file)


def test_every_workflow_opens_but_the_one_that_says_so(oldest_comfyui):
    place_files(oldest_comfyui.base, WORKFLOWS)
    time.sleep(1.1)  # ComfyUI looks again when a folder's time has changed
    info = oldest_comfyui.client.object_info()
    for path in WORKFLOWS:
        graph = read_graph(path)
        (note,) = (node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
        kinds = {node["type"] for node in graph["nodes"]} - {"MarkdownNote"}
        if kinds <= info.keys():
            assert find_problems(to_prompt(graph, info), info) == [], path.stem
        else:
            assert kinds - info.keys() == {"FrameInterpolationModelLoader", "FrameInterpolate"}
            assert "update ComfyUI" in note


def test_cogvideox_runs(oldest_comfyui):
    place_cogvideox_files(oldest_comfyui.base)
    time.sleep(1.1)  # ComfyUI looks again when a folder's time has changed

    prompt = cogvideox_prompt()
    prompt["save"]["inputs"] |= {"format": "webm, vp9", "bit_depth": "10 bit", "poster": True}

    (file,) = oldest_comfyui.client.run(prompt).files
    assert b"class_type" in oldest_comfyui.client.fetch(file)
    poster = {**file, "filename": file["filename"].replace(".webm", ".png")}
    assert oldest_comfyui.client.fetch(poster).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "chosen", [(*OF_BOTH, *OF_SVD_IN_SHORT), pytest.param((*OF_BOTH, *OF_SVD), marks=pytest.mark.slow)],
    ids=["in short", "all"],
)  # fmt: skip
def test_our_objects_inside_of_it(chosen):
    tree = Environment(ROOT).tree(OLDEST)
    if not (tree / "main.py").exists():
        pytest.skip(f"no ComfyUI in {tree}: `python run.py test` puts one there")
    command = [sys.executable, "-m", "pytest", "-q", *(str(Path(__file__).with_name(name)) for name in chosen)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "EXVIDEO_COMFYUI": str(tree)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:]
