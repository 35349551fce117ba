"""The API through the clients that people have, and what it refuses, against `python app.py` as a user starts it."""

import base64
import io
import json
import re
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers import EXAMPLES, LEAK, META, PERSON, ROOT, SENTENCES, call, data_url, pixels, run_async, serving
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Tool
from PIL import Image

from background_remover.encoding import save_pixels


@pytest.fixture(scope="session")
def client(app_url, tmp_path_factory) -> Client:
    return Client(app_url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="session")
def matte_file(truth, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("matte") / "person-matte.png"
    save_pixels(truth.alpha, path)
    return path


@pytest.fixture(scope="session")
def cutout_file(truth, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cutout") / "person.png"
    truth.save(path)
    return path


# --- the contract ---

IMAGE = ("image", "Image", None, True)
BACKGROUND = [("background", "Textbox", "transparent", False), ("background_image", "Image", None, False)]
LOOK = [
    *BACKGROUND,
    ("blur", "Number", 0.02, False),
    ("crop", "Checkbox", False, False),
    ("margin", "Number", 0.05, False),
    ("width", "Number", 0, False),
    ("height", "Number", 0, False),
    ("format", "Dropdown", "png", False),
    ("quality", "Number", None, False),
    ("shadow", "Dropdown", "none", False),
    ("shadow_strength", "Number", 0.5, False),
    ("shadow_softness", "Number", 0.03, False),
    ("shadow_direction", "Number", 135.0, False),
    ("clean", "Checkbox", False, False),
]
REFINE, SOLID = ("refine", "Checkbox", True, False), ("solid", "Checkbox", False, False)
SUBJECT = [SOLID, ("box", "Textbox", "", False), ("points", "Textbox", "", False)]
CUT = [("refine", "Checkbox", False, False), *SUBJECT]
MATTE, CUTOUT, ZIP = ("matte", "Image", None, True), ("cutout", "Image", None, True), ("zip", "File", None, True)
CONTRACT = {
    "/predict": ([IMAGE, *CUT], [CUTOUT]),
    "/remove_background": ([IMAGE, *BACKGROUND, *CUT], [MATTE, CUTOUT]),
    "/cutout": ([IMAGE, *BACKGROUND, *CUT], [CUTOUT]),
    "/matte": ([IMAGE, REFINE, *SUBJECT], [MATTE]),
    "/edit": ([IMAGE, ("matte", "Image", None, False), *LOOK], [CUTOUT]),
    "/batch": ([("photos", "File", None, True), REFINE, *LOOK, SOLID], [ZIP, ("report", "Json", None, True)]),
}


def test_names_parameters_and_outputs_are_the_contract(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]

    def shape(items: list[dict]) -> list[tuple]:
        names = [item.get("parameter_name", item["label"]) for item in items]
        defaults = [item.get("parameter_default") for item in items]
        needed = [not item.get("parameter_has_default", False) for item in items]
        return list(zip(names, [item["component"] for item in items], defaults, needed, strict=True))

    assert {name: (shape(end["parameters"]), shape(end["returns"])) for name, end in endpoints.items()} == CONTRACT


def test_the_openapi_document_has_every_endpoint_with_its_parameters_and_a_description(app_url):
    with urllib.request.urlopen(f"{app_url}/gradio_api/openapi.json", timeout=30) as answer:
        paths = json.load(answer)["paths"]
    for name, (parameters, _) in CONTRACT.items():
        post = paths[f"/gradio_api/call/v2{name}"]["post"]
        assert len(post["description"]) > 40
        body = post["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert [key for key in body if key in {parameter[0] for parameter in parameters}] == [p[0] for p in parameters]
        assert f"/gradio_api/call{name}/{{event_id}}" in paths


DESCRIBED = """
import json, app
from gradio.utils import get_function_description
functions = [function for function in app.demo.fns.values() if function.api_visibility == "public"]
print(json.dumps({f"/{function.api_name}": get_function_description(function.fn)[:2] for function in functions}))
"""


def test_a_parameter_is_described_alike_in_every_endpoint_that_has_it(run_python, app_url):
    endpoints = run_python(DESCRIBED, RMBG_WEIGHTS="isnet-general-use")
    tools: list[Tool] = in_session(app_url, lambda session: session.list_tools()).tools
    shown = {f"/{tool.name}": tool.inputSchema["properties"] for tool in tools}
    said: dict[str, set[str]] = {}
    for name, (parameters, _) in CONTRACT.items():
        about, descriptions = endpoints[name]
        assert len(about) > 40
        assert [*descriptions] == [parameter[0] for parameter in parameters]
        for parameter, description in descriptions.items():
            said.setdefault(parameter, set()).add(description)
            assert description in shown.get(name, {}).get(parameter, {"description": description})["description"]
    assert [name for name, descriptions in said.items() if len(descriptions) != 1 or len(min(descriptions)) < 10] == []


# --- four clients, one picture ---


def by_python(app_url: str, path: Path, client: Client) -> bytes:
    return Path(client.predict(handle_file(path), api_name="/cutout")).read_bytes()


def by_curl(app_url: str, path: Path) -> bytes:
    def curl(*arguments: str) -> bytes:
        return subprocess.run(["curl", "-sSf", *arguments], capture_output=True, check=True).stdout

    (uploaded,) = json.loads(curl("-F", f"files=@{path}", f"{app_url}/gradio_api/upload"))
    call, body = f"{app_url}/gradio_api/call", json.dumps({"image": {"path": uploaded, "meta": META}})
    event = json.loads(curl("-H", "Content-Type: application/json", "-d", body, f"{call}/v2/cutout"))["event_id"]
    (line,) = re.findall(r"event: complete\ndata: (.*)", curl("-N", f"{call}/cutout/{event}").decode())
    return curl(json.loads(line)[0]["url"])


def by_javascript(app_url: str, path: Path, run_node: Callable[..., str], target: Path) -> bytes:
    script = """
        import { Client } from "@gradio/client";
        import { readFileSync, writeFileSync } from "node:fs";
        const app = await Client.connect(process.argv[2]);
        const photo = new File([readFileSync(process.argv[3])], "person.jpg", { type: "image/jpeg" });
        const { data } = await app.predict("/cutout", { image: photo });
        writeFileSync(process.argv[4], Buffer.from(await (await fetch(data[0].url)).arrayBuffer()));
        """
    run_node(script, app_url, str(path), str(target))
    return target.read_bytes()


def test_every_client_gets_the_same_file_byte_for_byte(client, app_url, run_node, cutout_file, tmp_path):
    expected = cutout_file.read_bytes()
    assert by_python(app_url, PERSON, client) == expected
    assert by_curl(app_url, PERSON) == expected
    assert by_javascript(app_url, PERSON, run_node, tmp_path / "cutout.png") == expected
    inline, linked = pictures(call_tool(app_url, "cutout", image=data_url(PERSON)))
    assert inline == expected
    assert linked == expected


# --- the endpoints ---


def test_predict_is_function_0_one_image_in_cutout_out(client, truth):
    for how in ({"fn_index": 0}, {"api_name": "/predict"}):
        path = client.predict(handle_file(PERSON), **how)
        assert Path(path).name == "person-cutout.png"
        assert np.array_equal(pixels(path), np.asarray(truth.image))


def test_remove_background_gives_matte_and_composite(client, truth):
    matte, cutout = client.predict(handle_file(PERSON), api_name="/remove_background")
    assert np.array_equal(pixels(matte), truth.alpha)
    assert np.array_equal(pixels(cutout), np.asarray(truth.image))


def test_matte_gives_the_matte_alone_refined_or_not(client, truth, remover):
    path = client.predict(handle_file(PERSON), api_name="/matte")
    assert Path(path).name == "person-matte.png"
    assert np.array_equal(pixels(path), remover(PERSON, refine=True).alpha)
    path = client.predict(handle_file(PERSON), refine=False, api_name="/matte")
    assert np.array_equal(pixels(path), truth.alpha)


@pytest.mark.parametrize("name", ["/predict", "/remove_background", "/cutout", "/matte"])
def test_every_door_takes_refinement_and_a_subject(client, remover, name):
    chosen = {"refine": True, "box": "100,0,400,300", "points": "256,200"}
    path = client.predict(handle_file(PERSON), **chosen, api_name=name)
    got = pixels(path[0] if isinstance(path, tuple) else path)
    assert np.array_equal(
        got if name in ("/matte", "/remove_background") else got[..., 3], remover(PERSON, **chosen).alpha
    )


@pytest.mark.parametrize("background", ["#30a060", "blur", "rgb(1, 2, 3)"])
def test_cutout_takes_every_background(client, truth, background):
    path = client.predict(handle_file(PERSON), background, api_name="/cutout")
    assert np.array_equal(pixels(path), np.asarray(truth.composite(background)))


def test_a_background_image_wins(client, truth):
    cup = EXAMPLES / "coffee.jpg"
    path = client.predict(handle_file(PERSON), background_image=handle_file(cup), api_name="/cutout")
    assert np.array_equal(pixels(path), np.asarray(truth.composite(cup)))


def test_an_edit_of_a_photo_and_its_matte_is_what_the_library_makes(client, truth, matte_file):
    def edit(**how: object) -> Path:
        return Path(client.predict(handle_file(PERSON), handle_file(matte_file), **how, api_name="/edit"))

    assert np.array_equal(pixels(edit()), np.asarray(truth.image))
    blurred = edit(background="blur", blur=0.1)
    assert np.array_equal(pixels(blurred), np.asarray(truth.composite("blur", 0.1)))
    cropped = edit(crop=True, margin=0.2, background="#30a060", format="webp")
    assert cropped.name == "person-cutout.webp"
    assert np.array_equal(pixels(cropped), np.asarray(truth.framed(0.2).composite("#30a060")))
    for asked, size in (({"width": 300}, (300, 300)), ({"height": 200}, (200, 200))):
        assert np.array_equal(pixels(edit(**asked)), np.asarray(truth.framed(size=size).image))
    assert np.array_equal(pixels(edit(width=90, height=300)), np.asarray(truth.framed(size=(90, 300)).image))


def test_an_edit_of_a_cutout_needs_nothing_else(client, truth, cutout_file, tmp_path):
    path = client.predict(
        handle_file(cutout_file), background="white", width=256, format="jpg", quality=80, api_name="/edit"
    )
    assert Path(path).name == "person-cutout.jpg"
    truth.framed(size=(256, 256)).save(tmp_path / "white.jpg", "white", quality=80)
    assert np.array_equal(pixels(path), pixels(tmp_path / "white.jpg"))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"width": 5001}, "choose 1 to 5000 pixels"),
        ({"crop": True, "margin": 2}, "0 to 1"),
        ({"quality": 101, "format": "webp"}, "from 1 to 100"),
        ({"background": "no-such-colour"}, "not a colour"),
        ({"background": "blur", "blur": 3}, "from 0.001 to 0.2"),
        ({"format": "png/../../x"}, "'format' is one of its choices"),
        ({"format": "svg"}, "'format' is one of its choices"),
        ({"matte": handle_file(EXAMPLES / "coffee.jpg")}, "send the photo's own matte"),
        ({"image": handle_file(PERSON)}, "no transparency"),
        ({"image": None}, "no photo yet"),
    ],
)
def test_what_an_edit_can_not_do_is_told_in_one_sentence(client, cutout_file, how, sentence):
    with pytest.raises(AppError) as caught:
        client.predict(**({"image": handle_file(cutout_file)} | how), api_name="/edit")
    assert sentence in str(caught.value)
    assert how.get("format", "").startswith("png/") or not re.search(LEAK, str(caught.value))


