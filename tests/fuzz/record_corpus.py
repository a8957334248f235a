# ruff: noqa: E501 - one file a line, or nearly
"""Write the corpus of malformed files: `.venv/bin/python tests/fuzz/record_corpus.py`.

What fuzzers found stands in the same folders under names that begin with `found_`; those are left alone. A file whose
name begins with `ok_` is odd, and yet to be read; all others are to be refused.
"""

import io
import json
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402 - after the path is set, like those below
from PIL import Image  # noqa: E402
from safetensors.torch import save  # noqa: E402

from exvideo_core.video import save_video  # noqa: E402
from fuzz.readers import SHARD  # noqa: E402
from fuzz.seeds import CORPUS  # noqa: E402

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def packed(header, payload=bytes(8), length=None):
    """A safetensors file with this header: JSON, or bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + payload


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


class _Runs:
    """Its pickle makes a folder when it is read."""

    def __reduce__(self):
        return Path.mkdir, (Path("was_run"),)


def _weights():
    sound = packed({"a": A, "b": entry(offsets=(8, 16))}, bytes(16))
    header = len(sound) - 16
    yield from ((f"cut_at_{at}", sound[:at]) for at in (0, 4, 7, 8, 9, header - 1, header, header + 7, len(sound) - 1))
    yield "one_byte_more", sound + b"\0"
    for length in (0, 1, 2**31, 2**63, 2**64 - 1, 100_000_001):
        yield f"header_of_{length}", packed({"a": A}, length=length)
    for name, text in {
        "list": b"[]", "number": b"1", "null": b"null", "text": b'"a"', "empty_object": b"{}", "not_utf8": b'{"\xff": 1}',
        "utf16": '{"a": 1}'.encode("utf-16"), "bom": b"\xef\xbb\xbf{}", "nan": b'{"a": NaN}', "nul": b"{\0}",
        "nested": b'{"a":' * 3000, "lists": b"[" * 30_000, "digits": b'{"a": ' + b"9" * 5000 + b"}",
        "repeated_name": json.dumps({"a": A}).encode()[:-1] + b"," + json.dumps({"a": A}).encode()[1:],
        "repeated_field": b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}',
    }.items():  # fmt: skip
        yield f"header_{name}", packed(text)
    for name, value in {
        "overlap": {"a": A, "b": entry(offsets=(4, 12))}, "same_bytes": {"a": A, "b": A},
        "gap": {"a": entry(offsets=(8, 16))}, "outside": {"a": entry(offsets=(2**40, 2**40 + 8))},
        "backwards": {"a": entry(offsets=(8, 0))}, "negative_offsets": {"a": entry(offsets=(-8, 0))},
        "three_offsets": {"a": entry(offsets=(0, 8, 16))}, "one_offset": {"a": entry(offsets=(0,))},
        "fraction_offsets": {"a": entry(offsets=(0.0, 8.0))}, "text_offsets": {"a": entry(offsets=("0", "8"))},
        "infinite_offsets": {"a": entry(offsets=(0, 1e999))}, "huge_offsets": {"a": entry(offsets=(0, 10**400))},
        "negative_shape": {"a": entry(shape=(-2,))}, "two_negatives": {"a": entry(shape=(-1, -2))},
        "huge_shape": {"a": entry(shape=(2**62, 4))}, "wrapping_shape": {"a": entry(shape=(2**32, 2**32, 2))},
        "huge_and_empty": {"a": entry(shape=(2**62, 0), offsets=(0, 0)), "b": A}, "many_axes": {"a": entry(shape=[1] * 5000)},
        "fraction_shape": {"a": entry(shape=(2.0,))}, "true_shape": {"a": entry(shape=(True, 2))},
        "shape_of_lists": {"a": entry(shape=([2],))}, "no_shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
        "no_dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}}, "unknown_dtype": {"a": entry("F4")},
        "dtype_of_a_list": {"a": entry([])}, "long_dtype": {"a": entry("F" * 9000)}, "wrong_dtype": {"a": entry("F64")},
        "long_name": {"a" * 9000: A}, "name_that_clears_the_screen": {"\x1b[2J\x07": A}, "name_of_lines": {"a\nb": A},
        "lone_surrogate": {"\ud800": A}, "notes_of_numbers": {"a": A, "__metadata__": {"a": 1}},
        "notes_of_text": {"a": A, "__metadata__": "text"}, "entry_of_a_list": {"a": [1, 2]}, "entry_null": {"a": None},
    }.items():  # fmt: skip
        yield name, packed(value)
    yield "ok_unknown", sound
    yield "ok_empty_list", packed({"note": entry(shape=(0,), offsets=(0, 0)), "a": A})
    yield from _impostors()
    yield from _networks()


def _impostors():
    archive, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", pickle.dumps(_Runs()))
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("../../outside"))
    torch_file = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, torch_file)
    old = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, old, _use_new_zipfile_serialization=False)
    yield from (
        ("pickle_that_runs", pickle.dumps(_Runs())), ("pickle_of_protocol_0", pickle.dumps(_Runs(), 0)),
        ("zip_with_a_pickle", archive.getvalue()), ("tar", tar.getvalue()[:1024]), ("torch_file", torch_file.getvalue()),
        ("old_torch_file", old.getvalue()), ("gguf", b"GGUF\3" + bytes(60)), ("elf", b"\x7fELF" + bytes(60)),
        ("web_page", b"<!DOCTYPE html><html>sign in</html>"), ("gzip", b"\x1f\x8b\x08" + bytes(60)),
        ("lfs_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("pickle_after_a_length", (64).to_bytes(8, "little") + pickle.dumps(_Runs()).ljust(64, b" ")),
    )  # fmt: skip


def _networks():
    """Headers of networks that cannot be: names alone build nothing large."""

    def tensors(shapes, dtype="U8"):
        header, position = {}, 0
        for name, shape in shapes.items():
            size = 1
            for side in shape:
                size *= side
            header[name] = entry(dtype, shape, (position, position + size))
            position += size
        return packed(header, bytes(position))

    block = "transformer_blocks.{}.attn1.to_q.weight"
    cog = {"transformer_blocks.0.norm1.linear.weight": (1,), "patch_embed.text_proj.weight": (1, 1)}
    cog |= {
        "patch_embed.proj.weight": (8, 1, 1, 1),
        "proj_out.weight": (1, 8),
        "time_embedding.linear_1.weight": (1, 1),
    }
    cog |= {"transformer_blocks.0.attn1.norm_q.weight": (8,), "transformer_blocks.0.ff.net.0.proj.weight": (1, 8)}
    yield "a_thousand_layers", tensors(cog | {block.format(i): (1,) for i in range(1000)})
    yield "width_that_no_head_divides", tensors(cog | {block.format(0): (1,), "patch_embed.proj.weight": (7, 1, 1, 1)})
    yield "head_of_nothing", tensors(cog | {block.format(0): (1,), "transformer_blocks.0.attn1.norm_q.weight": (0,)})
    yield "patch_without_axes", tensors(cog | {block.format(0): (1,), "patch_embed.proj.weight": ()})
    vae = {"decoder.mid_block.resnets.0.norm1.conv_y.conv.weight": (1,), "decoder.conv_in.conv.weight": (1, 1)}
    yield "vae_without_levels", tensors(vae)
    yield "vae_of_scalars", tensors(vae | {"encoder.down_blocks.0.resnets.0.conv1.conv.weight": ()})
    t5 = {"encoder.block.0.layer.0.SelfAttention.q.weight": (1,), "shared.weight": (32128, 1)}
    t5 |= {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (1, 0)}
    yield "t5_without_words", tensors(t5 | {"shared.weight": ()})
    unet = {"input_blocks.1.1.time_stack.0.norm_in.weight": (1,), "first_stage_model.x": (1,)}
    yield "svd_with_a_stranger", tensors(unet)
    yield "ok_svd_without_parts", tensors({"model.diffusion_model.input_blocks.1.1.time_stack.0.norm_in.weight": (1,)})
    notes = (
        {"latent_rgb_factors": "[" * 5000},
        {"latent_rgb_factors": "[[1e999]]"},
        {"latent_rgb_factors": "[" + "0," * 9000},
    )
    for number, note in enumerate(notes):
        yield f"preview_colours_{number}", packed({"a": A, "__metadata__": note})


def _lora():
    down, up = "blocks.0.attn1.to_q.lora_A.weight", "blocks.0.attn1.to_q.lora_B.weight"
    sound = {down: torch.ones(2, 16), up: torch.ones(16, 2)}
    changes = {
        "nan": {down: torch.full((2, 16), torch.nan)}, "infinity": {up: torch.full((16, 2), torch.inf)},
        "half_of_a_pair": {up: None}, "rank_0": {down: torch.ones(0, 16), up: torch.ones(16, 0)},
        "ranks_differ": {up: torch.ones(16, 3)}, "one_axis": {down: torch.ones(16)}, "scalar": {up: torch.ones(())},
        "another_width": {down: torch.ones(2, 17)}, "another_layer": {"proj_in.lora_A.weight": torch.ones(2, 2)},
        "layer_9999999": {down.replace("0", "9999999"): torch.ones(2, 16), up.replace("0", "9999999"): torch.ones(16, 2)},
        "two_spellings": {f"transformer.transformer_{name}": tensor.clone() for name, tensor in sound.items()},
        "two_adapters": {name.replace(".weight", ".b.weight"): tensor.clone() for name, tensor in sound.items()},
        "alpha_of_three": {"blocks.0.attn1.to_q.alpha": torch.ones(3)},
        "alpha_nan": {"blocks.0.attn1.to_q.alpha": torch.tensor(torch.nan)},
        "fp8_nan": {down: torch.full((2, 16), torch.nan).to(torch.float8_e4m3fn)},
        "of_no_numbers": {down: torch.ones(2, 16, dtype=torch.bool)}, "complete_and_a_stranger": {"a": torch.ones(2)},
    }  # fmt: skip
    for name, change in changes.items():
        tensors = {key: value for key, value in {**sound, **change}.items() if value is not None}
        yield name, save(tensors)
    yield "ok_whole", save(sound)
    yield "ok_alpha_0", save({**sound, "blocks.0.attn1.to_q.alpha": torch.tensor(0.0)})
    yield "empty", b""
    yield "cut", save(sound)[:-1]


def _folders():
    index = "model.safetensors.index.json"
    for name, shard in {
        "parent": "../a.safetensors", "absolute": "/etc/a.safetensors", "windows": "..\\a.safetensors", "nul": "a\0.safetensors",
        "drive": "C:a.safetensors", "stream": "a.safetensors:b.safetensors", "another_kind": "weights.ckpt", "dots": "..",
        "empty": "", "long": "a" * 9000 + ".safetensors", "missing": "model-00003-of-00003.safetensors", "number": 3,
        "list": [1], "null": None, "surrogate": "\ud800.safetensors", "escape": "\x1b[2J.safetensors",
    }.items():  # fmt: skip
        yield f"shard_{name}", f"=== {index}\n{json.dumps({'weight_map': {'a': shard}})}".encode()
    for name, text in {
        "empty": "", "list": "[]", "null": "null", "no_map": "{}", "map_of_text": '{"weight_map": "a"}', "no_names":
        '{"weight_map": {}}', "nested": "[" * 9000, "digits": "9" * 5000, "cut": '{"weight_map": {"a": "mo',
    }.items():  # fmt: skip
        yield f"index_{name}", f"=== {index}\n{text}".encode()
    yield "index_of_other_bytes", f"=== {index}\n".encode() + b"\xff\xfe\0"
    yield "one_of_99999", b"=== a-00001-of-99999.safetensors\n"
    yield "one_of_0", b"=== a-00001-of-00000.safetensors\n"
    yield "empty_shard", f"=== {SHARD}\n".encode()
    yield "text_in_a_shard", f"=== {SHARD}\nnot found, sorry about that\n".encode()
    yield "several_models", b"=== other.safetensors\n"
    yield "ok_index", f"=== {index}\n{json.dumps({'weight_map': {'a': SHARD}})}".encode()


def _configs():
    start = "target: svd\n"
    bomb = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
    for name, text in {
        "empty": "", "text": "hello", "list": "- a", "no_target": "run: {}", "other_target": "target: sd", "nul": "target: \0",
        "target_of_a_list": "target: [svd]", "unknown_key": start + "speed: 3", "billion_laughs": start + bomb, "tab": "\ta",
        "merge": start + "x: &x {seed: 1}\nrun:\n  <<: *x", "anchor_to_itself": start + "run: &a [*a]", "nested": "[" * 9000,
        "nested_maps": start + "run: " + "{a: " * 2000, "date_that_is_none": start + "run: {seed: 2001-02-30}",
        "date": start + "run: {seed: 2001-02-03}", "binary": start + "run: {name: !!binary aGVsbG8=}",
        "bad_binary": start + "run: {name: !!binary ...}", "bad_int": start + "run: {seed: !!int x}", "set": start + "run: !!set {a}",
        "python_object": start + "run: !!python/object/apply:os.mkdir [was_run]", "python_name": start + "run: !!python/name:os.system",
        "infinity": start + "optimizer: {learning_rate: .inf}", "nan": start + "optimizer: {beta1: .nan}",
        "digits": start + "run: {seed: " + "9" * 5000 + "}", "huge_size": start + "data: {width: 99999999999999}",
        "name_above": start + "run: {name: ../../evil}", "name_absolute": start + "run: {name: /etc/cron.d/evil}",
        "name_escape": start + 'run: {name: "\\e[2J"}', "name_empty": start + 'run: {name: ""}', "name_dots": start + "run: {name: ..}",
        "surrogate": start + 'run: {name: "\\ud800"}', "key_of_a_list": start + "? [a]\n: b", "key_of_a_map": start + "? {a: b}\n: c",
        "key_number": start + "1: 2", "key_null": start + "null: 2", "key_date": start + "2001-01-01: 2", "sexagesimal": start +
        "run: {seed: 1:30:00.5}", "many_keys": start + "".join(f"key{i}: {i}\n" for i in range(2000)), "two_documents": "a: 1\n---\nb: 2",
        "long_value": start + "run: {engine: " + "x" * 9000 + "}", "section_of_a_list": start + "run: [1]", "cut": start + "run: {na",
        "directive": "%YAML 9.9\n---\n" + start + "x: 1", "unknown_tag": start + "run: !x {}", "windows": start + "data: {windows: [0]}",
    }.items():  # fmt: skip
        yield name, text.encode("utf-8", "surrogatepass")
    yield "other_bytes", b"target: \xff\xfe"
    yield "utf16", start.encode("utf-16")
    yield "ok_bom", b"\xef\xbb\xbf" + start.encode()
    yield "ok_short", start.encode()


def _records():
    texts = {
        "metadata.json": {
            "empty": "", "object": "{}", "null": "null", "no_videos": "[]", "entry_number": "[1]", "no_path": '[{"a": 1}]',
            "path_number": '[{"path": 1}]', "path_nul": '[{"path": "a\\u0000b"}]', "path_surrogate": '[{"path": "\\ud800"}]',
            "path_long": json.dumps([{"path": "a" * 9000}]), "path_escape": '[{"path": "\\u001b[2J"}]', "nested": "[" * 9000,
            "digits": "[" + "9" * 5000 + "]", "long_key": json.dumps([{"k" * 9000: "x"}]), "ok_outside": '[{"path": "../a.mp4"}]',
        },
        "metadata.jsonl": {"half": '{"path": "a.mp4"}\n{"pa', "nested": "[" * 9000, "ok_gaps": '\n\n{"path": "a.mp4"}\n\n'},
        "metadata.csv": {
            "no_columns": "a,b\n1,2\n", "more_values": "path\na,b\n", "quote": 'path\n"a\n', "nul": "path\na\0b\n",
            "long_field": "path\n" + "a" * 140_000, "long_column": "x" * 9000 + "\n1\n",
        },
        "index.jsonl": {
            "half": '{"path": "/a", "siz', "frames_bomb": '{"path":"/a","size":1,"mtime_ns":1,"width":8,"height":8,'
            '"time_base":"1/9","first_pts":0,"steps":[[1,1000000000000]]}', "no_end": '{"path":"/a","size":1,"mtime_ns":1,'
            '"width":8,"height":8,"time_base":"1e999999999","first_pts":0,"steps":[]}', "zero": '{"path":"/a","size":1,'
            '"mtime_ns":1,"width":8,"height":8,"time_base":"1/0","first_pts":0,"steps":[]}', "list": "[1]", "null": "null",
            "infinite": '{"path":"/a","size":1e999,"mtime_ns":1}', "nested": "[" * 9000,
        },
        "run.json": {
            "empty": "", "null": "null", "list": "[]", "no_step": "{}", "step_text": '{"step": "1"}', "nested": "[" * 9000,
            "config_text": '{"step": 1, "fingerprint": 1, "config": "x"}', "step_infinite": '{"step": 1e999}',
            "config_long": json.dumps({"step": 1, "config": {"k" * 9000: "v" * 9000}}), "escape": '{"step":1,"config":{"\\u001b":1}}',
        },
        "log.csv": {"text": "hello\nhello\n", "no_number": "step,loss\nx,1\n", "nul": "step\n\0\n", "ok_half": "step,loss\n1,2\n2",
            "long": "step\n" + "1" * 9000 + "\n", "many_columns": "step\n" + "1," * 9000 + "\n", "ok_empty": ""},
        "huggingface": {
            "ok_silence": "", "ok_no_http": "hello", "ok_refused": "HTTP/1.1 404 Not Found\n\n", "ok_retry": "HTTP/1.1 503 x\n"
            "Retry-After: \xb2\n\n", "no_size": "HTTP/1.1 200 OK\n\n", "size_squared": "HTTP/1.1 200 OK\nContent-Length: \xb2\n\n",
            "size_of_digits": "HTTP/1.1 200 OK\nX-Linked-Size: " + "9" * 5000 + "\n\n", "size_negative": "HTTP/1.1 200 OK\n"
            "X-Linked-Size: -1\n\n", "ok_no_address": "HTTP/1.1 302 x\nLocation: http://[\n\n", "unencrypted": "HTTP/1.1 302 x\n"
            "Location: http://a.example/\n\n", "file_address": "HTTP/1.1 302 x\nLocation: file:///etc/passwd\n\n",
            "ok_many_headers": "HTTP/1.1 200 OK\n" + "a: b\n" * 300 + "\n", "ok_no_status": "HTTP/1.1 9999999 OK\n\n",
        },
        "modelscope": {
            "empty": "HTTP/1.1 200 OK\n\n", "null": "HTTP/1.1 200 OK\n\nnull", "nested": "HTTP/1.1 200 OK\n\n" + "[" * 9000,
            "texts": 'HTTP/1.1 200 OK\n\n{"Data": {"Files": ["a"]}}', "no_file": 'HTTP/1.1 200 OK\n\n{"Data": {"Files": []}}',
            "size": 'HTTP/1.1 200 OK\n\n{"Data": {"Files": [{"Path": "vae/diffusion_pytorch_model.safetensors", "Size": true}]}}',
            "other_bytes": "HTTP/1.1 200 OK\n\n\xff\xfe\0", "ok_chunks": "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nFFFFFFFF\nab",
        },
    }  # fmt: skip
    for kind, files in texts.items():
        for name, text in files.items():
            ok = "ok_" if name.startswith("ok_") else ""
            stem = kind.replace(".", "_")
            yield f"{ok}{stem}_{name.removeprefix('ok_')}", f"{kind}\n".encode() + text.encode("latin-1")


def _pictures():
    files = {}
    for kind in ("png", "jpeg", "webp", "gif", "tiff", "bmp"):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 6), "red").save(buffer, kind)
        files[kind] = buffer.getvalue()
    for kind, sound in files.items():
        yield from ((f"{kind}_cut_{part}", sound[: int(len(sound) * part / 8)]) for part in (1, 3, 5))
        yield f"ok_{kind}", sound
    png = files["png"]
    yield "png_of_0_pixels", png[:16] + bytes(8) + png[24:]
    yield "png_of_2147483647", png[:16] + b"\x7f\xff\xff\xff" * 2 + png[24:]
    yield "ok_gif_of_0_pixels", files["gif"][:6] + bytes(4) + files["gif"][10:]
    yield (
        "gif_that_grows",
        b"GIF89a\x08\0\x06\0\x80\0\0\xff\0\0\0\0\xff" + b"," + bytes(4) + b"\xff\xff\xff\xff\0\2\2D\1\0;",
    )
    yield "eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(was_run) (w) file\nshowpage\n"
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "text", b"no picture"
    yield "empty", b""
    yield "pdf", b"%PDF-1.4\n" + bytes(60)
    yield "webp_lying", files["webp"][:4] + b"\xff\xff\xff\x7f" + files["webp"][8:20]
    tiff = files["tiff"]
    yield "tiff_of_a_far_table", tiff[:4] + b"\xff\xff\xff\x7f" + tiff[8:]


def _videos():
    import tempfile

    clip = torch.linspace(0, 1, 3 * 16 * 16 * 3).reshape(3, 16, 16, 3)
    sound = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.mp4", "a.webm", "a.gif"):
            sound[name] = save_video(clip, Path(folder) / name, fps=8).read_bytes()
    for name, data in sound.items():
        yield from ((f"{name[2:]}_cut_{part}", data[: len(data) * part // 32]) for part in (1, 2))
    mp4 = sound["a.mp4"]
    yield "mp4_without_frames", mp4.replace(b"mdat", b"free")[: mp4.index(b"mdat") + 4] + bytes(8)
    at = mp4.index(b"stsz") + 12
    yield "mp4_of_100_million_frames", mp4[: at - 4] + b"\0\0\0\1\x05\xf5\xe1\0" + mp4[at + 4 :]
    at = mp4.index(b"avc1") + 28
    yield "ok_mp4_lying_about_its_size", mp4[:at] + b"\xff\xff\xff\xff" + mp4[at + 4 :]
    yield "playlist", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield (
        "playlist_of_the_web",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    )
    yield "list_of_files", b"ffconcat version 1.0\nfile '/etc/passwd'\n"
    yield (
        "session",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    )
    yield (
        "manifest",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///etc/</BaseURL></MPD>',
    )
    yield (
        "sound_alone",
        b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\x08\0\0\0" + bytes(8),
    )
    yield "text", b"no video"
    yield "empty", b""


WRITERS = {
    "weights": _weights, "lora": _lora, "folders": _folders, "configs": _configs, "records": _records,
    "pictures": _pictures, "videos": _videos,
}  # fmt: skip


def main():
    for reader, files in WRITERS.items():
        folder = CORPUS / reader
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if not old.name.startswith("found_"):
                old.unlink()
        for name, contents in files():
            (folder / name).write_bytes(contents)
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    print(f"{len(sizes)} files, {sum(sizes):,} bytes")


if __name__ == "__main__":
    main()
