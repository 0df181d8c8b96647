"""Lets only one run use a workdir, by a lock file that names its owner.

The lock is created as a hard link, which only one of several processes can do, on NFS
too. The owner touches it regularly, so that another host, which cannot look for the
process, can tell from its age whether the owner is gone.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.archives import open_file
from invariance_propagation.files.atomic import draft_of, removed_at_end

FILE = "run.lock"
TOUCHED_EVERY = 30.0  # seconds
WITHOUT_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
LARGEST = 10_000  # bytes of a lock that are read
STALE_AFTER = 600.0  # seconds without a touch, if the process is on another host


class Lock:
    """Holds the lock of one workdir, which must exist."""

    def __init__(self, folder: Path):
        self._path = folder / FILE
        self._owner = whoever_this_is() | {"token": uuid.uuid4().hex}
        self.held = False  # by this run
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lock; a lock whose owner is gone is replaced.

        Raises:
          UserError: another living process has it.
          OSError: it cannot be written.
        """
        draft = self._path.with_name(f"{FILE}.{self._owner['token']}")
        with removed_at_end(draft):
            draft.write_text(json.dumps(self._owner) + "\n", encoding="utf-8")
            while not self._link(draft):
                self._sweep(now=draft.stat().st_mtime)
        self.held = True
        self._thread = threading.Thread(target=self._touch, daemon=True)
        self._thread.start()

    def mark(self) -> None:
        """Notes in the lock that the run has a checkpoint, for `is_marked`.

        Raises:
          TrainingError: as `check`.
          OSError: it cannot be written.
        """
        self.check()
        if not self.held:
            return
        self._owner |= {"saved": True}
        with draft_of(self._path) as draft:
            draft.write_text(json.dumps(self._owner) + "\n", encoding="utf-8")

    def check(self) -> None:
        """Checks that the lock is still this run's; to be called before it writes.

        A process that was stopped for long, or cut off from the disk, may have lost it.
        A lock that somebody removed is made again.

        Raises:
          TrainingError: another run has taken the workdir.
        """
        if not self.held or self._is_ours() or self._make_again():
            return
        self.held = False
        raise TrainingError(
            f"{self._path.parent} now belongs to {_who(_read(self._path))}: this run was "
            "stopped or cut off for so long that it counted as gone. It ends here and "
            "writes nothing more; the other one continues"
        )

    def release(self) -> None:
        """Removes the lock if this run still has it."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)  # a network disk may not answer
        if self.held and _read(self._path).get("token") == self._owner["token"]:
            # If it cannot be removed, it becomes stale once this process ends.
            with contextlib.suppress(OSError):
                self._path.unlink()
        self.held = False

    def _is_ours(self) -> bool:
        try:
            owner = _parse(self._path)
        except FileNotFoundError:
            return False
        except OSError:  # the disk does not answer now; who writes will say so
            return True
        return owner.get("token") == self._owner["token"]

    def _make_again(self) -> bool:
        try:
            return self._path.parent.is_dir() and self._make()
        except OSError:  # whoever writes to the workdir says what is wrong with it
            return True

    def _link(self, draft: Path) -> bool:
        try:
            os.link(draft, self._path)
        except FileExistsError:
            # An NFS server's answer may get lost: the link may exist all the same.
            return draft.stat().st_nlink == 2
        except OSError as error:
            if error.errno not in WITHOUT_LINKS:
                raise
            return self._make()
        return True

    def _make(self) -> bool:
        """Creates the lock on disks without links, such as Google Drive in Colab."""
        try:
            with self._path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(self._owner) + "\n")
        except FileExistsError:
            return False
        return True

    def _sweep(self, now: float) -> None:
        """Removes the lock of a process that is gone; `now` is by the disk's clock."""
        try:
            age = now - self._path.stat().st_mtime
        except FileNotFoundError:
            return
        owner = _read(self._path)
        if not is_gone(owner, age=age):
            raise UserError(_refusal(self._path, owner))
        # Only one process can rename it, so nobody removes a newer lock instead.
        swept = self._path.with_name(f"{FILE}.{self._owner['token']}.stale")
        try:
            os.rename(self._path, swept)
        except FileNotFoundError:
            return
        if _read(swept) != owner:
            os.rename(swept, self._path)
            return
        swept.unlink()

    def _touch(self) -> None:
        while not self._end.wait(TOUCHED_EVERY):
            with contextlib.suppress(OSError):  # whoever writes reports that it is gone
                if self._is_ours():
                    os.utime(self._path)


def is_marked(folder: Path) -> bool:
    """Returns whether the workdir has the lock of a run that had saved a checkpoint."""
    return _read(folder / FILE).get("saved") is True


def whoever_this_is() -> dict[str, Any]:
    """Describes this process so that another one can look for it."""
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def is_gone(owner: dict[str, Any], *, age: float) -> bool:
    """Returns whether the owner of a lock is gone.

    Args:
      owner: as from `whoever_this_is`; {} if the file cannot be read.
      age: seconds since the lock was last touched.
    """
    pid = owner.get("pid")
    if not isinstance(pid, int) or owner.get("machine") != _machine():
        return age > STALE_AFTER
    return _started(pid) != owner.get("started")


def _machine() -> str | None:
    """Names the boot and the container in which a process id is unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return f"{boot.strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not on Linux
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """Returns text that only this process with this id has; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        # A zombie has already ended.
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parse(path)
    except OSError:
        return {}


def _parse(path: Path) -> dict[str, Any]:
    """Reads an owner, {} if the file holds none; raises OSError if it cannot be read."""
    with open_file(path) as file:
        content = file.read(LARGEST)
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _who(owner: dict[str, Any]) -> str:
    if "pid" not in owner:
        return "another process"
    return f"process {owner['pid']} on {owner.get('host')} since {owner.get('since')}"


def _refusal(path: Path, owner: dict[str, Any]) -> str:
    return (
        f"{path.parent} is in use by {_who(owner)}: wait for it to end, or choose another "
        f"--workdir; if you are sure that it is gone, remove {path}"
    )
