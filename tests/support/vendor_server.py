"""A server on this machine that answers as OpenAI and Anthropic do, with replies they once sent.

    with VendorServer() as server:
        client = OpenAI(base_url=server.url + "/v1", api_key="stand-in")

Without a script it answers each path from recordings: the first whose model was asked for, else the
first. Their texts were emptied and are filled in again, with what ``words`` returns.
``server.script(answer, ...)`` answers the next requests otherwise: errors, streams that break,
replies that wait. What was asked is kept.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Answer", "Asked", "VendorServer", "error", "recorded", "reply"]

_ROOT = Path(__file__).parents[2]
_FILES = ("tests/data/recorded_streams.jsonl", "examples/data/recorded_replies.jsonl")
_WORDS = "total "
_CREATED = re.compile(rb'("created(?:_at)?":\s*)[0-9.]+')
_WORD = re.compile(r"\S+\s*")
_EVENT_STREAM = "text/event-stream; charset=utf-8"
# Where streams carry text that a recording has emptied.
_EMPTIED = re.compile(
    r'("type":"text_delta","text":|"delta":\{"content":|"type":"response\.output_text\.delta"'
    r'[^}]*?"delta":|"type":"thinking_delta","thinking":)""'
)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, sent in pieces: a stream's are its events.

    ``cut_after`` breaks the connection after so many pieces, without an end; ``hold_after`` waits
    there until ``server.release()``.
    """

    body: bytes = b"{}"
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    hold_after: int | None = None

    def pieces(self) -> list[bytes]:
        """Return the body as it is sent."""
        if "event-stream" in self.content_type:
            return [event + b"\n\n" for event in self.body.split(b"\n\n") if event]
        return [self.body]


@dataclass(frozen=True)
class Asked:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, where it is JSON; else an empty object."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    @property
    def stream(self) -> bool:
        """Whether a stream is asked for, in JSON or in a form."""
        if isinstance(self.json, dict) and self.json.get("stream") is True:
            return True
        return b'name="stream"\r\n\r\ntrue' in self.body

    def comparable(self) -> tuple[str, str, dict[str, str], bytes]:
        """Return it without what no two requests share: idempotency keys, boundaries of forms."""
        headers = {
            name: value
            for name, value in self.headers.items()
            if name not in ("idempotency-key", "x-stainless-idempotency-key")
        }
        boundary = re.search(r"boundary=([\w'-]+)", headers.get("content-type", ""))
        body = self.body
        if boundary:
            headers["content-type"] = headers["content-type"].replace(boundary[1], "-")
            body = body.replace(boundary[1].encode(), b"-")
        return self.method, self.path, headers, body


def reply(body: object, **changes: Any) -> Answer:
    """Return an answer with a body of JSON."""
    return Answer(json.dumps(body).encode(), **changes)


def error(status: int, kind: str = "server_error", **changes: Any) -> Answer:
    """Return a refusal as both vendors write it; the SDKs are told not to try again."""
    body = {"type": "error", "error": {"type": kind, "code": kind, "message": "secret text"}}
    headers = {"x-should-retry": "false", **changes.pop("headers", {})}
    return reply(body, status=status, headers=headers, **changes)


@cache
def _recordings() -> list[dict[str, Any]]:
    lines = [line for name in _FILES for line in (_ROOT / name).read_text().splitlines()]
    return [json.loads(line) for line in lines]


def _tail(path: str) -> str:
    """Return what tells a call from others, wherever its base URL starts."""
    return re.sub(r"^(/openai)?(/deployments/[^/]+)?(/v1)?", "", path.split("?", maxsplit=1)[0])


def recorded(
    path: str, *, stream: bool = False, model: object = None, words: str | None = None
) -> Answer | None:
    """Return what the vendor of such a call once answered, with words where texts were.

    ``words`` are the text of the whole answer; a stream has a word an event, the last the rest.
    """
    tail = _tail(path)
    same = [
        line
        for line in _recordings()
        if _tail("/" + line["url"].split("/", 3)[3]) == tail
        and bool(line.get("stream")) is stream
        and ("/deployments/" in line["url"]) is ("/deployments/" in path)
    ]
    if not same:
        return _made(tail, stream=stream)
    same = [line for line in same if model and line["request_model"] == model] or same
    # Text alone is what the shortest has: others call tools between.
    line = same[0] if words is None else min(same, key=lambda line: len(line.get("stream") or ""))
    if stream:
        said = iter(_pieces(words, len(_EMPTIED.findall(line["stream"]))))
        text = _EMPTIED.sub(lambda match: match[1] + json.dumps(next(said)), line["stream"])
        return Answer(text.encode(), content_type=_EVENT_STREAM)
    return reply(_spoken(line["body"], _WORDS if words is None else words), status=line["status"])


def _pieces(words: str | None, count: int) -> list[str]:
    """Return the texts of ``count`` events: a word each, and in the last what is left."""
    if words is None:
        return [_WORDS] * count
    each = _WORD.findall(words)
    return [*each[: count - 1], *[""] * (count - 1 - len(each)), "".join(each[count - 1 :])]


def _spoken(value: Any, words: str) -> Any:
    """Return a reply with words in its text blocks."""
    if isinstance(value, list):
        return [_spoken(item, words) for item in value]
    if not isinstance(value, dict):
        return value
    filled = {name: _spoken(item, words) for name, item in value.items()}
    for name in ("text", "content"):
        if filled.get(name) == "" and (filled.keys() & {"type", "role"}):
            filled[name] = words
    if filled.get("object") == "embedding":
        filled.setdefault("embedding", [0.25, -0.5, 0.125])
    return filled


