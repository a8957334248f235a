"""The catalogue of published files."""

import re

import pytest

from exvideo_core.errors import DownloadError
from exvideo_core.families.cogvideox.files import COGVIDEOX_VAE, EXVIDEO_COGVIDEOX
from exvideo_core.hub import catalog
from exvideo_core.hub.catalog import SOURCES, choices, choose, files, find, groups


def test_no_two_files_meet_under_one_name_in_one_folder():
    assert len({(file.folder, file.name) for file in files()}) == len(files())
    assert len({entry.key for entry in (*files(), *groups())}) == len(files()) + len(groups())


def test_names_on_disk_tell_what_the_files_are():
    assert not [file.name for file in files() if re.match(r"(model|diffusion_pytorch_model)\b", file.name)]


def test_every_file_has_a_page_and_an_address_at_every_source():
    for file in files():
        assert file.repositories.keys() == SOURCES.keys()
        assert file.url == f"https://huggingface.co/{file.repositories['huggingface']}/resolve/main/{file.path}"
        assert all(file.page(source).endswith(file.repositories[source]) for source in SOURCES)


def test_the_two_models_are_all_there_is():
    svd, cogvideox = choose("svd"), choose("sentence to video")

    assert {*svd, *cogvideox} == set(files())
    assert not {*svd} & {*cogvideox}
    assert {file for files in choices().values() for file in files} == set(files())


@pytest.mark.parametrize("file", files(), ids=lambda file: file.key)
def test_a_file_is_known_by_its_key_and_both_names(file):
    assert choose(file.key) == choose(file.name) == (file,)
    assert all(find(name, file.folder) == file for name in file.names)


def test_a_published_name_means_a_file_only_in_its_folder():
    assert find("diffusion_pytorch_model.safetensors", "vae") == COGVIDEOX_VAE
    assert find("diffusion_pytorch_model.safetensors", "loras") is None


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(DownloadError, match=r"'svdxt' is not one of the published files: svd, cogvideox, .*svd-xt"):
        choose("svdxt")


def test_size_that_nobody_has_said_is_not_made_up():
    assert catalog.size(EXVIDEO_COGVIDEOX) == "size unknown"
    assert catalog.size(COGVIDEOX_VAE) == "0.4 GB"
    assert catalog.size(COGVIDEOX_VAE, EXVIDEO_COGVIDEOX) == "over 0.4 GB"
