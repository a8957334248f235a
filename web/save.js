// The file name of a saved clip may name the date and widgets of other nodes: %date:yyyy-MM-dd%, %KSampler.seed%.
// The page fills these in only for ComfyUI's own nodes; %year%, %width% and the like are the server's.

import { app } from "../../scripts/app.js";
import { applyTextReplacements } from "../../scripts/utils.js";

app.registerExtension({
  name: "exvideo.save",
  nodeCreated(node) {
    if (node.comfyClass !== "ExVideoSave") return;
    const prefix = node.widgets?.find((widget) => widget.name === "filename_prefix");
    if (prefix) prefix.serializeValue = () => applyTextReplacements(app, prefix.value);
  },
});
