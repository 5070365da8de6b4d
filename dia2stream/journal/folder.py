"""A journal in a folder, for the servers of one host: a file for each log, and the kernel's lock for its lease.

KEY.log has the record, KEY.lock the last fencing number. Whoever owns the log holds a lock on KEY.lock, which ends with
its process, however that ends. KEY.want says that another server asks for the log.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from dia2stream.journal.private_folder import private_folder
from dia2stream.journal.store import Fenced, Lease, LogLost, Renewal


class FolderStore:
    """A folder. linger: seconds after which a log without an owner expires. fsync: whether each write reaches the disk
    before it counts, which survives a power cut and not only the end of a process.
    """

    leases_expire = False

    def __init__(self, folder: str, linger: float, fsync: bool = False) -> None:
        self._folder, self._linger, self._fsync = private_folder("--journal", folder), linger, fsync
        self._locks: dict[str, int] = {}  # descriptors, by key
        self._logs: dict[str, int] = {}  # the same, of logs that are written to

    def acquire(self, key: str, new: bool = False) -> Lease | None:
        """See Store."""
        if key in self._locks or not (new or self._path(key, "log").exists()):
            return None
        fd = os.open(self._path(key, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # While the lock was waited for, its file may have been swept away.
            if os.fstat(fd).st_nlink == 0 or not (new or self._path(key, "log").exists()):
                raise BlockingIOError
            fence = _number(os.pread(fd, 20, 0)) + 1
            os.pwrite(fd, str(fence).encode(), 0)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        self._locks[key] = fd
        self._path(key, "want").unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return Lease(key, fence, self._path(key, "log").stat().st_size)
        return Lease(key, fence, 0)

    def has(self, key: str) -> bool:
        """See Store."""
        return self._path(key, "log").exists()

    def want(self, key: str) -> None:
        """See Store."""
        self._path(key, "want").touch(0o600)

    def renew(self, lease: Lease) -> Renewal:
        """See Store."""
        self._check(lease)
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path(lease.key, "log"))  # so that it does not expire
        return Renewal.WANTED if self._is_wanted(lease.key) else Renewal.HELD

    def append(self, lease: Lease, at: int, data: bytes) -> bool:
        """See Store."""
        self._check(lease)
        fd, size = self._log(lease.key)
        if size < at:
            raise LogLost(f"of {at} bytes that were written, {size} are left")
        if size > at:
            os.ftruncate(fd, at)  # what a write left that failed half-way
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, at)
            view, at = view[written:], at + written
        if self._fsync:
            os.fsync(fd)
        return self._is_wanted(lease.key)

    def read(self, lease: Lease) -> bytes:
        """See Store."""
        self._check(lease)
        return self._path(lease.key, "log").read_bytes()

    def peek(self, key: str) -> bytes:
        """See Store."""
        with contextlib.suppress(FileNotFoundError):
            return self._path(key, "log").read_bytes()
        return b""

    def release(self, lease: Lease) -> None:
        """See Store."""
        if lease.key in self._locks:
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._path(lease.key, "log"))
            finally:
                self._let_go(lease.key)

    def delete(self, lease: Lease) -> None:
        """See Store."""
        if lease.key in self._locks:
            try:
                self._remove(lease.key)
            finally:
                self._let_go(lease.key)

    def sweep(self) -> None:
        """Deletes logs that nobody has owned for `linger` seconds."""
        for path in list(self._folder.glob("*.lock")):
            key = path.name.removesuffix(".lock")
            with contextlib.suppress(OSError):
                log = self._path(key, "log")
                changed = (log if log.exists() else path).stat().st_mtime
                if time.time() - changed > self._linger and (lease := self.acquire(key, new=True)):
                    self.delete(lease)

    def close(self) -> None:
        """Releases everything."""
        for key in list(self._locks):
            self._let_go(key)

    def _log(self, key: str) -> tuple[int, int]:
        """The log's descriptor and its size, opened anew if somebody has removed it.

        It stays open, because a conversation is written to many times a second.
        """
        if key in self._logs:
            found = os.fstat(self._logs[key])
            if found.st_nlink:
                return self._logs[key], found.st_size
            os.close(self._logs.pop(key))
        fd = os.open(self._path(key, "log"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._logs[key] = fd
        return fd, os.fstat(fd).st_size

    def _is_wanted(self, key: str) -> bool:
        return os.path.exists(f"{self._folder}/{key}.want")

    def _let_go(self, key: str) -> None:
        """Closes the log before its lock, which ends with its descriptor."""
        if key in self._logs:
            os.close(self._logs.pop(key))
        os.close(self._locks.pop(key))

    def _remove(self, key: str) -> None:
        for ending in ("log", "want", "lock"):  # the lock last: until then nobody else can begin
            self._path(key, ending).unlink(missing_ok=True)

    def _check(self, lease: Lease) -> None:
        if lease.key not in self._locks:
            raise Fenced

    def _path(self, key: str, ending: str) -> Path:
        return self._folder / f"{key}.{ending}"


def _number(data: bytes) -> int:
    """The last fencing number; 0 where a power cut has left something else in its file."""
    digits = data.rstrip(b"\0")
    return int(digits) if digits.isdigit() else 0
