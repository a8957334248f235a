"""Make the package's T5 tokenizer from the `tokenizer.json` of google/t5-v1_1-xxl (or of any T5 v1.1).

    python tests/golden/t5_tokenizer.py tokenizer.json exvideo_core/families/cogvideox/t5_tokenizer.json.gz

The steps around the vocabulary are set to those of transformers 5, because published files differ in them by age.
"""

import gzip
import json
import sys
from pathlib import Path

source, target = map(Path, sys.argv[1:])
tokenizer = json.loads(source.read_text(encoding="utf-8"))
tokenizer["normalizer"] = next(step for step in tokenizer["normalizer"]["normalizers"] if step["type"] == "Precompiled")
words = {"type": "WhitespaceSplit"}
spaces = {"type": "Metaspace", "replacement": "\N{LOWER ONE EIGHTH BLOCK}", "prepend_scheme": "always", "split": True}
tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [words, spaces]}
tokenizer["decoder"] = None
text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))  # the same bytes every time
