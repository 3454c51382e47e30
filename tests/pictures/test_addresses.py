"""Which hosts, addresses and ports may be connected to: every spelling, every kind of address."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from executor.errors import DocumentError, ErrorCode
from executor.pictures.addresses import AddressPolicy, AllowedHost, is_public

INTERNAL_4 = (
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
)
INTERNAL_6 = (
    "::",
    "::1",
    "::127.0.0.1",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2001:10::1",
    "2001:20::1",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
)
PUBLIC = ("8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808", "::ffff:8.8.8.8")


def code(url: str, *allowed: str) -> ErrorCode | None:
    try:
        AddressPolicy(allowed).check_url(URL(url))
    except DocumentError as error:
        return error.code
    return None


def resolved(name: str, port: int, address: str, *allowed: str) -> bool:
    try:
        AddressPolicy(allowed).check_address(name, port, address)
    except DocumentError as error:
        return error.code is not ErrorCode.ADDRESS_NOT_ALLOWED
    return True


def embedded(address: str) -> list[str]:
    """An IPv4 address in every IPv6 form that carries one."""
    number = int(ipaddress.IPv4Address(address))
    forms = [0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80, number]
    forms += [0x64FF9B0001 << 80 | number, 0x20010000 << 96 | (number ^ 0xFFFFFFFF), 0xFE80 << 112 | number]
    return [str(ipaddress.IPv6Address(form)) for form in forms]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address):
    assert is_public(ipaddress.ip_address(address))
    assert resolved("a.example", 80, address)
    assert code(f"https://[{address}]/" if ":" in address else f"https://{address}/") is None


@pytest.mark.parametrize("address", INTERNAL_4 + INTERNAL_6)
def test_all_other_addresses_are_refused_written_out_and_resolved(address):
    assert not is_public(ipaddress.ip_address(address))
    assert not resolved("a.example", 80, address)
    assert code(f"http://[{address}]/" if ":" in address else f"http://{address}/") is ErrorCode.ADDRESS_NOT_ALLOWED


@pytest.mark.parametrize("address", INTERNAL_4)
def test_internal_addresses_are_refused_inside_every_ipv6_form(address):
    for form in embedded(address):
        assert not is_public(ipaddress.ip_address(form)), form
        assert not resolved("a.example", 443, form)
        assert code(f"http://[{form}]/") is ErrorCode.ADDRESS_NOT_ALLOWED


@given(st.integers(0, 2**32 - 1))
def test_no_ipv6_form_is_more_public_than_the_ipv4_address_inside(number):
    address = ipaddress.IPv4Address(number)
    if is_public(address):
        assert address.is_global
    for form in embedded(str(address)):
        assert is_public(address) or not is_public(ipaddress.ip_address(form))


@given(st.integers(0, 2**128 - 1))
def test_public_ipv6_addresses_are_global_unicast(number):
    address = ipaddress.IPv6Address(number)
    if is_public(address) and address.ipv4_mapped is None:
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://017700000001/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0x7f.1/",
        "http://0X7F.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://0177.0.0.1/",
        "http://0127.0.0.1/",
        "http://127.0.0.01/",
        "http://127.0.0.1./",
        "http://127.0.0.1../",
        "http://127.000.000.001/",
        "http://0/",
        "http://00000000000/",
        "http://0x/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://name.127/",
        "http://name.0x7f/",
        "http://8.8.8.8./",
        "http://134744072/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://127。0。0。1/",
        "http://①②⑦.⓪.⓪.①/",
        "http://[::1]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::1%25lo]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[2606:2800:220:1:248:1893:25c8:1946%25eth0]/",
        "http://127%2E0.0.1/",
    ],
)
def test_no_spelling_of_an_address_gets_through(url):
    try:
        parsed = URL(url)
    except ValueError:
        return  # refused even earlier
    with pytest.raises(DocumentError) as refused:
        AddressPolicy().check_url(parsed)
    assert refused.value.code in (ErrorCode.ADDRESS_NOT_ALLOWED, ErrorCode.INVALID_URL)


@pytest.mark.parametrize(
    "url",
    [
        "http://user@8.8.8.8/",
        "http://user:password@8.8.8.8/",
        "http://:password@8.8.8.8/",
        "http://public.example@127.0.0.1/",
        "http://a@b@public.example/",
        "http:///path",
        "http://a b/",
        "http://a_b%00.example/",
        "http://a..example/",
        "http://-a.example/",
        "http://a-.example/",
        "http://.example/",
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 127}example/",
        "http://a.example:0/",
    ],
)
def test_odd_urls_are_invalid(url):
    assert code(url) is ErrorCode.INVALID_URL


@pytest.mark.parametrize("scheme", ["file", "ftp", "gopher", "s3", "ws", "unix", "jar", "dict", "ldap"])
def test_only_http_and_https_are_fetched(scheme):
    assert code(f"{scheme}://public.example/") is ErrorCode.UNSUPPORTED_SCHEME


@pytest.mark.parametrize("port", [1, 22, 25, 79, 81, 444, 6379, 8080, 65535])
def test_other_ports_are_refused(port):
    assert code(f"http://public.example:{port}/") is ErrorCode.ADDRESS_NOT_ALLOWED
    assert code(f"http://8.8.8.8:{port}/") is ErrorCode.ADDRESS_NOT_ALLOWED
    assert not resolved("public.example", port, "8.8.8.8")


def test_both_usual_ports_are_open_for_both_schemes():
    for url in ("http://a.example:443/", "https://a.example:80/", "http://a.example/", "https://a.example/"):
        assert code(url) is None


def test_look_alikes_of_an_allowed_name_are_other_names():
    assert code("http://pictures.example:8080/", "pictures.example") is None
    assert code("http://PICTURES.example.:8080/", "pictures.example") is None
    # The first letter is Cyrillic.
    assert code("http://\u0440ictures.example:8080/", "pictures.example") is ErrorCode.ADDRESS_NOT_ALLOWED
    assert code("http://evilpictures.example:8080/", "pictures.example") is ErrorCode.ADDRESS_NOT_ALLOWED
    assert code("http://pictures.example.evil.example:8080/", "pictures.example") is ErrorCode.ADDRESS_NOT_ALLOWED


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("a.example", [("a.example", 80), ("a.example", 8080)], [("b.a.example", 80), ("example", 80)]),
        ("a.example:8080", [("a.example", 8080)], [("a.example", 80), ("a.example", 8081)]),
        ("*.a.example", [("b.a.example", 80), ("c.b.a.example", 9)], [("a.example", 80), ("xa.example", 80)]),
        ("*.a.example:81", [("b.a.example", 81)], [("b.a.example", 80)]),
        ("BÜCHER.example", [("xn--bcher-kva.example", 80)], [("bucher.example", 80)]),
        ("localhost", [("localhost", 5000), ("localhost.", 1)], [("localhost.a.example", 80)]),
        ("10.1.2.3", [("any.example", 80), ("any.example", 9)], []),
        ("10.0.0.0/8", [("any.example", 8080)], []),
        ("10.1.2.3:81", [("any.example", 81)], [("any.example", 80), ("any.example", 82)]),
        ("10.0.0.0/8:81", [("any.example", 81)], [("any.example", 80)]),
        ("10.1.2.4", [], [("any.example", 80)]),
        ("192.168.0.0/16", [], [("any.example", 80)]),
        ("::1", [], [("any.example", 80)]),
    ],
)
def test_allowed_hosts_lift_the_policy_for_exactly_what_they_name(entry, allowed, refused):
    for name, port in allowed:
        assert resolved(name, port, "10.1.2.3", entry)
        assert code(f"http://{name}:{port}/", entry) is None
    for name, port in refused:
        assert not resolved(name, port, "10.1.2.3", entry)


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("127.0.0.1", ["127.0.0.1:5000", "127.0.0.1", "[::ffff:127.0.0.1]:5000"], ["127.0.0.2", "127.1", "[::1]"]),
        ("127.0.0.1:5000", ["127.0.0.1:5000"], ["127.0.0.1", "127.0.0.1:5001"]),
        ("127.0.0.0/8", ["127.9.9.9:1"], ["128.0.0.1:1", "10.0.0.1"]),
        ("::1", ["[::1]:5000", "[0::1]"], ["[::2]", "127.0.0.1"]),
        ("[::1]", ["[::1]:5000"], ["[::2]"]),
        ("[::1]:5000", ["[::1]:5000"], ["[::1]:5001", "[::1]"]),
        ("fd00::/8", ["[fd12::1]:81"], ["[fe80::1]"]),
        ("[fd00::/8]:81", ["[fd12::1]:81"], ["[fd12::1]:80"]),
        ("a.example", [], ["127.0.0.1"]),
        ("8.8.8.8:8080", ["8.8.8.8:8080", "8.8.8.8"], ["8.8.8.8:8081", "8.8.4.4:8080"]),
        ("10.0.0.0/8", [], ["[64:ff9b::a00:1]", "[2002:a00:1::]"]),
    ],
)
def test_allowed_addresses_count_in_urls_too(entry, allowed, refused):
    for host in allowed:
        assert code(f"http://{host}/", entry) is None, host
    for host in refused:
        assert code(f"http://{host}/", entry) is ErrorCode.ADDRESS_NOT_ALLOWED, host


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "*.", "a b", "http://a.example", "a.example/x", "user@a.example", "a..b", "[a.example]"),
        *("a.example:", "a.example:0", "a.example:65536", "a:b:c", "[::1]:x", "[::1"),
        *("10.0.0.1/8", "10.0.0.0/33", "127.1", "0x7f.1"),
    ],
)
def test_entries_that_cannot_be_read_are_named(entry):
    with pytest.raises(ValueError, match=r"is not|is neither|no valid port") as refused:
        AllowedHost.parse(entry)
    assert f"'{entry}'" in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_as_an_entry_is_read_or_refused(text):
    try:
        entry = AllowedHost.parse(text)
    except ValueError:
        return
    assert bool(entry.name) != (entry.network is not None)


@given(st.text(max_size=60))
def test_any_text_as_a_host_passes_only_as_a_plain_name_or_a_public_address(text):
    try:
        url = URL(f"http://{text}/")
    except ValueError:
        return
    if code(str(url)) is None:
        assert url.raw_host is not None
        assert url.port in (80, 443)
        try:
            address = ipaddress.ip_address(url.raw_host)
        except ValueError:
            assert url.raw_host.isascii()
            assert not url.raw_host.rstrip(".").rpartition(".")[2].isdigit()
        else:
            assert is_public(address)
