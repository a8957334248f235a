"""Folders, lists of files, names of outputs, and the version of ComfyUI."""

import errno
import json
import os
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest


@pytest.fixture
def output(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("prefix", ["clip", "exvideo/clip", "a/../b/clip", "exvideo/%year%/clip"])
def test_prefixes_in_the_output_folder_pass(pack, output, prefix):
    pack.host.check_prefix(prefix)

    assert pack.video.ExVideoSave.validate_inputs(filename_prefix=prefix) is True


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("a:b", "holds ':'"),
        ("what?/clip", "holds '?'"),
        ("%date:yyyy%", "holds ':'"),
        ("com1.old/clip", "no folder com1.old"),
        ("a\nb", "holds '\\n'"),
        ("猫" * 67, "at most 200 bytes"),
    ],
)
def test_names_that_windows_forbids_are_refused_there(pack, output, prefix, message, monkeypatch):
    monkeypatch.setattr(pack.host, "_IS_WINDOWS", True)
    with pytest.raises(pack.errors.VideoError, match=re.escape(message)):
        pack.host.check_prefix(prefix)
    pack.host.check_prefix("exvideo/Über 猫 {1}")


def test_braces_in_texts_of_the_graph_are_written_as_escapes(pack):
    prompt = {"1": {"text": 'a } in "quotes" \\', "{": "}}"}}

    (text,) = pack.host.graph_tags(prompt, None).values()

    assert json.loads(text) == prompt
    assert (text.count("{"), text.count("}")) == (2, 2)


@pytest.mark.parametrize("prefix", ["../clip", "a/../../clip", "/etc/clip"])
def test_prefixes_outside_are_refused(pack, output, prefix):
    assert "leads out of the output folder" in pack.video.ExVideoSave.validate_inputs(filename_prefix=prefix)
    with pytest.raises(pack.errors.VideoError):
        pack.host.new_output(prefix, 8, 8)


def test_a_file_in_the_way_of_the_folder_is_refused(pack, output):
    (output / "exvideo").write_text("not a folder")

    assert "cannot write to" in pack.video.ExVideoSave.validate_inputs(filename_prefix="exvideo/clip")


def save_text(output, *suffixes, before=lambda: None):
    """Files of these endings by way of the work folder; returns the names they got."""
    with output.work_folder() as folder:
        files = [folder / f"{output.name}{suffix}" for suffix in suffixes]
        for file in files:
            file.write_text(file.name)
        before()
        return [path.relative_to(output.folder).as_posix() for path in output.take_in(files)]


@pytest.fixture(params=["with links", "without links"])
def file_system(request, pack, monkeypatch):
    def link(*_paths):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if request.param == "without links":
        monkeypatch.setattr(pack.host.os, "link", link)
    return request.param


@pytest.mark.usefixtures("file_system")
def test_names_count_up_over_all_formats(pack, output):
    first = pack.host.new_output("exvideo/clip", 8, 8)

    assert (first.folder, first.subfolder) == (output / "exvideo", "exvideo")
    assert save_text(first, ".mp4", ".png") == ["clip_00001_.mp4", "clip_00001_.png"]
    assert save_text(pack.host.new_output("exvideo/clip", 8, 8), ".webm") == ["clip_00002_.webm"]


@pytest.mark.usefixtures("file_system")
def test_what_somebody_saved_meanwhile_under_the_same_name_is_kept(pack, output):
    def other():
        (output / "clip_00001_.mp4").write_text("of another server")

    assert save_text(pack.host.new_output("clip", 8, 8), ".mp4", before=other) == ["clip_00002_.mp4"]
    assert (output / "clip_00001_.mp4").read_text() == "of another server"


@pytest.mark.usefixtures("file_system")
def test_of_two_that_find_the_same_number_free_one_takes_the_next(pack, output, monkeypatch):
    find = pack.host._next_number
    monkeypatch.setattr(pack.host, "_next_number", lambda *given: (*find(*given)[:2], 1, *find(*given)[3:]))
    (output / "clip_00001_.png").write_text("of another server")

    assert save_text(pack.host.new_output("clip", 8, 8), ".mp4", ".png") == ["clip_00002_.mp4", "clip_00002_.png"]
    assert sorted(path.name for path in output.iterdir()) == ["clip_00001_.png", "clip_00002_.mp4", "clip_00002_.png"]


@pytest.mark.parametrize("file_system", ["without links"], indirect=True)
@pytest.mark.usefixtures("file_system")
def test_a_name_that_was_taken_for_nothing_is_given_back(pack, output, monkeypatch):
    def refuse(_finished, path):
        raise pack.errors.VideoError(f"cannot replace {path}")

    monkeypatch.setattr(pack.host, "move", refuse)
    with pytest.raises(pack.errors.VideoError):
        save_text(pack.host.new_output("clip", 8, 8), ".mp4", ".png")

    assert not list(output.iterdir())


