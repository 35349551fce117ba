"""Catalogues on Ray Data: any number of photos, on this machine or a cluster, none lost and none done twice.

    photos as a table (`catalogue`) - those done already (`manifest`) → units of few photos → actors, each with a
    `Cutter` → rows of the manifest, which this process writes

Ray starts the actors, keeps them busy, holds back what they can't take yet, and gives what a lost one had in hand to
another; all that travels through it are names, or the bytes of files that lie in Parquet, and rows. Read from Ray 2.60.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

# Read at import: nothing is told to anybody, and Ray's C++ does not write warnings of its own among our sentences.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import pyarrow as pa
import pyarrow.compute as pc
import ray
from filelock import FileLock, Timeout
from pyarrow import parquet
from ray.data import ActorPoolStrategy, DataContext

from background_remover import storage
from background_remover.allocator import available_cores, total_memory
from background_remover.catalogue import Columns, name_results, read_catalogue
from background_remover.cutters import Cutter, Job, Order, WorkerError
from background_remover.manifest import HIDDEN, SCHEMA, STATE, Manifest
from background_remover.outputs import remove_leftovers
from background_remover.units import Units, slices
from utilities import PhotoError

logger = logging.getLogger(__name__)

ENDED = "Ray has ended the work ({}): run it again, and see /tmp/ray/session_latest/logs."
PART = "cutouts-{}.parquet"  # the name of a file of Parquet with results, with so many hexadecimal digits: 20
LOCK = f"{HIDDEN}/lock"  # in the folder for results, while a run works on it
READERS = 4  # of these tasks at once
STORE = 1 << 30  # bytes of shared memory for what waits, on this machine
CORES = 8  # of a node for one actor, each with a photo of its own
# Actors that share a GPU, if there are the cores: one alone waits for Python's lock (benchmarks/gpu.py).
ACTORS_ON_GPU = 4
CORES_BESIDE_GPU = 16  # that these ask for at most, all together
ROW = pa.struct(list(SCHEMA))


class BatchError(RuntimeError):
    """A catalogue can't be worked off. One sentence: what is wrong and what to do."""


class Catalogue(NamedTuple):
    """The photos that were named, those of them that are to be done, and where all is written down."""

    photos: pa.Table
    pending: pa.Table
    manifest: Manifest


class Progress(NamedTuple):
    """How far it is: photos with each status, of so many, in so many seconds."""

    counts: dict[str, int]
    total: int
    seconds: float


def pin(order: Order) -> Order:
    """The same order for all machines: with weights that are here and their hash, a background by its bytes, and the
    precision that was asked for, here or by the environment.

    Its `way` is a hash of all that decides on how results look. Raises WeightsError.
    """
    from background_remover.weights import BRIA, ISNET, load

    weights = load(order.weights)
    named = order.weights or os.environ.get("RMBG_WEIGHTS") or weights.name
    if named not in (BRIA, ISNET) and os.path.exists(named):  # noqa: PTH110
        named = os.path.abspath(named)  # noqa: PTH100
    precision = order.precision or os.environ.get("RMBG_PRECISION") or None
    given = order.finish.background_image
    picture = Path(given).read_bytes() if isinstance(given, str | os.PathLike) else None
    plain = replace(order.finish, background_image=None)
    said = repr((plain, picture and hashlib.sha256(picture).hexdigest(), order.cut or False, weights.sha256, precision))
    return replace(
        order,
        finish=replace(order.finish, background_image=picture or given),
        weights=named,
        precision=precision,
        sha256=weights.sha256,
        way=hashlib.sha256(said.encode()).hexdigest()[:16],
    )


def manifest_of(results: str) -> str:
    """The name of the manifest, for people."""
    return storage.join(results, f"{_prefix(results)}manifest.csv")


def _prefix(results: str) -> str:
    return "_" if is_parquet(results) else ""  # which readers of a folder of Parquet leave out


def is_parquet(results: str) -> bool:
    """Whether results are rows of Parquet, and not files of their own."""
    return results.rstrip("/").lower().endswith(".parquet")


