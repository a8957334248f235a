"""What to lower where memory ends, in the order of effect: decorators of what pipelines do."""

from ..nn.out_of_memory import explained

loading = explained(
    "the weights were loaded",
    "Load with stream=True (--stream), or choose a smaller number format (fp16, bf16).",
)
sampling = explained(
    "the clip was sampled, even in small pieces",
    "Load with stream=True (--stream) if that is not so; then lower height and width, then num_frames (--frames).",
)
decoding = explained(
    "the clip was decoded, even in small tiles",
    "All is sampled: end what else uses the device, and do the same again. If that is not enough, lower height and "
    "width.",
)
