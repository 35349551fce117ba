"""What a catalogue would take, from a few of its photos."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import NamedTuple

import pyarrow.compute as pc

from background_remover import batch
from background_remover.allocator import available_cores
from background_remover.catalogue import Columns, read_catalogue
from background_remover.cutters import Cutter, Order
from background_remover.units import sample

SAMPLE = 24  # photos, spread over the catalogue
FIRST = 4  # of them that are not counted, since the first ones take longer
GPUS = (1, 4, 16)
# What benchmarks/gpu.py has of one process, on 16 cores of which it used few, times those that share a GPU; several at
# once were not measured.
GPU_RATE = 26.0 * batch.ACTORS_ON_GPU  # photos a second
ROW_BYTES = 70  # of the manifest, compressed, for a photo: benchmarks/catalogues.py


class Estimate(NamedTuple):
    """Photos in all and to be done; `rate`, `result_bytes` measured here on `sampled` photos, and what follows."""

    photos: int
    pending: int
    input_bytes: float
    input_is_known: bool
    sampled: int = 0
    rate: float = 0.0  # photos a second, by all cores
    result_bytes: float = 0.0  # of one result
    seconds: float = 0.0  # for all that are to be done
    gpu_rate: float = 0.0
    on_gpus: dict[int, float] = {}  # noqa: RUF012  # never changed: seconds for all, by so many GPUs
    output_bytes: float = 0.0
    manifest_bytes: float = 0.0


def estimate(
    source: str, results: str, order: Order, columns: Columns | None = None, retry_failed: bool = False
) -> Estimate:
    """What there is to do, and what it would take. Nothing is written. Raises PhotoError, WorkerError."""
    photos = read_catalogue(source, results, columns)
    pending = batch.prepare(photos, results, order, retry_failed=retry_failed, dry=True).pending
    sizes = pending["size"].filter(pc.greater_equal(pending["size"], 0))
    jobs = sample(pending, SAMPLE, columns)
    if not jobs:
        return Estimate(len(photos), len(pending), 0, True)
    cores = available_cores()
    threads = min(batch.CORES, cores)
    cutter = Cutter(replace(order, results="", threads=threads))
    try:
        cutter.cut(jobs[:FIRST])
        counted = jobs[FIRST:] or jobs
        start = time.perf_counter()
        made = cutter.cut(counted)
        rate = len(counted) / (time.perf_counter() - start) * (cores // threads)
    finally:
        cutter.close()
    outside = [
        sum(row[f"{stage}_seconds"] or 0 for stage in ("open", "matte", "save"))
        for row, _ in made
        if row["status"] == "done"
    ]
    # cores beside a GPU open and save as quickly as those here do
    gpu_rate = min(GPU_RATE, batch.CORES_BESIDE_GPU / max(1e-3, statistics.mean(outside))) if outside else GPU_RATE
    result_bytes = statistics.mean(len(data) for _, data in made)
    known = len(sizes) == len(pending)
    mean = pc.mean(sizes).as_py() if len(sizes) else statistics.mean(len(job.data or b"") for job in jobs)
    return Estimate(
        photos=len(photos),
        pending=len(pending),
        input_bytes=mean * len(pending),
        input_is_known=known,
        sampled=len(counted),
        rate=rate,
        result_bytes=result_bytes,
        seconds=len(pending) / rate,
        gpu_rate=gpu_rate,
        on_gpus={gpus: len(pending) / (gpus * gpu_rate) for gpus in GPUS},
        output_bytes=result_bytes * len(pending),
        manifest_bytes=ROW_BYTES * len(photos),
    )
