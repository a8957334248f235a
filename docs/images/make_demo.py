"""Makes `demo.webp`, the moving picture of the README, out of the two videos of `python run.py demo`.

    python docs/images/make_demo.py PICTURE_VIDEO SENTENCE_VIDEO

Both clips whole, frame by frame, at one speed: the picture's at half of its own, the sentence's at twice.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from exvideo_core.video import read_video  # noqa: E402  after the path

FPS = 16
SIDE, GAP, FOOT = 232, 12, 34  # pixels: of a tile, between tiles, below them
SENTENCE = "a red circle swings on white"
INK, PAPER = (60, 60, 60), (250, 250, 250)


def main(picture_video: str, sentence_video: str) -> None:
    """Write the file."""
    given = Image.open(ROOT / "samples" / "astronaut.png").convert("RGB")
    first, second = list(read_video(picture_video)), list(read_video(sentence_video))
    frames = [_frame(given, first, second, i) for i in range(len(first))]
    frames[0].save(
        ROOT / "docs" / "images" / "demo.webp",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / FPS),
        loop=0,
        quality=72,
        method=6,
    )


def _frame(given: Image.Image, first: list, second: list, i: int) -> Image.Image:  # type: ignore[type-arg]
    sheet = Image.new("RGB", (4 * SIDE + 5 * GAP, SIDE + GAP + FOOT), PAPER)
    tiles = (given, Image.fromarray(first[i]), _words(), Image.fromarray(second[i]))
    feet = ("one picture", f"frame {i + 1} of {len(first)}", "one sentence", f"frame {i + 1} of {len(second)}")
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype("DejaVuSans.ttf", 14)
    for place, (tile, foot) in enumerate(zip(tiles, feet, strict=True)):
        left = GAP + place * (SIDE + GAP)
        sheet.paste(tile.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, GAP))
        draw.text((left + SIDE / 2, GAP + SIDE + FOOT / 2), foot, INK, font, anchor="mm")
    return sheet


def _words() -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE), (236, 236, 236))
    text = SENTENCE.replace(" swings", "\nswings")
    ImageDraw.Draw(tile).multiline_text(
        (SIDE / 2, SIDE / 2),
        text,
        INK,
        ImageFont.truetype("DejaVuSans.ttf", 20),
        anchor="mm",
        align="center",
        spacing=8,
    )
    return tile


if __name__ == "__main__":
    main(*sys.argv[1:])
