"""One writer per run folder."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from penstock._errors import ConfigurationError, PenstockError

_held: "weakref.WeakSet[RunLock]" = weakref.WeakSet()
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class RunLockedError(PenstockError):
    """Another process writes to the run folder."""


class RunLock:
    """Holds ``run.lock`` of a run folder while the ``with`` block runs.

    The operating system holds the lock (``flock``), so it ends with the process, also by SIGKILL. The file says who
    holds it: process id, host, and a token of the process's start, so that a recycled process id is not mistaken for
    the holder. Where the file system has no locks, the file alone decides.

    A lock left by a process of another host is not taken over, because nobody here can know whether it still runs.
    """

    def __init__(self, path: Path):
        """Prepares the lock.

        Args:
            path: the lock file; its directory must exist.
        """
        self.path = path
        self._descriptor: int | None = None

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            RunLockedError: another process holds it; names it and says what to do.
            ConfigurationError: the lock file cannot be written.
        """
        if self._descriptor is not None:
            raise RunLockedError(f"{self.path} is held by this very object already.")
        descriptor = self._open_and_lock()
        try:
            self._refuse_living_holder(_read(descriptor))
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "start": start_token(os.getpid())}
            content = json.dumps(holder).encode() + b"\n"
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)
            os.fsync(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise ConfigurationError(f"lock file {self.path}: {error.strerror}. Is the folder writable?") from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _close_in_children(self)

    def release(self) -> None:
        """Gives the lock back and removes the file."""
        if self._descriptor is None:
            return
        # While the lock is held, so that nobody else's file is removed.
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._forget()

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open_and_lock(self) -> int:
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                raise ConfigurationError(
                    f"lock file {self.path}: {error.strerror}. Make the folder writable, or choose another."
                ) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read(descriptor)
                os.close(descriptor)
                raise RunLockedError(self._busy(holder)) from None
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    os.close(descriptor)
                    raise ConfigurationError(f"lock file {self.path}: {error.strerror}.") from error
            # The previous holder may have removed the file between opening and locking: then this is a ghost.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    return descriptor
            os.close(descriptor)

    def _refuse_living_holder(self, holder: dict[str, Any]) -> None:
        if not holder:
            return
        if holder.get("host") != socket.gethostname():
            raise RunLockedError(
                f"The run in {self.path.parent} was last written by process {holder.get('pid')} on host "
                f"{holder.get('host')!r}, which did not say goodbye. If it no longer runs there, delete {self.path} "
                "and start again."
            )
        # With a working flock the holder is gone, or this lock could not have been taken. Without one, ask.
        if _alive(holder):
            raise RunLockedError(self._busy(holder))

    def _busy(self, holder: dict[str, Any]) -> str:
        if not holder:
            return f"Another process is about to write to the run in {self.path.parent}. Wait for it to end."
        pid, host = holder.get("pid"), holder.get("host")
        if host == socket.gethostname() and not _alive(holder):
            return (
                f"Process {pid}, which wrote to the run in {self.path.parent}, has ended, but a process that it "
                f"started still holds {self.path}. Wait for it to end, or end it (`fuser {self.path}` names it)."
            )
        return (
            f"Process {pid} on host {host!r} is writing to the run in {self.path.parent}. Wait for it to end, stop it, "
            "or choose another folder."
        )


def _read(descriptor: int) -> dict[str, Any]:
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}  # killed before it could write: the holder is gone, or the lock says that it is not
    return content if isinstance(content, dict) else {}


def start_token(pid: int) -> str | None:
    """Tells processes with the same id apart: boot id and start time in clock ticks; None where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the command's name, may hold spaces and brackets; the start time is the 20th after it.
    return f"{boot}-{stat.rpartition(')')[2].split()[19]}"


def _alive(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    token = start_token(pid)
    return token is None or holder.get("start") is None or token == holder.get("start")


def _close_in_children(lock: RunLock) -> None:
    # A forked worker shares the lock and would keep it after its parent was killed.
    if not _registered:
        os.register_at_fork(after_in_child=lambda: [held._forget() for held in list(_held)])
        _registered.append(True)
    _held.add(lock)


_registered: list[bool] = []
