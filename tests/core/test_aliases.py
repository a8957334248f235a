"""Imports that the documentation of an earlier version showed go on working."""

import importlib

import pytest

import exvideo_core

# every deep import of docs/python.md in version 0.2.0, and the public name for the same thing today
OLD = {
    ("exvideo_core.step_cache", "Reuse"): "Reuse",
    ("exvideo_core.models.fp8", "store_in_fp8"): "store_in_fp8",
    ("exvideo_core.models.svd.vae", "SCALE"): None,
    ("exvideo_core.training.evaluate", "measure"): "measure",
    ("exvideo_core.checkpoint.save", "save_extension"): "save_extension",
    ("exvideo_core.checkpoint.save", "save_svd"): "save_svd",
    ("exvideo_core.checkpoint.save", "write_weights"): "write_weights",
}


@pytest.mark.parametrize(("path", "public"), OLD.items(), ids=lambda each: ".".join(each) if each else "")
def test_an_old_path_gives_todays_object_and_warns(path, public):
    module, name = path
    with pytest.warns(DeprecationWarning, match="now"):
        value = getattr(importlib.import_module(module), name)

    assert public is None or value is getattr(exvideo_core, public)


def test_the_old_scale_is_the_scaling_factor():
    with pytest.warns(DeprecationWarning, match="SCALING_FACTOR now"):
        from exvideo_core.models.svd.vae import SCALE

    assert pytest.approx(0.18215) == SCALE


def test_an_old_module_has_no_other_names():
    module = importlib.import_module("exvideo_core.step_cache")

    with pytest.raises(AttributeError, match="no attribute 'Reused'"):
        _ = module.Reused


def test_old_names_that_stayed_in_their_module():
    from exvideo_core.video.frames import check_cogvideox_frames, check_cogvideox_size, check_svd_size

    check_cogvideox_frames(129)
    check_cogvideox_size(720, 480)
    check_svd_size(512, 512)
    with pytest.raises(exvideo_core.ClipError):
        check_cogvideox_frames(128)
