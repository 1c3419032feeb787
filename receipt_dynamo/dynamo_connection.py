"""The connection to DynamoDB: botocore for credentials, endpoints, signatures and sockets.

The bodies are ours. botocore's hooks allow a request that is ready and a reply that is left as it
came, so that nothing walks a thousand attributes of which it knows nothing: ``call`` takes JSON and
returns JSON. The only module that touches boto3.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

from receipt_dynamo._version import __version__
from receipt_dynamo.errors import ConfigurationError, CorruptReplyError
from receipt_dynamo.forks import notice_fork, on_fork

__all__ = ["DynamoConnection"]

_BATCHES: Mapping[str, Any] = {"BatchGetItem": {}, "BatchWriteItem": []}
_READY, _REPLY = "ReadyBody", "ReplyBody"
_OK = 300


class DynamoConnection:
    """Calls of DynamoDB's about one table. Thread-safe; connected when it is first used.

    After a fork the child connects anew. botocore retries nothing: whoever calls knows better when
    to try again. Seconds are floats.
    """

    def __init__(
        self,
        table_name: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        connections: int = 10,
        connect_timeout: float = 1.0,
        read_timeout: float = 3.0,
    ) -> None:
        self.table_name = table_name
        self.endpoint_url = endpoint_url
        self._region = region
        self._config: Mapping[str, Any] = {
            # Both keys: without the mode an environment's AWS_RETRY_MODE=adaptive would still
            # put botocore's own rate limiter in between.
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
            "max_pool_connections": connections,
            "tcp_keepalive": True,
            "parameter_validation": False,  # our bodies are held against botocore's in tests
        }
        self._reset()
        _connections.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        # Guarded by _lock
        self._client: Any = None
        self._calls: dict[str, Callable[..., Mapping[str, Any]]] = {}

    def call(self, operation: str, body: bytes) -> bytes:
        """Return the body of DynamoDB's reply to ``operation``, such as ``"Query"``.

        Raises what botocore raises (ClientError, HTTPClientError, NoCredentialsError, ...),
        CorruptReplyError for a reply whose checksum is wrong, ConfigurationError.
        """
        notice_fork()
        call = self._calls.get(operation) or self._connect(operation)
        # What the rules for endpoints look at; the body itself says it again.
        about: dict[str, Any] = (
            {"RequestItems": {self.table_name: _BATCHES[operation]}}
            if operation in _BATCHES
            else {"TableName": self.table_name}
        )
        reply: bytes = call(**about, **{_READY: body})[_REPLY]
        return reply

    def _connect(self, operation: str) -> Callable[..., Mapping[str, Any]]:
        from botocore import xform_name

        with self._lock:
            if self._client is None:
                self._client = self._open()
            call: Callable[..., Mapping[str, Any]] = getattr(self._client, xform_name(operation))
            self._calls[operation] = call
            return call

    def _open(self) -> Any:
        """Return a client with a session of its own: nobody's hooks, and no lock but ours."""
        import boto3
        from botocore.config import Config

        session = boto3.session.Session()
        region = self._region or session.region_name
        if region is None:
            if self.endpoint_url is None:
                raise ConfigurationError(
                    "no AWS region is set. Set AWS_REGION to the region of the table "
                    f"{self.table_name}."
                )
            region = "us-east-1"  # an endpoint that is named needs one for the signature only
        self._region = region
        # Told once: botocore would put it together again for every call.
        agent = f"receipt-usage/{__version__} Boto3/{boto3.__version__}"
        client = session.client(
            "dynamodb",
            region_name=region,
            endpoint_url=self.endpoint_url,
            config=Config(user_agent=agent, **self._config),
        )
        hooks = client.meta.events
        hooks.register("before-parameter-build.dynamodb", _keep_body)
        hooks.register("before-call.dynamodb", _send_body)
        hooks.register("before-parse.dynamodb", _keep_reply)
        return client

    @property
    def place(self) -> str:
        """The table and where it is, for messages."""
        where = self.endpoint_url or self._region
        return f"the table {self.table_name}" + (f" ({where})" if where else "")

    def close(self) -> None:
        """Close the sockets. It may be used again."""
        notice_fork()
        with self._lock:
            client, self._client = self._client, None
            self._calls = {}
        if client is not None:
            client.close()

    def forget_after_fork(self) -> None:
        """Let go of what a child inherited: on its sockets the parent's replies would arrive."""
        self._reset()

    def __repr__(self) -> str:
        return f"<DynamoConnection to {self.place}>"


def _keep_body(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    context[_READY] = params.pop(_READY)


def _send_body(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    params["body"] = context[_READY]


def _keep_reply(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Check the sum of a reply, and pass a good one on as it is; botocore parses errors."""
    body: bytes = response_dict["body"]
    told = response_dict["headers"].get("x-amz-crc32")
    if told is not None and told != str(crc32(body)):
        raise CorruptReplyError(
            f"a reply of {len(body)} bytes does not have the checksum {told} that came with it"
        )
    if response_dict["status_code"] < _OK:
        customized_response_dict[_REPLY] = body
        response_dict["body"] = b"{}"


_connections: weakref.WeakSet[DynamoConnection] = weakref.WeakSet()


def _forget_all() -> None:
    for connection in list(_connections):
        connection.forget_after_fork()


on_fork(_forget_all)
