"""A run folder from somebody else: what its checkpoints ask to be run is not run."""

import importlib.util
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from exvideo_core.errors import ExVideoError
from exvideo_core.runtime.distributed import World
from exvideo_core.training.engine import TorchEngine
from exvideo_core.training.engine_deepspeed import DeepSpeedEngine
from exvideo_core.training.safe_load import safe_load
from exvideo_core.training.settings import OptimizerConfig

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")


class MakesAFolder:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def engine(seed=0):
    torch.manual_seed(seed)
    trained = TorchEngine({"unit": nn.Linear(3, 2)}, OptimizerConfig(), 0.9, World())
    trained.backward(iter([lambda: trained.weights["unit.weight"].square().sum()]), 1)
    trained.step(1.0)
    return trained


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "step_00000001"
    folder.mkdir()
    engine().save(folder)
    return folder


def refused(folder, made):
    with pytest.raises(ExVideoError, match="was not loaded: it asks for"):
        engine(1).load(folder)
    return not made.exists()


def test_a_state_is_loaded_as_it_was_saved(saved):
    other = engine(1)
    other.load(saved)

    assert torch.equal(other.weights["unit.weight"], engine().weights["unit.weight"])
    assert other.ema.updates == 1


def test_a_list_of_tensors_that_runs_something_is_refused(saved, tmp_path):
    (saved / ".metadata").write_bytes(pickle.dumps(MakesAFolder(tmp_path / "made")))

    assert refused(saved, tmp_path / "made")


def test_a_list_with_an_object_in_place_of_a_tensor_is_refused(saved, tmp_path):
    # it would be read by a torch.load that runs things
    content = pickle.loads((saved / ".metadata").read_bytes())
    name = next(iter(content.state_dict_metadata))
    content.state_dict_metadata[name] = BytesStorageMetadata()
    (saved / ".metadata").write_bytes(pickle.dumps(content))

    assert refused(saved, tmp_path / "made")


def test_tensors_that_run_something_are_refused(saved, tmp_path):
    entries = pickle.loads((saved / ".metadata").read_bytes())
    file = saved / "__0_0.distcp"
    torch.save(MakesAFolder(tmp_path / "made"), file)
    for place in entries.storage_data.values():
        place.offset, place.length = 0, file.stat().st_size
    (saved / ".metadata").write_bytes(pickle.dumps(entries))

    assert refused(saved, tmp_path / "made")


@pytest.mark.parametrize("bytes_left", [0, 1, 100])
def test_a_damaged_list_of_tensors_is_a_sentence(saved, bytes_left):
    file = saved / ".metadata"
    file.write_bytes(file.read_bytes()[:bytes_left])

    with pytest.raises(ExVideoError, match=r"is damaged \(.*delete it to resume from the checkpoint before"):
        engine(1).load(saved)


def test_damaged_tensors_are_a_sentence(saved):
    (saved / "__0_0.distcp").write_bytes(bytes(5000))

    with pytest.raises(ExVideoError, match=r"is damaged \(.*delete it to resume from the checkpoint before"):
        engine(1).load(saved)


@needs_deepspeed
@pytest.mark.parametrize("file", ["state.pt", "average.pt"])
def test_deepspeed_runs_nothing_either(file, tmp_path):
    (tmp_path / "world.json").write_text(json.dumps(1))
    torch.save({"weights": {}, "updates": 1}, tmp_path / "average.pt")
    torch.save({}, tmp_path / "state.pt")
    torch.save(MakesAFolder(tmp_path / "made"), tmp_path / file)
    trained = object.__new__(DeepSpeedEngine)
    trained.world, trained.ema = World(), SimpleNamespace(load_state_dict=lambda state: None)
    trained._engine = SimpleNamespace(load_checkpoint=like_deepspeed)

    with pytest.raises(ExVideoError, match="was not loaded: it asks for"):
        trained.load(tmp_path)
    assert not (tmp_path / "made").exists()


def like_deepspeed(folder, tag):
    """As TorchCheckpointEngine.load of DeepSpeed 0.19.8."""
    return torch.load(Path(folder, "state.pt"), weights_only=False)


def test_other_loads_are_as_they_were_afterwards(tmp_path):
    torch.save(World(), tmp_path / "own.pt")
    with pytest.raises(ExVideoError), safe_load(tmp_path):
        torch.load(tmp_path / "own.pt", weights_only=False)

    assert torch.load(tmp_path / "own.pt", weights_only=False) == World()
