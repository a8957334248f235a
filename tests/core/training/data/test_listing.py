"""Folders and lists of training videos."""

import json
from pathlib import Path

import pytest

from exvideo_core.errors import ExVideoError
from exvideo_core.training.data.listing import Listed, list_videos


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_folder_is_searched_in_order_without_hidden_and_foreign_files(tmp_path):
    for name in ("b.mp4", "a/z.MOV", "a/notes.md", ".hidden.mp4", ".trash/c.mp4", "a/b/d.gif"):
        write(tmp_path / name)
    write(tmp_path / "a/z.txt", "a boat\n at sea\n")

    listed = list_videos(tmp_path)

    assert [entry.path.relative_to(tmp_path).as_posix() for entry in listed] == ["a/b/d.gif", "a/z.MOV", "b.mp4"]
    assert [entry.caption for entry in listed] == ["", "a boat at sea", ""]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.json", '[{"path": "in/a.mp4", "prompt": "a, or b"}, {"path": "/b.mp4", "text": null, "fps": 30}]'),
        ("metadata.jsonl", '\ufeff{"path": "in/a.mp4", "caption": "a, or b"}\n\n{"video": "/b.mp4"}\n'),
        ("metadata.csv", 'file_name,size,text\nin/a.mp4,3,"a, or b"\n/b.mp4,4,\n'),
    ],
)
def test_lists_of_every_kind_say_the_same(tmp_path, name, text):
    write(tmp_path / "not_in_the_list.mp4")
    file = write(tmp_path / name, text)

    expected = [Listed(path=tmp_path / "in/a.mp4", caption="a, or b"), Listed(path=Path("/b.mp4").absolute())]
    assert list_videos(file) == list_videos(tmp_path) == expected


def test_same_video_is_listed_twice_only_with_another_caption(tmp_path):
    entries = [{"path": "a.mp4"}, {"path": "./x/../a.mp4"}, {"path": "a.mp4", "caption": "other"}]
    write(tmp_path / "list.json", json.dumps(entries))

    assert [entry.caption for entry in list_videos(tmp_path / "list.json")] == ["", "other"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.json", '[{"path": "a.mp4"},\n{"path": ]', r"l\.json, line 2: not readable as JSON"),
        ("l.json", '{"path": "a.mp4"}', "must hold a list, .*, not an object"),
        ("l.json", '[{"path": "a.mp4"}, {"name": "b.mp4"}]', r"entry 2: no path\. It has name"),
        ("l.json", '[{"path": 3}]', "entry 1: path must be text in double quotes, not a number"),
        ("l.json", "[]", "has no videos"),
        ("l.jsonl", '{"path": "a.mp4"}\n\n{"path"\n', r"l\.jsonl, line 3: not readable as JSON"),
        ("l.jsonl", '{"path": "a.mp4"}\n"b.mp4"\n', "line 2: expected .*, not text"),
        ("l.csv", "name,caption\na.mp4,x\n", "has the columns name, caption, and one named path is needed"),
        ("l.csv", "path,caption\na.mp4,x\nb.mp4,one, two\n", "line 3: more values than the 2 columns"),
        ("l.csv", 'path,caption\na.mp4,"x\n', r"line 2: not readable as CSV"),
        ("l.txt", "a.mp4", "neither a folder, nor a video"),
    ],
)
def test_faulty_list_is_refused_with_the_place_of_the_fault(tmp_path, name, text, message):
    with pytest.raises(ExVideoError, match=message):
        list_videos(write(tmp_path / name, text))


def test_missing_and_empty_sources_are_refused(tmp_path):
    with pytest.raises(ExVideoError, match=r"nowhere does not exist: name a folder"):
        list_videos(tmp_path / "nowhere")
    with pytest.raises(ExVideoError, match="has no videos: put some there"):
        list_videos(tmp_path)
