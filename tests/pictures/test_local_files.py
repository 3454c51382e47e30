"""Local pictures: only below the allowed directories, whatever the path says and whatever moves meanwhile."""

import os
import socket
from pathlib import Path

import pytest

from executor.errors import DocumentError, ErrorCode
from executor.pictures.local_files import LocalFiles


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "allowed" / "sub").mkdir(parents=True)
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "outside").mkdir()
    for name in ("allowed/a.png", "allowed/sub/b c.png", "allowed-not/x.png", "outside/secret"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "allowed/to-b").symlink_to("sub/b c.png")
    (tmp_path / "allowed/to-secret").symlink_to(tmp_path / "outside/secret")
    (tmp_path / "allowed/to-outside").symlink_to(tmp_path / "outside")
    (tmp_path / "outside/to-a").symlink_to(tmp_path / "allowed/a.png")
    (tmp_path / "linked").symlink_to("allowed")
    return tmp_path


def code(files: LocalFiles, reference: str) -> ErrorCode:
    with pytest.raises(DocumentError) as refused:
        files.read(reference, 1000)
    assert os.sep not in str(refused.value)
    return refused.value.code


def test_files_below_an_allowed_directory_are_read(tree):
    files = LocalFiles([str(tree / "allowed")])
    for reference in ("allowed/a.png", "allowed/sub/../a.png", "outside/to-a", "linked/a.png", "allowed//./a.png"):
        assert files.read(f"{tree}/{reference}", 1000) == b"allowed/a.png"
    for reference in (
        f"{tree}/allowed/to-b",
        f"file://{tree}/allowed/sub/b%20c.png",
        f"file://localhost{tree}/allowed/to-b",
    ):
        assert files.read(reference, 1000) == b"allowed/sub/b c.png"


def test_an_allowed_directory_may_itself_be_a_link(tree):
    assert LocalFiles([str(tree / "linked")]).read(f"{tree}/allowed/a.png", 1000) == b"allowed/a.png"


@pytest.mark.parametrize(
    "reference",
    [
        "{tree}/outside/secret",
        "{tree}/outside/does-not-exist",
        "{tree}/allowed/../outside/secret",
        "{tree}/allowed/sub/../../outside/secret",
        "{tree}/allowed/to-secret",
        "{tree}/allowed/to-outside/secret",
        "{tree}/allowed-not/x.png",
        "{tree}/allowed",
        "{tree}/allowed/sub",
        "file://{tree}/outside/secret",
        "file://{tree}/allowed/%2e%2e/outside/secret",
        "file://other.example{tree}/allowed/a.png",
        "file:{tree}/../outside/secret",
        "file:relative",
        "/etc/passwd",
        "/dev/zero",
        "/proc/self/environ",
        "/",
        "{tree}/allowed/a.png\0.png",
        "file://{tree}/allowed/a.png%00.png",
        "file://{tree}/allowed/%ff",
        "/" + "a" * 5000,
    ],
)
def test_everything_else_is_refused_alike_whether_it_exists_or_not(tree, reference):
    files = LocalFiles([str(tree / "allowed")])
    assert code(files, reference.format(tree=tree)) is ErrorCode.FILE_NOT_ALLOWED


def test_a_missing_file_in_an_allowed_directory_is_not_found(tree):
    files = LocalFiles([str(tree / "allowed")])
    assert code(files, f"{tree}/allowed/none.png") is ErrorCode.IMAGE_NOT_FOUND
    assert code(files, f"{tree}/allowed/none/none.png") is ErrorCode.IMAGE_NOT_FOUND


def test_pipes_sockets_and_directories_are_no_pictures_and_hang_nothing(tree):
    os.mkfifo(tree / "allowed/pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "allowed/socket"))
        files = LocalFiles([str(tree / "allowed")])
        for name in ("pipe", "socket", "sub"):
            assert code(files, f"{tree}/allowed/{name}") is ErrorCode.FILE_NOT_ALLOWED


@pytest.mark.parametrize("moved", ["a.png", "sub"])
def test_a_link_that_appears_after_the_check_is_not_followed(tree, monkeypatch, moved):
    files = LocalFiles([str(tree / "allowed")])
    target = tree / "allowed" / moved
    honest = os.path.realpath
    reference = f"{tree}/allowed/a.png" if moved == "a.png" else f"{tree}/allowed/sub/secret"
    if moved == "sub":
        (target / "secret").write_bytes(b"harmless")

    def racing(path: str) -> str:
        resolved = honest(path)
        target.rename(tree / "moved-away")
        target.symlink_to(tree / ("outside/secret" if moved == "a.png" else "outside"))
        return resolved

    monkeypatch.setattr("executor.pictures.local_files.os.path.realpath", racing)
    assert code(files, reference) is ErrorCode.FILE_NOT_ALLOWED


def test_one_byte_more_than_the_limit_is_read_and_no_more(tree):
    (tree / "allowed/large").write_bytes(bytes(5000))
    assert len(LocalFiles([str(tree / "allowed")]).read(f"{tree}/allowed/large", 1000)) == 1001


def test_nothing_stays_open(tree):
    files = LocalFiles([str(tree / "allowed")])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        files.read(f"{tree}/allowed/to-b", 1000)
        code(files, f"{tree}/allowed/none.png")
        code(files, f"{tree}/allowed/sub")
        code(files, f"{tree}/allowed/to-secret")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("directory", ["relative", "", "/does/not/exist", __file__])
def test_a_directory_that_cannot_be_allowed_is_named(directory):
    with pytest.raises(ValueError, match="is not the absolute path of a directory"):
        LocalFiles([directory])
