"""What the README promises is what the code does."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import urllib.request

import pytest
from helpers import EXAMPLES, PHOTOS, ROOT
from huggingface_hub import metadata_load
from PIL import Image
from test_api import in_session

from background_remover import cli, fetch, photos, weights
from background_remover.compositing import BLURS
from background_remover.encoding import JPEG_QUALITY
from background_remover.framing import MAX_SIDE
from background_remover.page import bodies, files, mcp_tools, turns

PAGE = "http://127.0.0.1:7860"
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()


def test_the_front_matter_makes_a_space():
    space = metadata_load(ROOT / "README.md")
    requirements = (ROOT / "requirements.txt").read_text()
    assert f"gradio[mcp]=={space['sdk_version']}\n" in requirements
    assert (ROOT / space["app_file"]).is_file()
    assert space["python_version"] == "3.11"
    assert space["models"] == [weights.BRIA]
    assert space["preload_from_hub"] == [f"{weights.BRIA} model.safetensors {weights.BRIA_REVISION}"]
    assert {"title", "emoji", "sdk", "license", "suggested_hardware"} <= space.keys()


def test_limits_and_files_are_quoted_as_they_are():
    assert f"{photos.MAX_PIXELS // 1_000_000} megapixels and {photos.MAX_BYTES // 1_000_000} MB" in README
    server = f"({turns.MAX_PIXELS // 1_000_000} and {bodies.MAX_BYTES // 1_000_000} on the server)"
    assert server in README.replace("\n  ", " ")
    assert f"up to\n{bodies.MAX_FILES} photos" in README
    assert f"up to {MAX_SIDE} pixels" in README
    assert f"exceed {files.MAX_DISK:.0f} MB" in README
    assert files.LIFETIME == 3600
    assert "deleted an hour\nafter its last use" in README
    assert f"| {turns.MAX_PIXELS} |" in README
    assert f"within {fetch.MAX_SECONDS:.0f} seconds" in README
    assert f"more than {mcp_tools.INLINE_BYTES // 1000} kB" in README
    assert f"{BLURS[0]} to {BLURS[1]}" in README
    assert f"a `jpg` has {JPEG_QUALITY}" in README
    for name in re.findall(r"`(\w+\.py)`", README) + re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / name).exists(), name
    assert (
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        in (ROOT / "CHANGELOG.md").read_text()
    )


UNITS = {"MB": 1e6, "megapixels": 1e6, "s": 1}


@pytest.mark.parametrize("row", re.findall(r"\| ([\d.]+) ?(\w*) \| `([\w.]+)` \|", SECURITY), ids=lambda row: row[2])
def test_the_limits_in_security_are_those_of_the_code(row):
    figure, unit, place = row
    module, name, *keys = re.split(r"\.(?=[A-Z])|(?<=[A-Z])\.|\.(?=\d)", place)
    value = getattr(importlib.import_module(f"background_remover.{module}"), name)
    for key in keys:
        value = value[int(key) if key.isdigit() else key]
    assert round(value / UNITS.get(unit, 1)) == float(figure)


def test_every_example_has_its_credit():
    given = (EXAMPLES / "CREDITS.md").read_text()
    assert len(PHOTOS) >= 5
    assert [name for name in PHOTOS if f"`{name}`" not in given] == []


def code(language: str, mark: str) -> str:
    """All blocks of a language that have a word, one after the other."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return "\n".join(block for block in blocks if mark in block)


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("RMBG_WEIGHTS", weights.ISNET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    exec(code("python", "BackgroundRemover"), {})
    assert {path.name for path in tmp_path.glob("*.png")} == {"cutout.png", "matte.png", "white.png"}


@pytest.mark.slow
def test_the_command_lines_run(tmp_path):
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    for name in ("photo.jpg", "a.jpg", "photos/one.jpg", "photos/inner/two.jpg"):
        (tmp_path / name).symlink_to(EXAMPLES / "cat.jpg")
    script = 'cutout() { "$PYTHON" -m background_remover "$@"; }\n' + code("sh", "| cutout -")
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "RMBG_WEIGHTS": weights.ISNET}
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=env, check=True, timeout=240)
    made = [
        tmp_path / name
        for name in ("photo-cutout.png", "a.png", "out/one.png", "out/inner/two.png", "all/inner/two.png")
    ]
    assert len({path.read_bytes() for path in made}) == 1


def test_the_commands_for_catalogues_are_ones_that_it_takes():
    lines = [line for line in code("sh", "cutout batch").splitlines() if line.startswith("cutout batch")]
    assert len(lines) >= 4
    for line in lines:
        _, name, *words = shlex.split(line, comments=True)
        cli.cutout.commands[name].make_context(name, words)


@pytest.mark.parametrize("language", ["python", "sh"])
def test_the_client_examples_run(language, app_url, tmp_path):
    (tmp_path / "examples").symlink_to(EXAMPLES)
    script = code(language, {"python": "gradio_client", "sh": "curl"}[language]).replace(PAGE, app_url)
    command = [sys.executable, "-c", script] if language == "python" else ["bash", "-euc", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    if language == "sh":
        assert (tmp_path / "cutout.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert done.stdout.endswith("person.jpg person.webp\ncat.jpg cat.webp\n")


def test_the_javascript_example_runs(run_node, app_url):
    url = run_node(code("js", "@gradio").replace(PAGE, app_url)).strip()
    with urllib.request.urlopen(url, timeout=30) as answer, Image.open(answer) as image:
        assert image.size == (1000, 1000)


def test_the_tools_are_where_the_example_says(app_url):
    (server,) = json.loads(code("json", "mcpServers").replace(PAGE, app_url))["mcpServers"].values()
    assert server["url"] == f"{app_url}/gradio_api/mcp/"
    assert all(f"`{tool.name}`" in README for tool in in_session(app_url, lambda session: session.list_tools()).tools)
