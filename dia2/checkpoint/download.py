"""Files of a hub repo -> files on this disk.

huggingface_hub does the work, in its own cache, so that models are shared with other programs. It does not do
three things for us: progress goes to a callback and not to the terminal; every way to fail (no network, no room, no
permission, no such repo) becomes one line that says what to do; and without a network that line comes soon.
"""

import errno
import functools
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from dia2.errors import CheckpointError, first_line

# For so long a hub that does not answer is asked again before anything of it is downloaded.
REACH_SECONDS = 4.0


class Progress(Protocol):
    """Is told how far a slow stage is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """stage: what is done, as "downloading config.json". done, total: bytes; total is 0 when it is not known."""


# ---- Downloading ----


def download_file(repo: str, file: str, revision: str | None, progress: Progress | None, required: bool) -> Path | None:
    """One file of a repo, from the cache or the hub; None when the repo has no such file. Raises CheckpointError.

    required: whether the file must be there. Offline nobody can say whether the repo has a file that is not in the
    cache. One that is not required then counts as absent, provided that other files of the repo are in the cache.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    cached = try_to_load_from_cache(repo, file, revision=revision)
    if cached is not None and not isinstance(cached, str) and _is_commit(revision):
        return None  # the cache remembers that this commit has no such file
    try:
        if not isinstance(cached, str):
            _reach_hub()
        bar: Any = _bar(progress, f"downloading {file}")
        return Path(hf_hub_download(repo, file, revision=revision, tqdm_class=bar))
    except RemoteEntryNotFoundError:
        return None
    except (LocalEntryNotFoundError, _Unreached) as error:
        if not required and _is_cached(repo):
            return None
        raise _explain_download(error, repo, file, revision) from error
    except Exception as error:  # huggingface_hub and what is below it raise many kinds; the user gets one line
        raise _explain_download(error, repo, file, revision) from error


class _Unreached(Exception):
    """The hub does not answer at all; the cause says why."""


@functools.cache
def _reach_hub() -> None:
    """Returns when the hub has answered anything, which is asked once in a process. Raises _Unreached.

    huggingface_hub itself would try for 24 s where connections are refused, and for minutes where packets get lost; it
    has no setting for that. A download that the network breaks off is still tried as often as huggingface_hub likes.
    """
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return  # then nothing is asked, and nothing is waited for
    deadline = time.monotonic() + REACH_SECONDS
    while True:
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT, follow_redirects=False)
            return
        except Exception as error:  # of many kinds, and they are another library's in another version
            if time.monotonic() > deadline:
                raise _Unreached(f"{constants.ENDPOINT} does not answer") from error
        time.sleep(1)


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _is_cached(repo: str) -> bool:
    """Whether the cache has anything of the repo."""
    return Path(_cache(), f"models--{repo.replace('/', '--')}", "snapshots").is_dir()


def _free_disk(path: Path) -> int:
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _bar(progress: Progress | None, stage: str) -> type:
    """What huggingface_hub takes for a tqdm class; it draws nothing and tells `progress`."""

    class Bar:
        def __init__(self, total: int | None = None, initial: int = 0, **_: object) -> None:
            self.total, self.n = total, initial
            if (total or 0) - initial > _free_disk(_cache()):  # better to say so now than after most of it
                raise OSError(errno.ENOSPC, f"it takes {readable_size(total or 0)}")

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if progress is not None:
                progress(stage, self.n, self.total or 0)

        def ignore(self, *_: object, **__: object) -> None:
            """Everything else a bar can do."""

        # Having `update_transfer` makes the hub's fast downloader report to one bar, not to two.
        update_transfer = set_transfer_postfix_str = set_postfix_str = set_description = refresh = close = ignore

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing was drawn."""

    return Bar


def _explain_download(error: Exception, repo: str, file: str, revision: str | None) -> CheckpointError:
    """What the user is told: one line for each way to fail, the most telling cause first."""
    from huggingface_hub import constants, errors

    chain = list(_causes(error))
    full = next((e for e in chain if isinstance(e, OSError) and e.errno in _NO_SPACE), None)
    if full is not None:
        why = f"{full.strerror}, {readable_size(_free_disk(_cache()))} free"
        return CheckpointError(
            f"disk full: no room for {repo}/{file} in {_cache()} ({why}); free some, or set HF_HOME elsewhere"
        )
    denied = f"{repo} may not be read{{}}: set HF_TOKEN to a token that may read it"
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(denied.format(" (it is gated)") + ", once its terms are accepted on its page")
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(f"no such repo or folder: {repo}; if it is a private repo, set HF_TOKEN to its token")
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{repo} has no revision {revision!r}")
    statuses = [e.response.status_code for e in chain if isinstance(e, errors.HfHubHTTPError)]
    if 401 in statuses or 403 in statuses:
        return CheckpointError(denied.format(f" (the hub answered {statuses[0]})"))
    if not isinstance(error, errors.LocalEntryNotFoundError | _Unreached):
        return CheckpointError(f"{repo}/{file} cannot be downloaded{_through()}: {first_line(chain[-1])}")
    missing = (f"{repo}/{file}" if _is_cached(repo) else repo) + (f" at revision {revision}" if revision else "")
    if constants.is_offline_mode():
        return CheckpointError(f"offline (HF_HUB_OFFLINE is set) and {missing} is not in {_cache()}; run once online")
    if statuses:
        return CheckpointError(f"{missing} is not in {_cache()}, and the hub answers {statuses[0]}; try again later")
    unreached = f"the hub cannot be reached{_through()}: {first_line(chain[-1])}"
    return CheckpointError(f"{missing} is not in {_cache()}, and {unreached}")


def _through() -> str:
    """The proxy that the environment names for the hub, without its password; empty when there is none."""
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(hub.netloc.rpartition("@")[2]):
        return ""
    scheme, _, rest = proxy.rpartition("://")
    return f" through the proxy {scheme or 'http'}://{rest.rpartition('@')[2]}"


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def readable_size(count: int) -> str:
    """Bytes as MB or GB, as "1.2 GB"."""
    if count > 10**21:  # a damaged config may ask for more than a float can hold
        return "over 10^12 GB"
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
