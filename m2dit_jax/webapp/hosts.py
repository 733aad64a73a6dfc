"""Which names the server answers to: a page from elsewhere must not speak to it.

A page on the internet can let its own name lead to this machine (DNS rebinding); then the browser
takes our answers for that page's own. Such a name is none that the server was started with.
"""

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

_LOOPBACK = ("localhost",)


class Hosts:
    """The names that are answered to, beside loopback.

    Listening on one address or name, it is that one; on all addresses ("0.0.0.0", "::"), every
    address and this machine's name. `more` are names that a proxy before the server has.
    """

    def __init__(self, listening: str, more: Sequence[str] = ()):
        address = _address(listening)
        self.on_all = address is not None and address.is_unspecified
        own = [socket.gethostname(), socket.getfqdn()] if self.on_all else [listening]
        self.names = {name.lower().rstrip(".") for name in (*_LOOPBACK, *own, *more)}

    def answers_to(self, headers: Mapping[str, str]) -> bool:
        """Whether a request, by its headers, is for this server and not sent by another's page.

        `headers` have names in small letters.
        """
        host = headers.get("host", "")
        if not self._knows(host):
            return False
        origin = headers.get("origin")
        if origin is not None:  # "null" is that of a page in a sandbox
            return urlsplit(origin).netloc.lower() == host.lower()
        # Pictures and scripts of other pages come without an origin; links are followed.
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        return not foreign or headers.get("sec-fetch-mode") == "navigate"

    def _knows(self, netloc: str) -> bool:
        try:
            name = urlsplit(f"//{netloc}").hostname
        except ValueError:
            return False
        if name is None or "@" in netloc:
            return False
        address = _address(name)
        if address is None:
            return name.rstrip(".") in self.names
        return address.is_loopback or self.on_all or name in self.names


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
