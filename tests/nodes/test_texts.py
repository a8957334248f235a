"""What people read about a node: tooltips, search words, translations and help pages are there, and say what is so."""

import ast
import re

import pytest
from node_texts import HELP, LOCALES, ROOT, flat, read_locale, texts_of
from PIL import Image

TRANSLATED = sorted(folder.name for folder in LOCALES.iterdir() if folder.name != "en")
LANGUAGES = ["en", *TRANSLATED]
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
ROW = re.compile(r"^\| (`.+)\|$", re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]+\]\(([^)]+)\)")
QUOTED_ERROR = re.compile(r"^- \*(.+?)\*", re.MULTILINE)
MOST_OF_ONE, MOST_OF_ALL = 100_000, 1_500_000  # bytes of pictures


@pytest.fixture(scope="module")
def definitions(pack):
    """Each node as `/object_info` describes it."""
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in pack.nodes}


@pytest.fixture(scope="module")
def texts(definitions):
    return {name: texts_of(definition) for name, definition in definitions.items()}


def inputs_of(definition):
    return {
        name: given for group in ("required", "optional") for name, given in definition["input"].get(group, {}).items()
    }


# in the schemas


def test_every_input_and_output_has_a_tooltip(texts):
    silent = [
        f"{node}.{part}.{name}"
        for node, entry in texts.items()
        for part in ("inputs", "outputs")
        for name, said in entry[part].items()
        if "tooltip" not in said
    ]

    assert silent == []


def test_every_node_is_found_by_english_and_chinese_words(definitions):
    for name, definition in definitions.items():
        words = definition["search_aliases"]
        assert any(map(str.isascii, words)), name
        assert any(map(CHINESE.search, words)), name


# translations


def test_english_locale_is_what_the_schemas_say(texts):
    assert read_locale("en") == texts, "write it again: .venv/bin/python tests/node_texts.py"


@pytest.mark.parametrize("language", TRANSLATED)
def test_translation_has_every_text_and_no_other(language, texts):
    here, there = ({place for place, _ in flat(given)} for given in (read_locale(language), texts))

    assert sorted(there - here) == [], "not translated"
    assert sorted(here - there) == [], "translated, and no longer there"


@pytest.mark.parametrize("language", TRANSLATED)
def test_translation_keeps_numbers_and_choices(language, texts, definitions):
    """So that a tooltip whose English has changed is not forgotten."""
    translated = dict(flat(read_locale(language)))
    for place, text in flat(texts):
        assert sorted(set(NUMBER.findall(text))) == sorted(set(NUMBER.findall(translated[place]))), place
    for node, definition in definitions.items():
        for name, (kind, *rest) in inputs_of(definition).items():
            choices = rest[0]["options"] if kind == "COMBO" else ()
            place = f"{node}.inputs.{name}.tooltip"
            for choice in choices:
                said = [
                    re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", t[place], re.ASCII)
                    for t in (dict(flat(texts)), translated)
                ]
                assert bool(said[0]) == bool(said[1]), (place, choice)


def test_chinese_is_chinese():
    for place, text in flat(read_locale("zh")):
        if place.endswith(("tooltip", "description")):
            assert CHINESE.search(text), place


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_takes_no_text_for_its_own_syntax(language):
    # vue-i18n: @ links, { and } insert, | separates plurals
    assert [place for place, text in flat(read_locale(language)) if re.search(r"[@{}|]", text)] == []


# help pages


def pages():
    return [(node.name, language) for node in sorted(HELP.iterdir()) for language in LANGUAGES]


def read_page(node, language):
    return (HELP / node / f"{language}.md").read_text(encoding="utf-8")


def test_every_node_has_help_in_every_language(definitions):
    assert {path.name for path in HELP.iterdir()} == set(definitions)
    for node, language in pages():
        assert (HELP / node / f"{language}.md").is_file(), (node, language)


@pytest.mark.parametrize(("node", "language"), pages())
def test_help_explains_every_input_and_no_other(node, language, definitions):
    table = read_page(node, language).split("\n\n|")[1]  # the first table
    explained = [name for row in ROW.findall(table) for name in re.findall(r"`([^`]+)`", row.split("·")[0])]

    assert sorted(explained) == sorted(inputs_of(definitions[node]))


@pytest.mark.parametrize(("node", "language"), pages())
def test_help_has_pictures_that_exist_and_are_small(node, language):
    pictures = PICTURE.findall(read_page(node, language))

    assert pictures
    for picture in pictures:
        assert picture.startswith(f"{node}/"), "the page asks for it below docs/"
        assert (HELP / picture).stat().st_size <= MOST_OF_ONE
        assert Image.open(HELP / picture).width >= 500  # twice the panel's width, for sharp screens


def test_no_picture_is_left_over():
    shown = {picture for node, language in pages() for picture in PICTURE.findall(read_page(node, language))}
    files = {path.relative_to(HELP).as_posix(): path for path in HELP.rglob("*") if path.suffix not in ("", ".md")}

    assert set(files) == shown
    assert sum(path.stat().st_size for path in files.values()) <= MOST_OF_ALL


@pytest.mark.parametrize(("node", "language"), pages())
def test_help_quotes_errors_that_there_are(node, language, messages):
    for quoted in QUOTED_ERROR.findall(read_page(node, language)):
        assert any(message.fullmatch(quoted.rstrip(".:;")) for message in messages), quoted


@pytest.fixture(scope="module")
def messages():
    """Every text in the source, as patterns for its beginnings: what is filled in may be anything."""
    return [
        re.compile(re.escape(beginning).replace("\0", ".+?"))
        for folder in ("exvideo_core", "nodes")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for text in map(written, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        for beginning in {text.rstrip("."), *(text[: end.start()] for end in re.finditer(r"[.:;](?= )|(?= \()", text))}
        if len(beginning.replace("\0", "")) > 8
    ]


def written(node):
    """A text's source, with \\0 for each thing filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(written, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "\0"
