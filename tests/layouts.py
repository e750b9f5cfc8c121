"""Data sets as their owners distribute them, written by hand from what is published: id maps and paths.

Nothing here is read from the pages in `ash_nb/assets/datasets`: tests hold the pages against it.
"""

import json
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

IGNORE = 255


def ids(text: str) -> list:
    "Write out '0-3 7' as [0, 1, 2, 3, 7]."
    pairs = [tuple(map(int, part.split('-'))) for part in text.replace(',', ' ').split()]
    return [i for pair in pairs for i in range(pair[0], pair[-1] + 1)]


def table(text: str, ignored: str = '') -> dict:  # id -> train id of Cityscapes, or 255
    "Read '7>0 8-9>1' and the ids that are ignored."
    out = dict.fromkeys(ids(ignored), IGNORE)
    for part in text.split():
        first, train_id = part.split('>')
        for i in ids(first):
            assert i not in out, f'{i} is listed twice'
            out[i] = int(train_id)
    return out


STREET = '7>0 8>1 11>2 12>3 13>4 17>5 19>6 20>7 21>8 22>9 23>10 24>11 25>12 26>13 27>14 28>15 31>16 32>17 33>18'
VOID = '0-6 9-10 14-16 18 29-30'
VISTAS = '17>2 6>3 3>4 48>6 30>8 29>9 27>10 19>11 20-22>12 55>13 61>14 54>15 58>16 57>17 52>18'
VISTAS_VOID = '0-1 4-5 12 16 18 25-26 28 31-40 42-43 51 53 56 59-60 62-65'
CARLA = '1>2 2>4 4>11 5>5 6>0 7>0 8>1 9>8 10>13 11>3 12>7 13>10 18>6 22>9'
CARLA_14 = (
    '1>0 2>1 3>2 4>3 5>4 6>5 7>6 8>7 9>8 10>9 11>10 12>11 13>12 14>13 15>14 16>15 17>16 18>17 19>18 24>0',
    '0 20-23 25-28',
)
TRAIN_IDS = {i: i for i in range(19)} | {255: IGNORE}
TABLES = {
    'gta5': table(STREET, VOID + ' 34'),
    'cityscapes': table(STREET, VOID),
    'kitti': table(STREET, VOID + ' 255'),
    'synscapes': table(STREET, VOID),
    'foggy_cityscapes': table(STREET, VOID),
    'foggy_driving': table(STREET, VOID),
    'synthia': table(
        '3>0 4>1 2>2 21>3 5>4 7>5 15>6 9>7 6>8 16>9 1>10 10>11 17>12 8>13 18>14 19>15 20>16 12>17 11>18', '0 13-14 22'
    ),
    'camvid': table('3>0 4>1 1>2 7>4 2>5 6>7 5>8 0>10 9>11 8>13 10>18', '11'),
    'mapillary': table('13>0 24>0 41>0 2>1 15>1 45>5 47>5 50>7 ' + VISTAS, VISTAS_VOID + ' 7-11 14 23 44 46 49'),
    'mapillary_openseg': table(
        '13>0 24>0 7>0 8>0 10>0 14>0 23>0 2>1 15>1 9>1 11>1 45>5 47>5 44>5 50>7 46>7 49>7 ' + VISTAS,
        VISTAS_VOID + ' 41',
    ),
    'mapillary_v2.0': table(
        '21>0 35-44>0 46-55>0 57>0 58>0 74>0 4>1 24>1 27>2 12>3 5>4 85>5 88>5 90-95>6 96>7 99>7 100>7 101>7 103>7 '
        '64>8 63>9 61>10 30>11 32-34>12 108>13 114>14 107>15 111>16 110>17 105>18',
        '0-3 6-11 13-20 22-23 25-26 28-29 31 45 56 59-60 62 65-73 75-84 86-87 89 97-98 102 104 106 109 112-113 115-123',
    ),
    **dict.fromkeys(('bdd100k', 'acdc', 'dark_zurich', 'nighttime_driving', 'foggy_zurich'), TRAIN_IDS),
    'urbansyn': {i: i for i in range(19)} | {19: IGNORE},
    'idd': table(
        '0>0 3>1 29>2 20>3 21>4 26>5 25>6 24>7 32>8 5>9 33>10 6>11 8>12 12>13 13>14 14>15 17>16 9>17 10>18',
        '1-2 4 7 11 15-16 18-19 22-23 27-28 30-31 34-39 255',
    ),
    'idd_level3': table(
        '0>0 2>1 22>2 14>3 15>4 20>5 19>6 18>7 24>8 25>10 4>11 5>12 9>13 10>14 11>15 6>17 7>18',
        '1 3 8 12 13 16 17 21 23 255',
    ),
    'wilddash2': table(
        STREET + ' 34>14 35>13 38>0 41>0 43>0 61>0 64>0 70>0 74>0 75>0 76>0 79>0 52>1 65>1 77>1 80>1 78>9 45>5 46>5 '
        '47>12 48>12 49>12 56>3 58>17',
        VOID + ' 36-37 39-40 42 44 50-51 53-55 57 59-60 62-63 66-69 71-73',
    ),
    'shift': table(CARLA, '0 3 14-17 19-21'),
    'carla': table(CARLA, '0 3 14-17 19-21'),
    'carla_0.9.14': table(*CARLA_14),
    'carlascapes': table(*CARLA_14),
    'carla_lyft': table('0>10 1>2 2>4 4>11 5>5 6>0 7>0 8>1 9>8 10>13 11>3 12>7', '3'),
    'kitti360': table(STREET + ' 34>2 35>4 37>5', VOID + ' 36 38-44 255'),
    'viper': table(
        '3>0 4>1 9>2 11>4 13>6 14>7 7>8 8>8 6>9 2>10 20>11 24>13 27>14 26>15 29>16 23>17 22>18',
        '0-1 5 10 12 15-19 21 25 28 30-31',
    ),
    'selma': table(
        '1>2 2>4 5>5 6>0 7>0 8>1 9>8 11>3 12>7 13>10 18>6 22>9 40>11 41>12 100>13 101>14 102>15 103>16 104>17 105>18',
        '0 3-4 14-17 19 21 255',
    ),
}
COLOURS = {  # of A2D2: train id -> its colours
    13: '255,0,0 200,0,0 150,0,0 128,0,0 255,255,0 255,255,200',
    18: '182,89,6 150,50,4 90,30,1 90,30,30',
    11: '204,153,255 189,73,155 239,89,191',
    14: '255,128,0 200,128,0 150,128,0 0,0,100',
    17: '0,255,0 0,200,0 0,150,0',
    6: '0,128,255 30,28,158 60,28,100 33,44,177',
    7: '0,255,255 30,220,220 60,157,199',
    4: '233,100,0 185,122,87',
    1: '128,128,0 180,150,200',
    0: '110,110,0 255,193,37 139,99,108 210,50,115 150,0,150 238,162,173 180,50,180 238,233,191 150,150,200 '
    '200,125,210 159,121,238 128,0,255 255,0,255',
    5: '255,246,143',
    8: '147,253,194',
    10: '135,206,255',
    2: '241,230,255',
    IGNORE: '64,0,64 255,0,128 204,255,153 255,70,185 72,209,204 96,69,143 53,46,82',
}
A2D2 = {tuple(map(int, c.split(','))): train_id for train_id, text in COLOURS.items() for c in text.split()}


