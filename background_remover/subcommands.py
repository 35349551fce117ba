"""The commands that have a name: `cutout batch`, `serve`, `export`, `weights`; and what they share with the others."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from background_remover.choices import BACKGROUND_IMAGE, CHOICES, CUTS
from background_remover.commands import choice_option, taken, with_engine_options

if TYPE_CHECKING:
    from background_remover.batch import Progress
    from background_remover.cutout import Finish
    from background_remover.estimates import Estimate

SOME_FAILED, STOPPED, INTERRUPTED = 1, 3, 130  # exit codes
TELL_EVERY = 30.0  # seconds between two lines on progress, where there is no terminal


def make_finish(background_image: str | None, **choices: Any) -> Finish:
    """What results should look like; a choice of None is the default. Exits if that can't be made."""
    from background_remover.cutout import Finish
    from utilities import PhotoError

    chosen = {name: value for name, value in choices.items() if value is not None}
    try:
        finish = Finish(**chosen, background_image=Path(background_image) if background_image else None)
        finish.check()
    except PhotoError as error:
        raise click.UsageError(str(error)) from None
    return finish


def shown(name: Path | str) -> str:
    """A name for a terminal, which it can't command."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", click.format_filename(name))


def log_for_people() -> None:
    """On a terminal, which weights are used and what is fetched; elsewhere what is amiss alone."""
    logging.basicConfig(level=logging.INFO if sys.stderr.isatty() else logging.WARNING, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


# --- catalogues ---------------------------------------------------------------------------------------


@click.command("batch")
@click.argument("source", metavar="INPUT")
@click.argument("results", metavar="OUTPUT")
@click.option("--matte", is_flag=True, help="the matte instead: the alpha alone, in grey")
@click.option("--background-image", type=click.Path(), help=BACKGROUND_IMAGE)
@click.option("--retry-failed", is_flag=True, help="do those again that were refused or have failed")
@click.option("--plan", is_flag=True, help="say what it would take, from a few photos, and do nothing")
@click.option("--address", help="a Ray cluster's, or 'auto' on one of its machines  [this machine alone]")
@click.option(
    "--actors", type=click.IntRange(1), help="how many work at once  [up to four a GPU, or one for up to 8 cores]"
)
@click.option("--timeout", type=click.FloatRange(1), default=120.0, help="seconds for one photo  [120]")
@click.option("--column", help="of Parquet, the pictures or their paths  [the one that fits]")
@click.option("--id", "id_column", help="of Parquet, what names a photo  [id, key, sku and the like]")
@click.option("--dashboard", is_flag=True, help="serve Ray's dashboard meanwhile")
@with_engine_options
@click.pass_context
def batch_command(
    ctx: click.Context,
    /,
    *,
    source: str,
    results: str,
    matte: bool,
    background_image: str | None,
    retry_failed: bool,
    plan: bool,
    address: str | None,
    actors: int | None,
    timeout: float,
    column: str | None,
    id_column: str | None,
    dashboard: bool,
    weights: str | None,
    device: str | None,
    precision: str | None,
    **choices: Any,
) -> None:
    """Cut out a catalogue of any size, on this machine or a Ray cluster.

    INPUT is a folder, a pattern, a text file of paths or URLs, a bucket (s3://, gs:// and others), Parquet with
    pictures or their paths, or tars as WebDataset has them. OUTPUT is a folder, also of a bucket, or NAME.parquet.
    manifest.parquet and manifest.csv there say of each photo what became of it. The same command again does what is
    left. The exit code is 0 if all are done, 1 if some are not, 2 if an option was wrong, 3 if it can't go on, and
    130 if it was ended.
    """
    log_for_people()
    try:
        from background_remover import batch, estimates
        from background_remover.catalogue import Columns
        from background_remover.cutters import Order, WorkerError
    except ImportError as error:
        raise click.ClickException(
            f"Catalogues need more packages ({error.name} is not there): pip install -r requirements-batch.txt"
        ) from None
    from background_remover import EngineError, PhotoError, WeightsError

    cut = taken(choices, CUTS)
    finish = make_finish(background_image, output="matte" if matte else "cutout", **choices)
    order = Order(finish, weights=weights, device=device, precision=precision, seconds=timeout, **cut)
    columns = Columns(column, id_column)
    with _ended_by_signals(), _Display() as display:
        try:
            order = batch.pin(order)
            if plan:
                show_estimate(estimates.estimate(source, results, order, columns, retry_failed))
                return
            counts = batch.run(
                source,
                results,
                order,
                columns=columns,
                retry_failed=retry_failed,
                address=address,
                actors=actors,
                dashboard=dashboard,
                tell=display.tell,
            )
        except (PhotoError, WeightsError, EngineError, WorkerError, batch.BatchError) as error:
            click.echo(f"Error: {shown(str(error))}", err=True)
            ctx.exit(STOPPED)
        except KeyboardInterrupt:
            click.echo("Ended: what is done stays, and the same command does the rest.", err=True)
            ctx.exit(INTERRUPTED)
    click.echo(f"{sum(counts.values()):,} photos: {summary_of(counts)}", err=True)
    click.echo(f"What became of each: {shown(batch.manifest_of(results))}", err=True)
    ctx.exit(SOME_FAILED if counts["failed"] or counts["refused"] or counts["missing"] else 0)


# A box or a point is for one photo.
OF_MANY = (*CHOICES, *(choice for choice in CUTS if choice.kind is bool))
batch_command.params[2:2] = [choice_option(choice) for choice in OF_MANY if choice.name != "output"]


def summary_of(counts: dict[str, int]) -> str:
    """How many have each status, in words."""
    return ", ".join(f"{count:,} {status}" for status, count in counts.items() if count) or "none"


def show_estimate(estimate: Estimate) -> None:
    """What a catalogue would take, each figure with where it is from."""
    click.echo(
        f"{estimate.photos:,} photos, {estimate.pending:,} of them to be done"
        + (f", {estimate.input_bytes / 1e9:,.1f} GB" if estimate.input_bytes else "")
        + ("." if estimate.input_is_known or not estimate.input_bytes else " (estimated).")
    )
    if not estimate.sampled:
        return
    click.echo(
        f"Measured here on {estimate.sampled} of them: {estimate.rate:.2f} photos a second, "
        f"{estimate.result_bytes / 1e6:.1f} MB a result."
    )
    lines = [("this machine", estimate.seconds, "measured rate")]
    lines += [
        (f"{gpus} GPU{'s' * (gpus > 1)}", seconds, f"estimated, {estimate.gpu_rate:.0f} photos a second each")
        for gpus, seconds in estimate.on_gpus.items()
    ]
    for where, seconds, source in lines:
        click.echo(f"  {where:14}{duration(seconds):>16}   {source}")
    click.echo(f"Results: {estimate.output_bytes / 1e9:,.1f} GB; manifest: {estimate.manifest_bytes / 1e6:,.1f} MB.")


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


class _Display:
    """Progress on a terminal as a bar, elsewhere as a line now and then."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tell(self, progress: Progress) -> None:
        """How far it is."""
        done = sum(progress.counts.values())
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = self._bar or tqdm(total=progress.total, unit=" photos", dynamic_ncols=True)
            self._bar.set_postfix_str(summary_of(progress.counts), refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last > TELL_EVERY:
            self._last = time.monotonic()
            rate = done / progress.seconds
            left = duration((progress.total - done) / rate)
            far = f"{done:,} of {progress.total:,}, {summary_of(progress.counts)}"
            click.echo(f"{far}; {rate:.1f} a second, {left} left", err=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """While it runs, Ctrl-C and a request to end raise KeyboardInterrupt, and a second one ends at once."""

    def stop(*_: object) -> NoReturn:
        for number in before:
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- the other commands ---------------------------------------------------------------------------------


@click.command
@click.option("--host", help="the address to listen on; 0.0.0.0 lets other machines in  [127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="the port  [the first free one from 7860]")
def serve(host: str | None, port: int | None) -> None:
    """Serve the page and the API: what `python app.py` does."""
    import runpy

    given = {"GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": port}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    runpy.run_path(str(Path(__file__).parent.parent / "app.py"), run_name="__main__")


@click.command
@click.argument("path", type=click.Path(dir_okay=False))
@click.option("--weights", help="a name, a Hub repo, a file or a folder  [RMBG_WEIGHTS]")
def export(path: str, weights: str | None) -> None:
    """Write the network with its weights as ONNX, for other engines."""
    log_for_people()
    from background_remover import WeightsError
    from background_remover.export import export_onnx

    try:
        export_onnx(Path(path), weights)
    except WeightsError as error:
        raise click.ClickException(str(error)) from None


@click.command("weights")
@click.option("--weights", "source", help="a name, a Hub repo, a file or a folder  [RMBG_WEIGHTS]")
def weights_command(source: str | None) -> None:
    """Say which weights are here, where they came from, under which licence, and their sha256."""
    from background_remover import WeightsError
    from background_remover.weights import present

    try:
        found = present(source)
    except WeightsError as error:
        raise click.ClickException(str(error)) from None
    for weights in found:
        click.echo(f"{weights.name}\n  licence  {weights.licence}\n  from     {weights.origin}")
        click.echo(f"  file     {weights.path}\n  sha256   {weights.sha256}")
    if not found:
        click.echo("No weights are here yet: the first photo fetches them.")