def prepare(
    photos: pa.Table, results: str, order: Order, *, retry_failed: bool = False, dry: bool = False
) -> Catalogue:
    """What there is to do: of all photos those that the manifest does not say are done, as they are, in this way.

    Those that were refused or have failed count as done, unless `retry_failed`. A result that is gone, or of another
    size, is made anew. What runs that were killed have left is deleted, unless it is `dry`. Raises PhotoError.
    """
    if storage.is_web(results):
        raise PhotoError("Results can't go to a web address: name a folder, or one of a bucket, as s3://name/folder.")
    manifest = Manifest(results, _prefix(results))
    if not storage.is_remote(results) and not dry:
        remove_leftovers([Path(folder) for folder, _, _ in os.walk(results)])
    state = manifest.read(*STATE)
    done = state.filter(pc.equal(state["way"], order.way))
    if retry_failed:
        done = done.filter(pc.is_in(done["status"], pa.array(["done", "no subject"])))
    if len(done):
        done = _without_lost(done, results)
        now = photos["version"].take(pc.index_in(done["id"], photos["id"]))
        done = done.filter(pc.fill_null(pc.equal(done["version"], now), False))
    if is_parquet(results):
        is_here = pc.is_in(state["id"], photos["id"])
        done = _without_mixed(done, state.filter(is_here))
        if not dry:  # of photos that are no longer here, what lies in a file with others goes with these
            again = state.filter(pc.and_(is_here, pc.invert(pc.is_in(state["id"], done["id"]))))["output"]
            others = state.filter(pc.invert(is_here))["output"]
            _drop_parts(results, {*done["output"].to_pylist(), *others.to_pylist()} - {*again.to_pylist()})
    pending = photos.filter(pc.invert(pc.is_in(photos["id"], done["id"])))
    if not is_parquet(results):
        taken = state.filter(pc.invert(pc.is_in(state["id"], pending["id"])))["output"].drop_null()
        pending = name_results(pending, pc.replace_substring_regex(taken, r"\.\w+$", ""))
    return Catalogue(photos, pending, manifest)


@contextmanager
def _alone(results: str) -> Iterator[None]:
    """While it runs, no other run of this machine works on a folder for results. Raises BatchError if one does."""
    if storage.is_remote(results):
        yield
        return
    lock = FileLock(Path(results, LOCK), timeout=0)
    try:
        Path(results, LOCK).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BatchError(f"Another run works on '{Path(results).name}': wait for its end, or end it.") from None
    except OSError as error:
        raise BatchError(f"'{Path(results).name}' can't be written ({error.strerror}): name another folder.") from error
    try:
        yield
    finally:
        lock.release()


def _without_lost(done: pa.Table, results: str) -> pa.Table:
    """Without the rows of results that are not there, or not as long as they were."""
    found = [(entry.path, entry.size) for entry in storage.entries(results)]
    paths, sizes = [path for path, _ in found], [size for _, size in found]
    there = pa.array(sizes, pa.int64()).take(pc.index_in(done["output"], pa.array(paths, pa.string())))
    is_whole = pc.is_valid(there) if is_parquet(results) else pc.equal(there, done["output_bytes"])
    return done.filter(pc.or_(pc.is_null(done["output"]), pc.fill_null(is_whole, False)))


def _without_mixed(done: pa.Table, state: pa.Table) -> pa.Table:
    """Without the rows of files of Parquet that hold others, which are to be made anew."""
    others = state.filter(pc.invert(pc.is_in(state["id"], done["id"])))["output"]
    return done.filter(pc.invert(pc.is_in(done["output"], others.drop_null())))


def _drop_parts(results: str, kept: set[str | None]) -> None:
    """Delete the files of Parquet of which no row is known: of runs that were killed, or that others replace."""
    for name in storage.names_in(results):
        if re.fullmatch(PART.format("[0-9a-f]{20}"), name) and name not in kept:
            storage.remove(storage.join(results, name))


