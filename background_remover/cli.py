"""The command line: `cutout photo.jpg`, `cutout photos/ -o out/`, `cat a.jpg | cutout - > a.png`, `cutout serve`.

Nothing heavy is imported before it is needed, so that help and completion come at once, and what is done already is
found out without torch.
"""

from __future__ import annotations

import csv
import errno
import glob
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

import click

from background_remover.choices import BACKGROUND_IMAGE, CHOICES, REFINE, Choice

if TYPE_CHECKING:
    from background_remover.cutout import Cutout, Finish
    from background_remover.decoding import Photo
    from background_remover.outputs import Source, Task
    from background_remover.pipeline import BackgroundRemover

STREAM = "-"
PHOTOS = ""  # the name of the command that is meant where none is named
# What is a photo in a folder; a file that is named itself is opened whatever it is called.
EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".heic", ".heif", ".hif", ".avif"),
    *(".gif", ".bmp", ".dib", ".tif", ".tiff"),
}
SETTLED = 2.0  # seconds for which a file has not changed when it counts as whole
LOOK = 0.5  # seconds between two looks at a watched folder
SOME_FAILED, USAGE, INTERRUPTED = 1, 2, 130  # exit codes

RESULT = re.compile(r"(.+)-(cutout|matte)(-\d+)?", re.DOTALL)  # the stem of one that lies beside its photo


class UnnamedContext(click.Context):
    """The context of the command that needs no name."""

    @property
    def command_path(self) -> str:
        """As usage has it."""
        return self.parent.command_path if self.parent else super().command_path


class PhotosCommand(click.Command):
    """The command that needs no name."""

    context_class = UnnamedContext


class Commands(click.Group):
    """Commands, of which `photos` needs no name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with the name put before what is no other command."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help", "--version"):
            args = [PHOTOS, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """That of `photos`, and the other commands."""
        photos = self.commands[PHOTOS]
        photos.format_help(click.Context(photos, info_name=ctx.info_name), formatter)
        with formatter.section("Commands"):
            others = [command for name, command in self.commands.items() if name != PHOTOS]
            formatter.write_dl([(command.name or "", command.get_short_help_str(80)) for command in others])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """The commands, and what `photos` takes."""
        photos = self.commands[PHOTOS]
        found = super().shell_complete(ctx, incomplete)
        inner = click.Context(photos, parent=ctx, info_name=PHOTOS)
        return [*found, *photos.shell_complete(inner, incomplete), *photos.params[0].shell_complete(inner, incomplete)]


def finish_option(choice: Choice) -> click.Option:
    """The option for a field of `Finish`; without it the field has its own default."""
    name = f"--{choice.name}"
    if choice.kind is bool:
        return click.Option([f"{name}/--no-{choice.name}"], default=None, help=choice.text)
    shown = f"{choice.text}  [{choice.default}]" if choice.default is not None else choice.text
    kind: Any = click.Choice(choice.values) if choice.values else choice.kind
    return click.Option([name], type=kind, default=None, help=shown)


def with_engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for which weights are run, and on what."""
    command = click.option("--precision", help="fp32, bf16 or fp16  [what is quickest here]")(command)
    command = click.option("--device", help="cuda, mps or cpu  [the first that is there]")(command)
    return click.option("--weights", help="a name, a Hub repo, a file or a folder  [RMBG_WEIGHTS]")(command)


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
    try:
        cutout(prog_name=program)
    except BrokenPipeError:  # whoever read the results has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(SOME_FAILED)


# --- photos -------------------------------------------------------------------------------------------


@cutout.command(PHOTOS, cls=PhotosCommand, hidden=True)
@click.argument("photos", nargs=-1, metavar="PHOTO...", type=click.Path(allow_dash=True))
@click.option("-o", "--out", type=click.Path(), help="a file for one result, or a folder  [beside the photo]")
@click.option("--matte", is_flag=True, help="the matte instead: the alpha alone, in grey")
@click.option("--background-image", type=click.Path(), help=BACKGROUND_IMAGE)
@click.option("--refine/--no-refine", default=False, help=REFINE)
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
    if STREAM in photos and (len(photos) > 1 or watch or options["as_json"] or options["report"]):
        raise click.UsageError("'-' stands alone: one photo comes in, and its result goes out.")
    with Run(**options) as run:
        if photos == (STREAM,):
            code = run.stream()
        elif watch:
            code = run.watch([watch, *photos])
        else:
            code = run.all_of(photos)
    ctx.exit(code)


