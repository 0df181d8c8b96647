"""One run for each workdir: a file that says who is in it.

The file is made by a hard link, which one of several processes alone can make, on NFS
too. Its owner touches it every so often, so that another host, which cannot look for the
process, can tell by its age that nobody is left.
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

from invariance_propagation.errors import UserError
from invariance_propagation.files.atomic import draft_of, removed_at_end

FILE = "run.lock"
TOUCHED_EVERY = 30.0  # seconds
WITHOUT_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
STALE_AFTER = 600.0  # seconds without a touch, where the process cannot be looked for


class Lock:
    """The lock of one workdir, which must be there."""

    def __init__(self, folder: Path):
        self._path = folder / FILE
        self._own = whoever_this_is() | {"token": uuid.uuid4().hex}
        self.held = False  # by this run
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lock, from a process that is gone too.

        Raises:
          UserError: another process lives and has it.
          OSError: it cannot be written.
        """
        draft = self._path.with_name(f"{FILE}.{self._own['token']}")
        with removed_at_end(draft):
            draft.write_text(json.dumps(self._own) + "\n", encoding="utf-8")
            while not self._link(draft):
                self._sweep(now=draft.stat().st_mtime)
        self.held = True
        self._thread = threading.Thread(target=self._touch, daemon=True)
        self._thread.start()

    def mark(self) -> None:
        """Notes in the lock that the run has a checkpoint, for `is_marked`."""
        if not self.held:
            return
        self._own |= {"saved": True}
        with draft_of(self._path) as draft:
            draft.write_text(json.dumps(self._own) + "\n", encoding="utf-8")

    def release(self) -> None:
        """Gives it back, if it is still this run's."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)  # a network disk may not answer
        if _read(self._path).get("token") == self._own["token"]:
            # One that stays where nothing can be removed is stale once this process ends.
            with contextlib.suppress(OSError):
                self._path.unlink()
        self.held = False

    def _link(self, draft: Path) -> bool:
        try:
            os.link(draft, self._path)
        except FileExistsError:
            # The answer of an NFS server may be lost: the link may be there all the same.
            return draft.stat().st_nlink == 2
        except OSError as error:
            if error.errno not in WITHOUT_LINKS:
                raise
            return self._make()
        return True

    def _make(self) -> bool:
        """Where the disk has no links, as a Drive in Colab."""
        try:
            with self._path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(self._own) + "\n")
        except FileExistsError:
            return False
        return True

    def _sweep(self, now: float) -> None:
        """Removes the lock of a process that is gone; `now` by the disk's own clock."""
        try:
            age = now - self._path.stat().st_mtime
        except FileNotFoundError:
            return
        owner = _read(self._path)
        if not is_gone(owner, age=age):
            raise UserError(_refusal(self._path, owner))
        # Whoever renames it first has it; nobody removes a newer lock in its place.
        swept = self._path.with_name(f"{FILE}.{self._own['token']}.stale")
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
            try:
                os.utime(self._path)
            except OSError:
                continue  # a workdir that is gone is told of where it is written to


def is_marked(folder: Path) -> bool:
    """Returns whether a lock in this workdir is of a run that had a checkpoint."""
    return _read(folder / FILE).get("saved") is True


def whoever_this_is() -> dict[str, Any]:
    """Names this process, as far as another one can look for it."""
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def is_gone(owner: dict[str, Any], *, age: float) -> bool:
    """Returns whether the owner of a lock does not live any more.

    Args:
      owner: as `whoever_this_is` names it; {} where the file cannot be read.
      age: seconds since the lock was last touched.
    """
    pid = owner.get("pid")
    if not isinstance(pid, int) or owner.get("machine") != _machine():
        return age > STALE_AFTER
    return _started(pid) != owner.get("started")


def _machine() -> str | None:
    """Names what process ids belong to: a start of the system and a container of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return f"{boot.strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not on Linux
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process began, in a form that tells it from a later one; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        # A zombie has ended.
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
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _refusal(path: Path, owner: dict[str, Any]) -> str:
    who = (
        f"process {owner['pid']} on {owner.get('host')} since {owner.get('since')}"
        if "pid" in owner
        else "another process"
    )
    return (
        f"{path.parent} is in use by {who}: wait for it to end, or choose another "
        f"--workdir; if it is sure to be gone, remove {path}"
    )
