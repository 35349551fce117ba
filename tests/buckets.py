"""A bucket on the loopback: moto's server, which speaks S3 to Arrow's own client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from unittest.mock import patch

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.server import ThreadedMotoServer

from background_remover import storage

BUCKET = "catalogue"


class Bucket:
    """A bucket, seen from inside: keys can be of any kind here, also of those that no client would send."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"s3://{BUCKET}"
        self._s3 = get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]
        self.empty()

    def put(self, *keys: str, data: bytes = b"a photo") -> None:
        for key in keys:
            self._s3.put_object(BUCKET, key, data)

    def get(self, key: str) -> bytes:
        return self._s3.get_object(BUCKET, key).value

    def written(self, key: str) -> datetime:
        """When that was."""
        return self._s3.get_object(BUCKET, key).last_modified

    def keys(self) -> list[str]:
        return sorted(self._s3.buckets[BUCKET].keys)

    def empty(self) -> None:
        if BUCKET not in self._s3.buckets:  # which all servers in one process share
            self._s3.create_bucket(BUCKET, "us-east-1")
        self._s3.buckets[BUCKET].keys.clear()


@contextmanager
def serving_bucket() -> Iterator[Bucket]:
    """While it runs, this process and its children have this S3 alone."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    storage._system.cache_clear()  # which may know another server
    try:
        with patch.dict(os.environ, environment):
            yield Bucket(environment["AWS_ENDPOINT_URL"])
    finally:
        storage._system.cache_clear()
        server.stop()
