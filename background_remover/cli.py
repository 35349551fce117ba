"""The command line: `cutout photo.jpg`, `cutout photos/ -o out/`, `cat a.jpg | cutout - > a.png`, `cutout serve`.

Nothing heavy is imported before it is needed, so that help and completion come at once, and what is done already is
found out without torch.
"""

from __future__ import annotations

import atexit
import csv
import gc
import io
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from background_remover.choices import BACKGROUND_IMAGE, CHOICES, CUTS
from background_remover.commands import (
    PHOTOS,
    Commands,
    PhotosCommand,
    choice_option,
    taken,
    with_engine_options,
)
from background_remover.subcommands import (
    INTERRUPTED,
    SOME_FAILED,
    batch_command,
    export,
    log_for_people,
    make_finish,
    serve,
    shown,
    weights_command,
)

if TYPE_CHECKING:
    from background_remover.cutout import Cutout
    from background_remover.decoding import Photo
    from background_remover.outputs import Task
    from background_remover.pipeline import BackgroundRemover

STREAM = "-"
CATALOGUE = 5000  # photos from which there is something better
LOOK = 0.5  # seconds between two looks at a watched folder
USAGE = 2  # exit code


def print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """The version, and no more."""
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(version("background-remover"))
        except PackageNotFoundError:  # it runs from a checkout
            pyproject = (Path(__file__).parent.parent / "pyproject.toml").read_text()
            click.echo(pyproject.partition('version = "')[2].partition('"')[0])
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version)
@click.pass_context
def cutout(ctx: click.Context) -> None:
    """Cut the subjects out of photos."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(USAGE)


def main() -> NoReturn:
    """The console script."""
    program = "cutout" if Path(sys.argv[0]).stem != "__main__" else "python -m background_remover"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no name of a file ends the run
    code: str | int | None = SOME_FAILED
    atexit.register(lambda: end_at_once(code))  # the last of all that are called then, since it comes first
    try:
        cutout(prog_name=program)
    except SystemExit as ended:
        code = ended.code
        raise
    except OSError as error:
        why = error.strerror or error  # a library that is not there has but a sentence
        click.echo(f"Error: Something can't be read or written ({why}): check what was named.", err=True)
    os._exit(SOME_FAILED)  # without writing once more to what is full


def end_at_once(code: str | int | None) -> None:
    """End the process without taking apart what it has in memory, which would take 0.4 s once torch is there."""
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except OSError:
        return  # Python's own ending tells of it
    os._exit(code if isinstance(code, int) else SOME_FAILED if code else 0)


# --- photos -------------------------------------------------------------------------------------------


@cutout.command(PHOTOS, cls=PhotosCommand, hidden=True)
@click.argument("photos", nargs=-1, metavar="PHOTO...", type=click.Path(allow_dash=True))
@click.option("-o", "--out", type=click.Path(), help="a file for one result, or a folder  [beside the photo]")
@click.option("--matte", is_flag=True, help="the matte instead: the alpha alone, in grey")
@click.option("--background-image", type=click.Path(), help=BACKGROUND_IMAGE)
@click.option("--overwrite", is_flag=True, help="make anew what is there, whole and newer than its photo")
@click.option("--watch", type=click.Path(exists=True, file_okay=False), help="a folder whose new photos are cut out")
@click.option("--json", "as_json", is_flag=True, help="a line of JSON for each photo")
@click.option("--report", type=click.Path(dir_okay=False), help="a CSV file of what became of each photo")
@with_engine_options
@click.pass_context
def photos_command(ctx: click.Context, /, photos: tuple[str, ...], watch: str | None, **options: Any) -> None:
    """Cut the subjects out of photos: files, folders, URLs, or "-" for standard input and output.

    "cutout photo.jpg" writes photo-cutout.png beside the photo, "cutout photos/ -o out/" a tree like that of the
    photos. Results that are there, whole and newer than their photos, stay as they are. A photo that fails has its
    reason and stops no other. The exit code is 0 if all are done, 1 if some failed, 2 if the call was wrong.
    """
    log_for_people()
    if not photos and not watch:
        raise click.UsageError("Name a photo, a folder or a URL, or '-' for standard input.")
    if options["out"] == STREAM and STREAM not in photos:
        raise click.UsageError("Only the result of '-' goes to standard output: 'cutout - < photo.jpg > cutout.png'.")
    if STREAM in photos and (len(photos) > 1 or watch or options["as_json"] or options["report"]):
        raise click.UsageError("'-' stands alone: one photo comes in, and its result goes out.")
    with ending_at_once(), Run(**options) as run:
        if photos == (STREAM,):
            code = run.stream()
        elif watch:
            code = run.watch([watch, *photos])
        else:
            code = run.all_of(photos)
    ctx.exit(code)


photos_command.params[2:2] = [choice_option(choice) for choice in (*CHOICES, *CUTS) if choice.name != "output"]


@contextmanager
def ending_at_once() -> Iterator[None]:
    """While it runs, Ctrl-C ends with the exit code that shells expect, where nothing else is said."""

    def stop(*_: object) -> None:
        sys.exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Run:
    """One call of the command: what to make, and what becomes of it."""

    def __init__(
        self,
        *,
        out: str | None,
        matte: bool,
        background_image: str | None,
        overwrite: bool,
        as_json: bool,
        report: str | None,
        weights: str | None,
        device: str | None,
        precision: str | None,
        **choices: Any,
    ) -> None:
        from background_remover.encoding import ENCODERS
        from background_remover.finding import EXTENSIONS

        self._engine = weights, device, precision
        self._overwrite, self._as_json = overwrite, as_json
        self._cut = {name: value for name, value in taken(choices, CUTS).items() if value}
        self._remover: BackgroundRemover | None = None
        if out == "":
            raise click.UsageError("The name for results is empty: name a file or a folder.")
        path = None if out in (None, STREAM) else Path(out)
        suffix = "" if path is None or str(out).endswith(("/", os.sep)) or os.path.isdir(path) else path.suffix.lower()  # noqa: PTH112
        self._file = path if suffix in {*ENCODERS, *EXTENSIONS} else None
        self._folder = None if self._file else path
        if self._file:
            if choices["format"] and ENCODERS[f".{choices['format']}"] is not ENCODERS.get(suffix):
                raise click.UsageError(f"'{self._file.name}' is no {choices['format']} file: leave --format out.")
            choices["format"] = suffix[1:]
        elif self._folder and os.path.isfile(self._folder):  # noqa: PTH113
            raise click.UsageError(f"'{self._folder.name}' is a file, and not of a picture: name a folder.")
        self._finish = make_finish(background_image, output="matte" if matte else "cutout", **choices)
        asked = weights or os.environ.get("RMBG_WEIGHTS"), precision or os.environ.get("RMBG_PRECISION") or None
        self._how = repr((self._finish, self._cut or False, *asked))
        self._origins: dict[Path, str] = {}  # of results that are being made
        self._stopping = False
        self._counts = {"done": 0, "skipped": 0, "failed": 0}
        self._start = time.monotonic()
        self._bar: Any = None
        if report and Path(report).suffix.lower() in EXTENSIONS:  # it would take the place of a photo
            raise click.UsageError(f"'{Path(report).name}' is no name for a report: choose one such as report.csv.")
        self._report = Report(report) if report else None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self._report:
            self._report.close()

    # --- the ways to run ---

    def stream(self) -> int:
        """The photo from standard input, its result to standard output, or to the file that was named."""
        from background_remover.outputs import identity_of
        from utilities import PhotoError

        if not self._file and (self._folder or (sys.stdout and sys.stdout.isatty())):
            raise click.UsageError("The result of '-' is a picture: send it into a file, as in '> cutout.png'.")
        if sys.stdin is None or (sys.stdout is None and not self._file):
            raise click.UsageError("Standard input or output is closed: open it, or name files.")
        photo = os.fstat(sys.stdin.fileno())
        if self._file and identity_of(self._file) == (photo.st_dev, photo.st_ino):
            raise click.UsageError(f"'{self._file.name}' is the photo itself: choose another name.")
        try:
            cutout = self.remover(sys.stdin.buffer, **self._cut)
            if self._file:
                self._save(cutout, self._file)
            else:
                buffer = io.BytesIO()  # a TIFF is written to and fro
                self._finish.save(cutout, buffer)
                sys.stdout.buffer.write(buffer.getbuffer())
                sys.stdout.buffer.flush()
        except PhotoError as error:
            return self._fail(str(error))
        if not cutout.found:
            from background_remover.pipeline import NOTHING_FOUND

            click.echo(NOTHING_FOUND, err=True)
        return 0

    def all_of(self, photos: Iterable[str]) -> int:
        """The photos that are named, and those in folders."""
        tasks = self._plan(photos)
        if not tasks:
            raise click.UsageError("There are no photos there: check the folder, or name the files themselves.")
        if len(tasks) > CATALOGUE:
            click.echo("'cutout batch' is made for so many: it has a manifest, and works on clusters too.", err=True)
        with self._ending_early(), self._progress(len(tasks)):
            self._work_off(tasks)
        self._summarise()
        return INTERRUPTED if self._stopping else SOME_FAILED if self._counts["failed"] else 0

    def watch(self, photos: list[str]) -> int:
        """What is in the folders, and what arrives there, until it is ended."""
        from background_remover.finding import Settled

        if self._file:
            raise click.UsageError(f"'{self._file.name}' is one file, for all that arrive: name a folder.")
        settled, taken = Settled(), dict[Path | str, tuple[int, int]]()
        click.echo(f"Watching '{shown(photos[0])}': Ctrl-C ends it.", err=True)
        with self._ending_early():
            while not self._stopping:
                start = time.monotonic()
                tasks = []
                for task in self._plan(photos):
                    state = settled.state_of(task.photo)
                    if state and taken.get(task.photo) != state:
                        taken[task.photo] = state
                        tasks.append(task)
                self._work_off(tasks)
                pause = max(LOOK, time.monotonic() - start)
                while not self._stopping and time.monotonic() - start < pause + LOOK:
                    time.sleep(0.05)
        self._summarise()
        return SOME_FAILED if self._counts["failed"] else 0

    # --- the work ---

    @property
    def remover(self) -> BackgroundRemover:
        """Loaded when it is needed first. Exits if it can't be."""
        if self._remover is None:
            self._remover = load(*self._engine)
        return self._remover

    def _plan(self, photos: Iterable[str]) -> list[Task]:
        """The photos and where their results belong."""
        from background_remover.finding import find
        from background_remover.outputs import Task, identity_of, plan

        sources = find(photos, self._folder)
        if self._file is None:
            return plan(sources, self._folder, self._finish.output, self._finish.suffix)
        if len(sources) > 1:
            raise click.UsageError(f"'{self._file.name}' is one file, for {len(sources)} photos: name a folder.")
        if identity_of(self._file) in {identity_of(source.photo) for source in sources} - {None}:
            raise click.UsageError(f"'{self._file.name}' is the photo itself: choose another name.")
        return [Task(source.photo, self._file) for source in sources]

    def _work_off(self, tasks: list[Task]) -> None:
        """Make those that are not done yet."""
        from background_remover.outputs import is_done, origin_of, remove_leftovers
        from utilities import PhotoError

        remove_leftovers({task.result.parent for task in tasks})
        left = []
        for task in tasks:
            if self._stopping:
                return
            origin = self._origins[task.result] = origin_of(task.photo, self._how)
            if not self._overwrite and is_done(task, origin):
                self._tell("skipped", task.photo, task.result)
            else:
                left.append(task)
        while left and self._remover is None and isinstance(left[0].photo, Path) and not self._stopping:
            try:  # what can't be opened needs no network, which takes seconds to be there
                with opening(left[0].photo):
                    break
            except PhotoError as error:
                self._tell("failed", left.pop(0).photo, None, str(error))
            except Exception:  # told as for the others, when its turn comes
                break
        if not left or self._stopping:
            return
        wanted = (task for task in left if not self._stopping)
        for outcome in self.remover.run(wanted, self._save, opening, len(left), **self._cut):
            status = "done" if outcome.path else "failed"
            self._tell(status, outcome.photo, outcome.path, outcome.reason, outcome.seconds)

    def _save(self, cutout: Cutout, path: Path) -> None:
        from background_remover.outputs import whole_file

        with whole_file(path, self._folder, self._origins.get(path, "")) as file:
            self._finish.save(cutout, file)

    @contextmanager
    def _ending_early(self) -> Iterator[None]:
        """While it runs, Ctrl-C ends after the photos in hand, and a second one at once."""

        def stop(*_: object) -> None:
            if self._stopping:
                os._exit(INTERRUPTED)
            self._stopping = True
            click.echo("Ending after the photo in hand; once more ends at once.", err=True)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- what is told ---

    @contextmanager
    def _progress(self, count: int) -> Iterator[None]:
        """A bar with the count, the rate and the time left, on a terminal."""
        if self._as_json or count < 2 or not sys.stderr.isatty():
            yield
            return
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        columns, lines = shutil.get_terminal_size()  # 80 and 24 for a terminal that does not say
        with logging_redirect_tqdm(), tqdm(total=count, unit=" photos", ncols=columns, nrows=lines) as self._bar:
            yield
        self._bar = None

    def _tell(
        self, status: str, photo: Path | str, result: Path | None, reason: str = "", seconds: float = 0.0
    ) -> None:
        """What became of a photo."""
        self._counts[status] += 1
        row = {
            "photo": str(photo),
            "result": str(result) if result else None,
            "status": status,
            "reason": reason or None,
            "seconds": round(seconds, 3),
        }
        if self._report:
            self._report.add(row)
        if self._bar is not None:
            self._bar.update()
        if self._as_json:
            click.echo(json.dumps(row))
        elif reason:
            self._write(f"{shown(photo)}: {shown(reason)}", err=True)
        elif self._bar is None:
            self._write(f"{shown(photo)} -> {shown(str(result))}" + (" (as it was)" if status == "skipped" else ""))

    def _write(self, line: str, err: bool = False) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr if err else sys.stdout)
        else:
            click.echo(line, err=err)

    def _summarise(self) -> None:
        if sum(self._counts.values()) > 1 and not self._as_json:
            counts = ", ".join(f"{count} {status}" for status, count in self._counts.items() if count)
            click.echo(f"{counts} in {time.monotonic() - self._start:.1f} s", err=True)

    def _fail(self, sentence: str) -> int:
        click.echo(f"Error: {shown(sentence)}", err=True)
        return SOME_FAILED