photos_command.params[2:2] = [finish_option(choice) for choice in CHOICES if choice.name != "output"]


class Run:
    """One call of the command: what to make, and what becomes of it."""

    def __init__(
        self,
        *,
        out: str | None,
        matte: bool,
        background_image: str | None,
        refine: bool,
        overwrite: bool,
        as_json: bool,
        report: str | None,
        weights: str | None,
        device: str | None,
        precision: str | None,
        **choices: Any,
    ) -> None:
        from background_remover.encoding import ENCODERS

        self._engine = weights, device, precision
        self._refine, self._overwrite, self._as_json = refine, overwrite, as_json
        self._remover: BackgroundRemover | None = None
        path = None if out in (None, STREAM) else Path(out)
        is_file = path is not None and path.suffix.lower() in ENCODERS and not path.is_dir()
        self._file = path if is_file else None
        self._folder = None if is_file else path
        if self._file and choices["format"] in (None, self._file.suffix.lower()[1:]):
            choices["format"] = self._file.suffix.lower()[1:]
        elif self._file:
            raise click.UsageError(f"'{self._file.name}' is no {choices['format']} file: leave --format out.")
        self._finish = make_finish(background_image, output="matte" if matte else "cutout", **choices)
        self._stopping = False
        self._counts = {"done": 0, "skipped": 0, "failed": 0}
        self._start = time.monotonic()
        self._bar: Any = None
        self._report = Report(report) if report else None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self._report:
            self._report.close()

    # --- the ways to run ---

    def stream(self) -> int:
        """The photo from standard input, its result to standard output, or to the file that was named."""
        from utilities import PhotoError

        if not self._file and (self._folder or sys.stdout.isatty()):
            raise click.UsageError("The result of '-' is a picture: send it into a file, as in '> cutout.png'.")
        try:
            cutout = self.remover(sys.stdin.buffer, refine=self._refine)
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
        with self._ending_early(), self._progress(len(tasks)):
            self._work_off(tasks)
        self._summarise()
        return INTERRUPTED if self._stopping else SOME_FAILED if self._counts["failed"] else 0

    def watch(self, photos: list[str]) -> int:
        """What is in the folders, and what arrives there, until it is ended."""
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
        from background_remover.outputs import Task, identity_of, plan

        sources = {source.photo: source for photo in photos for source in find(photo, self._folder)}
        if self._file is None:
            return plan(sources.values(), self._folder, self._finish.output, self._finish.suffix)
        if len(sources) > 1:
            raise click.UsageError(f"'{self._file.name}' is one file, for {len(sources)} photos: name a folder.")
        if identity_of(self._file) in {identity_of(photo) for photo in sources} - {None}:
            raise click.UsageError(f"'{self._file.name}' is the photo itself: choose another name.")
        return [Task(photo, self._file) for photo in sources]

    def _work_off(self, tasks: list[Task]) -> None:
        """Make those that are not done yet."""
        from background_remover.outputs import is_done, remove_leftovers
        from utilities import PhotoError

        remove_leftovers({task.result.parent for task in tasks})
        left = []
        for task in tasks:
            if self._stopping:
                return
            if not self._overwrite and is_done(task):
                self._tell("skipped", task.photo, task.result)
            else:
                left.append(task)
        while left and self._remover is None and isinstance(left[0].photo, Path):
            try:  # what can't be opened needs no network, which takes seconds to be there
                with opening(left[0].photo):
                    break
            except PhotoError as error:
                self._tell("failed", left.pop(0).photo, None, str(error))
        if not left:
            return
        wanted = (task for task in left if not self._stopping)
        for outcome in self.remover.run(wanted, self._save, opening, len(left), refine=self._refine):
            status = "done" if outcome.path else "failed"
            self._tell(status, outcome.photo, outcome.path, outcome.reason, outcome.seconds)

    def _save(self, cutout: Cutout, path: Path) -> None:
        from background_remover.outputs import whole_file

        with whole_file(path, self._folder) as file:
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

        with tqdm(total=count, unit=" photos", dynamic_ncols=True) as self._bar:
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
            self._write(f"{shown(photo)}: {reason}", err=True)
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
        click.echo(f"Error: {sentence}", err=True)
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


