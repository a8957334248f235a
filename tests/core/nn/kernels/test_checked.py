"""A kernel is used where it equals its twin, and nowhere else."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from exvideo_core.nn.kernels import checked, kernel_mode, with_faster_kernel, with_kernel, with_kernel_in_place
from exvideo_core.nn.kernels.operators import items


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    """Take the CPU's tensors for a GPU's, and without gradients."""
    monkeypatch.setattr(checked, "_takes", lambda x, _mode: x.dtype in checked._MAX_DIFFERENCE)
    with torch.inference_mode():
        yield


def doubled(factor=2.0, calls=None, result=lambda x: x):
    """A function with a kernel that multiplies by `factor`, and that notes its calls."""
    calls = [] if calls is None else calls

    def kernel(x):
        calls.append(x.shape)
        return result(x * factor)

    @with_kernel(kernel)
    def double(x):
        """Twice x."""
        return x * 2

    return double, calls


def test_an_equal_kernel_is_compared_once_and_then_used():
    kernel_results = []
    double, _ = doubled(result=lambda x: kernel_results.append(x) or x)
    x = torch.ones(3)

    first, second = double(x), double(x)
    assert len(kernel_results) == 2
    assert first is kernel_results[0]  # and not the twin's, which may round in another way
    assert second is kernel_results[1]


def test_a_rounding_is_no_difference():
    x = torch.linspace(0, 9, 1000, dtype=torch.float16)
    double, calls = doubled(factor=2 * (1 + 4e-4))

    double(x), double(x)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (lambda x: x * 1.01, r"differs .* by 1\.0e\+02 of what roundings may"),
        (lambda x: x[:-1], "differs .* by inf"),
        (lambda x: x.double(), "differs .* by inf"),
        (lambda x: x * torch.nan, "differs .* by nan"),
        (lambda x: x.no_such_attribute, "it failed: AttributeError"),
    ],
)
def test_another_result_leaves_the_kernel_out_with_one_line(caplog, result, reason):
    double, calls = doubled(result=result)
    x = torch.ones(1000)

    with caplog.at_level(logging.WARNING):
        assert all(torch.equal(double(x), x * 2) for _ in range(3))
    assert len(calls) == 1
    (record,) = caplog.records
    assert "the kernel for double is not used for (1000,) in float32" in record.message
    assert re.search(reason, record.message)


def test_each_shape_dtype_and_layout_is_decided_by_itself():
    double, calls = doubled()
    for x in (torch.ones(2, 3), torch.ones(3, 2), torch.ones(3, 2).T, torch.ones(2, 3, dtype=torch.float16)):
        double(x), double(x)

    assert len(calls) == 8
    assert len(double.trusted) == 4


def test_where_both_have_nan_or_inf_only_the_rest_counts():
    x = torch.ones(1000)
    x[3], x[4] = torch.nan, torch.inf
    double, calls = doubled()

    double(x), double(x)
    assert len(calls) == 2


def test_large_results_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr(checked, "_COMPARED", 10)
    wrong_at_the_end = lambda x: torch.cat([x[:-1], x[-1:] * 2])  # noqa: E731
    double, calls = doubled(result=wrong_at_the_end)
    x = torch.ones(99, 2)

    assert torch.equal(double(x), x * 2)
    assert torch.equal(double(x), x * 2)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError(), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])
def test_out_of_memory_in_the_trial_decides_nothing(error):
    def full(_):
        raise error

    double, calls = doubled(result=full)
    for _ in range(2):
        assert double(torch.ones(3)).tolist() == [2, 2, 2]
    assert len(calls) == 2


def test_a_result_without_a_finite_number_decides_nothing():
    double, _ = doubled()

    double(torch.full((3,), torch.nan))
    assert not double.trusted
    double(torch.zeros(3))
    assert all(double.trusted.values())


def test_one_wrong_row_of_many_is_seen():
    def wrong(x):
        x[700] = 0
        return x

    double, calls = doubled(result=wrong)
    x = torch.ones(100_000, 8)
    for _ in range(2):
        assert torch.equal(double(x), x * 2)
    assert len(calls) == 1


def test_a_mode_is_its_threads_alone():
    double, calls = doubled()
    with kernel_mode("off"), ThreadPoolExecutor(1) as pool:
        pool.submit(torch.inference_mode()(double), torch.ones(3)).result()

    assert len(calls) == 1


@pytest.mark.parametrize("factor", [2.0, 3.0], ids=["equal", "wrong"])
def test_a_kernel_in_place_is_compared_on_a_copy(factor):
    calls = []

    def kernel(x):
        calls.append(x)
        return x.mul_(factor)

    @with_kernel_in_place(kernel)
    def double(x):
        """Twice x."""
        return x.mul_(2)

    for _ in range(2):
        x = torch.ones(3)
        assert double(x) is x
        assert x.tolist() == [2, 2, 2]
    assert (calls[-1] is x) == (factor == 2)


@pytest.mark.parametrize(("times", "is_used"), [([1.0, 2.0], True), ([1.9, 2.0], False)])
def test_a_kernel_in_a_vendors_place_must_be_faster(monkeypatch, caplog, times, is_used):
    left, results = iter(times), []
    monkeypatch.setattr(checked, "_seconds", lambda *_: next(left))

    def kernel(x):
        results.append(x * 2)
        return results[-1]

    @with_faster_kernel(kernel)
    def double(x):
        """Twice x."""
        return x * 2

    with caplog.at_level(logging.INFO):
        assert (double(torch.ones(3)) is results[0]) == is_used
    assert ("it takes 0.95 of PyTorch's time" in caplog.text) != is_used


def test_a_layout_that_the_kernel_does_not_take_is_the_twins():
    double, _ = doubled(result=lambda _: None)

    assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))


def test_off_and_with_gradients_there_is_no_kernel():
    double, calls = doubled()
    with kernel_mode("off"):
        double(torch.ones(2))
    with torch.inference_mode(False), torch.enable_grad():
        double(torch.ones(2))

    assert not calls


def test_unchecked_trusts():
    double, calls = doubled(factor=3)
    with kernel_mode("unchecked"):
        assert torch.equal(double(torch.ones(2)), torch.full((2,), 3.0))

    assert len(calls) == 1


def test_images_are_items_where_channels_are_side_by_side():
    images = torch.arange(2 * 3 * 4 * 5.0).view(2, 4, 5, 3).permute(0, 3, 1, 2)
    clip = images.transpose(0, 1)[None]

    for x in (images, clip, images[:, :, 1:3], clip[:, :, :, 1:3]):
        found = items(x)
        assert found.data_ptr() == x.data_ptr()
        assert torch.equal(found, x.movedim(1, -1).flatten(0, -4).flatten(1, 2))
    clips = torch.empty(2, 3, 6, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    assert items(clips).data_ptr() == clips.data_ptr()
    assert items(clips[:, :, 1:3]) is None
    for x in (images.contiguous(), images[:, :, :, 1:3], images[:, :2], images[0], images.unflatten(-1, (5, 1))[None]):
        assert items(x) is None