class Report:
    """A CSV file with a row for each photo, complete at any time."""

    def __init__(self, path: str) -> None:
        try:
            self._file = Path(path).open("w", newline="", errors="surrogateescape", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise click.UsageError(f"The report can't be written ({error.strerror}): choose another path.") from None
        self._rows = csv.DictWriter(self._file, ["photo", "result", "status", "reason", "seconds"])
        self._rows.writeheader()
        self._file.flush()

    def add(self, row: dict[str, Any]) -> None:
        """A row more."""
        self._rows.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """No more rows."""
        self._file.close()


@contextmanager
def opening(photo: Path | str) -> Iterator[Photo]:
    """A photo opened, fetched first if it is a URL. Raises PhotoError."""
    from background_remover.photos import open_photo

    if isinstance(photo, Path):
        yield open_photo(photo)
        return
    from background_remover.fetch import fetch_now

    yield open_photo(fetch_now(photo))


def load(weights: str | None, device: str | None, precision: str | None) -> BackgroundRemover:
    """The remover. Exits if it can't be had."""
    gc.disable()  # it would look time and again at what torch's import makes, which is there to stay: 0.2 s
    import background_remover

    background_remover.keep_freed_memory()
    try:
        return background_remover.BackgroundRemover.from_pretrained(weights, device, precision)
    except (background_remover.WeightsError, background_remover.EngineError) as error:  # imported only then
        raise click.ClickException(str(error)) from None
    finally:
        gc.freeze()  # and never looks at it
        gc.enable()


for command in (serve, export, weights_command, batch_command):
    cutout.add_command(command)
