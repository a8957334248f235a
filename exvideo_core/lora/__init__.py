"""LoRAs of a transformer, such as ExVideo-CogVideoX-LoRA-129f-v1 (arXiv:2406.14130): W + scale * up @ down.

`read_lora` accepts every spelling in use and returns the pairs by the names of our weights; `merge` adds them to the
weights and `remove_loras` restores the weights bit for bit; `attach` runs the pairs beside the weights, for training
and comparisons; `apply_lora` reads and merges for a pipeline.

A host that patches weights itself, such as ComfyUI, calls `fit_lora(lora, shapes)` with the names and shapes of its
model's weights: it checks like `merge` and returns {name as in shapes: LoRAPair(down, up, alpha)}.
"""

from .apply import LoRAReport, apply_lora, fit_lora, merge, remove_loras
from .attach import AttachedLoRA, attach, new_lora
from .files import LoRA, LoRAPair, read_lora, save_lora

__all__ = [
    "AttachedLoRA",
    "LoRA",
    "LoRAPair",
    "LoRAReport",
    "apply_lora",
    "attach",
    "fit_lora",
    "merge",
    "new_lora",
    "read_lora",
    "remove_loras",
    "save_lora",
]
