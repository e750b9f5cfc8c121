"Every kind of picture file, read beside the array that it was made from; folders of links and odd names."

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from conftest import MANY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from readers import CamVid, Paintings
from torchvision.io import ImageReadMode, decode_image

from ash_nb.cli import main
from ash_nb.core.config import AshError
from ash_nb.data.descriptions import describe
from ash_nb.data.labels import CITYSCAPES, translation_table
from ash_nb.data.pictures import SUFFIXES, as_rgb, decode, find_files, read_ids, read_picture
from ash_nb.data.prepare import prepare
from ash_nb.data.streetworld.appearances import street
from ash_nb.data.streetworld.paintings import painting
from ash_nb.look.figures import stylize_file

FILES = int(os.environ.get('ASH_FUZZ_FILES', 700 * MANY))


def generated(n):
    "Return settings for so many examples, always the same."
    return settings(
        max_examples=n, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


# --- ways to store a picture: each takes a random generator and a size,
#     and returns (file, RGB in 0..255 as float64, must it be read)


def over_white(rgb, alpha):
    return rgb * alpha + 255 * (1 - alpha)


def three(grey):
    return np.repeat(np.asarray(grey, np.float64)[..., None], 3, 2)


def saved(picture, kind, **more):
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(out, kind, **more)
    return out.getvalue()


def tiff(array, **more):
    out = io.BytesIO()
    tifffile.imwrite(out, array, **more)
    return out.getvalue()


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(w, h, depth, colour, samples, *more):
    "A PNG of samples (H, W*channels), packed here."
    if depth == 16:
        rows = [r.astype('>u2').tobytes() for r in samples]
    else:
        rows = [
            np.packbits((r[:, None] >> np.arange(depth)[::-1] & 1).astype(np.uint8).ravel()).tobytes() for r in samples
        ]
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, colour, 0, 0, 0))
    return (
        b'\x89PNG\r\n\x1a\n'
        + head
        + b''.join(chunk(*c) for c in more)
        + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r for r in rows)))
        + chunk(b'IEND', b'')
    )


def rgb8(r, w, h):
    return r.integers(0, 256, (h, w, 3), np.uint8)


def grey_of(dtype, top):
    def values(r, w, h):
        return r.integers(0, top + 1, (h, w)).astype(dtype)

    return values


def png_grey(depth, key=False):
    def make(r, w, h, exif):
        v, top = r.integers(0, 2**depth, (h, w)), 2**depth - 1
        more = [(b'tRNS', struct.pack('>H', v[0, 0]))] * key + ([(b'eXIf', exif)] if exif else [])
        grey = np.where((v == v[0, 0]) & key, 255, v * 255 / top)
        return png(w, h, depth, 0, v, *more), three(grey), depth >= 8 or not key

    return make


def png_colour(depth, alpha=False, key=False):
    def make(r, w, h, exif):
        v, top = r.integers(0, 2**depth, (h, w, 3 + alpha)), 2**depth - 1
        more = [(b'tRNS', struct.pack('>3H', *v[0, 0, :3]))] * key + ([(b'eXIf', exif)] if exif else [])
        rgb = v[..., :3] * 255 / top
        if alpha:
            rgb = over_white(rgb, v[..., 3:] / top)
        if key:
            rgb[(v == v[0, 0]).all(2)] = 255
        return png(w, h, depth, 6 if alpha else 2, v.reshape(h, -1), *more), rgb, depth == 8 or not key

    return make


def png_grey_alpha(depth):
    def make(r, w, h, exif):
        v, top = r.integers(0, 2**depth, (h, w, 2)), 2**depth - 1
        more = [(b'eXIf', exif)] if exif else []
        return (
            png(w, h, depth, 4, v.reshape(h, -1), *more),
            over_white(three(v[..., 0] * 255 / top), v[..., 1:] / top),
            True,
        )

    return make


def palette(kind, transparent):
    def make(r, w, h, exif):
        colours, v = r.integers(0, 256, (16, 3), np.uint8), r.integers(0, 16, (h, w)).astype(np.uint8)
        picture = Image.fromarray(v)
        picture.putpalette(colours.tobytes())
        rgb, more = colours[v].astype(float), {'exif': exif} if exif and kind == 'PNG' else {}
        if transparent == 'one':
            rgb[v == 3] = 255
            more['transparency'] = 3
        if transparent == 'all':
            share = r.integers(0, 256, 16, np.uint8)
            rgb, more['transparency'] = over_white(rgb, share[v][..., None] / 255), share.tobytes()
        return saved(picture, kind, **more), rgb, True

    return make