def test_tags_are_each_json_once_and_can_be_switched_off(pack, monkeypatch):
    tags = pack.host.graph_tags({"1": {}}, {"workflow": {"nodes": []}})

    assert tags == {"prompt": '{"1": {}}', "workflow": '{"nodes": []}'}
    monkeypatch.setattr(pack.host.args, "disable_metadata", True)
    assert pack.host.graph_tags({"1": {}}, {"workflow": {}}) is None


def test_extensions_have_a_folder_of_their_own(pack):
    import folder_paths

    paths, endings = folder_paths.folder_names_and_paths["exvideo"]

    assert paths == [os.path.join(folder_paths.models_dir, "exvideo")]
    assert endings == {".safetensors"}


def elsewhere(files, folder):
    """A list whose demo files are looked for in another folder."""
    return replace(files, demos={name: folder / file.name for name, file in files.demos.items()})


def test_demo_is_listed_after_the_users_files_where_it_exists(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: ["own.safetensors"])
    checkpoints, extensions = (elsewhere(each, tmp_path) for each in pack.families.SVD.files)
    assert checkpoints.names() == ["own.safetensors"]
    assert extensions.names() == ["own.safetensors", "none"]

    for name in ("svd_demo.safetensors", "svd_demo_extension_128f.safetensors"):
        (tmp_path / name).write_text("x")
    assert checkpoints.names() == ["own.safetensors", "demo svd"]
    assert extensions.names() == ["own.safetensors", "none", "demo 128 frames"]
    assert checkpoints.find("demo svd") == tmp_path / "svd_demo.safetensors"
    assert extensions.find_optional("demo 128 frames") == tmp_path / "svd_demo_extension_128f.safetensors"
    assert extensions.find_optional("none") is None


def test_parts_of_diffusers_folders_are_listed(pack, tmp_path, monkeypatch):
    import folder_paths

    whole = tmp_path / "diffusers" / "CogVideoX-5b"
    for part in ("transformer", "vae"):
        (whole / part).mkdir(parents=True)
    (tmp_path / "diffusers" / "notes" / "vae").mkdir(parents=True)  # has no model_index.json
    (whole / "model_index.json").write_text("{}")
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda folder: [str(tmp_path / folder)])
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: ["own.safetensors"])

    assert pack.cogvideox.files.VAES.names() == ["own.safetensors", "demo cogvideox", "diffusers/CogVideoX-5b/vae"]
    assert pack.cogvideox.files.TEXT_ENCODERS.names() == ["own.safetensors", "demo cogvideox"]
    assert pack.cogvideox.files.TRANSFORMERS.find("diffusers/CogVideoX-5b/transformer") == whole / "transformer"


def test_of_shards_only_the_first_is_listed(pack, monkeypatch):
    import folder_paths

    names = [f"cog/model-0000{i}-of-00002{variant}.safetensors" for i in (1, 2) for variant in ("", ".fp16")]
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: [*names, "a-00002.safetensors"])

    listed = [name for name in pack.cogvideox.files.TRANSFORMERS.names() if not name.startswith("demo")]
    assert listed == [*names[:2], "a-00002.safetensors"]


def test_cogvideox_demo_is_listed_where_it_exists(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: [])
    *parts, loras = (elsewhere(each, tmp_path) for each in pack.families.COGVIDEOX.files)
    assert [files.names() for files in (*parts, loras)] == [[], [], [], []]
    for part in ("transformer", "text_encoder", "vae", "lora_129f"):
        (tmp_path / f"cogvideox_demo_{part}.safetensors").write_text("x")

    for files in parts:
        assert files.names() == ["demo cogvideox"]
        assert files.find("demo cogvideox").name == f"cogvideox_demo_{files.part}.safetensors"
    assert loras.names() == ["demo 129 frames"]


def test_text_is_shown_on_a_node_of_the_page(pack, monkeypatch, caplog):
    sent = []
    page = SimpleNamespace(send_progress_text=lambda text, node: sent.append((text, node)))
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=page))
    monkeypatch.setitem(sys.modules, "server", server)
    with caplog.at_level("INFO"):
        pack.host.show_text("7", "16 tensors applied")

    assert sent == [("16 tensors applied", "7")]
    assert "16 tensors applied" in caplog.text


def test_fingerprint_changes_with_the_file(pack, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_text("one")
    before = pack.host.fingerprint(file)
    file.write_text("three")

    assert pack.host.fingerprint(file) != before
    assert pack.host.fingerprint(None) == ""


def test_progress_raises_when_cancelled(pack):
    import comfy.model_management as management

    report = pack.host.progress(3)
    report(1, 3)
    management.interrupt_current_processing()

    with pytest.raises(management.InterruptProcessingException):
        report(2, 3)
    report(3, 3)  # one Cancel stops one run
