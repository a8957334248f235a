"""Code and documentation use the field's words: chunk, cond and uncond, RoPE, offload, out of memory, resume, NaN."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OLD_NAMES = "exvideo_core/aliases.py"  # which must stay importable
# What to write instead, and the private terms it replaces. Upper and lower case differ: "picture to video" is a value
# that graphs with the download node have saved.
TERMS = {
    "chunk, chunk_bytes, map_chunks": r"([Pp]iece|piece_\w+|pieces_\w+|\w+_piece)s?",
    "cond and uncond, settings": r"(un)?told",
    "text_tokens, token embeddings": r"words? of (a|the) (prompt|text)|tables? of words",
    "RoPE, freqs_cis, apply_rope": r"rotary_turns?|(turn|turns|turned|turning) (neighbouring|pairs|channels)",
    "bind, fused_qkv, bind_sum": r"with_constant|(taken|together)(?=\()",
    "offload, keep, lazy": r"[Pp]ark(s|ed|ing)?|park_\w+|OnHost|Later(?=[\[(])",
    "double buffer, copy stream, host weights": r"_?Belt|belts?|_?Lanes?|lanes?|AtOnce|homes",
    "effective weights": r"live[_ ]weights?|folded weights|folding\.\w+",
    "SPATIAL_FACTOR, TEMPORAL_FACTOR, SCALING_FACTOR": r"CELL|STRIDE|SCALE",
    "temporarily on the device, temporarily_on": r"[Vv]isit(s|ed|ing|ors?)?",
    "out-of-memory hints, oom_hints": r"[Aa]dvice",
    "World, init": r"Ranks|joined(?=\()",
    "safe_load": r"only_data",
    "describe_nonfinite, NaN or Inf": r"described(?=\()|(is|are|holds?|was|were) no numbers?|not (all|only) numbers"
    r"|(something )?else of numbers|are (all )?numbers(?! of)",
    "retry_with_smaller_chunks": r"with_less(_\w+)?|pieces_kept",
    "resume, start over": r"(go|goes|going|gone|went) on (with|after|from)|(start|starts|starting) anew|anew",
    "out of memory": r"memory (has )?(ended|ends)|(no|without) memory (is |was )?(left|there)|has no memory",
    "image to video, text to video": r"(Picture|Sentence) to video|(picture|sentence)-to-video",
    "cross-attention, run_blocks, split_frames, pop_chunks": r"among_themselves|in_turn|laid_out|parts_within",
    "plain English": r"for whom?(ever)? (wants?|has|computes?|needs?)|as it were|[Ww]hoever|for (they|nobody)"
    r"|for (it|there|each|then|nothing) (is|are|has|have|was|would|can|will|asks)",
}
# Terms of other programs and formats that only look like ours.
ALLOWED = re.compile(r"[Ss]entence[Pp]iece")
LIKE_NO_DOCSTRING = re.compile(r"(The same|What|As|Of)\b")


def files():
    """All files with words for people or programmers, apart from the tests."""
    code = (path for folder in ("exvideo_core", "nodes", "tools") for path in (ROOT / folder).rglob("*.py"))
    pages = (*(ROOT / "docs").rglob("*.md"), *(ROOT / "web" / "docs").rglob("en.md"), ROOT / "README.md")
    found = (str(path.relative_to(ROOT)) for path in (*code, *pages))
    return sorted(name for name in found if name != OLD_NAMES)


def lines_with(pattern, text):
    return [f"line {n}: {line.strip()}" for n, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


@pytest.mark.parametrize("name", files())
def test_no_private_terms(name):
    text = ALLOWED.sub("", (ROOT / name).read_text(encoding="utf-8"))
    found = {instead: lines_with(re.compile(rf"(?<!\w)({term})(?!\w)"), text) for instead, term in TERMS.items()}

    assert {instead: lines for instead, lines in found.items() if lines} == {}


@pytest.mark.parametrize("name", [name for name in files() if name.endswith(".py") and not name.startswith("tools")])
def test_docstrings_stand_alone(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    definitions = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, definitions))

    assert [text for text in docstrings if LIKE_NO_DOCSTRING.match(text)] == []


@pytest.mark.parametrize(
    "line",
    [
        "computed in pieces",
        "def in_turn(blocks):",
        "Sentence to video",
        "cannot be gone on with",
        "memory ended while the clip was sampled",
        "a list of tensors, for they are freed",
    ],
)
def test_a_private_term_is_found(line):
    assert any(lines_with(re.compile(rf"(?<!\w)({term})(?!\w)"), line) for term in TERMS.values())


def test_ordinary_english_is_not():
    for line in (
        "turned off",
        "in other words",
        "sentencepiece",
        "a picture for the video",
        "returns",
        "it stays in x",
    ):
        text = ALLOWED.sub("", line)
        assert not any(lines_with(re.compile(rf"(?<!\w)({term})(?!\w)"), text) for term in TERMS.values()), line