class _Actor:
    """What Ray keeps busy: a Cutter, for which each call is a unit."""

    def __init__(self, order: Order, results: str) -> None:
        self._results = results
        self._cutter: Cutter | WorkerError
        try:
            if not storage.is_remote(results) and not Path(results, LOCK).exists():
                raise WorkerError(
                    f"'{Path(results).name}' is not there on all machines: name a folder that they share."
                )
            self._cutter = Cutter(order)
        except WorkerError as error:  # raised here, it would come with pages of Ray's own
            self._cutter = error

    def __call__(self, table: pa.Table) -> pa.Table:
        """Units to lists of rows of the manifest; where results are rows of Parquet, these are written here."""
        units = [[Job(**job) for job in unit] for unit in table["jobs"].to_pylist()]
        return pa.table({"rows": pa.array([self._do(unit) for unit in units], pa.list_(ROW))})

    def _do(self, unit: list[Job]) -> list[dict[str, Any]]:
        if isinstance(self._cutter, WorkerError):
            raise self._cutter
        made = self._cutter.cut(unit)
        if is_parquet(self._results):
            name = PART.format(hashlib.sha256(repr([job.id for job in unit]).encode()).hexdigest()[:20])
            pictures = [(row["id"], data) for row, data in made if row["output"] is not None]
            for row, _ in made:
                row["output"] = name if row["output"] is not None else None
            if pictures:
                ids, images = zip(*pictures, strict=True)
                part = pa.BufferOutputStream()
                columns = [pa.array(ids, pa.string()), pa.array(images, pa.large_binary())]
                parquet.write_table(pa.table(columns, ["id", "image"]), part, compression="none")
                storage.write(storage.join(self._results, name), part.getvalue().to_pybytes(), self._results)
        return [row for row, _ in made]


class Cluster(NamedTuple):
    """How many actors work, and what each asks Ray for."""

    actors: int
    cores: int
    gpus: float