def by_pillow(kind, mode, **how):
    def make(r, w, h, exif):
        more = how | ({'exif': exif} if exif and kind in ('PNG', 'WEBP', 'TIFF') else {})
        if mode == 'RGB':
            a = rgb8(r, w, h)
            return saved(a, kind, **more), a.astype(float), True
        if mode == 'L':
            a = rgb8(r, w, h)[..., 0]
            return saved(a, kind, **more), three(a), True
        if mode == '1':
            a = rgb8(r, w, h)[..., 0] > 127
            return saved(a, kind, **more), three(a * 255), True
        if mode == 'LA':
            a = rgb8(r, w, h)[..., :2].copy()
            return saved(a, kind, **more), over_white(three(a[..., 0]), a[..., 1:] / 255), True
        if mode == 'RGBA':
            a = r.integers(0, 256, (h, w, 4), np.uint8)
            return saved(a, kind, **more), over_white(a[..., :3].astype(float), a[..., 3:] / 255), True
        a = r.integers(0, 256, (h, w, 4), np.uint8)  # CMYK
        rgb = (255 - a[..., :3].astype(float)) * (255 - a[..., 3:]) / 255
        return saved(Image.frombytes('CMYK', (w, h), a.tobytes()), kind, **more), rgb, True

    return make


def pillow_grey(mode, white_is_zero=False):
    def make(r, w, h, exif):
        more = {'tiffinfo': {262: 0}} if white_is_zero else {}
        if exif and not white_is_zero:
            more['exif'] = exif
        a = (
            r.random((h, w), np.float32)
            if mode == 'F'
            else r.integers(0, 65536, (h, w)).astype(np.uint16 if mode == 'I;16' else np.int32)
        )
        grey = a * 255.0 if mode == 'F' else a.astype(float) * 255 / 65535
        return saved(a, 'TIFF', **more), three(255 - grey if white_is_zero else grey), mode != 'I'

    return make


def lossy(kind, mode, **how):
    def make(r, w, h, exif):
        small = Image.fromarray(rgb8(r, 4, 4)).resize((w, h), Image.BICUBIC)
        data = saved(small.convert(mode), kind, **how, **({'exif': exif} if exif else {}))
        return (
            data,
            decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
            .permute(1, 2, 0)
            .double()
            .numpy(),
            True,
        )

    return make


def floats(outside):
    def make(r, w, h, exif):
        a = r.random((h, w), np.float32)
        a[0, 0] = outside
        return saved(a, 'TIFF'), three(a), False

    return make


def by_tifffile(dtype, channels, **how):
    def make(r, w, h, exif):
        kind = np.dtype(dtype)
        a = (
            r.random((h, w))
            if kind.kind == 'f'
            else r.integers(0, np.iinfo(kind).max, (h, w, channels), kind, endpoint=True)
        )
        top = 1 if kind.kind == 'f' else np.iinfo(kind).max
        a = a.astype(kind).reshape(h, w) if channels == 1 else a
        grey = a * 255.0 / top
        data = tiff(
            np.moveaxis(a, -1, 0) if how.get('planarconfig') == 'separate' else a,
            photometric=how.pop('photometric', 'minisblack') if channels == 1 else 'rgb',
            **how,
        )
        usual = kind.kind == 'u' and kind.itemsize < 3 and 'planarconfig' not in how or kind == np.float32
        return data, three(grey) if channels == 1 else grey, usual

    return make


def white_first(dtype):
    def make(r, w, h, exif):
        a = r.integers(0, np.iinfo(dtype).max, (h, w), dtype, endpoint=True)
        return tiff(a, photometric='miniswhite'), three(255 - a * 255.0 / np.iinfo(dtype).max), True

    return make


def pgm(top, colours=1):
    def make(r, w, h, exif):
        a = r.integers(0, top + 1, (h, w, colours))
        head = f'P{5 if colours == 1 else 6} {w} {h} {top}\n'.encode()
        grey = a * 255 / top
        return (
            head + a.astype('>u2' if top > 255 else np.uint8).tobytes(),
            three(grey[..., 0]) if colours == 1 else grey,
            True,
        )

    return make


