"""The published files this project reads: what each is, where it is published, and what it is called on disk.

Half of them are published as `model.fp16.safetensors` or `diffusion_pytorch_model.safetensors`, names that say nothing
and collide in one folder. They get a telling local name here; the published name is understood wherever a file is
looked for, because people have it from the browser.

There is no SHA-256 here: the source announces it over an encrypted connection, and the file is compared with that. A
copy in this file would turn every correction by the publisher into an error, and the files are data that runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from ..errors import DownloadError
from ..weights.detect import Kind

HUGGING_FACE, MODELSCOPE = "huggingface", "modelscope"
SOURCES = {HUGGING_FACE: "Hugging Face", MODELSCOPE: "ModelScope"}  # the first is the default
_PAGES = {HUGGING_FACE: "https://huggingface.co/{}", MODELSCOPE: "https://www.modelscope.cn/models/{}"}


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file as it is published.

    Attributes:
        key: its name on the command line.
        name: its name on disk.
        what: a sentence for people.
        kind: what its tensors must show it to be.
        folder: of ComfyUI's models folder.
        path: within the repositories.
        repositories: by source; the same file, byte for byte.
        num_bytes: about, 0 where nobody has said it; the source announces the exact size.
        license_to_accept: Hugging Face gives it only to people who have accepted its licence.
    """

    key: str
    name: str
    what: str
    kind: Kind
    folder: str
    path: str
    repositories: dict[str, str] = field(hash=False)
    num_bytes: int = 0
    license_to_accept: bool = False

    @property
    def published_name(self) -> str:
        """What a browser calls it."""
        return self.path.rpartition("/")[2]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it is understood by, its own first."""
        return tuple(dict.fromkeys((self.name, self.published_name)))

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return self.what.partition(":")[0]

    @property
    def url(self) -> str:
        """Where Hugging Face has it: the address that ComfyUI offers for download."""
        return f"{self.page()}/resolve/main/{quote(self.path)}"

    def page(self, source: str = HUGGING_FACE) -> str:
        """The repository's page, for people."""
        return _PAGES[source].format(self.repositories[source])


@dataclass(frozen=True, kw_only=True)
class Group:
    """Files that are of use only together."""

    key: str
    title: str  # saved in workflows: never changed
    files: tuple[PublishedFile, ...]


_COGVIDEOX_5B = {HUGGING_FACE: "THUDM/CogVideoX-5b", MODELSCOPE: "ZhipuAI/CogVideoX-5b"}

SVD_XT = PublishedFile(
    key="svd-xt",
    name="svd_xt.safetensors",
    what="Stable Video Diffusion XT: 25 frames from a picture, and what ExVideo extends",
    kind=Kind.SVD,
    folder="checkpoints",
    path="svd_xt.safetensors",
    repositories={
        HUGGING_FACE: "stabilityai/stable-video-diffusion-img2vid-xt",
        MODELSCOPE: "AI-ModelScope/stable-video-diffusion-img2vid-xt",
    },
    num_bytes=9_560_000_000,
    license_to_accept=True,
)
EXVIDEO_SVD = PublishedFile(
    key="exvideo-svd-128f",
    name="ExVideo-SVD-128f-v1.fp16.safetensors",
    what="ExVideo's extension of SVD to 128 frames",
    kind=Kind.EXTENSION,
    folder="exvideo",
    path="model.fp16.safetensors",
    repositories=dict.fromkeys(SOURCES, "ECNU-CILab/ExVideo-SVD-128f-v1"),
    num_bytes=1_670_000_000,
)
COGVIDEOX_TRANSFORMER = tuple(
    PublishedFile(
        key=f"cogvideox-5b-transformer-{part}",
        name=f"CogVideoX-5b-transformer-0000{part}-of-00002.safetensors",
        what=f"CogVideoX-5B's transformer, {which} of two files: 49 frames from a sentence, and what ExVideo extends",
        kind=Kind.COG_T2V,
        folder="diffusion_models",
        path=f"transformer/diffusion_pytorch_model-0000{part}-of-00002.safetensors",
        repositories=_COGVIDEOX_5B,
        num_bytes=num_bytes,
    )
    for part, which, num_bytes in ((1, "first", 9_925_000_000), (2, "second", 1_215_000_000))
)
COGVIDEOX_VAE = PublishedFile(
    key="cogvideox-5b-vae",
    name="CogVideoX-5b-vae.safetensors",
    what="CogVideoX's VAE",
    kind=Kind.COG_VAE,
    folder="vae",
    path="vae/diffusion_pytorch_model.safetensors",
    repositories=_COGVIDEOX_5B,
    num_bytes=431_000_000,
)
T5_XXL = PublishedFile(
    key="t5xxl-fp16",
    name="t5xxl_fp16.safetensors",
    what="T5 XXL, the text encoder of CogVideoX, FLUX and SD3",
    kind=Kind.T5,
    folder="text_encoders",
    path="t5xxl_fp16.safetensors",
    repositories={HUGGING_FACE: "comfyanonymous/flux_text_encoders", MODELSCOPE: "AI-ModelScope/flux_text_encoders"},
    num_bytes=9_790_000_000,
)
EXVIDEO_COGVIDEOX = PublishedFile(
    key="exvideo-cogvideox-129f",
    name="ExVideo-CogVideoX-LoRA-129f-v1.safetensors",
    what="ExVideo's LoRA that extends CogVideoX-5B to 129 frames",
    kind=Kind.COG_LORA,
    folder="loras",
    path="ExVideo-CogVideoX-LoRA-129f-v1.safetensors",
    repositories=dict.fromkeys(SOURCES, "ECNU-CILab/ExVideo-CogVideoX-LoRA-129f-v1"),
)

