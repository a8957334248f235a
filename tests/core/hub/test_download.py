"""Downloads from a server that behaves badly: each ends in a whole file or in a sentence, never in half a file."""

import os
import re
import subprocess
import sys
import threading
import time

import pytest
import torch
from hub_server import COMMIT
from safetensors.torch import save

from exvideo_core.errors import DownloadError
from exvideo_core.families.svd.files import EXVIDEO_SVD, SVD_XT
from exvideo_core.hub import catalog, download
from exvideo_core.hub.download import fetch, fetch_all, locate
from exvideo_core.hub.web import Patience

QUICK = Patience(silence=0.5, attempts=3, wait=0.05)
KEY = f"{EXVIDEO_SVD.repositories['huggingface']}/{EXVIDEO_SVD.path}"
CONTENT = save({"weight": torch.arange(50_000, dtype=torch.float32)})


@pytest.fixture
def hub(hub):
    hub.files = {KEY: CONTENT}
    return hub


def get(folder, source="huggingface", **options):
    return fetch(EXVIDEO_SVD, folder, source, patience=QUICK, **options)


def assert_whole(folder):
    """Only the file is there, and all of it."""
    assert [path.name for path in folder.iterdir()] == [EXVIDEO_SVD.name]
    assert (folder / EXVIDEO_SVD.name).read_bytes() == CONTENT


def assert_nothing_whole(folder):
    assert not [path.name for path in folder.glob("*") if path.suffix == ".safetensors"]


@pytest.mark.parametrize("source", catalog.SOURCES)
def test_a_file_arrives_under_its_own_name(hub, folder, source):
    assert get(folder, source) == folder / "ExVideo-SVD-128f-v1.fp16.safetensors"
    assert_whole(folder)


def test_a_file_that_is_there_asks_nothing_of_the_network(hub, folder):
    get(folder)
    hub.requests.clear()

    assert get(folder).read_bytes() == CONTENT
    assert not hub.requests


def test_the_version_that_was_announced_is_fetched(hub, folder):
    get(folder)

    got = [path for host, method, path, _ in hub.requests if (host, method) == ("hub", "GET")]
    assert got == [f"/ECNU-CILab/ExVideo-SVD-128f-v1/resolve/{COMMIT}/model.fp16.safetensors"]


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub, folder):
    get(folder)

    assert hub.sent("hub", "HEAD")[0]["Authorization"] == hub.sent("hub")[0]["Authorization"] == "Bearer secret"
    assert hub.sent("store")
    assert not [headers for headers in hub.sent("store") if "Authorization" in headers]


@pytest.mark.parametrize("endpoint", ["file:///etc", "ftp://example.org", "hf-mirror.com"])
def test_nothing_but_web_servers_is_asked(endpoint, folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)

    with pytest.raises(DownloadError, match=r"is no server to download from: .* HF_ENDPOINT"):
        get(folder)


@pytest.mark.parametrize("source", catalog.SOURCES)
def test_no_message_tells_a_password_a_token_or_a_signed_address(source, hub, folder, monkeypatch):
    address = hub.url.replace("//", "//me:pass@")
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("MODELSCOPE_DOMAIN", address)
    for status in (401, 404, 503, 200):
        hub.status, hub.files = status, {KEY: b""}  # of a file without bytes no size is announced
        with pytest.raises(DownloadError) as told:
            get(folder, source)
        assert "127.0.0.1" in str(told.value)
        assert not re.search("pass|secret|Bearer|resolve", str(told.value)), told.value


# connections that fail


@pytest.mark.parametrize("fault", ["stall", "drop"])
def test_after_a_lost_connection_the_rest_is_asked_for(hub, folder, fault):
    hub.answers = [fault, fault]
    get(folder)

    assert_whole(folder)
    assert [headers.get("Range") for headers in hub.sent("store")] == [None, "bytes=1000-", "bytes=2000-"]
    assert hub.sent("store")[1]["If-Range"]