class Layout(NamedTuple):
    "Say where one image and its label lie, and how the label is written."

    name: str  # of the data set
    split: str
    image: str  # path in the data set's folder
    label: str
    written: str = 'grey'  # grey, palette, red, equal (three equal channels), id16, colour, panoptic
    holds: str = ''  # train ids: not the data set's own
    lists: dict = {}  # list file -> its text


_foggy = 'frankfurt_000000_000294_leftImg8bit_foggy_beta_0.02.png'
_goose = 'GOPR0475/GOPR0475_frame_000041'
_a2d2 = '20180807_145028/{}/cam_front_center/20180807145028_{}_frontcenter_000000091.png'
_drive = '2013_05_28_drive_0000_sync/image_00'
# fmt: off
LAYOUTS = [
    Layout('camvid', 'val', 'val/0016E5_07959.png', 'valannot/0016E5_07959.png'),
    Layout('gta5', 'train', 'images/00003.png', 'labels/00003.png', 'palette'),
    Layout('synthia', 'train', 'RGB/0000000.png', 'GT/LABELS/0000000.png', 'id16'),
    Layout('cityscapes', 'val', 'leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png',
           'gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png'),
    Layout('cityscapes', 'train', 'leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png',
           'gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png', holds='train ids'),
    Layout('kitti', 'val', 'training/image_2/000000_10.png', 'training/semantic/000000_10.png'),
    Layout('mapillary', 'val', 'validation/images/__CRyFzoDOXn6unQ6a3DnQ.jpg',
           'validation/labels/__CRyFzoDOXn6unQ6a3DnQ.png', 'palette'),
    Layout('mapillary', 'train', 'training/images/_1Gn.jpg', 'training/v1.2/labels/_1Gn.png', 'palette'),
    Layout('mapillary_openseg', 'val', 'validation/images/_1Gn.jpg', 'validation/labels/_1Gn.png', 'palette'),
    Layout('mapillary_v2.0', 'val', 'validation/images/_1Gn.jpg', 'validation/v2.0/labels/_1Gn.png', 'palette'),
    Layout('bdd100k', 'val', 'images/10k/val/7d06fefd-f7be05a6.jpg', 'labels/sem_seg/masks/val/7d06fefd-f7be05a6.png'),
    Layout('bdd100k', 'train', 'seg/images/train/0004a4c0-d4dff0ad.jpg',
           'seg/labels/train/0004a4c0-d4dff0ad_train_id.png'),
    Layout('acdc', 'val', f'rgb_anon/fog/val/{_goose}_rgb_anon.png', f'gt/fog/val/{_goose}_gt_labelTrainIds.png'),
    Layout('dark_zurich', 'val', 'rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png',
           'gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png'),
    Layout('nighttime_driving', 'test', 'NighttimeDrivingTest/leftImg8bit/test/night/0_frame0063_leftImg8bit.png',
           'NighttimeDrivingTest/gtCoarse_daytime_trainvaltest/test/night/0_frame0063_gtCoarse_labelTrainIds.png'),
    Layout('idd', 'val', 'leftImg8bit/val/119/903127_leftImg8bit.png',
           'gtFine/val/119/903127_gtFine_labelcsTrainIds.png', holds='train ids'),
    Layout('idd', 'train', 'leftImg8bit/train/0/024541_leftImg8bit.png', 'gtFine/train/0/024541_gtFine_labelids.png'),
    Layout('idd_level3', 'val', 'leftImg8bit/val/119/903127_leftImg8bit.png',
           'gtFine/val/119/903127_gtFine_labellevel3Ids.png'),
    Layout('wilddash2', 'val', 'images/aa0000_100000.jpg', 'panoptic/aa0000_100000.png', 'panoptic'),
    Layout('wilddash2', 'val', 'images/aa0000_100000.jpg', 'labels/aa0000_100000_labelIds.png'),
    Layout('wilddash2', 'val', 'images/aa0000_100000.jpg', 'labels/aa0000_100000.png'),
    Layout('urbansyn', 'train', 'rgb/rgb_0001.png', 'ss/ss_0001.png', 'equal'),
    Layout('urbansyn', 'train', 'rgb/rgb_0002.png', 'ss/ss_0002.png'),
    Layout('synscapes', 'train', 'img/rgb/1.png', 'img/class/1.png'),
    Layout('shift', 'val', 'discrete/images/val/front/img/007b-4e72/00000100_img_front.jpg',
           'discrete/images/val/front/semseg/007b-4e72/00000100_semseg_front.png', 'red'),
    Layout('shift', 'train', 'discrete/images/train/front/007b-4e72/00000100_img_front.jpg',
           'discrete/images/train/front/007b-4e72/00000100_semseg_front.png', 'red'),
    Layout('carla', 'train', 'rgb/000100.png', 'seg/000100.png', 'red'),
    Layout('carla_0.9.14', 'train', 'rgb/000100.png', 'seg/000100.png', 'red'),
    Layout('carla_lyft', 'train', 'CameraRGB/bak_0.png', 'CameraSeg/bak_0.png', 'red'),
    Layout('carlascapes', 'train', 'Town10HD_000033_5026200_img.png', 'Town10HD_000033_5026200_labelIds.png'),
    Layout('foggy_cityscapes', 'val', f'leftImg8bit_foggyDBF/val/frankfurt/{_foggy}',
           'gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png'),
    Layout('foggy_cityscapes', 'train', f'leftImg8bit_foggy/train/frankfurt/{_foggy}',
           'gtFine/train/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png'),
    Layout('foggy_driving', 'test', 'leftImg8bit/test/public/p01_leftImg8bit.png',
           'gtFine/test/public/p01_gtFine_labelIds.png'),
    Layout('foggy_driving', 'test', 'leftImg8bit/test_extra/web/w01_leftImg8bit.png',
           'gtCoarse/test_extra/web/w01_gtCoarse_labelIds.png'),
    Layout('foggy_zurich', 'testv2', 'RGB/GOPR0122/1508039851.0_frame_000421.png',
           'gt_labelTrainIds/GOPR0122/1508039851.0_frame_000421.png',
           lists={'lists_file_names/RGB_testv2_filenames.txt': 'RGB/GOPR0122/1508039851.0_frame_000421.png\n'}),
    Layout('viper', 'val', 'val/img/001/001_00001.jpg', 'val/cls/001/001_00001.png', 'palette'),
    Layout('viper', 'train', 'train/img/001/001_00001.png', 'train/cls/001/001_00001.png', 'palette'),
    Layout('a2d2', 'train', 'camera_lidar_semantic/' + _a2d2.format('camera', 'camera'),
           'camera_lidar_semantic/' + _a2d2.format('label', 'label'), 'colour'),
    Layout('a2d2', 'train', _a2d2.format('camera', 'camera'), _a2d2.format('label', 'label'), 'colour'),
    Layout('kitti360', 'val', f'data_2d_raw/{_drive}/data_rect/0000004972.png',
           f'data_2d_semantics/train/{_drive}/semantic/0000004972.png',
           lists={'data_2d_semantics/train/2013_05_28_drive_val_frames.txt':
                  f'data_2d_raw/{_drive}/data_rect/0000004972.png '
                  f'data_2d_semantics/train/{_drive}/semantic/0000004972.png\n'}),
    Layout('selma', 'train', 'Town02_Opt_CloudyNoon/CAM_DESK/Town02_Opt_CloudyNoon_108.jpg',
           'Town02_Opt_CloudyNoon/SEGCAM_DESK/Town02_Opt_CloudyNoon_108.png'),
]
# fmt: on


