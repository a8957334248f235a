"""The configuration of a training run: what is read, what is refused, and which changes make it another run."""

import json
from pathlib import Path

import pytest
import yaml

from exvideo_core import registry
from exvideo_core.errors import ExVideoError
from exvideo_core.training import config as configs
from exvideo_core.training.config import fingerprint, write_template
from exvideo_core.training.loop import check_resumable
from exvideo_core.training.settings import Section

EXAMPLES = sorted((Path(__file__).parents[3] / "samples" / "training").glob("*.yaml"))
RECIPES = registry.training_recipes()
TARGETS = {name: recipe().config for name, recipe in RECIPES.items()}

PRINTS = ("ec324045404fadce", "19a70ee209954867", "6655da4c08295009")  # of these, in version 0.2.0


def given(target="svd", **sections):
    """A configuration with these values by dotted names: given(run__seed=1) is {"run": {"seed": 1}}."""
    result = {"target": target}
    for dotted, value in sections.items():
        section, key = dotted.split("__")
        result.setdefault(section, {})[key] = value
    return result


def read_config(path):
    return configs.read_config(path, RECIPES)


def parse_config(contents):
    return configs.parse_config(contents, TARGETS[contents["target"]])


def refusal(contents):
    with pytest.raises(ExVideoError) as error:
        parse_config(contents)
    return str(error.value)


def written(folder, text):
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# the template


@pytest.mark.parametrize("target", TARGETS)
def test_the_template_is_read_as_the_defaults(target, tmp_path):
    assert read_config(written(tmp_path, write_template(TARGETS[target]))) == TARGETS[target]()


@pytest.mark.parametrize("target", TARGETS)
def test_the_template_has_every_field_with_what_it_is_for(target):
    template = write_template(TARGETS[target])

    contents = yaml.safe_load(template)
    assert list(contents) == ["target", "run", "model", "data", "objective", "optimizer"]
    for name, value in TARGETS[target]():
        if isinstance(value, Section):
            assert list(contents[name]) == list(type(value).model_fields)
    lines = [line for line in template.splitlines() if line.startswith("  ")]
    assert all(len(line.split("  # ", 1)[1]) > 5 for line in lines)


def test_the_template_names_the_choices():
    assert 'kind: "adamw"  # adamw or adamw8bit or muon; ' in write_template(TARGETS["svd"])


# what is read


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_read(file):
    assert read_config(file).target in TARGETS


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001", "'1e-5'"])
def test_small_numbers_are_numbers_however_they_are_written(text, tmp_path):
    path = written(tmp_path, f"target: svd\noptimizer:\n  learning_rate: {text}\n")

    assert read_config(path).optimizer.learning_rate == 1e-5


def test_what_is_not_said_has_the_targets_own_default():
    config = parse_config(given("cogvideox", data__width=64))

    assert (config.data.width, config.data.height, config.data.fps) == (64, 480, 8)


# what is refused


