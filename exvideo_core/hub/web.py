"""Requests over HTTP that follow redirects without handing a token on, and say why they fail."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPErrorProcessor, HTTPSHandler, OpenerDirector, Request, build_opener

from ..errors import DownloadError
from ..files import quoted

_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be another one a little later


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Timeouts and retries."""

    silence: float = 30.0  # seconds without any byte after which a connection counts as lost
    attempts: int = 6  # in a row that bring nothing new
    wait: float = 1.0  # seconds before the second attempt; each further wait is twice as long, up to a minute

    def before(self, attempt: int, asked: float | None = None) -> float:
        """Seconds to wait before attempt 2, 3, ...; `asked` is what the server asks for."""
        return min(max(self.wait * 2.0 ** (attempt - 2), asked or 0.0), 60.0)


class PassingError(Exception):
    """An error that may pass: no connection, silence, an overloaded server."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class StatusError(Exception):
    """A status with which the server refuses."""

    def __init__(self, status: int, url: str) -> None:
        super().__init__(f"{host_of(url)} answers {status}")
        self.status, self.host = status, host_of(url)


class PlainAnswers(HTTPErrorProcessor):
    """Gives every answer as it is, and leaves redirects to `request`: urllib's own would send the token along."""

    def http_response(self, request: Request, response: http.client.HTTPResponse) -> http.client.HTTPResponse:
        return response

    https_response = http_response


def request(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
    described_by: str | None = None,
    silence: float = 30.0,
) -> http.client.HTTPResponse:
    """Send a request; `token` goes to the first host only, also where that redirects.

    Args:
        described_by: the first redirect with this header is itself the answer, as is one to another host.
        silence: seconds without any byte before it fails.
    """
    first = urlsplit(url)
    if first.scheme not in ("https", "http"):  # urllib would open files too
        raise DownloadError(
            f"{host_of(url) or quoted(url)} is no server to download from: its address must begin with https://. Look "
            f"at the environment variables HF_ENDPOINT and MODELSCOPE_DOMAIN."
        )
    for _ in range(10):
        sent = {"User-Agent": "exvideo", "Accept-Encoding": "identity", **(headers or {})}
        if token and urlsplit(url)[:2] == first[:2]:
            sent["Authorization"] = f"Bearer {token}"
        answer = _send(Request(url, headers=sent, method=method), silence)  # noqa: S310 (its scheme is looked at)
        if answer.status not in _REDIRECTS:
            return answer
        target = _target(url, answer)
        if described_by and (described_by in answer.headers or urlsplit(target).netloc != first.netloc):
            return answer
        answer.close()
        if urlsplit(target).scheme not in ("https", first.scheme):
            raise PassingError(f"{host_of(url)} sends on to {host_of(target)} without encryption")
        url = target
    raise PassingError(f"{host_of(url)} sends in circles")


def _send(message: Request, silence: float) -> http.client.HTTPResponse:
    url = message.full_url
    try:
        answer: http.client.HTTPResponse = _opener().open(message, timeout=silence)
    except (OSError, http.client.HTTPException, ValueError) as error:  # the last: of an address that is none
        raise PassingError(f"{host_of(url)}: {_reason(error)}") from error
    if 200 <= answer.status < 300 or answer.status in _REDIRECTS:
        return answer
    answer.close()
    if answer.status in _PASSING:
        asked = answer.headers.get("Retry-After", "")
        raise PassingError(f"{host_of(url)} answers {answer.status}", whole_number(asked))
    raise StatusError(answer.status, url)


def _target(url: str, answer: http.client.HTTPResponse) -> str:
    """Target of a redirect."""
    try:
        target = urljoin(url, answer.headers.get("Location", ""))
        urlsplit(target)
    except ValueError as error:
        answer.close()
        raise PassingError(f"{host_of(url)} sends on to no address") from error
    return target


@cache
def _opener() -> OpenerDirector:
    context = ssl.create_default_context()
    try:
        import certifi  # some Pythons on macOS have no certificates of their own
    except ImportError:
        pass
    else:
        context.load_verify_locations(certifi.where())
    return build_opener(PlainAnswers, HTTPSHandler(context=context))


def read(answer: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    """Yield the body in chunks, as they arrive."""
    try:
        with answer:
            while chunk := answer.read1(1 << 18):
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise PassingError(f"{host_of(url)}: {_reason(error)}") from error


def whole_number(text: str) -> int | None:
    """Parse a header's number; None if it is none, or too large for a file. `isdigit` also accepts ² and ٣."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def host_of(url: str) -> str:
    """The server in messages: without a password, and without the path, which may be signed for one person."""
    return quoted(urlsplit(url).netloc.rpartition("@")[2])


def _reason(error: Exception) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return "no answer"
    return quoted(str(error)) or type(error).__name__