def size_cluster(nodes: Iterable[dict[str, float]], device: str | None, actors: int | None = None) -> Cluster:
    """Some actors for each GPU, or one for up to CORES cores of a node, of nodes with so many "CPU" and "GPU"."""
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if device == "cuda" and not with_gpus:  # they may come yet
        return Cluster(actors or 1, 1, 1)
    if with_gpus and device in (None, "cuda"):
        beside = min(int(node["CPU"] // node["GPU"]) for node in with_gpus)
        most = sum(int(node["GPU"]) for node in with_gpus)
        beside = min(beside, CORES_BESIDE_GPU)
        sharing = max(1, beside * ACTORS_ON_GPU // CORES_BESIDE_GPU)
        if actors:  # no GPU is to be idle
            sharing = min(sharing, -(-actors // most))
        return Cluster(actors or sharing * most, max(1, beside // sharing), 1 / sharing)
    most = min(CORES, max((int(node["CPU"]) for node in nodes), default=1))
    large = [int(node["CPU"]) for node in nodes if node["CPU"] >= most / 2]  # small ones would make all actors small
    cores = min([most, *large])
    return Cluster(actors or max(1, sum(count // cores for count in large)), cores, 0)


@contextmanager
def connected(address: str | None, dashboard: bool = False) -> Iterator[None]:
    """While it runs, this process is part of a Ray cluster: the one at `address`, or one of its own for this machine.

    Raises BatchError.
    """
    local: dict[str, Any] = {
        "address": "local",  # whatever other cluster there is
        "num_cpus": available_cores(),
        "include_dashboard": dashboard,
        "object_store_memory": min(STORE, total_memory() // 8),
    }
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what counts is raised
    if not address:  # nobody else may send this cluster work; without one, Ray would leave a token in the user's home
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import background_remover

    paths = [str(Path(background_remover.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # Ray has its workers import from the folder that is the current one now, before all others: whatever lay there, as
    # among photos of somebody else's, would be run.
    with tempfile.TemporaryDirectory() as folder:
        try:
            with chdir(folder), _without_stderr():
                options = {"address": address} if address else local
                session = ray.init(**options, log_to_driver=False, configure_logging=False)
        except Exception as error:  # ConnectionError and others, by what fails
            where = f"at '{address}'" if address else "on this machine"
            raise BatchError(
                f"Ray can't be reached {where} ({type(error).__name__}): check the address, and set RAY_AUTH_MODE, "
                "and the token, if it asks for one."
            ) from error
        if dashboard:
            token = "" if address else f", with the token {os.environ['RAY_AUTH_TOKEN']}"
            logger.warning("Ray's dashboard: http://%s%s", session.dashboard_url, token)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = 1  # byte: a row is a unit, and a unit is a block
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """While it runs, standard error is lost, on which Ray's C++ says at which level it logs."""
    own, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)
        os.close(nowhere)


def work_off(
    pending: pa.Table, order: Order, results: str, columns: Columns | None = None, actors: int | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Rows of the manifest for photos of a catalogue, as they are done by the cluster that is connected.

    `order.results`, `order.threads` and `order.share` are chosen here. Raises BatchError.
    """
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    cluster = size_cluster((node["Resources"] for node in nodes if node["Alive"]), order.device, actors)
    results = storage.absolute(results)
    results_in = "" if is_parquet(results) else results
    order = replace(order, results=results_in, threads=cluster.cores, share=cluster.gpus or 1)
    suffix = "" if is_parquet(results) else order.finish.suffix
    place = pending.schema.get_field_index("source")
    pending = pending.set_column(place, "source", _absolute(pending["source"]))
    source = Units(pending, suffix, columns or Columns())
    tasks = sum(1 for _ in slices(pending))
    units = ray.data.read_datasource(source, num_cpus=0, concurrency=min(READERS, tasks), override_num_blocks=tasks)
    pool = ActorPoolStrategy(
        size=cluster.actors,
        max_tasks_in_flight_per_actor=3,
        max_concurrent_calls_per_actor=2,  # so that no core waits for the end of a unit
        enable_true_multi_threading=True,
    )
    rows = units.map_batches(
        _Actor,
        fn_constructor_args=(order, results),
        batch_size=None,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=cluster.cores,
        num_gpus=cluster.gpus,
    )
    try:
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch["rows"].to_pylist()
    except Exception as error:  # Ray wraps what an actor raises
        raise BatchError(_why(error)) from error


def _absolute(sources: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names of files as others find them, who are in another folder."""
    is_whole = pc.match_substring_regex(sources, r"^(/|[a-zA-Z][a-zA-Z0-9+.-]+://)")
    return pc.if_else(is_whole, sources, pc.binary_join_element_wise(os.getcwd(), sources, "/"))  # noqa: PTH109


def _why(error: BaseException) -> str:
    """The sentence of an error that Ray has wrapped."""
    found = re.search(r"(?:WorkerError|PhotoError): (.*)", str(error))
    return (
        found[1]
        if found
        else f"Ray has ended the work ({type(error).__name__}): run it again, and see /tmp/ray/session_latest/logs."
    )


def run(
    source: str,
    results: str,
    order: Order,
    *,
    columns: Columns | None = None,
    retry_failed: bool = False,
    address: str | None = None,
    actors: int | None = None,
    dashboard: bool = False,
    tell: Callable[[Progress], None] = lambda _: None,
) -> dict[str, int]:
    """Work a catalogue off, or what is left of it, and give the number of photos with each status.

    `source` is what `read_catalogue` reads, `results` a folder, also of a bucket, or "….parquet". `tell` hears of
    progress. The manifest is complete up to seconds ago at any time, and what ends this run loses no more than what was
    in hand. Raises PhotoError, BatchError.
    """
    results = storage.local_path(results)
    photos = read_catalogue(source, results, columns)
    with _alone(results):
        catalogue = prepare(photos, results, order, retry_failed=retry_failed)
        total, start = len(catalogue.pending), time.monotonic()
        counts: Counter[str] = Counter()
        try:
            if total:
                with connected(address, dashboard):
                    for rows in work_off(catalogue.pending, order, results, columns, actors):
                        catalogue.manifest.add(rows)
                        counts.update(row["status"] for row in rows)
                        tell(Progress(dict(counts), total, time.monotonic() - start))
        finally:
            catalogue.manifest.flush()
        catalogue.manifest.merge()
        if is_parquet(results):  # of a worker of a run that was killed, which went on for some seconds
            _drop_parts(results, {*catalogue.manifest.read("output")["output"].to_pylist()})
        catalogue.manifest.write_csv()
        return catalogue.manifest.count(catalogue.photos["id"], order.way)