class Settled:
    """Which files have stopped changing."""

    def __init__(self) -> None:
        self._seen: dict[Path | str, tuple[tuple[int, int], float]] = {}
        if hasattr(signal, "SIGIO"):
            signal.signal(signal.SIGIO, signal.SIG_IGN)  # told of a lease, see `is_being_written`

    def state_of(self, photo: Path | str) -> tuple[int, int] | None:
        """Its size and time of change, if it has had them for SETTLED seconds and nobody is writing to it."""
        try:
            found = Path(photo).stat()
        except OSError:
            return None
        state, now = (found.st_size, found.st_mtime_ns), time.monotonic()
        before, since = self._seen.get(photo, (None, now))
        if before != state:
            self._seen[photo] = state, now
            return None
        return None if now - since < SETTLED or is_being_written(Path(photo)) else state


def is_being_written(path: Path) -> bool:
    """Whether a process has the file open for writing, where the system tells: Linux gives no lease on it then."""
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    except (ImportError, AttributeError):
        return False
    return False


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


def find(photo: str, results: Path | None) -> Iterator[Source]:
    """The photo that is named, those in the folder, or those that fit the pattern; none below `results`."""
    from background_remover.encoding import safe_stem
    from background_remover.outputs import Source

    if re.match("https?://", photo, re.IGNORECASE):
        yield Source(photo, safe_stem(unquote(photo.partition("?")[0])) + ".url", Path())
        return
    found = [] if Path(photo).exists() else sorted(glob.glob(photo, recursive=True))  # noqa: PTH207  # also absolute
    for path in map(Path, found or [photo]):
        if path.is_dir():
            yield from find_in(path, results)
        else:
            yield Source(path, path.name, path.parent)


def find_in(top: Path, results: Path | None) -> Iterator[Source]:
    """The photos below a folder, in order; neither hidden ones nor results of earlier runs.

    A folder that can't be read is one of them, so that it fails with its reason.
    """
    from background_remover.outputs import Source

    unreadable: list[Path] = []
    skipped = results.resolve() if results and results.resolve() != top.resolve() else None
    for at, folders, files in os.walk(top, onerror=lambda error: unreadable.append(Path(str(error.filename)))):
        folder = Path(at)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (folder / name).resolve() != skipped
        )
        photos = sorted(name for name in files if Path(name).suffix.lower() in EXTENSIONS and name[0] != ".")
        stems = {Path(name).stem for name in photos} | {*photos}
        for name in photos:
            result = RESULT.fullmatch(Path(name).stem)
            if not (result and result[1] in stems):
                yield Source(folder / name, name, folder, folder.relative_to(top))
    for folder in unreadable:
        yield Source(folder, folder.name, folder.parent)


@contextmanager
def opening(photo: Path | str) -> Iterator[Photo]:
    """A photo opened, fetched first if it is a URL. Raises PhotoError."""
    from background_remover.photos import open_photo

    if isinstance(photo, Path):
        yield open_photo(photo)
        return
    import asyncio

    from background_remover.fetch import fetch

    with tempfile.TemporaryDirectory() as folder:
        opened = open_photo(asyncio.run(fetch(photo, folder)))
    yield opened


def shown(name: Path | str) -> str:
    """A name for a terminal, which it can't command."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", click.format_filename(name))


def log_for_people() -> None:
    """On a terminal, which weights are used and what is fetched; elsewhere what is amiss alone."""
    logging.basicConfig(level=logging.INFO if sys.stderr.isatty() else logging.WARNING, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


def load(weights: str | None, device: str | None, precision: str | None) -> BackgroundRemover:
    """The remover. Exits if it can't be had."""
    import background_remover
    from background_remover import BackgroundRemover, EngineError, WeightsError

    background_remover.keep_freed_memory()
    try:
        return BackgroundRemover.from_pretrained(weights, device, precision)
    except (WeightsError, EngineError) as error:
        raise click.ClickException(str(error)) from None


# --- the other commands ---------------------------------------------------------------------------------


@cutout.command
@click.option("--host", help="the address to listen on; 0.0.0.0 lets other machines in  [127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="the port  [the first free one from 7860]")
def serve(host: str | None, port: int | None) -> None:
    """Serve the page and the API: what `python app.py` does."""
    import runpy

    given = {"GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": port}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    runpy.run_path(str(Path(__file__).parent.parent / "app.py"), run_name="__main__")


@cutout.command
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


@cutout.command("weights")
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