def moving(kind):
    def make(r, w, h, exif):
        frames = [Image.fromarray(r.integers(0, 256, (h, w), np.uint8)) for _ in range(3)]
        more = dict(lossless=True) if kind == 'WEBP' else {}
        return (
            saved(frames[0], kind, save_all=True, append_images=frames[1:], **more),
            three(np.asarray(frames[0])),
            True,
        )

    return make


WAYS = {
    **{f'PNG grey, {d} bits': png_grey(d) for d in (1, 2, 4, 8, 16)},
    **{f'PNG grey, {d} bits, a transparent value': png_grey(d, True) for d in (1, 2, 4, 8, 16)},
    **{f'PNG colour, {d} bits': png_colour(d) for d in (8, 16)},
    **{f'PNG colour and alpha, {d} bits': png_colour(d, True) for d in (8, 16)},
    **{f'PNG colour, {d} bits, a transparent colour': png_colour(d, key=True) for d in (8, 16)},
    **{f'PNG grey and alpha, {d} bits': png_grey_alpha(d) for d in (8, 16)},
    **{
        f'{k} palette, transparent: {t}': palette(k, t)
        for k, t in (
            ('PNG', ''),
            ('PNG', 'one'),
            ('PNG', 'all'),
            ('GIF', ''),
            ('GIF', 'one'),
            ('TIFF', ''),
            ('BMP', ''),
        )
    },
    **{
        f'TIFF {m}, {c}': by_pillow('TIFF', m, compression=c)
        for m in ('1', 'L', 'LA', 'RGB', 'RGBA', 'CMYK')
        for c in (None, 'tiff_lzw', 'tiff_deflate', 'packbits')
    },
    **{f'BMP {m}': by_pillow('BMP', m) for m in ('1', 'L', 'RGB')},
    **{f'PPM {m}': by_pillow('PPM', m) for m in ('1', 'L', 'RGB')},
    **{f'WEBP {m}, lossless': by_pillow('WEBP', m, lossless=True, exact=True) for m in ('RGB', 'RGBA')},
    **{f'TIFF {m}': pillow_grey(m) for m in ('I;16', 'I', 'F')},
    'TIFF I;16, white is 0': pillow_grey('I;16', True),
    'TIFF F, white is 0': pillow_grey('F', True),
    **{
        f'JPEG {m} {h}': lossy('JPEG', m, **h)
        for m in ('L', 'RGB', 'CMYK')
        for h in ({}, dict(progressive=True), dict(quality=30))
    },
    'WEBP RGB, lossy': lossy('WEBP', 'RGB'),
    **{f'TIFF with {v}': floats(v) for v in (-0.01, 1.5, 255.0, np.nan, np.inf, 65535.0)},
    **{
        f'tifffile {d} x {n} {h}': by_tifffile(d, n, **h)
        for d in ('u1', 'u2', 'u4', 'i1', 'i2', 'i4', 'f2', 'f4', 'f8')
        for n in (1, 3)
        for h in ({}, dict(byteorder='>'), dict(planarconfig='separate'))
        if not (n == 3 and d[0] == 'f') and not (n == 1 and 'planarconfig' in h)
    },
    **{f'white is 0, {d}': white_first(d) for d in ('u1', 'u2')},
    **{f'PGM up to {t}': pgm(t) for t in (1, 15, 100, 255, 1023, 65535)},
    **{f'PPM up to {t}': pgm(t, 3) for t in (15, 255, 1023, 65535)},
    **{f'{k} of three frames': moving(k) for k in ('GIF', 'WEBP')},
}

TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


def exif(code):
    tags = Image.Exif()
    tags[0x112] = code
    return tags.tobytes()[6:]  # without "Exif\0\0", as PNG has it


def carries_tag(way):
    return way.startswith(('PNG', 'JPEG', 'WEBP')) and 'frames' not in way or way in ('TIFF I;16', 'TIFF F')


