"""`exvideo download`, and what other verbs say about a published file that is not there."""

import pytest
import torch
from hub_server import running_hub
from safetensors.torch import save

from exvideo_core.cli import main
from exvideo_core.families.svd.files import EXVIDEO_SVD, SVD_XT
from exvideo_core.hub.catalog import choose, files, keys

CONTENT = save({"weight": torch.zeros(1000)})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as hub:
        hub.files = {
            f"{file.repositories[source]}/{file.path}": CONTENT for file in files() for source in file.repositories
        }
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        yield hub


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_every_file_gets_into_the_folder_where_its_loader_looks(hub, tmp_path, capsys, source):
    models = tmp_path / "models"
    models.mkdir()

    assert main(["download", "svd", "cogvideox", "--to", str(models), "--source", source]) == 0
    printed = capsys.readouterr()
    paths = [models / file.folder / file.name for file in files()]
    assert printed.out.split() == [str(path) for path in paths]
    assert all(path.read_bytes() == CONTENT for path in paths)
    assert "svd_xt.safetensors: 100%" in printed.err


def test_without_a_models_folder_files_come_where_one_is(hub, tmp_path):
    assert main(["download", "exvideo-svd-128f"]) == 0
    assert (tmp_path / "ExVideo-SVD-128f-v1.fp16.safetensors").read_bytes() == CONTENT


def test_a_file_that_a_browser_has_fetched_is_not_fetched_again(hub, tmp_path, capsys):
    file = tmp_path / "model.fp16.safetensors"
    file.write_bytes(save({"blocks.7.norm_in.weight": torch.zeros(320)}))

    assert main(["download", "exvideo-svd-128f"]) == 0
    assert capsys.readouterr().out.strip() == file.name
    assert not hub.requests


def test_half_a_file_that_is_there_is_not_called_done(hub, tmp_path, capsys):
    (tmp_path / SVD_XT.name).write_bytes(CONTENT[:500])

    assert main(["download", "svd-xt"]) == 2
    assert "svd_xt.safetensors is there already, but is no whole file" in capsys.readouterr().err


def test_the_list_names_all_there_is_and_asks_nobody(hub, capsys):
    assert main(["download", "--list"]) == 0
    listed = capsys.readouterr().out

    assert all(any(line.split()[:1] == [key] for line in listed.splitlines()) for key in keys())
    assert all(file.page() in listed and file.name in listed for file in files())
    assert not hub.requests


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["svdxt"], "'svdxt' is not one of the published files: svd, cogvideox,"),
        (["svd", "--to", "nowhere"], "--to nowhere: there is no such folder"),
        (["svd", "--to", "ComfyUI"], "--to ComfyUI is ComfyUI itself; its models folder is meant: --to ComfyUI"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(hub, tmp_path, capsys, arguments, said):
    (tmp_path / "ComfyUI" / "models").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "main.py").touch()

    assert main(["download", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"exvideo: {said}")


def test_a_refusal_is_one_sentence_and_status_2(hub, capsys):
    hub.status = 403

    assert main(["download", "svd-xt"]) == 2
    assert "accept its licence" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", [EXVIDEO_SVD.name, EXVIDEO_SVD.published_name])
def test_a_missing_published_file_is_answered_with_how_to_get_it(tmp_path, capsys, name):
    assert main(["inspect", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert "`exvideo download exvideo-svd-128f` fetches ExVideo's extension of SVD to 128 frames (1.7 GB)" in said
    assert EXVIDEO_SVD.page() in said


def test_a_missing_file_of_ones_own_is_just_missing(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "mine.safetensors")]) == 2
    assert "exvideo download" not in capsys.readouterr().err


def test_the_keys_that_other_texts_name_exist():
    assert choose("svd") == (SVD_XT, EXVIDEO_SVD)