# --- several photos ---


@pytest.fixture
def twenty(tmp_path, bad_files) -> list[Path]:
    """20 files: two are broken, two share a name, two differ in case alone, one has an awkward name."""
    names = ["a/person.jpg", "b/person.jpg", "PERSON.jpg", "-- (1) ü.jpg", *(f"{number}.jpg" for number in range(14))]
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PERSON.read_bytes())
    return [*paths[:5], bad_files["truncated.jpg"], *paths[5:9], bad_files["text.jpg"], *paths[9:]]


def test_of_20_photos_with_2_broken_ones_18_come_back_and_2_have_their_reason(client, truth, twenty, cutout_file):
    archive, report = client.predict([handle_file(path) for path in twenty], refine=False, api_name="/batch")
    assert [entry["name"] for entry in report if entry["file"] is None] == ["truncated.jpg", "text.jpg"]
    for entry in report:
        if entry["file"] is None:
            assert SENTENCES[entry["name"]] in entry["reason"]
            assert not re.search(LEAK, entry["reason"])
        else:
            assert entry["reason"] is None
    files = [entry["file"] for entry in report if entry["file"]]
    assert len({name.lower() for name in files}) == 18
    assert {"person.png", "person-2.png", "PERSON-3.png", "0.png", "13.png"} <= set(files)
    with zipfile.ZipFile(archive) as zipped:
        assert zipped.namelist() == files
        assert zipped.testzip() is None
        assert all(zipped.read(name) == cutout_file.read_bytes() for name in files)
        assert all(re.fullmatch(r"[\w-]+\.png", name) for name in files)


