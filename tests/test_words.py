"""The page in other languages: a whole table, of what the page says and nothing else, and a browser that shows it."""

import ast
import re

import pytest
from browsing import PATIENCE, choose, wait_shows
from helpers import PERSON, ROOT
from playwright.sync_api import expect

from background_remover.cutout import Finish
from background_remover.page.components import describe, findings_text, privacy
from background_remover.page.controls import BACKGROUNDS, DOWNLOADS, FRAMES, NO_PRESET, SHADOW_KINDS, advice
from background_remover.page.guard import ROUTES
from background_remover.page.words import LANGUAGES, read_words, words
from background_remover.presets import PRESETS, Finding

PAGE = ROOT / "background_remover" / "page"
HOLE = re.compile(r"\{\d\}")
NAMES = {"PNG", "JPEG", "eBay", "Etsy", "Shopify", "Walmart"}  # alike in all languages
# where the sources put a sentence together
SEAMS = re.compile(r"\{\d\}| (?:are|is) asked for|: it has |This is |, not a photo: ")
ABOUT = "{0}: {1}"  # no text, but how these stand together


def known(text: str) -> bool:
    """Whether the table has a text, as it is or with something in its holes."""
    return text in NAMES or any(
        re.fullmatch("(.+?)".join(map(re.escape, HOLE.split(english))), text, re.DOTALL)
        for english in words()
        if english != ABOUT
    )


def lines(html: str) -> list[str]:
    """The texts of HTML, one for each element."""
    return [text.strip() for text in re.split(r"<[^>]*>", html) if text.strip()]


# --- the table ---


@pytest.mark.parametrize("english", words())
def test_every_text_is_in_all_languages_with_the_same_holes(english):
    assert sorted(words()[english]) == [*LANGUAGES]
    holes = HOLE.findall(english)
    assert holes == sorted(set(holes))  # what words.js takes the groups of a pattern for
    assert HOLE.sub("", english).strip(" :") or english == ABOUT
    for text in words()[english].values():
        assert text == text.strip() != ""
        assert sorted(HOLE.findall(text)) == holes


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_is_not_translated_again(language):
    """Else what is shown would change with each look at it."""
    for others in words().values():
        text = others[language]
        assert words().get(text, {language: text})[language] == text
        if not HOLE.search(text) and text not in words():
            assert not known(text), text


def test_an_entry_is_there_once():
    table = "# of\nA {0}\nde Ein {0}\n\n# more\nB\nde Be\n"
    assert read_words(table) == {"A {0}": {"de": "Ein {0}"}, "B": {"de": "Be"}}
    with pytest.raises(ValueError, match="twice"):
        read_words("A\nde Ein\n\nA\nde Eine\n")


def test_the_guard_lets_these_languages_through_and_no_others():
    assert all(ROUTES["GET"].fullmatch(f"/words/{language}.json") for language in LANGUAGES)
    assert not ROUTES["GET"].fullmatch("/words/en.json")


# --- what the page says is in it ---


def said_by_scripts() -> set[str]:
    texts = set()
    for path in PAGE.glob("*.js"):
        code = path.read_text()
        texts |= {text for _, text in re.findall(r"page\.say\((['\"])([^\n]+?)\1[,)]", code)}
        texts |= set(re.findall(r'"([A-Z][\w ]+…)"', code))
    return texts


def said_by_templates() -> set[str]:
    texts = set()
    for path in PAGE.glob("*.html"):
        code = path.read_text()
        texts |= {text for text in lines(code) if re.search("[A-Za-z]", text)}
        texts |= set(re.findall(r'(?:title|aria-label|alt|placeholder)="([^"]+)"', code))
    return texts


