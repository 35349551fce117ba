"""Files of weights from the Hugging Face Hub or its cache: intact ones, or a reason why there are none."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    metadata_load,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from background_remover.downloads import (
    DiskError,
    UnavailableError,
    WeightsError,
    disk_error,
    folder_size,
    locked,
    sha256,
    wait,
)

logger = logging.getLogger(__name__)

HUB_TIMEOUT = 3.0  # seconds in which the Hub must answer before it counts as unreachable
STALL_LIMIT = 240.0  # seconds without progress, of which the client tells every 10 MB, until a trickle is given up

Candidate = tuple[str, str, str | None]  # revision, file, and its sha256 if it is known
Result = TypeVar("Result")


class HubError(UnavailableError):
    """The Hub is out of reach, refuses, or breaks off."""


def find(repo: str, candidates: Sequence[Candidate]) -> tuple[Path, str] | None:
    """The first of the candidates that the cache has intact, and its sha256. Nothing is asked for, nothing changed."""
    for path, digest, known in _cached(repo, candidates):
        if _is_intact(path, digest, known):
            return path, digest
    return None


def fetch(repo: str, candidates: Sequence[Candidate], elsewhere: str) -> tuple[Path, str]:
    """The first of the candidates that the cache or the Hub has, intact, and its sha256.

    What is damaged and what a killed download has left is removed. `elsewhere` says where else weights can be had
    from, as an imperative.

    Raises HubError, DiskError, and WeightsError if the Hub has none of them, or none that is intact.
    """
    try:
        with locked(_locks(repo) / "background-remover.lock"):
            for path, digest, known in _cached(repo, candidates):
                if _is_intact(path, digest, known):  # another process fetched it in the meantime
                    return path, digest
                _discard(path, digest)
            _remove_leftovers(repo)
            return _fetch_first(repo, candidates, elsewhere)
    except OSError as error:
        raise DiskError(
            constants.HF_HUB_CACHE, "HF_HUB_CACHE" if "HF_HUB_CACHE" in os.environ else "HF_HOME", error
        ) from error


def licence(repo: str) -> str:
    """What the model card says of it, as far as that is in the cache."""
    card = try_to_load_from_cache(repo, "README.md")
    try:
        metadata = metadata_load(card) if isinstance(card, str) else None
    except Exception:  # a model card is free text, its front matter may be anything
        metadata = None
    name = (metadata or {}).get("license_name") or (metadata or {}).get("license")
    return f"{name} (as {repo} says)" if name else f"see the page of {repo} on the Hugging Face Hub"


def fetch_model_card(repo: str) -> None:
    """Put the model card into the cache; one that is not there or slow is done without."""
    try:
        _start(lambda: hf_hub_download(repo, "README.md")).result(2 * HUB_TIMEOUT)
    except Exception:
        logger.debug("%s has no model card", repo, exc_info=True)


def account() -> list[object]:
    """What the Hub's answer depends on, without the token itself, for JSON."""
    token = get_token()
    digest = hashlib.sha256(token.encode()).hexdigest() if token else None
    return [constants.ENDPOINT, digest, constants.HF_HUB_OFFLINE]


def _fetch_first(repo: str, candidates: Sequence[Candidate], elsewhere: str) -> tuple[Path, str]:
    for revision, name, known in candidates:
        answered = False
        try:
            _check_room(_ask(repo, name, revision))
            answered = True
            return _fetch_intact(repo, name, revision, known)
        except WeightsError:
            raise
        except Exception as error:  # the Hub's client has no common base for what a network can do to it
            if disk := disk_error(error):
                raise disk from error
            missing = isinstance(error, EntryNotFoundError | RevisionNotFoundError)
            if not missing or isinstance(error, LocalEntryNotFoundError):  # the latter is a network that failed
                raise _explain(repo, error, answered, elsewhere) from error
    names = dict.fromkeys(name for _, name, _ in candidates)
    raise WeightsError(f"The Hub repo {repo} has none of {', '.join(names)}: name a repo that has one.")


def _fetch_intact(repo: str, name: str, revision: str, known: str | None) -> tuple[Path, str]:
    logger.info("Fetching %s of %s from the Hugging Face Hub.", name, repo)
    path = _download(repo, name, revision)
    digest = sha256(path)
    if not _is_intact(path, digest, known):
        logger.warning("%s of %s is damaged, fetching it once more.", name, repo)
        path = _download(repo, name, revision, force_download=True)
        digest = sha256(path)
    if not _is_intact(path, digest, known):
        _discard(path, digest)
        raise WeightsError(
            f"{name} of {repo} was refused, because its sha256 {digest[:12]}… is not the expected one even after a "
            f"second download: try again later, or set RMBG_WEIGHTS to a file that you trust."
        )
    return path, digest


