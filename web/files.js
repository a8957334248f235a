// Lists of model files say what each file is, and a saved name is understood by its other name.
// nodes/comfy_bridge/file_lists.py and nodes/download.py say which widgets: "exvideo_files", "exvideo_labels" of an input.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let known = {}; // labels by folder and file name

async function learn() {
  try {
    const answer = await api.fetchApi("/exvideo/files");
    if (answer.ok) known = await answer.json();
  } catch (error) {
    console.warn("ExVideo: no labels of model files", error); // the lists are then plain
  }
}

function labelOf(told, value) {
  const label = told.exvideo_labels?.[value] ?? known[told.exvideo_files?.folder]?.[value];
  return label ? `${value} - ${label}` : String(value);
}

// Drawn nodes open a menu, which loses its search field with `getOptionLabel`; its entries get their labels here.
function labelOpenMenu(told) {
  const menu = [...document.querySelectorAll(".litecontextmenu")].at(-1);
  for (const entry of menu?.querySelectorAll(".litemenu-entry") ?? []) entry.textContent = labelOf(told, entry.textContent);
}

function labelWidget(widget, told) {
  Object.defineProperty(widget.options, "getOptionLabel", {
    get: () => (globalThis.LiteGraph?.vueNodesMode ? (value) => labelOf(told, value) : undefined),
    configurable: true,
    enumerable: true,
  });
  const open = widget.onClick;
  if (!open) return;
  widget.onClick = function (...given) {
    const before = document.querySelectorAll(".litecontextmenu").length;
    open.apply(this, given);
    if (document.querySelectorAll(".litecontextmenu").length > before) labelOpenMenu(told);
  };
}

// The saved name if it is listed, else the file's other name if that is.
function listedName(value, names, listed) {
  if (listed.includes(value)) return value;
  const others = names.find((pair) => pair.includes(value)) ?? [];
  return others.find((name) => listed.includes(name)) ?? value;
}

function toldOf(data, widget) {
  const [, told] = data.input?.required?.[widget.name] ?? data.input?.optional?.[widget.name] ?? [];
  return told?.exvideo_files || told?.exvideo_labels ? told : null;
}

app.registerExtension({
  name: "exvideo.files",
  async setup() {
    await learn();
  },
  async refreshComboInNodes() {
    await learn();
  },
  beforeRegisterNodeDef(type, data) {
    if (!data.name.startsWith("ExVideo")) return;
    const created = type.prototype.onNodeCreated;
    type.prototype.onNodeCreated = function (...given) {
      created?.apply(this, given);
      for (const widget of this.widgets ?? []) {
        const told = toldOf(data, widget);
        if (told) labelWidget(widget, told);
      }
    };
    const configured = type.prototype.onConfigure;
    type.prototype.onConfigure = function (...given) {
      configured?.apply(this, given);
      for (const widget of this.widgets ?? []) {
        const names = toldOf(data, widget)?.exvideo_files?.names;
        if (names) widget.value = listedName(widget.value, names, widget.options.values ?? []);
      }
    };
  },
});
