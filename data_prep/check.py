"Read every image and label of a data set once: list each problem by file, then how often each class occurs."
import argparse, sys
import numpy as np
from tqdm.auto import tqdm
from ash_nb.config import AshError
from ash_nb.datasets import READERS, open_dataset
from ash_nb.labels import CLASSES, IGNORE

def check(data) -> tuple: # problems, (256,) pixel counts
    "Read every sample; return what is wrong and how many pixels each train id has."
    problems, counts = [], np.zeros(256, np.int64)
    for k in tqdm(range(len(data))):
        try: sample = data[k]
        except AshError as e: problems.append(str(e)); continue
        if 'label' in sample: counts += np.bincount(np.asarray(sample['label']).ravel(), minlength=256)
    return problems, counts

def main(words=None) -> int: # exit code
    "Check one data set."
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('name', choices=sorted(READERS))
    p.add_argument('--root', help='its folder (default: as settings.ini says)')
    p.add_argument('--split', default='val', help='default %(default)s')
    args = p.parse_args(words)
    try: data = open_dataset(args.name, args.root, args.split)
    except AshError as e: print(e, file=sys.stderr); return 2
    problems, counts = check(data)
    for text in problems: print(text)
    for k in np.argsort(-counts[:19]):
        if counts[k]: print(f'{CLASSES[k]:14}{100*counts[k]/counts.sum():6.2f} %')
    print(f'{len(data)} samples, {len(problems)} problems, {100*counts[IGNORE]/max(1, counts.sum()):.1f} % of pixels ignored')
    return int(bool(problems))

if __name__ == '__main__': sys.exit(main())
