import hmac
import logging
import os
from pathlib import Path

import pytest

from executor.errors import StartupError
from executor.server.tokens import Tokens
from executor.settings import Settings

LOG = logging.getLogger("test_access")
FIRST, SECOND, THIRD = "first-token-of-all-tests", "second+token/of~tests.==", "third_token_of_all_tests"


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "tokens"


def replace(file: Path, text: str) -> None:
    """As a careful writer does it: the file is never half there."""
    new = file.with_name("new")
    new.write_text(text)
    new.rename(file)


def test_configured_tokens_are_accepted_and_nothing_else():
    tokens = Tokens([FIRST, SECOND], None, LOG)
    assert [tokens.accept(token) for token in (FIRST, SECOND, THIRD, FIRST[:-1], FIRST + "x", FIRST.upper(), "")] == [
        True,
        True,
        *[False] * 5,
    ]


def test_a_token_is_compared_with_every_known_one_in_constant_time(monkeypatch):
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    tokens = Tokens([FIRST, SECOND, THIRD], None, LOG)
    monkeypatch.setattr("executor.server.tokens.hmac", type("Watched", (), {"compare_digest": staticmethod(compare)}))
    for offered in (FIRST, THIRD, "x"):
        compared.clear()
        tokens.accept(offered)
        assert compared == [(32, 32)] * 3


def test_the_file_has_a_token_on_each_line(file):
    file.write_bytes(f"\ufeff# of the web shop\n{FIRST}\r\n\n  {SECOND}  \n".encode())
    tokens = Tokens([THIRD], file, LOG)
    assert all(tokens.accept(token) for token in (FIRST, SECOND, THIRD))
    assert not tokens.accept("# of the web shop")


def test_a_rewritten_file_counts_with_the_next_call(file):
    file.write_text(FIRST)
    tokens = Tokens([], file, LOG)
    file.write_text(f"{SECOND}\n{THIRD}")
    assert [tokens.accept(token) for token in (FIRST, SECOND, THIRD)] == [False, True, True]


def test_a_renamed_file_counts_even_with_the_same_size_and_time(file):
    file.write_text("a" * 20)
    tokens = Tokens([], file, LOG)
    times = os.stat(file).st_atime_ns, os.stat(file).st_mtime_ns
    new = file.with_name("new")
    new.write_text("b" * 20)
    os.utime(new, ns=times)
    new.rename(file)
    assert (tokens.accept("a" * 20), tokens.accept("b" * 20)) == (False, True)


def test_a_swapped_link_counts_as_kubernetes_swaps_it(tmp_path):
    for name, token in (("..1", FIRST), ("..2", SECOND)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens").write_text(token)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tokens").symlink_to("..data/tokens")
    tokens = Tokens([], tmp_path / "tokens", LOG)
    assert tokens.accept(FIRST)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert (tokens.accept(FIRST), tokens.accept(SECOND)) == (False, True)


@pytest.mark.parametrize("spoil", ["gone", "empty", "short", "binary", "directory"])
def test_former_tokens_stay_while_the_file_cannot_be_used_and_the_log_says_so_once(file, caplog, spoil):
    file.write_text(FIRST)
    tokens = Tokens([], file, LOG)
    if spoil in ("gone", "directory"):
        file.unlink()
    if spoil == "directory":
        file.mkdir()
    if spoil in ("empty", "short", "binary"):
        replace(file, {"empty": "", "short": f"{SECOND}\nsecret", "binary": "x"}[spoil])
    if spoil == "binary":
        file.write_bytes(b"\xff\xfe" * 20)
    for _ in range(3):
        assert tokens.accept(FIRST)
        assert not tokens.accept(SECOND)
    assert len(caplog.records) == 1
    assert "the former tokens stay valid" in caplog.text
    assert not any(secret in caplog.text for secret in (FIRST, SECOND, "secret"))
    if spoil == "directory":
        file.rmdir()
    replace(file, THIRD)
    assert (tokens.accept(FIRST), tokens.accept(THIRD)) == (False, True)


def test_a_changed_file_is_logged_without_its_tokens(file, caplog):
    file.write_text(FIRST)
    tokens = Tokens([], file, LOG)
    replace(file, f"{SECOND}\n{THIRD}")
    with caplog.at_level(logging.DEBUG):
        tokens.accept(SECOND)
    assert "auth_tokens_file has changed, it has 2 tokens" in caplog.text
    assert SECOND not in caplog.text


@pytest.mark.parametrize(
    "token",
    ["too-short", "has a space in its middle", "has,a,comma,in,it,here", "ümlaut-ümlaut-ümlaut", '["json-gone-wrong'],
    ids=["short", "space", "comma", "umlaut", "bracket"],
)
def test_a_malformed_token_ends_the_start_and_is_not_told(token, file):
    file.write_text(token)
    for configured, from_file in (([token], None), ([], file)):
        with pytest.raises(StartupError) as raised:
            Tokens(configured, from_file, LOG)
        assert "a token of auth_tokens" in str(raised.value)
        assert token not in str(raised.value)


@pytest.mark.parametrize("content", [None, "", "# nothing but this\n\n"], ids=["missing", "empty", "comments"])
def test_a_file_without_any_token_ends_the_start(file, content):
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartupError, match=r"auth_tokens_file .*(cannot be read: No such file|has no token)"):
        Tokens([], file, LOG)


def test_a_fifo_is_refused_and_not_waited_for(file):
    os.mkfifo(file)
    with pytest.raises(StartupError, match="is not a regular file"):
        Tokens([], file, LOG)


def test_tokens_come_separated_by_commas_or_as_json(monkeypatch):
    for text in (f"{FIRST}, {SECOND},", f'["{FIRST}", "{SECOND}"]'):
        monkeypatch.setenv("BLIP2_AUTH_TOKENS", text)
        tokens = Settings.resolve({}).auth_tokens
        assert [token.get_secret_value() for token in tokens] == [FIRST, SECOND]


def test_settings_never_show_a_token():
    settings = Settings.resolve({"auth_tokens": [FIRST, SECOND]})
    for shown in (repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()):
        assert FIRST not in shown
        assert SECOND not in shown


@pytest.mark.parametrize(
    "configured",
    [{FIRST: 1}, [[FIRST]], [12345678901234567890], 12345678901234567890, f'["{FIRST}", "]', [None, FIRST]],
)
def test_a_malformed_list_ends_the_start_and_tells_no_token(configured):
    with pytest.raises(StartupError) as raised:
        start(configured)
    assert "auth_tokens" in str(raised.value)
    assert FIRST not in str(raised.value)
    assert "1234567890" not in str(raised.value)


def start(configured: object) -> None:
    settings = Settings.resolve({"auth_tokens": configured})
    Tokens([token.get_secret_value() for token in settings.auth_tokens], None, LOG)
