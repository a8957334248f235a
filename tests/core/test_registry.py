"""The families, and how shared code asks for them."""

import dataclasses

import pytest

from exvideo_core import registry
from exvideo_core.errors import ExVideoError
from exvideo_core.hub import catalog
from exvideo_core.weights.detect import UNKNOWN, identify
from exvideo_core.weights.kind import FileKind, Kind

TOY = Kind("toy", "choose it as the toy")


def test_a_family_is_found_by_its_name():
    assert [registry.family(each.name) for each in registry.FAMILIES] == list(registry.FAMILIES)
    with pytest.raises(ExVideoError, match="model 'wan' is unknown; choose one of svd, cogvideox"):
        registry.family("wan")


def test_shared_code_knows_a_family_from_the_moment_it_is_listed(monkeypatch):
    file = dataclasses.replace(catalog.files()[0], key="toy-file", name="toy.safetensors", kind=TOY)
    toy = dataclasses.replace(
        registry.FAMILIES[0],
        name="toy",
        detect=(lambda shapes: FileKind(TOY, "a toy") if "toy.weight" in shapes else None,),
        groups=(catalog.Group(key="toy", title="toy to video", files=(file,)),),
    )
    assert identify({"toy.weight": (1,)}).kind is UNKNOWN
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, toy))

    assert identify({"toy.weight": (1,)}).kind is TOY
    assert registry.family("toy") is toy
    assert catalog.choose("toy") == catalog.choose("toy-file") == (file,)
    assert list(catalog.choices())[-1] == "toy.safetensors"
