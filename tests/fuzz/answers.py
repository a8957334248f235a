"""Answers of web servers from bytes, by urllib's own parser and without any network."""

import http.client
import io
from contextlib import contextmanager
from unittest.mock import patch
from urllib.request import HTTPHandler, HTTPSHandler, build_opener

from exvideo_core.hub import web

BETWEEN = b"\n=====\n"  # two answers, of which the first sends on to the second


class _Socket:
    def __init__(self, answer):
        self.answer = answer

    def makefile(self, *_, **__):
        return io.BytesIO(self.answer)


class _Canned(HTTPHandler, HTTPSHandler):
    """Gives one answer after the other, whatever is asked for."""

    def __init__(self, answers):
        super().__init__()
        self.answers = iter(answers)

    def http_open(self, request):
        response = http.client.HTTPResponse(_Socket(next(self.answers, b"")), method=request.get_method())
        response.begin()
        response.msg = response.reason
        return response

    https_open = http_open


@contextmanager
def answering(data):
    """Have the project's requests get these answers in turn, and then connections that end at once."""
    opener = build_opener(web.PlainAnswers, _Canned(data.replace(b"\r\n", b"\n").split(BETWEEN)))
    with patch.object(web, "_opener", lambda: opener):
        yield
