"""Download the published files from inside ComfyUI."""

from __future__ import annotations

import time
from collections.abc import Callable

from comfy_api.latest import io

from ..exvideo_core.hub.catalog import SOURCES, choices, size
from ..exvideo_core.hub.download import check_whole, fetch_all
from . import host
from .comfy_bridge.file_lists import DOWNLOAD

_SOURCES = {title: source for source, title in SOURCES.items()}


class ExVideoDownload(io.ComfyNode):
    """Downloads published files into the folders of their loaders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sizes = {choice: size(*files) for choice, files in choices().items()}
        return io.Schema(
            node_id="ExVideoDownload",
            display_name=DOWNLOAD,
            category="ExVideo/loaders",
            description="Fetches the published models into the folders where the loaders look, when it is run. Files "
            "that are there are left alone, without any network. Press R afterwards to see new ones in the lists.",
            search_aliases=["download model", "get model", "huggingface", "modelscope", "missing model", "下载模型"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(sizes),
                    tooltip="picture to video: SVD and ExVideo's extension (11 GB). sentence to video: CogVideoX-5B's "
                    "parts and ExVideo's LoRA (over 21 GB). Or one of the files.",
                    extra_dict={"exvideo_labels": sizes},
                ),
                io.Combo.Input(
                    "source",
                    options=list(_SOURCES),
                    tooltip="Both have the same files. Hugging Face gives svd_xt.safetensors to those who have "
                    "accepted its licence and set HF_TOKEN where ComfyUI is started. HF_ENDPOINT names a mirror.",
                ),
            ],
            outputs=[io.String.Output(display_name="paths", tooltip="Where the files are, one a line.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, **_others: object) -> str | float:
        paths = [host.find_published(file) for file in choices()[model]]
        if None in paths:
            return time.time()  # never cached: a downloaded file may be deleted later
        return " ".join(map(host.fingerprint, paths))

    @classmethod
    def execute(cls, model: str, source: str) -> io.NodeOutput:
        found = {file: host.find_published(file) for file in choices()[model]}
        missing = {file: host.main_folder(file.folder) for file, path in found.items() if path is None}
        report = _Report(cls.hidden.unique_id, host.progress(1))
        fetched = fetch_all(missing, _SOURCES[source], progress=report)
        paths = [*map(check_whole, filter(None, found.values())), *fetched]
        text = "\n".join(map(str, paths))
        host.show_text(cls.hidden.unique_id, f"{len(fetched)} of {len(found)} fetched:\n{text}")
        return io.NodeOutput(text)


class _Report:
    """Progress of a download: the node's bar, and size, speed and time left on the node. Raises after Cancel."""

    def __init__(self, node_id: str | None, bar: Callable[[int, int | None], None]) -> None:
        self.node_id, self.bar = node_id, bar
        self.begun: tuple[float, int] | None = None  # time, and bytes of an earlier download
        self.shown = 0.0  # time of the last text

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self.shown + 0.25:  # chunks come faster than the page can draw
            return
        self.shown = now
        start, there = self.begun = self.begun or (now, done)
        rate = (done - there) / max(now - start, 1.0)
        left = f", {_minutes((total - done) / rate)} left" if rate > 0 else ""
        host.show_text(
            self.node_id, f"{done / 1e9:.2f} of {total / 1e9:.2f} GB, {rate / 1e6:.1f} MB/s{left}", log=False
        )
        self.bar(done, total)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
