"""Draw docs/hero.jpg, the strip at the top of the README: what the segmenter learns from, and what it then sees.

    python docs/hero.py

The upper row: a varied street of StreetWorld's training split, a procedural painting, and the street restyled by ASH.
Which street and painting are shown was chosen for looks. The restyled street and the lower row are stored, in
nbs/results/tour_hero.jpg, tour.csv and tour.npz. Two runs of preset `quick` with seed 0 made them:

    ash-nb compare --preset quick --seeds 1 --device cpu,cpu --target unseen --out runs/tour \\
        --methods source_only:source=streetworld:jitter=0,ash_segmentation_loss

and `nbdev-test --flags slow` on the notebook of the tour scored them and kept their predictions. The street of the
lower row is chosen by rule: of the five unseen appearances the one of middling mean gain of ASH on varied streets over
plain streets, and of its 24 scenes the one of middling gain.
"""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from ash_nb.data.datasets import open_dataset
from ash_nb.look.plots import as_picture
from ash_nb.runs.scoring import UNSEEN_TARGETS, open_target

root = Path(__file__).parent.parent
STREET, PAINTING = 22, 8  # of the training split, as in the notebook of the tour
WIDTH, MARGIN, GAP, HEADING, CAPTION = 1600, 20, 16, 66, 50  # pixels
INK, FAINT = '#1d2327', '#56616a'
LIMIT = 250_000  # bytes


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    "Load the sans font that matplotlib ships."
    name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / 'fonts/ttf' / name, size)


def learned_from() -> list:  # (picture, caption)
    "Draw a street, a painting, the restyled street and its label."
    size = dict(width=480, height=360)
    street = open_dataset('streetworld-varied', n=STREET + 1, **size)[STREET]
    painting = open_dataset('procedural-paintings', n=PAINTING + 1, **size)[PAINTING]['image']
    restyled = np.asarray(Image.open(root / 'nbs/results/tour_hero.jpg'))
    return [
        (street['image'], 'a drawn street'),
        (painting, 'a painting'),
        (restyled, 'the street, restyled by ASH'),
        (np.asarray(street['label']), 'its label: exact, unchanged'),
    ]


def middling(gains: pd.Series):  # an index of `gains`
    "Return the place of the gain that is in the middle."
    return gains.sort_values(kind='stable').index[len(gains) // 2]


def seen() -> list:  # (picture, caption)
    "Read what two runs see in the unseen street of middling gain."
    images, stored = pd.read_csv(root / 'nbs/results/tour.csv'), np.load(root / 'nbs/results/tour.npz')
    gain = images.ASH - images.plain
    target = middling(gain.groupby(images.target).mean())
    row = images.loc[middling(gain[images.target == target])]
    place, methods = UNSEEN_TARGETS.index(target), list(images.columns[2:])
    sample = open_target(target)[int(row.image)]
    maps = {m: stored['maps'][methods.index(m), place] for m in ('plain', 'ASH')}
    return [
        (sample['image'], f'an unseen street: {target.removeprefix("streetworld-")}'),
        (maps['plain'], f'plain streets only: mIoU {100 * row.plain:.0f} %'),
        (maps['ASH'], f'varied, restyled: mIoU {100 * row.ASH:.0f} %'),
        (np.asarray(sample['label']), 'truth'),
    ]


def strip(rows: list) -> Image.Image:  # rows: (heading, remark, [(picture, caption), ...])
    "Draw rows of captioned pictures, each under its heading."
    columns = len(rows[0][-1])
    width = (WIDTH - 2 * MARGIN - GAP * (columns - 1)) // columns
    height = round(0.75 * width)
    page = Image.new('RGB', (WIDTH, len(rows) * (HEADING + height + CAPTION) + MARGIN // 2), 'white')
    pen = ImageDraw.Draw(page)
    for i, (heading, remark, pictures) in enumerate(rows):
        top = i * (HEADING + height + CAPTION)
        pen.text((MARGIN, top + 48), heading, INK, font(27, bold=True), anchor='ls')
        pen.text((WIDTH - MARGIN, top + 48), remark, FAINT, font(21), anchor='rs')
        for j, (picture, caption) in enumerate(pictures):
            left = MARGIN + j * (width + GAP)
            tile = Image.fromarray(as_picture(picture)).resize((width, height), Image.Resampling.LANCZOS)
            page.paste(tile, (left, top + HEADING))
            pen.text((left, top + HEADING + height + 32), caption, INK, font(23), anchor='ls')
    return page


def main():
    "Write docs/hero.jpg at the best quality that keeps it under the limit."
    upper = ('What it learns from', 'nothing here was labelled by hand', learned_from())
    lower = ('What it sees in a street of a kind it has never met', 'a middling scene, chosen by rule', seen())
    page = strip([upper, lower])
    for quality in range(92, 40, -4):
        page.save(out := io.BytesIO(), 'JPEG', quality=quality, optimize=True)
        if len(out.getvalue()) <= LIMIT:
            break
    (root / 'docs/hero.jpg').write_bytes(out.getvalue())
    print(f'docs/hero.jpg: {page.width} x {page.height}, quality {quality}, {len(out.getvalue()) / 1000:.0f} kB')


if __name__ == '__main__':
    main()
