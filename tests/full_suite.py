"""Tests that only the full suite runs: `run.py test --quick` leaves out the mark `full`, which they get here.

A test belongs here if it takes seconds and other tests of the same code are quick.
"""

# Files and folders, relative to tests/.
FILES = (
    "core/cli/test_demo.py",
    "core/cli/test_resume.py",
    "core/estimate/test_estimate.py",
    "core/families/cogvideox/test_checkpoint_full_size.py",
    "core/families/cogvideox/test_sequence_parallel.py",
    "core/families/svd/test_chunks.py",
    "core/families/test_weight_streaming.py",
    "core/runtime/test_pipeline_resume.py",
    "core/runtime/test_same_clip.py",
    "core/training/test_activations.py",
    "core/training/test_bad_data.py",
    "core/training/test_learns.py",
    "core/training/test_loop.py",
    "core/training/test_scale.py",
    "core/training/test_shipped.py",
    "demo_models/",
    "emulated_cuda/",
    "faults/",
    "nodes/test_import_time.py",
    "nodes/test_memory.py",
    "parity/",
    "test_benchmarks.py",
    "test_docs_commands.py",
)
# Whatever needs one of these fixtures: SVD inside ComfyUI takes a quarter of a second for each step. `either` is SVD or
# CogVideoX.
FIXTURES = {"loaded", "either"}


def is_full(item) -> bool:
    """Whether only the full suite runs it."""
    return item.nodeid.startswith(tuple(f"tests/{name}" for name in FILES)) or not FIXTURES.isdisjoint(
        item.fixturenames
    )
