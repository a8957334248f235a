"""CUDA without a card: the product's own CUDA paths at real sizes, on any machine.

Shapes, dtypes, strides, devices, streams and memory are real; numbers are not. So a test here says that a path runs,
what it launches, waits for, copies and allocates, and never that a picture is right. What an emulated card refuses
(devices, dtypes, layouts, memory, races of streams), a real one refuses too.
"""
