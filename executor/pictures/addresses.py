"""Which hosts, addresses and ports a picture may be fetched from.

Knows the rules. It opens nothing, looks nothing up, and must not know HTTP. Whoever connects asks twice: `check_url`
before a request or a redirect is followed, and `check_address` for every address that a name turned out to have.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from yarl import URL

from executor.errors import DocumentError, ErrorCode

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PUBLIC_PORTS = (80, 443)

_SCHEMES = ("http", "https")
_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label that C libraries read as a part of an IPv4 address, whatever precedes it."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "2001::/23",  # Teredo, ORCHID and other protocol assignments (RFC 2928)
        "2002::/16",  # 6to4 (RFC 3056): any IPv4 address can be inside
        "3fff::/20",  # documentation (RFC 9637)
    )
)
"""What `ipaddress.is_global` of the supported Python versions does not always know."""


@dataclass(frozen=True)
class AllowedHost:
    """Stands for the hosts that an entry of `allowed_hosts` means: a name, all names below one, or a network.

    Attributes:
        name: a host name, in lower case and IDNA form; empty where the entry is a network.
        subdomains: `name` stands for every name below it and not for itself (`*.name`).
        network: the addresses meant; an address alone is a network of one.
        port: the port meant, or None for all.
    """

    name: str = ""
    subdomains: bool = False
    network: Network | None = None
    port: int | None = None

    @classmethod
    def parse(cls, entry: str) -> "AllowedHost":
        """Reads `name`, `*.name`, an address or a network (CIDR), each also with `:port`; IPv6 then in brackets.

        Raises:
            ValueError: anything else; the message names the entry.
        """
        bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", entry)
        if bracketed:
            host, port = bracketed.groups()
        elif entry.count(":") == 1:
            host, _, port = entry.partition(":")
        else:
            host, port = entry, None
        if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
            raise ValueError(f"'{entry}' has no valid port")
        number = None if port is None else int(port)
        if "/" in host or ":" in host or _ends_in_number(host):
            try:
                return cls(network=ipaddress.ip_network(host), port=number)
            except ValueError as error:
                raise ValueError(f"'{entry}' is neither an address nor a network: {error}") from None
        subdomains = host.startswith("*.")
        try:
            name = _canonical_name(URL.build(scheme="http", host=host.removeprefix("*.")).raw_host)
        except ValueError:
            name = None
        if name is None or bracketed:
            raise ValueError(f"'{entry}' is not a host name, *.name, address or network")
        return cls(name=name, subdomains=subdomains, port=number)

    def means_name(self, name: str, port: int) -> bool:
        """Tells whether the entry means this host name, in lower case and IDNA form, at this port."""
        if not self.name or self.port not in (None, port):
            return False
        return name.endswith(f".{self.name}") if self.subdomains else name == self.name

    def means_address(self, address: Address, port: int) -> bool:
        """Tells whether the entry means this address at this port."""
        if self.network is None or self.port not in (None, port):
            return False
        return address.version == self.network.version and address in self.network


class AddressPolicy:
    """Allows globally routable addresses on ports 80 and 443, and whatever `allowed_hosts` names.

    Args:
        allowed_hosts: entries as `AllowedHost.parse` reads them.

    Raises:
        ValueError: an entry cannot be read.
    """

    def __init__(self, allowed_hosts: Iterable[str] = ()) -> None:
        self._allowed = tuple(AllowedHost.parse(entry) for entry in allowed_hosts)

    def check_url(self, url: URL) -> None:
        """Refuses what can be refused without looking the name up, and every address that is written out.

        Raises:
            DocumentError: `UNSUPPORTED_SCHEME`, `INVALID_URL` or `ADDRESS_NOT_ALLOWED`.
        """
        if url.scheme not in _SCHEMES:
            raise DocumentError(
                ErrorCode.UNSUPPORTED_SCHEME, "only http:// and https:// URLs are fetched, also after a redirect."
            )
        if url.raw_user is not None or url.raw_password is not None:
            raise DocumentError(
                ErrorCode.INVALID_URL, "the image URL holds a user name or password; none is ever sent, remove it."
            )
        host, port = url.raw_host, url.port
        if not host or not port:
            raise DocumentError(ErrorCode.INVALID_URL, "the image URL has no valid host and port; correct it.")
        if ":" in host or _ends_in_number(host):
            address = _literal(host)
            if address is None:
                raise _not_allowed("write addresses in their usual form, such as 192.0.2.1 or [2001:db8::1]")
            if not self._permits(address, port):
                raise _not_allowed()
            return
        name = _canonical_name(host)
        if name is None:
            raise DocumentError(ErrorCode.INVALID_URL, "the host name in the image URL is not valid; correct it.")
        may_be_allowed = any(
            entry.means_name(name, port) or (entry.network is not None and entry.port in (None, port))
            for entry in self._allowed
        )
        if port not in PUBLIC_PORTS and not may_be_allowed:
            raise _not_allowed()

    def check_address(self, name: str, port: int, address: str) -> None:
        """Refuses an address that a name turned out to have.

        Args:
            name: as it stands in the URL.
            port: to be connected to.
            address: as a resolver writes it.

        Raises:
            DocumentError: `ADDRESS_NOT_ALLOWED`.
        """
        canonical = _canonical_name(name)
        if canonical is not None and any(entry.means_name(canonical, port) for entry in self._allowed):
            return
        parsed = _literal(address)
        if parsed is None or not self._permits(parsed, port):
            raise _not_allowed()

    def _permits(self, address: Address, port: int) -> bool:
        if any(entry.means_address(address, port) for entry in self._allowed):
            return True
        return port in PUBLIC_PORTS and is_public(address)


def is_public(address: Address) -> bool:
    """Tells whether an address is globally routable unicast. A NAT64 address is as public as the address inside it."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_UNICAST:
            return False
    if any(address.version == network.version and address in network for network in _NEVER_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _literal(host: str) -> Address | None:
    """The address that `host` spells in its usual form; IPv4-mapped as IPv4. No zone ids: they name an interface."""
    if "%" in host:
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _ends_in_number(host: str) -> bool:
    return _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2].lower()) is not None


def _canonical_name(host: str | None) -> str | None:
    name = (host or "").lower().removesuffix(".")
    return name if _NAME.fullmatch(name) else None


def _not_allowed(hint: str = "") -> DocumentError:
    advice = hint or "send the picture in 'img_bytes' or ask the operator to allow it"
    return DocumentError(
        ErrorCode.ADDRESS_NOT_ALLOWED,
        f"pictures are fetched from public addresses on ports 80 and 443 and from allowed_hosts only; {advice}.",
    )
