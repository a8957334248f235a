"""One fuzzer: `python -m fuzz.process READER CORPUS_FOLDER [options of libFuzzer]`, run by run.py.

Only Linux with Python 3.11 or newer has the package for it (atheris); nothing else imports this file.
"""

import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

PACKAGES = ["exvideo_core", "yaml", "json", "csv", "PIL", "http"]


def main():
    name, corpus, *options = sys.argv[1:]
    scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    folder = scratch / "input"
    with atheris.instrument_imports(include=PACKAGES):
        from exvideo_core.video import ffmpeg, pictures

        from . import mutations, readers, seeds

        for module in (pictures, ffmpeg):
            module.MOST_PIXELS = 2**20  # the same check, sooner: decoding 8192x8192 pixels takes seconds
        logging.disable()
        warnings.simplefilter("ignore")  # PIL's and torch's, of what is odd in a file
        reader = readers.READERS[name]
        for seed in seeds.write(name, Path(corpus)):  # what is imported late is imported now, and not under guard
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            reader.place(seed.read_bytes(), folder)
            reader.read(folder)

    def one_input(data):
        readers.read(name, data, folder)

    custom = {
        "weights": mutations.safetensors,
        "lora": mutations.safetensors,
        "records": mutations.first_line_kept,
    }.get(name)
    more = {}
    if custom is not None:
        more["custom_mutator"] = lambda data, longest, seed: custom(data, longest, seed, atheris.Mutate)
    words = scratch / "words"
    words.write_text("".join(f"{json.dumps(word)}\n" for word in seeds.WORDS[name]))
    atheris.Setup([sys.argv[0], corpus, f"-dict={words}", *options], one_input, internal_libfuzzer=True, **more)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
