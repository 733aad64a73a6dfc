"""A server of each kind of buckets, and an address there for each test."""

import re

import pytest

from tests.buckets import BUCKET, SERVERS


@pytest.fixture(scope="module", params=SERVERS)
def scheme(request):
    with pytest.MonkeyPatch.context() as patch, SERVERS[request.param]() as environment:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield request.param


@pytest.fixture
def url(scheme, request):
    return f"{scheme}://{BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name)}"