def _ask(repo: str, name: str, revision: str) -> int | None:
    """The bytes of a file, if the Hub would serve it; `hf_hub_download` alone retries for 23 s to find that out.

    A thread, since no time limit of a socket covers the look-up of a host's name.
    """
    url = hf_hub_url(repo, name, revision=revision)
    return _start(lambda: get_hf_file_metadata(url, timeout=HUB_TIMEOUT)).result(HUB_TIMEOUT).size


def _download(repo: str, name: str, revision: str, force_download: bool = False) -> Path:
    """`hf_hub_download`, which alone would wait for a trickle for ever. Raises TimeoutError too."""
    received = 0

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> Any:
            nonlocal received
            received += int(n or 0)
            return super().update(n)

    folder = Path(constants.HF_HUB_CACHE) / _folder_name(repo)  # where another program may be fetching the same file
    download = _start(
        lambda: hf_hub_download(repo, name, revision=revision, force_download=force_download, tqdm_class=Bar)
    )
    for _ in wait(
        lambda seconds: bool(futures.wait([download], seconds).done),
        lambda: (received, folder_size(folder)),
        STALL_LIMIT,
    ):
        pass  # where nothing comes at all, the client itself says so, and gives up after a minute
    return Path(download.result())


def _start(do: Callable[[], Result]) -> futures.Future[Result]:
    """Run in a daemon thread: unlike those of an executor, it does not keep a process that gave up from ending."""
    future: futures.Future[Result] = futures.Future()

    def run() -> None:
        try:
            future.set_result(do())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _explain(repo: str, error: Exception, answered: bool, elsewhere: str) -> HubError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        advice = f"accept its terms on its page there and set HF_TOKEN to your token, or {elsewhere}"
        return HubError(f"the Hugging Face Hub refuses {repo} ({status})", advice)
    if status == 404:
        return HubError(f"the Hugging Face Hub has no repo {repo}", "check the spelling of RMBG_WEIGHTS")
    if isinstance(error, OfflineModeIsEnabled):
        reason = "the Hugging Face Hub could not be reached, as HF_HUB_OFFLINE is set"
        return HubError(reason, f"unset it, or {elsewhere}")
    if answered and status is None:
        reason = f"the Hugging Face Hub broke off while it was sending {repo}"
        return HubError(reason, f"try again later, or {elsewhere}")
    reason = f"the Hugging Face Hub could not be reached{f' ({status})' if status else ''}"
    return HubError(reason, f"check the connection, or {elsewhere}")


# --- the cache ---


def _folder_name(repo: str) -> str:
    return repo_folder_name(repo_id=repo, repo_type="model")


def _locks(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / ".locks" / _folder_name(repo)


def _cached(repo: str, candidates: Sequence[Candidate]) -> Iterator[tuple[Path, str, str | None]]:
    """What the cache has of the candidates: path, sha256, and the expected one if it is known."""
    for revision, name, known in candidates:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            yield Path(cached), sha256(Path(cached)), known


def _is_intact(path: Path, digest: str, known: str | None) -> bool:
    """Whether the file is the known one or, where none is known, the one that the Hub announced.

    The Hub's cache names the file after its ETag, which for large files is the sha256 of the content.
    """
    announced = path.resolve().name
    expected = known or (announced if re.fullmatch(r"[0-9a-f]{64}", announced) else digest)
    return digest == expected


def _discard(path: Path, digest: str) -> None:
    """Remove a damaged file: the link in the snapshot and the blob that it points to.

    One that is what the Hub announced stays, whatever was expected of it: another program may have fetched it.
    """
    if _is_intact(path, digest, None):
        return
    blob = path.resolve()
    with suppress(OSError):  # where it can't be removed, it is just not used
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)


def _remove_leftovers(repo: str) -> None:
    """Remove what downloads that were killed have left; the client never goes on with it, nor removes it.

    One that is still running, of whatever program, holds the client's lock for the file.
    """
    for leftover in (Path(constants.HF_HUB_CACHE) / _folder_name(repo) / "blobs").glob("*.incomplete"):
        etag = leftover.name.partition(".")[0]
        with suppress(Timeout, OSError), FileLock(_locks(repo) / f"{etag}.lock", timeout=0):
            leftover.unlink(missing_ok=True)


def _check_room(byte_count: int | None) -> None:
    """Raises OSError if the disk of the cache has no room for so many bytes more."""
    folder = next(folder for folder in Path(constants.HF_HUB_CACHE, "_").absolute().parents if folder.is_dir())
    if byte_count and shutil.disk_usage(folder).free < byte_count:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