_IMAGE_USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 50, "image_tokens": 0},
    "output_tokens": 1056,
    "total_tokens": 1106,
}
_TRANSCRIPT: dict[str, object] = {
    "text": _WORDS,
    "usage": {
        "type": "tokens",
        "input_tokens": 14,
        "input_token_details": {"text_tokens": 10, "audio_tokens": 4},
        "output_tokens": 101,
        "total_tokens": 115,
    },
}
_MADE: dict[str, object] = {
    "/completions": {
        "id": "cmpl-C2OI7Ey3XvNe02fb41d1D6h1j6H1M",
        "object": "text_completion",
        "created": 1754686067,
        "model": "gpt-3.5-turbo-instruct:20230824-v2",
        "choices": [{"index": 0, "text": _WORDS, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    },
    "/images/generations": {
        "created": 1754686067,
        "data": [{"b64_json": "aGVsbG8="}],
        "usage": _IMAGE_USAGE,
    },
    "/images/edits": {
        "created": 1754686068,
        "data": [{"b64_json": "aGVsbG8="}],
        "usage": _IMAGE_USAGE,
    },
    "/audio/transcriptions": _TRANSCRIPT,
    "/audio/translations": {"text": _WORDS},
    "/models": {"object": "list", "data": []},
    "/moderations": {"id": "modr-1", "model": "omni-moderation-latest", "results": []},
}


def _made(tail: str, *, stream: bool) -> Answer | None:
    """Return an answer in the words of the vendor's reference, for what was never recorded."""
    if tail == "/audio/speech":
        return Answer(b"ID3 not really sound", content_type="audio/mpeg")
    if tail == "/audio/transcriptions" and stream:
        done = {"type": "transcript.text.done", **_TRANSCRIPT}
        delta = {"type": "transcript.text.delta", "delta": _WORDS}
        events = [f"data: {json.dumps(event)}\n\n" for event in (delta, delta, done)]
        return Answer("".join(events).encode(), content_type=_EVENT_STREAM)
    return reply(_MADE[tail]) if tail in _MADE else None


class VendorServer:
    """The server; a context manager. ``own_ids`` gives each reply an id and a time of its own."""

    def __init__(self, *, own_ids: bool = False) -> None:
        self.own_ids = own_ids
        self.requests: list[Asked] = []
        self._scripted: deque[Answer] = deque()
        self.at: dict[str, Answer] = {}
        """What every request gets whose path holds one of these."""
        self._released = threading.Event()
        self._count = 0
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.vendor = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def script(self, *answers: Answer) -> None:
        """Answer the next requests so, one each."""
        self._scripted.extend(answers)

    def release(self) -> None:
        """Let answers go on that wait."""
        self._released.set()

    def wait_released(self) -> None:
        """Wait as an answer does that holds."""
        self._released.wait(30)

    def answer(self, asked: Asked) -> Answer:
        """Note a request and return what it gets."""
        with self._lock:
            self.requests.append(asked)
            self._count += 1
            number = self._count
            if self._scripted:
                return self._scripted.popleft()
        for part, always in self.at.items():
            if part in asked.path:
                return always
        model = asked.json.get("model") if isinstance(asked.json, dict) else None
        words = self.words(asked)
        answer = recorded(asked.path, stream=asked.stream, model=model, words=words)
        if answer is None:
            return error(404, "not_found_error")
        options = asked.json.get("stream_options") if isinstance(asked.json, dict) else None
        if asked.stream and not (options or {}).get("include_usage"):
            answer = _without_usage(answer)
        return _own(answer, number) if self.own_ids else answer

    def words(self, asked: Asked) -> str | None:
        """Return the text of an answer; None is any."""

    def reset(self) -> None:
        """Forget what was asked and scripted; answers hold again."""
        self.requests, self.own_ids = [], False
        self._scripted.clear()
        self.at = {}
        self._released.set()  # let those go on that still wait
        self._released = threading.Event()

    def clear(self) -> list[Asked]:
        """Return the requests until now and forget them."""
        asked, self.requests = self.requests, []
        return asked


def _without_usage(answer: Answer) -> Answer:
    """Return a stream as OpenAI sends it unless usage is asked for; other streams as they are."""
    events = answer.body.replace(b'"usage":null,', b"").split(b"\n\n")
    kept = [event for event in events if b'"choices":[],"usage":{' not in event]
    return replace(answer, body=b"\n\n".join(kept)) if len(kept) < len(events) else answer


def _own(answer: Answer, number: int) -> Answer:
    """Return the answer with an id that no other has, and of now, wherever they stand in it."""
    found = re.search(rb'"id":\s*"((?:chatcmpl|cmpl|msg|resp)[-_])(\w+)"', answer.body)
    if found is None:
        return answer
    own = found[1] + b"%020d" % number
    body = answer.body.replace(found[1] + found[2], own)
    return replace(answer, body=_CREATED.sub(rb"\g<1>%d" % time.time(), body))


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    vendor: VendorServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that go away: tests make them do so."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has
        """Say nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body)
        answer = self.server.vendor.answer(asked)
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("transfer-encoding", "chunked")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in self._pieces(answer):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if answer.cut_after is None:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _pieces(self, answer: Answer) -> Iterator[bytes]:
        for number, piece in enumerate(answer.pieces()):
            if number == answer.cut_after:
                return
            if number == answer.hold_after:
                self.server.vendor.wait_released()
            yield piece

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names that http.server looks for