FILES = (SVD_XT, EXVIDEO_SVD, *COGVIDEOX_TRANSFORMER, COGVIDEOX_VAE, T5_XXL, EXVIDEO_COGVIDEOX)
GROUPS = (
    Group(key="svd", title="picture to video", files=(SVD_XT, EXVIDEO_SVD)),
    Group(
        key="cogvideox",
        title="sentence to video",
        files=(*COGVIDEOX_TRANSFORMER, COGVIDEOX_VAE, T5_XXL, EXVIDEO_COGVIDEOX),
    ),
    Group(key="cogvideox-5b-transformer", title="CogVideoX-5b-transformer", files=COGVIDEOX_TRANSFORMER),  # both shards
)
# What a person chooses from: a shard alone is of no use.
CHOICES: dict[str, tuple[PublishedFile, ...]] = {
    **{group.title: group.files for group in GROUPS},
    **{file.name: (file,) for file in FILES if file not in COGVIDEOX_TRANSFORMER},
}


def keys() -> list[str]:
    """All that the command line knows."""
    return [*(group.key for group in GROUPS), *(file.key for file in FILES)]


def choose(name: str) -> tuple[PublishedFile, ...]:
    """The files behind a group's title or key, or a file's key or name on disk.

    Raises:
        DownloadError: there is no such file; the sentence lists those there are.
    """
    for group in GROUPS:
        if name in (group.title, group.key):
            return group.files
    for file in FILES:
        if name in (file.key, file.name):
            return (file,)
    raise DownloadError(f"{name!r} is not one of the published files: {', '.join(keys())}.")


def offered_as(file: PublishedFile) -> tuple[str, str]:
    """The key and the choice that bring a file, and with a shard its sister."""
    if file in COGVIDEOX_TRANSFORMER:
        return GROUPS[-1].key, GROUPS[-1].title
    return file.key, file.name


def find(name: str, folder: str | None = None) -> PublishedFile | None:
    """The published file of this name, its own before a browser's, perhaps only of one of ComfyUI's folders."""
    files = [file for file in FILES if folder in (None, file.folder)]
    for names in ([(file.name, file) for file in files], [(file.published_name, file) for file in files]):
        found = [file for known, file in names if known == name]
        if len(found) == 1:
            return found[0]
    return None


def size(*files: PublishedFile) -> str:
    """Of all of them together, as the sources write it: 1 GB is 10^9 bytes."""
    known = [file.num_bytes for file in files if file.num_bytes]
    if not known:
        return "size unknown"
    return f"{'over ' * (len(known) < len(files))}{sum(known) / 1e9:.1f} GB"


def workflow_models(files: Sequence[PublishedFile] = FILES) -> list[dict[str, str]]:
    """The entries of `properties.models` that make ComfyUI offer these files when a workflow misses them.

    ComfyUI's page offers only what a widget of that node names, so the widget names the file on disk too. Of a
    transformer in two files that is the first; the second comes only with ExVideoDownload.
    """
    return [{"name": file.name, "url": file.url, "directory": file.folder} for file in files]