@pytest.mark.parametrize(
    ("contents", "unknown", "known"),
    [
        (given() | {"rnu": {}}, "rnu", "target, run, model, data, objective, optimizer"),
        (given(run__stpes=1), "run.stpes", "name, output, seed, steps,"),
        (given(model__rank=1), "model.rank", "num_frames, base_frames, checkpoint, extension,"),
        (given(data__size=1), "data.size", "source, width, height,"),
        (given(objective__noisiness=1), "objective.noisiness", "noise_levels, lognormal_mean,"),
        (given(optimizer__lr=1), "optimizer.lr", "kind, learning_rate,"),
        (
            given("cogvideox", model__extension=None),
            "model.extension",
            "num_frames, base_frames, transformer, vae,",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unknown_keys_are_refused_with_the_known_ones(contents, unknown, known):
    assert f"{unknown} is unknown; known are {known}" in refusal(contents)


@pytest.mark.parametrize(
    ("contents", "key", "words"),
    [
        (given(run__steps="many"), "run.steps", "integer"),
        (given(run__steps=1.5), "run.steps", "integer"),
        (given(run__checkpointing="perhaps"), "run.checkpointing", "boolean"),
        (given(optimizer__learning_rate=[1]), "optimizer.learning_rate", "number"),
        (given(data__windows=3), "data.windows", "array"),
        (given(data__windows=["short"]), "data.windows.0", "integer"),
        (given(model__checkpoint=None), "model.checkpoint", "string"),
        (given() | {"run": 3}, "run", "object"),
        (given(run__engine="horovod"), "run.engine", "'fsdp' or 'deepspeed'"),
        (given(run__precision="fp16"), "run.precision", "'bf16' or 'fp32'"),
        (given(optimizer__kind="sgd"), "optimizer.kind", "'adamw', 'adamw8bit' or 'muon'"),
        (given(model__trainable="all"), "model.trainable", "'temporal' or 'new'"),
    ],
)
def test_wrong_types_and_choices_are_refused_with_what_was_given(contents, key, words):
    message = refusal(contents)

    value = contents
    for part in key.removesuffix(".0").split("."):
        value = value[part]
    assert f"{key}: " in message
    assert words in message
    assert f"not {json.dumps(value[0] if key.endswith('.0') else value)}" in message


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (given(run__steps=0), "run.steps must be at least 1, not 0"),
        (given(run__batch_size=0), "run.batch_size must be at least 1, not 0"),
        (given(run__keep_last=0), "run.keep_last must be at least 1, not 0"),
        (given(run__held_out_every=-1), "run.held_out_every must be at least 0, not -1"),
        (given(data__stride=0), "data.stride must be at least 1, not 0"),
        (given(data__held_out=-1), "data.held_out must be at least 0, not -1"),
        (given(optimizer__learning_rate=-1e-5), "optimizer.learning_rate must be at least 0, not -1e-05"),
        (given(run__average=1.5), "run.average must be below 1, not 1.5"),
        (given(run__average=1), "run.average must be below 1, not 1"),
        (given(data__max_bad_share=-0.1), "data.max_bad_share must be at least 0, not -0.1"),
        (given(objective__condition_dropout=2), "objective.condition_dropout must be at most 1, not 2"),
        (given(optimizer__hold=1.1), "optimizer.hold must be at most 1, not 1.1"),
        (given(run__attention="eager"), "run.attention 'eager' is unknown; choose sdpa or "),
        (given(objective__latent_scale=0), "objective.latent_scale must be above 0, not 0"),
        (given(run__engine="deepspeed", optimizer__kind="muon"), "choose adamw, or engine fsdp"),
        (given(data__fps=8, data__stride=2), "data.fps excludes data.stride"),
        (given(data__fps=0), "data.fps must be above 0, not 0"),
        (given(data__held_out=0), "set them to 0 too"),
        (
            given(data__width=520, data__height=500),
            "520x500 pixels are not possible: width and height must be multiples of 8 and",
        ),
        (
            given(data__width=64),
            "64x512 pixels are not possible: width and height must be multiples of 8 and",
        ),
        (given(model__num_frames=1), "model.num_frames: 1 frames are not possible: 2 or more"),
        (given(data__windows=[8, 1]), "data.windows: 1 frames are not possible, 2 to 128 are"),
        (given(data__windows=[129]), "data.windows: 129 frames are not possible, 2 to 128 are"),
        (
            given("cogvideox", data__width=488),
            "488x480 pixels are not possible: width and height must be multiples of 16",
        ),
        (
            given("cogvideox", model__num_frames=128),
            "model.num_frames: 128 frames are not possible: CogVideoX makes 8 k + 1",
        ),
        (
            given("cogvideox", model__num_frames=1),
            "model.num_frames: 1 frames are not possible: CogVideoX makes 8 k + 1",
        ),
        (given("cogvideox", model__rank=0), "model.rank must be at least 1, not 0"),
        (given("cogvideox", data__windows=[34]), "data.windows: 34 latent frames are not possible, 1 to 33 are"),
    ],
)
def test_impossible_values_are_refused_with_what_would_be_right(contents, words):
    assert words in refusal(contents)


def test_nothing_to_hold_out_is_fine_where_nothing_asks_for_it():
    assert parse_config(given(data__held_out=0, run__held_out_every=0)).data.held_out == 0


@pytest.mark.parametrize(
    "contents",
    [
        given(run__steps="many", data__width="wide", data__size=3),
        given(run__steps=0, data__width=9, data__size=3),
    ],
    ids=["types", "values"],
)
def test_all_problems_come_in_one_message(contents):
    message = refusal(contents)

    assert "data.size is unknown" in message
    assert "data.width" in message
    assert "run.steps" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target: [svd", "run.yaml is not YAML: "),
        ("run: {}", "run.yaml needs a line 'target: svd' or 'target: cogvideox'"),
        ("target: wan", "run.yaml needs a line 'target: svd' or 'target: cogvideox'"),
        ("target: [svd]", "run.yaml needs a line 'target: svd' or 'target: cogvideox'"),
        ("target: {svd: 1}", "run.yaml needs a line 'target: svd' or 'target: cogvideox'"),
        ("", "run.yaml needs a line 'target: svd'"),
        ("- svd", "run.yaml needs a line 'target: svd'"),
        ("target: svd\nrun:\n  name: 2026-11-25", "run.yaml: "),
        ("target: svd\nrun:\n  1: 2", "run.1 is unknown"),
        ("target: svd\n1: 2", "1 is unknown"),
        ("target: svd\noptimizer:\n  clip_norm: .nan", "optimizer.clip_norm"),
        ("target: svd\noptimizer:\n  learning_rate: .inf", "optimizer.learning_rate"),
    ],
)
def test_files_that_are_no_configuration_are_refused_in_one_line(text, words, tmp_path):
    with pytest.raises(ExVideoError) as error:
        read_config(written(tmp_path, text))

    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ExVideoError, match=r"the configuration .*nothing\.yaml cannot be read"):
        read_config(tmp_path / "nothing.yaml")


