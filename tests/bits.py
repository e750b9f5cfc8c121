"""Hash the weights of a short run of every method: two tables that are equal say that no number has moved.

python tests/bits.py --json before.json      # and later, on the same machine and versions:
python tests/bits.py --against before.json   # prints what differs; exit code 1 if anything does
"""

import argparse
import json
import os
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

os.environ.setdefault('TQDM_DISABLE', '1')

TINY = dict(scenes=8, width=96, height=80, test_width=96, test_height=80, batch_size=2, steps=4, views=2, jitter=0.5)
TINY |= dict(
    log_every=1, checkpoint_every=4, classwise_every=2, precision='float32', discriminator_layers=2, warmup=0.25
)
VARIANTS = {
    'ash:condition=labels': {},
    'ash:noise=orthogonal:alpha_min=0.2:style_target=modulated:style_statistics=mean': {},
    'ash_segmentation_loss:discriminator_size=full:focal=2:class_balance=0.999': {},
    'clan:second_view=stylized': {},
    'advent:second_view=stylized': {},
    'ash:train_ash=false:clamp_images=false': {},
    'source_only:body=plain:pretrained=false': {},
    'ash_segmentation_loss:body=plain:pretrained=false:optimizer=adamw': {},
    'spatial_ash:precision=bf16': {},
}


def digest(run) -> str:
    "Hash every network of the last checkpoint, and every column of the log."
    files = sorted(run.checkpoints[-1].glob('*.safetensors'))
    logs = [run.path / name for name in ('metrics.csv', 'classwise.csv') if (run.path / name).exists()]
    return sha256(b''.join(p.name.encode() + p.read_bytes() for p in files + logs)).hexdigest()[:16]


def table(words) -> dict:  # method's word -> hash
    "Train every method for four steps and hash what it learned."
    import torch

    import ash_nb

    torch.set_num_threads(1)
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for k, word in enumerate(words):
            config = ash_nb.preset('streetworld', method=word, seed=3, **TINY)
            if ash_nb.METHODS[config.method].access != 'none' and config.second_view == 'method':
                config = ash_nb.preset('streetworld', method=word, seed=3, target='streetworld-night', **TINY)
            out[word] = digest(ash_nb.train(config, Path(folder) / str(k), 'cpu', 0, progress=False))
            print(f'{out[word]}  {word}', flush=True)
    return out


def main() -> int:
    "Write the table, or compare it with an older one."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', help='write the table to this file')
    parser.add_argument('--against', help='a table to compare with')
    args = parser.parse_args()
    import ash_nb

    found = table([*ash_nb.METHODS, *VARIANTS])
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + '\n')
    if not args.against:
        return 0
    before = json.loads(Path(args.against).read_text())
    other = [w for w in before if before[w] != found.get(w)]
    print(f'{len(before) - len(other)} of {len(before)} the same' + ''.join(f'\nDIFFERENT: {w}' for w in other))
    return int(bool(other))


if __name__ == '__main__':
    sys.exit(main())
