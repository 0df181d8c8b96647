"""Tests what typed paths mean, and that messages name what is in the way."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files import paths
from invariance_propagation.files.paths import (
    check_file,
    check_folder,
    local,
    plain,
    reason,
    remedy,
    writing,
)
from tests.odd_names import ODD_NAMES


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """Becomes another user than root, whom permissions bind; returns a folder of theirs."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        before = os.geteuid()
        os.seteuid(65534 if before == 0 else before)
        try:
            yield Path(name)
        finally:
            os.seteuid(before)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of mine")
    assert local("~", key="workdir") == Path("/home/of mine")
    assert local("~/a/b", key="workdir") == Path("/home/of mine/a/b")
    assert local(Path("~/a"), key="workdir") == Path("/home/of mine/a")
    assert local("a/~", key="workdir") == Path.cwd() / "a/~"
    assert local("./~", key="workdir") == Path.cwd() / "~"
    with pytest.raises(UserError, match="there is no home folder for ~nobody_is_so"):
        local("~nobody_is_so/runs", key="workdir")


def test_a_current_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="run: the current folder cannot be used"):
        local("run", key="--workdir")


@pytest.mark.parametrize(
    "address",
    [
        *("gs://bucket/run", "s3://bucket", "GS://bucket/run", " gs://bucket/run"),
        *("file:///home/run", "hf://a", "memory://a", "a://b", "https://host/a"),
        Path("gs://bucket/run"),
    ],
)
def test_an_address_is_refused_by_name(address: str | Path) -> None:
    with pytest.raises(UserError) as caught:
        local(address, key="--workdir")
    text = str(caught.value)
    assert text.startswith(f"--workdir={address} is an address") and "gcsfuse" in text


@pytest.mark.parametrize("name", ["a:/b", "a/gs:/b", "./gs://b", "gs", "a:b", "/gs/b"])
def test_a_folder_is_no_address(name: str) -> None:
    assert local(name, key="--workdir") == Path(name).absolute()


@pytest.mark.parametrize("name", ["x" * 256, "a/" * 2048 + "b", "\u00e4" * 128])
def test_a_name_that_no_folder_can_have(name: str) -> None:
    with pytest.raises(UserError, match="File name too long"):
        local(name, key="--workdir")


def test_nothing_is_made_by_checking(tmp_path: Path) -> None:
    check_folder(tmp_path / "a/b/c", key="--workdir")
    check_file(tmp_path / "a/b/c.npz", key="output")
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place, expected in (
        ("file", f"{tmp_path}/file is a file.*by --workdir"),
        ("file/a/b", f"{tmp_path}/file is a file"),
        ("broken", f"{tmp_path}/broken is a link to something that does not exist"),
        ("broken/a", f"{tmp_path}/broken is a link to something that does not exist"),
        ("loop/a", "Too many levels of symbolic links"),
    ):
        with pytest.raises(UserError, match=expected):
            check_folder(tmp_path / place, key="--workdir")
    with pytest.raises(UserError, match=f"output={tmp_path} is a folder: name a file"):
        check_file(tmp_path, key="output")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="Linux alone has it")
def test_a_file_system_that_takes_no_files() -> None:
    with pytest.raises(UserError, match="/proc/a cannot be written"):
        check_folder(Path("/proc/a"), key="--workdir")


def test_permissions_count(unprivileged: Path) -> None:
    closed = unprivileged / "closed"
    closed.mkdir()
    check_folder(closed / "new", key="--workdir")
    closed.chmod(0o555)
    for place in (closed, closed / "new/er"):
        with pytest.raises(UserError, match=r"\(Permission denied\): name another"):
            check_folder(place, key="--workdir")
    closed.chmod(0o000)
    with pytest.raises(UserError, match="Permission denied"):
        check_folder(closed / "new", key="--workdir")
    closed.chmod(0o777)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_another_name_leads_to_the_same_place(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "checkpoints"
    folder.mkdir(parents=True)
    with plain(folder) as place:
        assert not set("*?[]\\") & set(str(place))
        str(place).encode()
        (place / "file").write_text("there")
        assert (folder / "file").read_text() == "there"


def test_a_name_that_no_library_misreads_is_left_alone(tmp_path: Path) -> None:
    with plain(tmp_path / "a b {c} %20 #") as place:
        assert place == tmp_path / "a b {c} %20 #"


def test_etils_is_not_led_to_a_bucket() -> None:
    # It takes /gs/bucket/run, where a bucket may be mounted, for gs://bucket/run.
    with (
        pytest.raises(FileNotFoundError, match="'/gs/bucket'"),
        plain(Path("/gs/bucket/run")),
    ):
        pass


def test_a_system_without_open_folders_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "OPEN_FOLDERS", tmp_path / "nothing")
    with (
        pytest.raises(OSError, match="on this system a path cannot have any of"),
        plain(tmp_path / "a[1]"),
    ):
        pass


def as_tensorstore_says_it(number: int) -> ValueError:
    return ValueError(
        f"RESOURCE_EXHAUSTED: Error writing {'x' * 300}: {os.strerror(number)} [source]"
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_disk_is_blamed_when_it_is_full(number: int) -> None:
    error = OSError(number, os.strerror(number))
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = error
    for failure in (error, wrapped, as_tensorstore_says_it(number)):
        assert reason(failure) == os.strerror(number)
        assert remedy(failure).startswith("the disk is full; free some space")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.ENOENT])
def test_the_disk_is_not_blamed_for_anything_else(number: int) -> None:
    for failure in (
        OSError(number, os.strerror(number)),
        as_tensorstore_says_it(number),
    ):
        assert reason(failure) == os.strerror(number)
        assert "disk" not in remedy(failure) and "same command" in remedy(failure)
        assert ("put it back" in remedy(failure)) == (number == errno.ENOENT)
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(ValueError("word " * 50)).endswith("word ...")
    assert reason(ValueError()) == "ValueError"
    # What happened to be handled when it was raised is not its cause.
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise ValueError("something else")  # noqa: B904
    except ValueError as error:
        assert reason(error) == "something else"


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(TrainingError) as caught, writing(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    expected = f"{path} could not be written (Input/output error): run the same command"
    assert str(caught.value).startswith(expected)
