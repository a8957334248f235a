"""The real ComfyUI page in a headless Chromium: load a workflow, look for problems, take pictures.

Needs the playwright package, and a Chromium that is installed on the machine.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .client import Client, Prompt
from .errors import HostError
from .graph import Graph
from .validation import find_problems

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_IS_READY = """() => window.app?.vueAppReady && window.app?.graph && window.app?.canvas &&
    window.LiteGraph?.registered_node_types?.['SaveImage']"""
# Zooms and moves the canvas so that every node and group is in the picture, with room for the page's own bars.
_SHOW_ALL = """() => {
  const boxes = [...app.graph._nodes.map(n => [n.pos[0], n.pos[1] - 60, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]),
    ...(app.graph._groups || []).map(g => [g.pos[0], g.pos[1], g.pos[0] + g.size[0], g.pos[1] + g.size[1]])];
  if (!boxes.length) return;
  const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])));
  const [right, bottom] = [2, 3].map(i => Math.max(...boxes.map(box => box[i])));
  const { clientWidth: width, clientHeight: height } = app.canvas.canvas;
  const scale = Math.min(1.5, (width - 160) / (right - left), (height - 180) / (bottom - top));
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset[0] = (100 + (width - 160 - scale * (right - left)) / 2) / scale - left;
  app.canvas.ds.offset[1] = 90 / scale - top;
  app.canvas.setDirty(true, true);
}"""
_COUNT_LINKS = "(links => links instanceof Map ? links.size : Object.keys(links).length)(app.graph.links)"


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome; None when there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@dataclass
class ComfyUIPage:
    """The open page. The picture's size and the language are chosen in `open_page`."""

    page: "Page"
    client: Client
    errors: list[str] = field(default_factory=list)  # what scripts of the page have thrown

    def load(self, graph: Graph) -> list[str]:
        """Open a saved workflow; return what is wrong with it, one line each."""
        self.errors.clear()
        self.page.evaluate("async graph => { await app.loadGraphData(graph) }", graph)
        self.page.wait_for_timeout(1000)  # extensions adjust the nodes after loading
        problems = [f"the page threw: {error}" for error in self.errors]
        for what, there, here in (
            ("nodes", len(graph["nodes"]), self.page.evaluate("app.graph._nodes.length")),
            ("links", len(graph["links"]), self.page.evaluate(_COUNT_LINKS)),
        ):
            if there != here:
                problems.append(f"the file has {there} {what}, the page shows {here}")
        info = self.client.object_info()
        return problems + find_problems(self.prompt(), info)

    def prompt(self) -> Prompt:
        """What the page would send to the server."""
        prompt: Prompt = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return prompt

    def graph(self) -> dict[str, Any]:
        """What the page would save."""
        graph: dict[str, Any] = self.page.evaluate("app.graph.serialize()")
        return graph

    def picture(self, path: Path, *, show_all: bool = True) -> None:
        """Write a PNG of the page; `show_all` first fits the whole graph into it."""
        if show_all:
            self.page.evaluate(_SHOW_ALL)
        self.page.wait_for_timeout(800)  # the canvas draws in its own time
        self.page.screenshot(path=path)

    def open_help(self, node_type: str) -> None:
        """Select the first node of a type and open its Info panel."""
        found = self.page.evaluate(
            """type => { const node = app.graph._nodes.find(node => node.type === type);
                         app.canvas.deselectAll(); if (node) app.canvas.selectNode(node); return Boolean(node) }""",
            node_type,
        )
        if not found:
            raise HostError(f"the loaded graph has no node of type {node_type}")
        button = self.page.locator("[data-testid=info-button]").first
        button.wait_for(timeout=10_000)
        button.dispatch_event("click")
        self.page.wait_for_timeout(1500)

    def open_templates(self) -> None:
        """Open the browser of example workflows."""
        self.page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.wait_for_timeout(3000)


@contextmanager
def open_page(url: str, *, size: tuple[int, int] = (1600, 900), locale: str | None = None) -> Iterator[ComfyUIPage]:
    """Open the page of a running server; `locale` (such as "zh") is remembered by that server."""
    from playwright.sync_api import sync_playwright  # only here, so that the package needs nothing installed

    chromium = find_chromium()
    if chromium is None:
        raise HostError("no Chromium was found; on Debian: apt-get install chromium fonts-dejavu-core")
    client = Client(url)
    client.post("/api/settings/Comfy.TutorialCompleted", True)
    if locale:
        client.post("/api/settings/Comfy.Locale", locale)
    viewport: ViewportSize = {"width": size[0], "height": size[1]}
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, headless=True, viewport=viewport, args=[*FLAGS]
        )
        try:
            page = context.pages[0] if context.pages else context.new_page()
            opened = ComfyUIPage(page, client)
            page.on("pageerror", lambda error: opened.errors.append(str(error)[:300]))
            page.goto(url, wait_until="domcontentloaded")
            page.wait_for_function(_IS_READY, timeout=120_000)
            page.wait_for_timeout(1500)  # the page restores its last graph first
            yield opened
        finally:
            context.close()
