"""What `pip install .` gives: the library, the page and the examples, from anywhere."""

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from helpers import PERSON, PHOTOS, ROOT, pixels


def read_requirements(name: str) -> list[str]:
    return [re.split(r"\s*#", line)[0] for line in (ROOT / name).read_text().splitlines() if line[0] != "#"]


REQUIREMENTS, BATCH = read_requirements("requirements.txt"), read_requirements("requirements-batch.txt")


def bare(requirement: str) -> str:
    """The package's name alone."""
    return re.split(r"[\[=<>]", requirement)[0].lower().replace("_", "-")


NAMES, BATCH_NAMES = {bare(item) for item in REQUIREMENTS}, {bare(item) for item in BATCH}
OURS = {"app", "background_remover", "briarmbg", "utilities"}
WITH_TORCH = {"triton"}  # where there is one for the machine; `engines` does without it too
# asked for by name, promised, or kept from being too old, but not imported: requirements.txt says why
BY_NAME = {"onnxscript", "torchvision", "h11", "mcp", "python-multipart"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since setuptools leaves a folder behind."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "source"], check=True)
    for changed in subprocess.run(
        ["git", "ls-files", "--modified", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines():  # what a clone has not got yet
        if (ROOT / changed).is_file():
            (folder / "source" / changed).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / changed).write_bytes((ROOT / changed).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source"]
    subprocess.run(command, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The Python of a new environment that has the wheel; its dependencies, gigabytes, are this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages, wheel]
    subprocess.run(command, check=True, timeout=120)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.network
def test_the_wheel_holds_all_that_the_page_needs_and_nothing_else(wheel):
    files = set(zipfile.ZipFile(wheel).namelist())
    page = {path.name for path in (ROOT / "background_remover" / "page").glob("*.*") if path.suffix != ".pyi"}
    assert {f"background_remover/page/{name}" for name in page} <= files
    known = [path.name for path in (ROOT / "background_remover").glob("calibration-*")]
    assert known
    assert {f"background_remover/{name}" for name in known} <= files
    assert {f"background_remover/examples/{name}" for name in (*PHOTOS, "CREDITS.md")} <= files
    assert {name.split("/")[0].removesuffix(".py") for name in files if "dist-info" not in name} == OURS
    assert not [name for name in files if name.endswith((".pyi", ".pyc"))]


@pytest.mark.network
def test_the_wheel_asks_for_what_requirements_txt_does(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    asked = [item.replace(" ", "") for item in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)]
    extra = ';extra=="batch"'
    assert [item for item in asked if not item.endswith(extra)] == [item.replace(" ", "") for item in REQUIREMENTS]
    assert {bare(item) for item in asked if item.endswith(extra)} == {bare(item) for item in BATCH}
    assert f"Version: {tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}\n" in metadata


@pytest.mark.network
def test_the_library_works_where_it_is_installed(installed, tmp_path, remover):
    code = f"""
import background_remover, sys
assert {str(ROOT)!r} not in background_remover.__file__, background_remover.__file__
from background_remover import BackgroundRemover
BackgroundRemover.from_pretrained("isnet-general-use")({str(PERSON)!r}).save("cutout.png")
"""
    command = [installed, "-W", "error", "-c", code]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    assert np.array_equal(pixels(tmp_path / "cutout.png"), np.asarray(remover(PERSON).image))


@pytest.mark.network
def test_the_command_works_where_it_is_installed(installed, wheel, tmp_path, truth):
    with zipfile.ZipFile(wheel) as archive:
        (scripts,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/entry_points.txt"))
    assert "cutout = background_remover.cli:main" in scripts
    command = [installed, "-m", "background_remover", PERSON, "-o", "out.png", "--weights", "isnet-general-use"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    truth.save(tmp_path / "truth.png")
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "truth.png").read_bytes()


@pytest.mark.network
def test_the_page_starts_where_it_is_installed_and_has_its_examples(installed, tmp_path, start_app, truth):
    with start_app("-m", "app", folder=tmp_path, python=str(installed)) as url:
        client = Client(url, verbose=False, download_files=tmp_path)
        path = client.predict(handle_file(PERSON), api_name="/cutout")
        assert np.array_equal(pixels(path), np.asarray(truth.image))
        examples = next(part for part in client.config["components"] if part["type"] == "dataset")
        assert len(examples["props"]["samples"]) == len(PHOTOS)


def imported() -> set[str]:
    """The packages that our files import."""
    names = set()
    for path in (*ROOT.glob("*.py"), *(ROOT / "background_remover").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - OURS - WITH_TORCH - set(sys.stdlib_module_names)


def test_what_is_imported_is_asked_for_and_the_other_way_round():
    by_import = packages_distributions()
    needed = {distribution(by_import[name][0]).name.lower().replace("_", "-") for name in imported()}
    assert needed == (NAMES | BATCH_NAMES) - BY_NAME


def test_every_version_is_pinned_for_those_who_want_the_tested_ones():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.!]+", line)] == []
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines)
    assert pinned.keys() >= NAMES | BATCH_NAMES
    for name in sorted(NAMES | BATCH_NAMES | {"pytest", "playwright", "ruff", "mypy"}):
        assert distribution(name).version.split("+")[0] == pinned[name], f"{name}: make constraints"