def said_by_components() -> set[str]:
    """The labels of Gradio's components that are seen, and what stands on buttons and tabs."""
    texts = {*BACKGROUNDS, *DOWNLOADS, *FRAMES, *SHADOW_KINDS, NO_PRESET, *(shop.title for shop in PRESETS.values())}
    seen = ("Accordion", "Button", "DownloadButton", "Tab", "folder_input", "picture")
    for path in (ROOT / "app.py", *PAGE.glob("*.py")):
        tree = ast.parse(path.read_text())
        hidden = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "build_api"]
        skipped = {id(node) for function in hidden for node in ast.walk(function)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or id(node) in skipped:
                continue
            named = [word.value for word in node.keywords if word.arg in ("label", "placeholder")]
            first = node.args[:1] if ast.unparse(node.func).rpartition(".")[2] in seen else []
            for value in (*named, *first):
                if isinstance(value, ast.Constant) and value.value:
                    texts.add(value.value)
    return texts - {"https://"}


@pytest.mark.parametrize("said", [said_by_scripts, said_by_templates, said_by_components])
def test_what_the_page_says_is_in_the_table(said):
    texts = said()
    assert len(texts) > 4
    assert [text for text in sorted(texts) if not known(text)] == []


def test_what_the_server_says_is_in_the_table(monkeypatch):
    made = {"size": (512, 400), "enlarged": 1.0, "found": True}
    texts = [
        describe(Finish(format=form, quality=quality), made | {"enlarged": enlarged} | more, 0.94)
        for form, quality in DOWNLOADS.values()
        for enlarged in (1.0, 2.1)
        for more in ({}, {"bytes": 321_000}, {"bytes": 4_000_000})
    ]
    texts += [advice("", "Image", "", None, "PNG"), advice("", "White", "", None, "JPEG")]
    texts += [advice("", "Transparent", "", None, "JPEG"), privacy(3600.0)]
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    texts += [privacy(86400.0)]
    for preset in PRESETS.values():
        for ok in (True, False):
            html = findings_text(preset, [Finding("still", ok, "The picture is still.", False)])
            texts.append(html.replace(f"{preset.title}: ", f"{preset.title}<br>"))
    assert [text for html in texts for text in lines(html) if not known(text)] == []


def test_nothing_in_the_table_is_said_by_nobody():
    """The words of a text between its holes and marks, where a sentence may be put together, are in the sources."""
    files = [ROOT / "app.py", ROOT / "utilities.py", *(ROOT / "background_remover").rglob("*.py")]
    strings = [
        str(node.value) for path in files for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
    ]  # fmt: skip
    code = [path.read_text() for suffix in ("js", "html") for path in PAGE.glob(f"*.{suffix}")]
    everything = "\n".join([*strings, *code])
    parts = {english: re.findall(r"[A-Za-z](?:[\w' -]*\w)?", SEAMS.sub("|", english)) for english in words()}
    unused = [english for english, some in parts.items() if not all(part in everything for part in some)]
    assert unused == []


# --- in a browser ---


def visible(page) -> list[str]:
    """The texts that are seen, with the values of dropdowns, and names for screen readers, in the tab for one photo."""
    return page.evaluate("""() => {
        const shown = (element) => element?.checkVisibility({ visibilityProperty: true });
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        const texts = [];
        while (walker.nextNode())
            if (shown(walker.currentNode.parentElement) && !walker.currentNode.parentElement.matches("script, style"))
                texts.push(walker.currentNode.data.trim());
        for (const name of ["title", "aria-label", "alt", "placeholder"])
            for (const element of document.querySelectorAll(`[${name}]`))
                if (shown(element)) texts.push(element.getAttribute(name));
        return texts.filter(Boolean);
    }""")


def left_in_english(page, language: str) -> list[str]:
    """Those of the visible texts that the table has otherwise in that language."""
    own = set(words()) - {others[language] for others in words().values()} - {ABOUT}
    patterns = [
        re.compile("(.+?)".join(map(re.escape, HOLE.split(english))), re.DOTALL)
        for english in own if HOLE.search(english)
    ]  # fmt: skip
    return [text for text in visible(page) if text in own or any(pattern.fullmatch(text) for pattern in patterns)]


@pytest.mark.parametrize("language", ["de-DE", "ja-JP"])
def test_the_page_is_in_the_language_of_the_browser(browser, app_url, refined, language):
    code = language[:2]
    say = lambda english: words()[english][code]  # noqa: E731
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale=language)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app_url)
    expect(page.locator("#title h1")).to_have_text(say("Background remover"))
    assert page.evaluate("[document.documentElement.lang, document.title]") == [code, say("Background remover")]
    expect(page.get_by_role("tab", name=say("Several photos"))).to_be_visible()
    expect(page.locator("#photo")).to_contain_text(say("Photo"))
    expect(page.get_by_role("button", name=say("Example: {0}").replace("{0}", "dog"))).to_be_visible()
    assert left_in_english(page, code) == []

    page.locator("#photo input[type=file]").set_input_files(PERSON)
    done = HOLE.split(say("Done in {0} s: {1}, {2} × {3} pixels, {4}."))
    expect(page.locator("#status")).to_contain_text(re.compile(".+".join(map(re.escape, done))), timeout=PATIENCE)
    if code == "de":
        expect(page.locator("#status")).to_contain_text(re.compile(r"Fertig in \d,\d s: PNG, 512 × 512 Pixel, \d+ kB"))
    expect(page.locator("#download")).to_have_text(say("Download"))
    choose(page, "background", say("White"))
    wait_shows(page, "cutout", refined.composite("white"))
    page.locator("#format input").click()
    page.get_by_role("option", name=say("WebP small"), exact=True).click()
    expect(page.locator("#status")).to_contain_text(say("small WebP"), timeout=PATIENCE)
    shown = "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').get.call(input)"
    assert page.locator("#format input").evaluate(f"(input) => {shown}") == say("WebP small")
    for section in ("frame", "shadow"):
        page.locator(f"#{section}-section > button").click()
    choose(page, "frame", say("Custom size"))
    choose(page, "shadow", say("Drop"))
    page.locator("#cutout .brush").click()
    expect(page.locator("#direction")).to_contain_text(say("Direction, degrees"))
    assert left_in_english(page, code) == []
    page.locator("#cutout .picker").click()
    expect(page.get_by_role("button", name=say("Subject {0}").replace("{0}", "1"), exact=True)).to_be_visible()
    page.locator("#width input").fill("9000")
    page.keyboard.press("Tab")
    error = HOLE.split(say("A canvas of {0} × {1} can't be made: choose 1 to {2} pixels a side, without fractions."))
    expect(page.locator("#status")).to_contain_text(re.compile(".+".join(map(re.escape, error))), timeout=PATIENCE)
    assert left_in_english(page, code) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert errors == []
    context.close()