def test_a_batch_takes_what_an_edit_takes_and_tells_an_empty_result(client, remover, tmp_path):
    Image.new("RGB", (300, 200), "navy").save(tmp_path / "blank.png")
    photos = [handle_file(PERSON), handle_file(tmp_path / "blank.png")]
    archive, report = client.predict(photos, background="#30a060", width=100, format="webp", api_name="/batch")
    assert [entry["file"] for entry in report] == ["person.webp", "blank.webp"]
    assert "Nothing in this photo stands out" in report[1]["reason"]
    with zipfile.ZipFile(archive) as zipped, zipped.open("person.webp") as file, Image.open(file) as image:
        truth = remover(PERSON, refine=True).framed(size=(100, 100))
        assert np.array_equal(np.asarray(image), np.asarray(truth.composite("#30a060")))


def test_a_batch_of_nothing_good_has_its_reasons_and_no_zip(client, bad_files):
    archive, report = client.predict([handle_file(bad_files["text.jpg"])], api_name="/batch")
    assert archive is None
    assert [(entry["name"], entry["file"]) for entry in report] == [("text.jpg", None)]


def test_a_batch_is_refused_before_it_starts_where_it_can_not_work(client, tmp_path):
    for photos, how, sentence in (
        ([], {}, "no photos yet"),
        ([PERSON], {"background": "no-such-colour"}, "not a colour"),
        ([PERSON], {"width": -1}, "choose 1 to 5000"),
        ([PERSON] * 101, {}, "more than 100 photos"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict([handle_file(path) for path in photos], **how, api_name="/batch")


def test_a_cancelled_batch_stops_and_leaves_nothing_behind(client, uploads):
    before = {path.parent for path in uploads.glob("*/*/person.png")}
    job = client.submit([handle_file(PERSON)] * 30, api_name="/batch")
    while not job.outputs():
        time.sleep(0.05)
    (folder,) = {path.parent for path in uploads.glob("*/*/person.png")} - before
    job.cancel()
    deadline = time.monotonic() + 20
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(job.outputs()) < 20
    assert client.predict([handle_file(PERSON)], api_name="/batch")[1][0]["file"] == "person.png"


def test_single_photos_do_not_wait_for_a_batch(client, truth):
    job = client.submit([handle_file(PERSON)] * 6, api_name="/batch")
    while not job.outputs():
        time.sleep(0.05)
    path = client.predict(handle_file(PERSON), api_name="/cutout")
    assert not job.done()
    assert np.array_equal(pixels(path), np.asarray(truth.image))
    assert len(job.result()[1]) == 6


# --- what it refuses ---


@pytest.mark.parametrize("name", SENTENCES)
def test_the_api_refuses_what_is_no_photo_in_one_sentence_and_goes_on(client, bad_files, name):
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(bad_files[name]), api_name="/predict")
    message = str(caught.value)
    assert SENTENCES[name] in message
    assert not re.search(LEAK, message)
    assert client.predict(handle_file(PERSON), api_name="/predict").endswith(".png")


def test_no_photo_and_no_colour_are_told_plainly(client):
    with pytest.raises(AppError, match="no photo yet"):
        client.predict(None, api_name="/predict")
    with pytest.raises(AppError, match="not a colour"):
        client.predict(handle_file(PERSON), "no-such-colour", api_name="/cutout")


def test_a_data_url_is_a_photo_too(app_url):
    assert "event: complete" in call(app_url, {"url": data_url(PERSON), "meta": META})
    spelled = data_url(PERSON).replace(";base64", "; BASE64").rstrip("=")  # as browsers let it be
    assert "event: complete" in call(app_url, {"url": spelled, "meta": META})
    with pytest.raises(urllib.error.HTTPError, match="422") as told:
        call(app_url, {"url": "data:image/jpeg;base64,!!!", "meta": META})
    assert "This is not a photo" in told.value.read().decode()


@pytest.mark.parametrize("path", ["/etc/passwd", str(PERSON), str(ROOT / "app.py")])
def test_files_of_the_server_cannot_be_named(app_url, path):
    named = {"path": path, "meta": META}
    for answer in (call(app_url, named), call(app_url, [named], *[None] * 10, name="batch")):
        assert "event: complete" not in answer
        assert str(ROOT) not in answer
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{app_url}/gradio_api/file={path}", timeout=30)
    assert call_tool(app_url, "cutout", image=path).isError
    assert call_tool(app_url, "cutout", image=named).isError
    assert call_tool(app_url, "cutout", image=f"http://example.org/gradio_api/file={path}").isError


@pytest.fixture
def inside():
    """A server of the private network, which has the example photo, and what was asked of it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PERSON.read_bytes())

    with serving(Handler) as port:
        yield port, asked


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]"])
def test_no_address_of_the_private_network_is_ever_asked(app_url, client, inside, host):
    port, asked = inside
    url = f"http://{host}:{port}/gradio_api/file=person.jpg"
    file = {"path": url, "url": url, "meta": META}
    background = [None, file] if host == "127.0.0.1" else []
    for answer in (
        call(app_url, file),
        call(app_url, {"path": str(PERSON), "url": url, "meta": META}),
        call(app_url, [file], *[None] * 10, name="batch"),
        call(app_url, file, file, *[None] * 9, name="edit"),
        call(app_url, None, file, *background, name="cutout"),  # where a text belongs, too
    ):
        assert "event: complete" not in answer
    with pytest.raises(AppError, match="not a public one"):
        client.predict(handle_file(url), api_name="/predict")
    answer = call_tool(app_url, "cutout", image=url)
    assert answer.isError
    assert "not a public one" in answer.content[0].text
    assert asked == []


# --- tools for language models ---


def in_session(app_url: str, do: Callable[[ClientSession], object]) -> object:
    async def session() -> object:
        async with streamable_http_client(f"{app_url}/gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                return await do(session)

    return run_async(session())


def call_tool(app_url: str, tool: str, **arguments: object) -> CallToolResult:
    return in_session(app_url, lambda session: session.call_tool(tool, arguments))


def pictures(answer: CallToolResult) -> tuple[bytes, bytes]:
    """The picture in a tool's answer and the one that it links to."""
    assert not answer.isError, answer.content
    image, text = answer.content
    with urllib.request.urlopen(text.text.removeprefix("Image URL: "), timeout=30) as linked:
        return base64.b64decode(image.data), linked.read()


def test_the_tools_are_those_with_one_picture_and_every_parameter_is_described(app_url):
    tools: list[Tool] = in_session(app_url, lambda session: session.list_tools()).tools
    assert [tool.name for tool in tools] == ["cutout", "matte", "edit"]
    for tool in tools:
        parameters, _ = CONTRACT[f"/{tool.name}"]
        assert [*tool.inputSchema["properties"]] == [parameter[0] for parameter in parameters]
        assert tool.inputSchema["required"] == ["image"]
        assert all(len(given["description"]) > 5 for given in tool.inputSchema["properties"].values())
        assert len(tool.description) > 60


def test_a_tool_takes_the_url_that_an_earlier_answer_gave(app_url, truth, tmp_path):
    answer = call_tool(app_url, "cutout", image=data_url(PERSON), background_image="")
    url = answer.content[1].text.removeprefix("Image URL: ")
    inline, linked = pictures(call_tool(app_url, "edit", image=url, background="white", width=200, format="webp"))
    assert inline == linked
    (tmp_path / "edit.webp").write_bytes(inline)
    assert np.array_equal(pixels(tmp_path / "edit.webp"), np.asarray(truth.framed(size=(200, 200)).composite("white")))
    inline, _ = pictures(call_tool(app_url, "matte", image=data_url(PERSON), refine=False))
    (tmp_path / "matte.png").write_bytes(inline)
    assert np.array_equal(pixels(tmp_path / "matte.png"), truth.alpha)


def test_a_large_picture_comes_as_a_small_one_and_a_link_to_itself(app_url, truth, tmp_path):
    answer = call_tool(app_url, "cutout", image=data_url(PERSON))
    url = answer.content[1].text.removeprefix("Image URL: ")
    noise = tmp_path / "noise.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)).save(noise)
    inline, linked = pictures(call_tool(app_url, "edit", image=url, background_image=data_url(noise), width=1200))
    for name, data in (("small", inline), ("whole", linked)):
        (tmp_path / name).write_bytes(data)
    assert len(inline) < 700_000 < len(linked)
    assert pixels(tmp_path / "small").shape == (512, 512, 3)
    assert np.array_equal(pixels(tmp_path / "whole"), np.asarray(truth.framed(size=(1200, 1200)).composite(noise)))


@pytest.mark.parametrize("name", ["text.jpg", "truncated.jpg", "bomb.png"])
def test_a_tool_tells_what_is_wrong_in_one_sentence(app_url, bad_files, name):
    answer = call_tool(app_url, "cutout", image=data_url(bad_files[name]))
    assert answer.isError
    (content,) = answer.content
    assert SENTENCES[name] in content.text
    assert not re.search(LEAK, content.text)


@pytest.mark.parametrize("image", ["C:\\photos\\me.jpg", "/home/me/photo.jpg", "photo.jpg"])
def test_a_file_of_the_models_own_machine_is_told_from_a_url(app_url, image):
    answer = call_tool(app_url, "cutout", image=image)
    assert answer.isError
    assert "give its http or https URL" in answer.content[0].text


def test_a_photo_that_came_as_a_data_url_is_left_nowhere(app_url, uploads):
    buffer = io.BytesIO()
    Image.open(PERSON).save(buffer, "JPEG", quality=83)
    data = buffer.getvalue()
    pictures(call_tool(app_url, "cutout", image=f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"))
    files = [path for path in uploads.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if path.read_bytes() == data]


def test_without_the_mcp_package_the_app_starts_and_works(start_app, tmp_path, truth):
    (tmp_path / "mcp.py").write_text("raise ImportError('no mcp here')")
    with start_app(PYTHONPATH=str(tmp_path)) as url:
        client = Client(url, verbose=False, download_files=tmp_path)
        path = client.predict(handle_file(PERSON), api_name="/cutout")
        assert np.array_equal(pixels(path), np.asarray(truth.image))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/gradio_api/mcp/", timeout=30)
