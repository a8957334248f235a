"""Address, size and SHA-256 of a file, as Hugging Face and ModelScope announce them before the download."""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from ..errors import DownloadError
from .catalog import HUGGING_FACE, MODELSCOPE, PublishedFile
from .web import host_of, read, request, whole_number

_LONGEST_ANSWER = 16_000_000  # bytes of a list of a folder's files; one takes 500
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """A source's information about one file."""

    url: str  # of this very version, where the source has versions
    num_bytes: int  # exact
    sha256: str | None  # of the whole file; None where the source keeps none
    version: str  # changes with the content
    token: str | None = None  # for `url`, to be sent to its host alone


def announce(file: PublishedFile, source: str, silence: float) -> Announcement:
    """Ask a source about a file; `silence` in seconds.

    StatusError or PassingError if it refuses or does not answer, DownloadError if its answer makes no sense.
    """
    return _SOURCES[source](file, silence)


def _ask_hugging_face(file: PublishedFile, silence: float) -> Announcement:
    """Read the redirect of a large file, which has X-Linked-Etag (its SHA-256) and X-Linked-Size."""
    from huggingface_hub import get_token  # the environment's or that of `hf auth login`; slow to import

    token = get_token()
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    repository = f"{endpoint}/{file.repositories[HUGGING_FACE]}/resolve"
    path = quote(file.path)
    answer = request(
        f"{repository}/main/{path}", method="HEAD", token=token, described_by="X-Linked-Etag", silence=silence
    )
    answer.close()
    headers = answer.headers
    size = headers.get("X-Linked-Size") or headers.get("Content-Length")
    etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    commit = headers.get("X-Repo-Commit") or ""
    commit = commit if re.fullmatch(r"[0-9a-f]{6,64}", commit) else "main"
    return Announcement(
        url=f"{repository}/{commit}/{path}",
        num_bytes=_size(size, file, endpoint),
        sha256=etag if _SHA256.fullmatch(etag) else None,
        version=etag or commit,
        token=token,
    )


def _ask_modelscope(file: PublishedFile, silence: float) -> Announcement:
    """Read the list of the folder, which has Size and Sha256 of each file."""
    domain = os.environ.get("MODELSCOPE_DOMAIN", "").rstrip("/") or "www.modelscope.cn"
    endpoint = domain if "://" in domain else f"https://{domain}"
    repository = file.repositories[MODELSCOPE]
    query = urlencode({"Revision": "master", "Root": file.path.rpartition("/")[0]})
    url = f"{endpoint}/api/v1/models/{repository}/repo/files?{query}"
    try:
        entries = json.loads(_short_answer(request(url, silence=silence), url))["Data"]["Files"]
        entry: dict[str, object] | None = next((entry for entry in entries if entry["Path"] == file.path), None)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DownloadError(
            f"{host_of(endpoint)} answers about {repository} with something else than a list of files."
        ) from error
    if entry is None:
        raise DownloadError(f"{file.page(MODELSCOPE)} has no {file.path}. Try Hugging Face.")
    sha256 = str(entry.get("Sha256") or "").lower()
    return Announcement(
        url=f"{endpoint}/models/{repository}/resolve/master/{quote(file.path)}",
        num_bytes=_size(entry.get("Size"), file, endpoint),
        sha256=sha256 if _SHA256.fullmatch(sha256) else None,
        version=sha256 or str(entry.get("Revision")),
    )


def _short_answer(answer: http.client.HTTPResponse, url: str) -> bytes:
    """The body of an answer; raises ValueError if it is too long."""
    text = bytearray()
    for chunk in read(answer, url):
        text += chunk
        if len(text) > _LONGEST_ANSWER:
            answer.close()
            raise ValueError(f"it has more than {_LONGEST_ANSWER:,} bytes")
    return bytes(text)


def _size(text: object, file: PublishedFile, endpoint: str) -> int:
    num_bytes = whole_number(str(text))
    if not num_bytes:
        raise DownloadError(
            f"{host_of(endpoint)} does not say how large {file.path} is. Try again later, or the other source."
        )
    return num_bytes


_SOURCES: dict[str, Callable[[PublishedFile, float], Announcement]] = {
    HUGGING_FACE: _ask_hugging_face,
    MODELSCOPE: _ask_modelscope,
}