def test_a_server_that_gives_no_parts_is_asked_for_all_of_it_again(hub, folder):
    hub.answers, hub.ranges = ["drop", "drop"], False
    get(folder)

    assert_whole(folder)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_refusal_is_waited_for(hub, folder, status):
    hub.answers = [status, status]
    get(folder)

    assert_whole(folder)


def test_an_address_that_has_expired_is_asked_for_again(hub, folder):
    hub.answers = ["drop", 403]
    get(folder)

    assert_whole(folder)


@pytest.mark.parametrize("fault", ["stall", 500])
def test_attempts_that_bring_nothing_end_in_a_sentence(hub, folder, fault):
    hub.answers, hub.after = [fault] * 9, 0
    with pytest.raises(DownloadError, match=r"could not be fetched from Hugging Face in 3 attempts in a row \(127\.0"):
        get(folder)

    assert len(hub.sent("store")) == 3
    assert_nothing_whole(folder)


def test_a_server_that_always_ends_at_the_same_place_is_given_up(hub, folder):
    hub.answers, hub.ranges = ["drop"] * 20, False
    with pytest.raises(
        DownloadError, match=r"connection ended after 1,000 of 200,0\d\d bytes\)\. What has arrived is kept"
    ):
        get(folder)

    assert len(hub.sent("store")) < 5
    assert_nothing_whole(folder)


