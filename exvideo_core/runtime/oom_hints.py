"""Out-of-memory hints for loading, sampling and decoding: what to lower, most effective first. Decorators."""

from ..nn.out_of_memory import explained

loading = explained(
    "loading the weights",
    "Load with stream=True (--stream), or choose a smaller dtype (fp16, bf16).",
)
sampling = explained(
    "sampling, even with the smallest chunks",
    "Load with stream=True (--stream) if it is not set; then lower height and width, then num_frames (--frames).",
)
decoding = explained(
    "decoding, even in small tiles",
    "Sampling is finished: close other programs that use the device and run it again. If that is not enough, lower "
    "height and width.",
)