@given(
    st.sampled_from(list(WAYS)),
    st.integers(0, 2**32),
    st.integers(1, 24),
    st.integers(1, 24),
    st.sampled_from([None, None, *range(0, 10)]),
    st.booleans(),
)
@generated(FILES)
def test_pictures_are_what_they_were_made_from(way, seed, w, h, code, with_header):
    tag = b'' if code is None or not carries_tag(way) else exif(code)
    if tag and (way.startswith('JPEG') or with_header and way.startswith('WEBP')):
        tag = b'Exif\0\0' + tag
    data, truth, must = WAYS[way](np.random.default_rng(seed), w, h, tag)
    if tag:
        truth = TURNS.get(code, TURNS[1])(truth)
    try:
        found = as_rgb(decode('file', data=data), 'file')
    except AshError as e:
        assert not must and str(e).startswith('file ') and len(str(e)) < 300, f'{way}: {e}'
        return
    assert found.shape == truth.shape and found.dtype == np.uint8
    assert np.abs(found - truth).max() <= 1.0001, f'{way}: {np.abs(found - truth).max()}'


def test_what_has_a_clear_meaning_is_read():
    "No refuge in refusing: of all ways, these alone may be refused."
    for way, make in WAYS.items():
        data, _, must = make(np.random.default_rng(0), 5, 4, b'')
        try:
            as_rgb(decode('file', data=data), 'file')
        except AshError as e:
            assert not must, f'{way}: {e}'