def test_no_network_ends_in_a_sentence(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9: .*refused.*Check the connection, or take"):
        get(folder)


# content that is not what was announced


@pytest.mark.parametrize("fault", ["garbage", "lie", "short"])
def test_what_arrives_damaged_twice_is_deleted(hub, folder, fault):
    hub.answers = [fault] * 9
    with pytest.raises(DownloadError, match="arrived damaged twice"):
        get(folder)

    assert not [path.name for path in folder.iterdir()]


def test_what_arrives_damaged_once_is_fetched_again(hub, folder):
    hub.answers = ["garbage"]
    get(folder)

    assert_whole(folder)


def test_a_wrong_hash_is_an_error(hub, folder):
    hub.announced = "0" * 64
    with pytest.raises(DownloadError, match="its SHA-256 is not the announced one"):
        get(folder)

    assert_nothing_whole(folder)


def test_a_web_page_without_a_hash_is_not_taken_for_weights(hub, folder):
    hub.files, hub.announced = {KEY: b"<!doctype html><title>Sign in</title>"}, "not a hash"
    with pytest.raises(DownloadError, match="is a web page"):
        get(folder)

    assert_nothing_whole(folder)


def test_a_file_that_changes_between_two_calls_is_fetched_again(hub, folder):
    hub.files, hub.answers = {KEY: CONTENT[:-4] + b"new!"}, ["drop", 404]
    with pytest.raises(DownloadError):
        get(folder)
    hub.files = {KEY: CONTENT}
    get(folder)

    assert_whole(folder)


def test_a_file_that_changes_between_two_attempts_is_not_mixed(hub, folder):
    hub.answers, hub.pace = ["drop"], 0.0
    other = CONTENT[:-4] + b"new!"

    def change(done, _total):
        if done == 1000:
            hub.files = {KEY: other}

    get(folder, progress=change)

    assert (folder / EXVIDEO_SVD.name).read_bytes() == other


# refusals


@pytest.mark.parametrize("status", [401, 403])
def test_a_licence_to_accept_is_explained(hub, folder, status):
    hub.status = status
    with pytest.raises(DownloadError) as caught:
        fetch(SVD_XT, folder, patience=QUICK)

    said = str(caught.value)
    for words in (
        f"answers {status}",
        "https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt",
        "accept its licence",
        "HF_TOKEN",
        "take it from ModelScope",
    ):
        assert words in said
    assert len(hub.requests) == 1


@pytest.mark.parametrize(("source", "other"), [("huggingface", "ModelScope"), ("modelscope", "Hugging Face")])
def test_a_file_that_is_gone_is_named_with_its_page(hub, folder, source, other):
    hub.files = {}
    page = re.escape(EXVIDEO_SVD.page(source))
    with pytest.raises(DownloadError, match=rf"answers 404: there is no model\.fp16\.safetensors at {page} .*{other}"):
        get(folder, source)


# going on


def interrupt_at(limit):
    def progress(done, _total):
        if done >= limit:
            raise KeyboardInterrupt

    return progress


def test_the_next_call_goes_on_after_cancel(hub, folder):
    hub.answers = ["stall"]
    with pytest.raises(KeyboardInterrupt):
        get(folder, progress=interrupt_at(1000))
    assert [path.suffix for path in folder.iterdir()] == [".part"]
    hub.requests.clear()
    get(folder)

    assert hub.sent("store")[0]["Range"] == "bytes=1000-"
    assert_whole(folder)


def test_cancel_does_not_wait_for_a_silent_server(hub, folder):
    hub.answers = ["stall"]
    begun = []

    def progress(done, _total):
        if done:
            begun.append(time.monotonic())
            if time.monotonic() - begun[0] > 0.3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(EXVIDEO_SVD, folder, progress=progress, patience=Patience(silence=20))

    assert time.monotonic() - begun[0] < 1


def test_a_killed_process_leaves_what_the_next_goes_on_with(hub, folder):
    hub.answers = ["stall"]
    code = (
        "import sys, pathlib\n"
        "from exvideo_core.families.svd.files import EXVIDEO_SVD\n"
        "from exvideo_core.hub import download\n"
        f"download.fetch(EXVIDEO_SVD, pathlib.Path({str(folder)!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 60
    while time.monotonic() < end and not any(path.stat().st_size for path in folder.glob("*.part")):
        time.sleep(0.05)
    time.sleep(0.2)
    process.kill()
    process.wait()
    hub.requests.clear()
    get(folder)

    assert hub.sent("store")[0]["Range"] == "bytes=1000-"
    assert_whole(folder)


def test_two_that_want_the_same_file_take_turns(hub, folder):
    hub.pace = 0.1
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(get(folder))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert paths == [folder / EXVIDEO_SVD.name] * 3
    assert len(hub.sent("store")) == 1
    assert_whole(folder)


# disks


def test_a_disk_that_fills_up_keeps_the_part(hub, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.Part, "append", full)
    with pytest.raises(DownloadError, match=r"No space left on device\. Make room .* start again"):
        get(folder)

    assert_nothing_whole(folder)


@pytest.mark.skipif(os.name == "nt", reason="made with a file in the folder's place")
def test_a_folder_that_cannot_be_written_is_named(hub, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"the folder .*/file/exvideo does not exist"):
        get(tmp_path / "file" / "exvideo")


def test_half_a_file_under_the_final_name_is_not_taken_for_it(hub, folder):
    folder.mkdir(parents=True)
    (folder / EXVIDEO_SVD.name).write_bytes(CONTENT[:5000])
    with pytest.raises(DownloadError, match=r"is there already, but is no whole file: .*Delete it first"):
        get(folder)


# several


def test_progress_counts_all_bytes_of_a_group(hub, tmp_path):
    files = {EXVIDEO_SVD: tmp_path / "a", SVD_XT: tmp_path / "b"}
    hub.files = {f"{file.repositories['huggingface']}/{file.path}": CONTENT for file in files}
    told = []
    paths = fetch_all(files, progress=lambda *seen: told.append(seen), patience=QUICK)

    assert [path.read_bytes() for path in paths] == [CONTENT] * 2
    assert told[-1] == (2 * len(CONTENT),) * 2
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_published_name_counts_when_the_file_is_what_it_is_called(tmp_path):
    extension = tmp_path / "model.fp16.safetensors"
    extension.write_bytes(save({"blocks.7.norm_in.weight": torch.zeros(320)}))

    assert locate(EXVIDEO_SVD, [extension]) == extension
    extension.write_bytes(CONTENT)
    assert locate(EXVIDEO_SVD, [extension]) is None
