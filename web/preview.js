// Shows all frames of a clip on ExVideo Sampler while it is made (nodes/comfy_bridge/preview.py sends them).
// The picture is kept after the run, until the node runs again. It is no part of the saved graph.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const EVENT = "exvideo.preview";
const NAME = "exvideo_preview";
const HEIGHT = 180; // pixels of the canvas at zoom 1
const nodesOfRun = new Set(); // ids of nodes that show an animated picture in this run

// The node to show a picture on: "5:12" is node 12 in the subgraph that node 5 holds, of which one is on the screen.
function nodeOnScreen(id) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
    if (!node || graph === app.canvas.graph) break;
    graph = node.subgraph;
  }
  return node;
}

function widgetOf(node) {
  return node.widgets?.find((widget) => widget.name === NAME);
}

function addPicture(node) {
  const before = node.size[1];
  const needed = Math.max(before, node.computeSize()[1]);
  const picture = document.createElement("img");
  picture.alt = "the clip so far";
  picture.style.cssText = "width: 100%; height: 100%; object-fit: contain; display: block";
  const widget = node.addDOMWidget(NAME, NAME, picture, {
    serialize: false,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => node.size[1],
  });
  widget.serialize = false; // `options.serialize` is for the prompt, this for the saved graph
  node.setSize([node.size[0], needed + HEIGHT]);
  widget.grown = node.size[1] - before;
  keepOutOfGraph(node);
  return widget;
}

// A graph that is saved while a picture is shown has the node's own size.
function keepOutOfGraph(node) {
  if (node.savesWithoutPreview) return;
  node.savesWithoutPreview = true;
  const before = node.onSerialize;
  node.onSerialize = function (saved) {
    before?.call(this, saved);
    const widget = widgetOf(this);
    if (widget && saved.size) saved.size = [saved.size[0], saved.size[1] - widget.grown];
  };
}

function removePicture(node) {
  const widget = widgetOf(node);
  if (!widget) return;
  node.removeWidget(widget);
  node.setSize([node.size[0], node.size[1] - widget.grown]);
}

function show({ display_node, image }) {
  const node = nodeOnScreen(display_node);
  if (!node || node.isSubgraphNode?.()) return; // a closed subgraph has no place for widgets of its own
  nodesOfRun.add(String(display_node));
  const widget = widgetOf(node) ?? addPicture(node);
  widget.element.src = image;
  app.canvas.setDirty(true, true);
}

// A node that starts again does not go on showing the clip it made before.
function start(id) {
  const node = id == null ? null : nodeOnScreen(id);
  if (!node || !widgetOf(node)) return;
  if (node.widgets.find((widget) => widget.name === "preview")?.value === "off") removePicture(node);
  else widgetOf(node).element.removeAttribute("src");
}

// ComfyUI's own preview is one frame of the same clip, which is not to stand beside ours. This is heard before the page's
// own handler, because the page imports scripts before it adds that one.
api.addEventListener("b_preview_with_metadata", (event) => {
  if (nodesOfRun.has(String(event.detail.displayNodeId))) event.stopImmediatePropagation();
});

app.registerExtension({
  name: "exvideo.preview",
  setup() {
    api.addEventListener("execution_start", () => nodesOfRun.clear());
    api.addEventListener("executing", ({ detail }) => start(detail));
    api.addEventListener(EVENT, ({ detail }) => show(detail));
  },
});