# which changes make it another run


@pytest.mark.parametrize(
    "changed",
    [
        given(run__seed=1),
        given(run__batch_size=4),
        given(run__precision="fp32"),
        given(run__average=0.5),
        given(optimizer__learning_rate=1e-4),
        given(model__trainable="new"),
        given(data__windows=[25]),
        given(data__source="elsewhere"),
        given(objective__weighting="velocity"),
        given("cogvideox", model__rank=8),
    ],
    ids=str,
)
def test_what_decides_the_course_changes_the_fingerprint(changed):
    usual = parse_config(given(changed["target"]))

    assert fingerprint(parse_config(changed)) != fingerprint(usual)


@pytest.mark.parametrize(
    "changed",
    [
        given(run__name="other"),
        given(run__output="elsewhere"),
        given(run__save_every=7),
        given(run__keep_last=7),
        given(run__held_out_every=7),
        given(run__validate_every=7),
        given(run__export_format="fp32"),
        given(run__tensorboard=True),
        given(run__steps=7),
        given(data__cache="elsewhere"),
        given(data__max_bad_share=0.1),
    ],
    ids=str,
)
def test_what_only_says_how_long_and_what_is_written_does_not(changed):
    assert fingerprint(parse_config(changed)) == fingerprint(parse_config(given()))


def test_steps_decide_the_course_where_the_rate_falls_at_the_end():
    prints = {fingerprint(parse_config(given(run__steps=steps, optimizer__hold=0.5))) for steps in (10, 20)}

    assert len(prints) == 2


# runs, caches and files of version 0.2.0


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (given(), "442ae009481a0766"),
        (given("cogvideox", data__source="videos"), "102416c57cd77d54"),
        (given(optimizer__hold=0.5, data__fps=30, data__windows=[8, 4]), "76e7c0f11ee67134"),
        *zip((yaml.safe_load(file.read_text()) for file in EXAMPLES), PRINTS, strict=True),
    ],
    ids=str,
)
def test_fingerprints_are_those_of_version_0_2_0(contents, expected):
    assert fingerprint(parse_config(contents)) == expected


def test_a_run_of_version_0_2_0_with_another_fingerprint_of_equal_settings_resumes(tmp_path):
    """Without a section `data`, that version took 8 frames a second for another number than 8.0."""
    config = parse_config(given("cogvideox"))
    settings = config.model_dump()
    settings["data"]["fps"] = 8
    note = {"step": 3, "fingerprint": "a13049e542c14aae", "config": settings}
    (tmp_path / "run.json").write_text(json.dumps(note))

    assert note["fingerprint"] != fingerprint(config)
    assert check_resumable(config, tmp_path) == 3
