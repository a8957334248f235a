"""`exvideo train`: what it prints, refuses and leaves behind."""

import csv

import pytest
import yaml
from narrow_cogvideox import build_text_encoder, build_transformer, save_files as save_cogvideox
from narrow_svd import save_files as save_svd
from safetensors.torch import save_file
from training_videos import write_video

from exvideo_core import load_svd
from exvideo_core.cli import main
from exvideo_core.lora import merge, read_lora

SHORT_RUN = {"steps": 2, "batch_size": 1, "held_out_every": 1, "save_every": 2, "precision": "fp32"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Narrow models, and some videos with captions."""
    folder = tmp_path_factory.mktemp("files")
    save_svd(folder)
    save_cogvideox(folder)
    t5 = build_text_encoder().t5.state_dict()
    save_file({name: weight for name, weight in t5.items() if "embed_tokens" not in name}, folder / "t5.safetensors")
    for i in range(3):
        video = write_video(folder / "videos" / f"{i}.mp4", num_frames=9 + 4 * i, size=(96, 64))
        if i < 2:
            video.with_suffix(".txt").write_text(f"number {i} grows brighter")
    return folder


def models(target, files):
    """The section about the model."""
    if target == "svd":
        return {"checkpoint": str(files / "svd_xt.safetensors"), "num_frames": 4}
    parts = {name: str(files / f"cogvideox_{name}.safetensors") for name in ("transformer", "vae")}
    return {**parts, "text_encoder": str(files / "t5.safetensors"), "num_frames": 9, "rank": 2}


def written(folder, target, files, **sections):
    """A configuration on the disk that writes beside itself."""
    sources = {
        "svd": {"source": "procedural", "width": 128, "height": 128, "pictures": 3, "held_out": 1},
        "cogvideox": {"source": str(files / "videos"), "width": 96, "height": 64, "fps": None, "held_out": 1},
    }
    contents = {
        "target": target,
        "run": {**SHORT_RUN, "name": "own", "output": str(folder / "run"), **sections.get("run", {})},
        "model": {**models(target, files), **sections.get("model", {})},
        "data": {**sources[target], **sections.get("data", {})},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(contents), encoding="utf-8")
    return path


def refused(capsys, *arguments):
    """The one sentence that a command says."""
    assert main(["train", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


# without training


@pytest.mark.parametrize("target", ["svd", "cogvideox"])
def test_a_template_pointed_at_files_passes_the_dry_run(target, files, tmp_path, capsys):
    assert main(["train", "--init", target]) == 0
    template = capsys.readouterr().out
    contents = yaml.safe_load(template)
    contents["model"] |= {key: value for key, value in models(target, files).items() if key != "num_frames"}
    contents["data"]["source"] = str(files / "videos")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(contents))

    assert main(["train", str(path), "--dry-run"]) == 0

    assert template.startswith("# Post-tune ")
    assert f"target    {target}: " in capsys.readouterr().out


def test_no_configuration_is_refused_with_a_way_to_get_one(capsys):
    assert "Give a CONFIG.yaml, or --init svd or --init cogvideox" in refused(capsys)


def test_a_bad_configuration_is_refused_in_one_sentence(files, tmp_path, capsys):
    path = written(tmp_path, "svd", files, run={"steps": 0}, data={"colour": "red"})

    message = refused(capsys, path)

    assert "data.colour is unknown" in message
    assert "run.steps must be at least 1" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["svd", "cogvideox"])
def test_the_dry_run_counts_what_is_trained_and_what_memory_it_takes(target, files, tmp_path, capsys):
    path = written(tmp_path, target, files)

    assert main(["train", str(path), "--dry-run"]) == 0

    says = capsys.readouterr().out
    tensors = {"svd": 528, "cogvideox": 16}[target]
    assert f"million parameters in {tensors} tensors are trained" in says
    assert "clips     " in says
    assert "2 steps of 1 clips, adamw, fp32" in says
    table = [line for line in says.splitlines() if line.startswith("|")]
    kinds = [row.split("|")[1].strip() for row in table[2:]]
    assert kinds == ["frozen", "weights", "gradients", "moments", "average", "total"]
    assert not (tmp_path / "run").exists()


def test_the_dry_run_counts_videos_and_captions(files, tmp_path, capsys):
    path = written(tmp_path, "cogvideox", files)

    main(["train", str(path), "--dry-run"])

    assert f"3 videos in {files / 'videos'}, 2 of them with a caption" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "sections", "words"),
    [
        ("svd", {"model": {"checkpoint": "nowhere/svd.safetensors"}}, "svd.safetensors"),
        ("cogvideox", {"model": {"transformer": "nowhere/5b.safetensors"}}, "5b.safetensors"),
        ("cogvideox", {"data": {"source": "nowhere/videos"}}, "nowhere/videos does not exist"),
        ("svd", {"data": {"source": "nowhere/videos"}}, "nowhere/videos does not exist"),
    ],
)
def test_the_dry_run_refuses_what_is_missing(target, sections, words, files, tmp_path, capsys):
    path = written(tmp_path, target, files, **sections)

    assert words in refused(capsys, path, "--dry-run")


def test_the_dry_run_refuses_a_batch_that_the_processes_cannot_share(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    path = written(tmp_path, "svd", files, run={"batch_size": 6})

    assert "run.batch_size is 6, which 4 processes cannot share evenly; 8 would do" in refused(
        capsys, path, "--dry-run"
    )


# training


def trained(target, files, folder):
    """A run of two steps: its target, its configuration and its folder."""
    path = written(folder, target, files)
    assert main(["train", str(path), "--device", "cpu"]) == 0
    return target, path, folder / "run"


@pytest.fixture(scope="module")
def svd(files, tmp_path_factory):
    return trained("svd", files, tmp_path_factory.mktemp("svd"))


@pytest.fixture(scope="module")
def cogvideox(files, tmp_path_factory):
    return trained("cogvideox", files, tmp_path_factory.mktemp("cogvideox"))


@pytest.fixture(params=["svd", "cogvideox"])
def finished(request):
    return request.getfixturevalue(request.param)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_run_logs_each_step_and_what_was_held_out(finished):
    _, _, run = finished

    steps, held_out = rows(run / "log.csv"), rows(run / "held_out.csv")

    assert steps[0] == ["step", "loss", "learning_rate", "gradient_norm", "seconds"]
    assert [row[0] for row in steps[1:]] == ["1", "2"]
    assert held_out[0] == ["step", "all", "within", "beyond"]
    assert [row[0] for row in held_out[1:]] == ["0", "1", "2"]
    assert all(float(number) > 0 for row in [*steps[1:], *held_out[1:]] for number in row[1:4])


def test_a_run_leaves_its_configuration_a_checkpoint_and_exports(finished):
    _, path, run = finished

    assert (run / "config.yaml").read_bytes() == path.read_bytes()
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step_00000002"]
    assert [file.name for file in (run / "exports").iterdir()] == ["own_00000002.safetensors"]
    assert (run / "own.safetensors").read_bytes() == (run / "exports" / "own_00000002.safetensors").read_bytes()


def test_the_exported_file_loads_where_people_use_it(finished, files):
    target, _, run = finished

    if target == "svd":
        pipeline = load_svd(files / "svd_xt.safetensors", run / "own.safetensors", device="cpu")
        assert pipeline.extension_frames == 4
    else:
        assert merge(build_transformer(), read_lora(run / "own.safetensors"), 1.0).weights == 8


def test_the_same_command_does_nothing_more_to_a_finished_run(finished):
    _, path, run = finished
    before = {name: (run / name).read_bytes() for name in ("log.csv", "held_out.csv", "own.safetensors")}

    assert main(["train", str(path), "--device", "cpu"]) == 0

    assert {name: (run / name).read_bytes() for name in before} == before


def test_videos_are_encoded_once(cogvideox, files, tmp_path):
    cache = cogvideox[2] / "cache"
    before = {file: file.stat().st_mtime_ns for file in cache.rglob("*.safetensors")}

    path = written(tmp_path, "cogvideox", files, data={"cache": str(cache)}, run={"steps": 1})
    assert main(["train", str(path), "--device", "cpu"]) == 0

    assert len(before) == 4  # three clips and the empty sentence
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.safetensors")} == before


def test_another_configuration_is_refused_in_a_runs_folder_and_leaves_it_as_it_is(finished, files, tmp_path, capsys):
    target, path, run = finished
    other = written(tmp_path, target, files, run={"seed": 5, "output": str(run)}, data={"cache": str(run / "cache")})

    assert main(["train", str(other), "--device", "cpu"]) == 2

    assert "run of another configuration: run.seed was 0 and is 5" in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == path.read_bytes()
