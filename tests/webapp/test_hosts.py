import socket

import pytest

from m2dit_jax.webapp.hosts import Hosts

LOOPBACK = [
    "localhost",
    "localhost:7860",
    "127.0.0.1:7860",
    "127.1.2.3",
    "[::1]:7860",
    "LocalHost.",
]
FOREIGN = [
    "",
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.nip.io:7860",
    "a@localhost",
    "[",
]


@pytest.mark.parametrize("listening", ["127.0.0.1", "::1", "localhost", "0.0.0.0", "10.1.2.3"])
def test_loopback_is_answered_and_other_names_are_not(listening):
    hosts = Hosts(listening)
    assert all(hosts.answers_to({"host": name}) for name in LOOPBACK)
    assert not any(hosts.answers_to({"host": name}) for name in FOREIGN)
    assert not hosts.answers_to({})


def test_what_it_listens_on_is_answered():
    assert not Hosts("127.0.0.1").answers_to({"host": "10.1.2.3:7860"})
    assert Hosts("10.1.2.3").answers_to({"host": "10.1.2.3:7860"})
    assert not Hosts("10.1.2.3").answers_to({"host": "10.1.2.4:7860"})
    assert Hosts("node7").answers_to({"host": "node7:80"})
    assert Hosts("0.0.0.0").answers_to({"host": "10.1.2.3:7860"})
    assert Hosts("::").answers_to({"host": f"{socket.gethostname()}:1"})
    assert Hosts("127.0.0.1", ["stories.example"]).answers_to({"host": "Stories.Example"})


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        ({"origin": "http://localhost:7860"}, True),
        ({"origin": "http://localhost:8888"}, False),  # another server of this machine
        ({"origin": "http://127.0.0.1:7860"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, True),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),  # a link
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, False),
    ],
)
def test_pages_from_elsewhere_are_not_answered(headers, answered):
    assert Hosts("127.0.0.1").answers_to({"host": "localhost:7860"} | headers) == answered