@given(st.sampled_from([w for w in WAYS if carries_tag(w)]), st.binary(max_size=60), st.integers(0, 2**32))
@generated(FILES // 10)
def test_a_damaged_tag_leaves_the_picture_or_refuses_it(way, tag, seed):
    data, truth, _ = WAYS[way](
        np.random.default_rng(seed),
        6,
        4,
        b'Exif\0\0II*\0' + tag
        if way.startswith(('JPEG', 'WEBP'))
        else b'II*\0' + tag
        if way.startswith('PNG')
        else b'',
    )
    try:
        found = as_rgb(decode('file', data=data), 'file')
    except AshError:
        return
    assert found.shape == truth.shape and np.abs(found - truth).max() <= 1.0001


# --- label maps


@given(
    st.sampled_from(['PNG L', 'PNG P', 'PNG I;16', 'TIFF L', 'TIFF I;16', 'PNG RGB 16']),
    st.integers(0, 2**32),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 8),
)
@generated(FILES // 10)
def test_label_ids_are_what_was_stored(tmp_path_factory, way, seed, w, h, code):
    kind, mode, *_ = way.split()
    ids = (
        np.random.default_rng(seed)
        .integers(0, 256 if mode in 'LP' else 40, (h, w))
        .astype(np.uint8 if mode in 'LP' else np.uint16)
    )
    path = tmp_path_factory.getbasetemp() / 'label.png'
    if way.endswith('RGB 16'):
        data = png(w, h, 16, 2, np.stack([ids, ids * 3, ids * 0], 2).reshape(h, -1), (b'eXIf', exif(code)))
    else:
        picture = Image.fromarray(ids)
        if mode == 'P':
            picture.putpalette(np.random.default_rng(seed).integers(0, 256, 768, np.uint8).tobytes())
        data = saved(picture, kind, exif=exif(code))
    path.write_bytes(data)
    assert np.array_equal(read_ids(path), TURNS[code](ids))


@pytest.mark.parametrize(
    'way, data',
    [
        ('JPEG', saved(np.full((8, 8), 7, np.uint8), 'JPEG')),
        ('GIF', saved(np.full((8, 8), 7, np.uint8), 'GIF')),
        ('PPM', pgm(19)(np.random.default_rng(0), 5, 4, b'')[0]),
        ('4 bits', png(4, 2, 4, 0, np.full((2, 4), 7))),
        ('1 bit', png(8, 2, 1, 0, np.zeros((2, 8), int))),
        ('RGB', saved(np.zeros((4, 4, 3), np.uint8), 'PNG')),
        ('white is 0', tiff(np.full((4, 4), 7, np.uint8), photometric='miniswhite')),
    ],
)
def test_labels_whose_ids_may_have_changed_are_refused(tmp_path, way, data):
    (tmp_path / 'label.png').write_bytes(data)
    with pytest.raises(AshError, match='label.png'):
        read_ids(tmp_path / 'label.png')


# --- data sets


TO_CAMVID = translation_table(CITYSCAPES, describe('camvid').space).copy()
TO_CAMVID[255] = 11


def camvid(root, n=3, exif_code=None, names='{:02d}.png', label=None):
    for folder in ('val', 'valannot'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for k in range(n):
        image, ids = street(k, 96, 72)
        more = {} if exif_code is None else {'exif': exif(exif_code)}
        Image.fromarray(image).save(root / 'val' / names.format(k), 'PNG', **more)
        Image.fromarray(TO_CAMVID[ids] if label is None else label).save(root / 'valannot' / f'{k:02d}.png', 'PNG')
    return root


@pytest.mark.parametrize('code', [3, 6, 8])
def test_turned_photographs(tmp_path, code):
    "In stylize, as a data set's image, in the prepared copy; the sentence when the label is not turned."
    upright, turned = camvid(tmp_path / 'upright'), tmp_path / 'turned'
    back = {3: 3, 6: 8, 8: 6}[code]
    for folder in ('val', 'valannot'):
        (turned / folder).mkdir(parents=True)
    for p in (upright / 'val').iterdir():
        as_stored = TURNS[back](np.array(Image.open(p)))
        Image.fromarray(np.ascontiguousarray(as_stored)).save(turned / 'val' / p.name, exif=exif(code))
        (turned / 'valannot' / p.name).write_bytes((upright / 'valannot' / p.name).read_bytes())
    for a, b in zip(CamVid(upright), CamVid(turned)):
        assert torch.equal(a['image'], b['image']) and torch.equal(a['label'], b['label'])
    done = prepare('camvid', turned, tmp_path / 'copy', lossless=True, workers=1, progress=False)
    assert not done['problems'] and '3 images carry a rotation tag' in done['text']
    for a, b in zip(CamVid(upright), CamVid(tmp_path / 'copy')):
        assert torch.equal(a['image'], b['image'])
    Image.fromarray(painting(1)).save(tmp_path / 'p.png')
    pictures = [
        np.array(Image.open(stylize_file(root / 'val/00.png', tmp_path / 'p.png', tmp_path / 'out.png')))
        for root in (upright, turned)
    ]
    assert np.array_equal(*pictures)
    if code != 3:
        wrong = camvid(tmp_path / 'wrong', 1, code)
        with pytest.raises(AshError, match=f'it carries a rotation tag, EXIF orientation {code}'):
            CamVid(wrong)[0]


def test_deep_and_transparent_pictures_as_image_and_painting(tmp_path):
    plain = np.rint(np.linspace(0, 255, 80 * 64)).reshape(64, 80)  # of whole levels, which every kind of file can hold
    grey = (plain / 255).astype(np.float32)
    kinds = {'deep.png': np.uint16(plain * 257), 'float.tif': grey, 'plain.png': np.uint8(plain)}
    for name, a in kinds.items():
        Image.fromarray(a).save(tmp_path / name)
    outs = [
        np.array(Image.open(stylize_file(tmp_path / n, tmp_path / n, tmp_path / 'out.png', alpha=0.5))) for n in kinds
    ]
    assert all((o == outs[-1]).all() for o in outs) and outs[-1].std() > 20
    fine = np.linspace(0, 1, 80 * 64, dtype=np.float32).reshape(64, 80)  # read to the nearest level
    Image.fromarray((fine * 65535).astype(np.uint16)).save(tmp_path / 'deep.png')
    Image.fromarray(fine).save(tmp_path / 'float.tif')
    samples = {s['name']: s['image'].float() for s in Paintings(tmp_path)}
    assert all((samples[n] - samples['plain.png']).abs().max() <= 1 for n in kinds)
    Image.fromarray(grey * 65535).save(tmp_path / 'wide.tif')
    with pytest.raises(AshError, match='floating-point values from 0 to 6.55.*expected 0 to 1'):
        read_picture(tmp_path / 'wide.tif')
    Image.fromarray(np.full((20, 20, 4), (255, 0, 255, 0), np.uint8)).save(tmp_path / 'clear.png')
    assert (read_picture(tmp_path / 'clear.png') == 255).all()


names = st.lists(
    st.tuples(
        st.sampled_from(['a', 'B', 'ä', 'img 1', '.h', '._a', 'deep/x', 'deep/.git/y', '@eaDir/a', 'deep/er/z']),
        st.sampled_from([*SUFFIXES, *(s.upper() for s in SUFFIXES), '.Png', '.txt', '', '.db', '.csv']),
    ),
    max_size=12,
    unique=True,
)


@given(
    names,
    st.lists(
        st.tuples(
            st.sampled_from(['l1', 'deep/l2', 'other/l3']),
            st.sampled_from(['.', 'deep', 'other', 'nowhere', 'deep/er']),
        ),
        max_size=4,
        unique_by=lambda t: t[0],
    ),
)
@generated(FILES // 10)
def test_files_are_found_once_or_counted(tmp_path_factory, files, links):
    "Every file is found under one of its paths or counted among those left out; a circle of links ends."
    root = tmp_path_factory.mktemp('tree')
    for stem, ending in files + [('other/o', '.png'), ('deep/d', '.jpg')]:
        (root / f'{stem}{ending}').parent.mkdir(parents=True, exist_ok=True)
        (root / f'{stem}{ending}').touch()
    real = {p.resolve() for p in root.rglob('*') if p.is_file() and not p.is_symlink()}
    for link, to in links:
        if (root / link).parent.is_dir():
            (root / link).symlink_to(root / to)
    found, left_out = find_files(root)
    kept = [p.resolve() for p in found]

    def out_of_sight(p):
        return any(x.startswith('.') or x == '@eaDir' for x in p.relative_to(root.resolve()).parts)

    wanted = {p for p in real if p.suffix.lower() in SUFFIXES and not out_of_sight(p)}
    assert len(set(kept)) == len(kept) and set(kept) == wanted
    dangling = sum(p.is_symlink() and not p.exists() and not out_of_sight(p.parent) for p in root.rglob('*'))
    assert left_out.total() == len(real - wanted) + dangling


def test_odd_names_in_data_sets_count(tmp_path, capsys):
    root = camvid(tmp_path / 'camvid', 3, names='{:02d}.PNG')
    for name in ('val/._00.PNG', 'val/.DS_Store', 'val/notes.txt'):
        (root / name).write_bytes(b'x')
    data = CamVid(root)
    assert len(data) == 3 and all('label' in s for s in data)
    assert '3 files left out (2 hidden, 1 ending in .txt)' in capsys.readouterr().err
    (tmp_path / 'linked').symlink_to(root)
    assert len(CamVid(tmp_path / 'linked')) == 3


def test_a_folder_of_paintings_behind_a_link_in_every_format(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'set').mkdir()
    kinds = {
        'a.jpeg': 'JPEG',
        'b.JFIF': 'JPEG',
        'c.gif': 'GIF',
        'd.WEBP': 'WEBP',
        'e.tiff': 'TIFF',
        'f.png': 'PNG',
        'g.JPG': 'JPEG',
    }
    for n, kind in kinds.items():
        Image.fromarray(painting(2)).save(tmp_path / 'real' / n, kind)
    (tmp_path / 'real' / '._a.jpeg').write_bytes(b'resource fork')
    (tmp_path / 'set' / 'more').symlink_to(tmp_path / 'real')
    (tmp_path / 'real' / 'back').symlink_to(tmp_path / 'set')
    data = Paintings(tmp_path / 'set')
    assert len(data) == len(kinds) and all(s['image'].shape[0] == 3 for s in data)


def test_stylize_keeps_the_size(tmp_path, capsys):
    Image.fromarray(painting(1)).save(tmp_path / 'p.png')
    for w, h in ((1, 1), (15, 200), (1100, 70)):
        Image.fromarray(street(1, 80, 60)[0]).resize((w, h)).save(tmp_path / 's.png')
        assert (
            main(['stylize', str(tmp_path / 's.png'), str(tmp_path / 'p.png'), '--out', str(tmp_path / 'o.png')]) == 0
        )
        assert Image.open(tmp_path / 'o.png').size == (w, h)
    assert (
        main(
            [
                'stylize',
                str(tmp_path / 's.png'),
                str(tmp_path / 'p.png'),
                '--out',
                str(tmp_path / 'o.png'),
                '--limit',
                '550',
            ]
        )
        == 0
    )
    assert Image.open(tmp_path / 'o.png').size == (550, 35)
