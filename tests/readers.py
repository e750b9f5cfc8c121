"Data sets of before under their names, read in the nineteen classes."

from ash_nb.data import datasets, reading
from ash_nb.data.descriptions import describe, shipped_names
from ash_nb.data.labels import CITYSCAPES, IGNORE, translation

CLASSES, PALETTE = CITYSCAPES.classes, CITYSCAPES.colours


def reader(name):
    "Return a function that opens a data set in the nineteen classes."

    def open_it(root, split=None, **kw):
        return datasets.open_dataset(name, root, split, space=CITYSCAPES, **kw)

    return open_it


CamVid, Gta5, Synthia, Kitti = (reader(n) for n in ('camvid', 'gta5', 'synthia', 'kitti'))
Cityscapes, Mapillary, Paintings = (reader(n) for n in ('cityscapes', 'mapillary', 'paintings'))


def id_map(name):
    "Return what each id of a page is among the nineteen: id -> train id, or 255."
    about = describe(name)
    stored = translation(about.space, CITYSCAPES)
    return {i: IGNORE if place == IGNORE else stored[place] for i, place in about.numbers.items()}


OLD = ('camvid', 'cityscapes', 'gta5', 'synthia', 'kitti', 'mapillary', 'mapillary_v2.0')
ID_MAPS = {n: id_map(n) for n in OLD}
LABELLED = [n for n in shipped_names() if describe(n).labels]


def to_train_ids(raw, name, path='label map'):
    "Translate the ids of a data set into the nineteen."
    return reading.to_train_ids(raw, describe(name), CITYSCAPES, path)