def meaning(layout: Layout) -> dict:  # id or colour -> train id of Cityscapes
    "Say what every value means that a label may hold."
    if layout.written == 'colour':
        return A2D2
    return TRAIN_IDS if layout.holds else TABLES[layout.name]


def rows(layout: Layout, width: int = 8) -> tuple:  # what the label holds, (N, width) or (N, width, 3); train ids
    "Give a label map with a row for each value that there may be: the sky above, the road below."
    means = meaning(layout)
    order = sorted(means, key=lambda v: ({10: 0, 0: 2}.get(means[v], 1), v))
    own = np.repeat(np.array(order)[:, None], width, 1)
    return own, np.repeat(np.array([means[v] for v in order], np.uint8)[:, None], width, 1)


def png16(path: Path, ids: np.ndarray):
    "Write a 16-bit RGB PNG byte by byte: the class in red, an instance in green."

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    h, w = ids.shape
    pixels = np.stack([ids, ids * 7 % 300, ids * 0], -1).astype('>u2')
    data = b''.join(b'\0' + row.tobytes() for row in pixels)
    head = struct.pack('>IIBBBBB', w, h, 16, 2, 0, 0, 0)
    body = chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(data)) + chunk(b'IEND', b'')
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + body)


def png_segments(path: Path, ids: np.ndarray):
    "Write segments, red + 256 green + 65,536 blue, and which id each is into a JSON file beside their folder."
    used = np.unique(ids)
    number = {int(i): 70000 * (k + 1) + int(i) for k, i in enumerate(used)}
    segments = np.vectorize(number.get)(ids)
    pixels = np.stack([segments % 256, segments // 256 % 256, segments // 65536], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    said = [dict(id=n, category_id=i, area=8, iscrowd=0) for i, n in number.items()]
    one = dict(image_id=path.stem, file_name=path.name, segments_info=said)
    path.parent.with_suffix('.json').write_text(json.dumps(dict(images=[], annotations=[one], categories=[])))


def write_label(path: Path, own: np.ndarray, written: str):
    "Write a label map as a data set does."
    path.parent.mkdir(parents=True, exist_ok=True)
    if written == 'id16':
        return png16(path, own)
    if written == 'panoptic':
        return png_segments(path, own)
    if written == 'red':
        own = np.stack([own, own * 0 + 3, own * 0 + 200], -1)  # what the other channels hold is no class
    if written == 'equal':
        own = np.stack([own] * 3, -1)
    picture = Image.fromarray(own.astype(np.uint8))
    if written == 'palette':
        picture = Image.fromarray(own.astype(np.uint8), 'P')
        picture.putpalette([v for i in range(256) for v in (i, 255 - i, i * 7 % 256)])
    picture.save(path)


def write_layout(layout: Layout, root: Path) -> np.ndarray:  # (H, W) train ids of Cityscapes, what must be read
    "Write one pair of a data set as it is distributed."
    own, wanted = rows(layout)
    write_label(root / layout.label, own, layout.written)
    picture = np.random.default_rng(len(layout.image)).integers(0, 256, (*wanted.shape, 3), np.uint8)
    (root / layout.image).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(root / layout.image)
    for name, text in layout.lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return wanted


# --- copies that are known to be bad


def street_labels(n: int = 6) -> list:  # of (image, train ids)
    "Draw streets, with a sky above and a road below."
    from ash_nb.data.streetworld.appearances import street

    return [street(k, 96, 72) for k in range(n)]


def write_pair(root: Path, image: str, label: str, pixels: np.ndarray, own: np.ndarray, written: str = 'grey'):
    "Write an image and a label; an empty path leaves one out."
    if image:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / image)
    if label:
        write_label(root / label, own, written)


def faulty_bdd100k(root: Path):
    "the first release of 2021, a picture without its label, and a label without its picture."
    (a, label), (b, other) = street_labels(2)
    masks = 'labels/sem_seg/masks/train/'
    write_pair(root, 'images/10k/train/0004a4c0-d4dff0ad.jpg', masks + '0004a4c0-d4dff0ad.png', a, label)
    write_pair(root, 'images/10k/train/3d581db5-2564fb7e.jpg', '', b, other)
    write_pair(root, '', masks + 'fee92217-63b3f87f.png', b, other)


def faulty_gta5(root: Path):
    "one of the 60 files whose label has another size."
    to_id = np.array([next(i for i, t in TABLES['gta5'].items() if t == k) for k in range(19)])
    for name, cut in (('00003', 72), ('20801', 60)):
        pixels, label = street_labels(1)[0]
        write_pair(root, f'images/{name}.png', f'labels/{name}.png', pixels, to_id[label][:cut], 'palette')


def faulty_carla(root: Path, of: str = 'carla_0.9.14'):
    "files of the other age of CARLA, in which every class has another number."
    stand_in = {12: 11, 14: 13, 15: 13, 16: 13, 17: 13, 18: 13} if of == 'carla' else {}
    back = {k: next(i for i, t in TABLES[of].items() if t == stand_in.get(k, k)) for k in range(19)}
    for k, (pixels, label) in enumerate(street_labels()):
        own = np.vectorize(back.get)(label)
        write_pair(root, f'rgb/{k:06d}.png', f'seg/{k:06d}.png', pixels, own, 'red')


def faulty_carla_14(root: Path):
    "files of the other age of CARLA, in which every class has another number."
    faulty_carla(root, 'carla')


FAULTY = {  # data set -> what writes a bad copy of it
    'bdd100k': faulty_bdd100k,
    'gta5': faulty_gta5,
    'carla': faulty_carla,
    'carla_0.9.14': faulty_carla_14,
}
