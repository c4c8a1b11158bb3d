import csv
import io
import logging
import os
import struct
import tracemalloc
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.pixels import get_decoder, get_encoder
from pydicom.pixels.utils import pack_bits
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.dicom.codecs import (
    DEFLATED_FRAMES,
    NATIVE,
    UNDEFINED,
    DecodeError,
    Stored,
    describe,
    locate,
    pixel_options,
    significant,
    stored_frames,
)
from pipeline.dicom.decoders import PREFERRED, REFUSED, decode_with, decoders
from pipeline.dicom.fragments import encoded_frames
from tests.unit.dicom_files import make, to_bytes

ZOO = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom-zoo"
LOSSLESS = (RLELossless, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, JPEGLosslessSV1)


def picture(kind, shape=(48, 40), bits=None, seed=0):
    """Smooth, so that codecs have something to do, with noise and both ends of the range."""
    rng, dtype = np.random.default_rng(seed), np.dtype(kind)
    bits = bits or dtype.itemsize * 8
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype.kind == "i" else (0, 2**bits - 1)
    waves = np.add.outer(*(np.sin(np.linspace(0, 5, n)) for n in shape[:2]))
    values = low + (waves + 2) / 4 * (high - low) * 0.9 + rng.uniform(0, 0.05, shape[:2]) * (high - low)
    if len(shape) == 3:
        values = np.stack([values, values[::-1], values[:, ::-1]], -1)
    out = np.clip(np.round(values), low, high).astype(dtype)
    out.flat[:2] = low, high
    return out


def native(values, syntax=ExplicitVRLittleEndian, bits=None, frames=1, **changes):
    """Description and bytes of uncompressed frames [H, W] or [H, W, 3], or [F, ...] with their number."""
    shape = values.shape[1:] if frames > 1 else values.shape
    width = values.dtype.itemsize * 8
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    stored = Stored(
        str(syntax),
        shape[0],
        shape[1],
        3 if len(shape) == 3 else 1,
        frames,
        "RGB" if len(shape) == 3 else "MONOCHROME2",
        width,
        bits or width,
        values.dtype.kind == "i",
        0,
        {"f4": "FloatPixelData", "f8": "DoubleFloatPixelData"}.get(values.dtype.str[1:], "PixelData"),
        0,
        len(data),
    )
    return replace(stored, **changes), data


def item(value=b""):
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(value)) + value


DELIMITER = b"\xfe\xff\xdd\xe0" + bytes(4)


def packed(*codes, table=b"", end=DELIMITER):
    """Encapsulated pixel data: a fragment a code."""
    return item(table) + b"".join(item(code + bytes(len(code) % 2)) for code in codes) + end


def encode(syntax, values, stored):
    if syntax in (JPEGLosslessSV1, JPEGLossless):
        unsigned = values.view(f"u{values.itemsize}") & (2**stored.bits - 1)
        return bytes(imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=1, bitspersample=stored.bits))
    if syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(values, reversible=True))
    encoder = get_encoder(syntax)
    plugin = "pylibjpeg" if "pylibjpeg" in encoder.available_plugins else ""
    options = pixel_options(stored)
    if stored.samples == 3 and syntax == JPEG2000Lossless:
        options["photometric_interpretation"] = "YBR_RCT"
    return encoder.encode(values, encoding_plugin=plugin, **options)


def runs(*segments):
    """A run length encoded frame of these byte planes, without any repetition in it."""
    bodies = [
        b"".join(bytes([len(s[at : at + 128]) - 1]) + s[at : at + 128] for at in range(0, len(s), 128))
        for s in segments
    ]
    starts = np.cumsum([64, *map(len, bodies)])[:-1]
    return struct.pack("<16I", len(bodies), *starts, *[0] * (15 - len(bodies))) + b"".join(bodies)


def compressed(syntax, *frames, bits=None, **changes):
    """Description, bytes and codestreams of frames in a compressed syntax."""
    stored, _ = native(frames[0], syntax, bits)
    stored = replace(stored, frames=len(frames), length=UNDEFINED)
    codes = [encode(syntax, frame, stored) for frame in frames]
    return replace(stored, **changes), packed(*codes), codes


def only(stored, data):
    (frame,) = stored_frames(stored, data)
    return frame


def refused(stored, data, match):
    """Nothing is yielded before the refusal."""
    frames = stored_frames(stored, data)
    with pytest.raises(DecodeError, match=match):
        next(frames)


def opened(ds):
    """As the reader does: the header alone, then the pixels' place, then their description."""
    data = to_bytes(ds) if isinstance(ds, Dataset) else ds
    stream = io.BytesIO(data)
    header = dcmread(stream, stop_before_pixels=True)
    return describe(header, *locate(stream)), data


class TestLocate:
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
    @pytest.mark.parametrize(("dtype", "vr"), [("u1", "OB"), ("u1", "OW"), ("u2", "OW")])
    def test_uncompressed(self, syntax, dtype, vr):
        values = picture(dtype, (6, 5))
        ds = make(values, values.itemsize * 8)
        ds.file_meta.TransferSyntaxUID = syntax
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        ds.PixelData = values.astype(values.dtype.newbyteorder(order)).tobytes()
        ds["PixelData"].VR = vr
        data = to_bytes(ds)
        stream = io.BytesIO(data)
        dcmread(stream, stop_before_pixels=True)
        offset, length = locate(stream)
        assert data[offset : offset + length] == ds.PixelData
        assert offset + length == len(data)
        assert stream.tell() == offset

    def test_encapsulated(self):
        ds = make(picture("u2"))
        ds.compress(RLELossless)
        data = to_bytes(ds)
        stream = io.BytesIO(data)
        dcmread(stream, stop_before_pixels=True, specific_tags=["Rows"])
        offset, length = locate(stream)
        assert length == UNDEFINED
        assert data[offset:] == ds.PixelData + DELIMITER

    def test_floats(self):
        ds = make(np.zeros((4, 4), "u2"), PixelData=None, BitsStored=None, PixelRepresentation=None, BitsAllocated=32)
        ds.FloatPixelData = np.arange(16, dtype="f4").tobytes()
        stored, data = opened(ds)
        assert (stored.keyword, stored.bits) == ("FloatPixelData", 32)
        np.testing.assert_array_equal(only(stored, data).ravel(), np.arange(16))

    def test_an_implicit_length_that_looks_like_a_vr(self):
        stream = io.BytesIO(b"\xe0\x7f\x10\x00" + struct.pack("<I", 0x0001424F) + bytes(20))  # "OB", then 1
        assert locate(stream) == (8, 0x0001424F)

    @pytest.mark.parametrize("data", [b"", b"\xe0\x7f\x10\x00OW\0\0\1", b"\x28\0\x10\0US\x02\0\1\0\0\0"])
    def test_elsewhere(self, data):
        with pytest.raises(DecodeError):
            locate(io.BytesIO(data))


class TestDescribe:
    def test_all_of_it(self):
        ds = make(picture("i2", (7, 9)), 12, PhotometricInterpretation=" MONOCHROME2")
        assert describe(ds, 300, 126) == Stored(
            ExplicitVRLittleEndian, 7, 9, 1, 1, "MONOCHROME2", 16, 12, True, 0, "PixelData", 300, 126
        )

    @pytest.mark.parametrize(
        ("attribute", "value", "match"),
        [
            ("Rows", None, "size missing"),
            ("Columns", 0, "size missing"),
            ("NumberOfFrames", -1, "not positive"),
            ("NumberOfFrames", 5000, "beyond the limits"),
            ("SamplesPerPixel", 4, "expected 1 or 3 samples"),
            ("BitsAllocated", None, "0 bits allocated"),
            ("BitsAllocated", 12, "12 bits allocated"),
            ("BitsStored", None, "0 bits stored"),
            ("BitsStored", 17, "17 bits stored in 16"),
            ("BitsStored", 0, "0 bits stored"),
            ("PixelRepresentation", None, "Pixel Representation"),
            ("PixelRepresentation", 2, "Pixel Representation"),
        ],
    )
    def test_refuses(self, attribute, value, match):
        with pytest.raises(DecodeError, match=match):
            describe(make(picture("u2"), **{attribute: value}), 0, 0)

    def test_refuses_colour_without_planar_configuration_unless_compressed(self):
        ds = make(picture("u1", (8, 8, 3)), 8, PlanarConfiguration=None)
        with pytest.raises(DecodeError, match="Planar"):
            describe(ds, 0, 192)
        ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        assert describe(ds, 0, 192).planar == 0

    def test_planes_within_deflated_frames(self):
        ds = make(picture("u1", (8, 8, 3)), 8, PlanarConfiguration=1)
        ds.file_meta.TransferSyntaxUID = DEFLATED_FRAMES
        assert describe(ds, 0, UNDEFINED).planar == 1

    def test_the_extended_offset_table(self):
        frames = np.stack([picture("u2", seed=seed) for seed in range(2)])
        ds = make(frames)
        ds.compress(JPEGLSLossless, encapsulate_ext=True)
        stored, data = opened(ds)
        assert stored.extended == (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
        np.testing.assert_array_equal(list(stored_frames(stored, data)), frames)

    def test_refuses_a_file_without_transfer_syntax(self):
        ds = make(picture("u2"))
        ds.file_meta = FileMetaDataset()
        with pytest.raises(DecodeError, match="transfer syntax"):
            describe(ds, 0, 0)

    @pytest.mark.parametrize("value", [b"Meier^Hans ", b"1\\2 "])
    def test_a_malformed_value_is_not_quoted(self, value):
        data = to_bytes(make(picture("u2"), NumberOfFrames=1)).replace(
            b"\x28\x00\x08\x00IS\x02\x001 ", b"\x28\x00\x08\x00IS" + struct.pack("<H", len(value)) + value
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(DecodeError, match=r"malformed|not positive") as error:
                opened(data)
        assert "Meier" not in str(error.value)

    def test_integers_of_32_bits_without_bits_stored_are_not_taken_for_floats(self):
        with pytest.raises(DecodeError, match="0 bits stored"):
            describe(make(picture("u4"), BitsStored=None), 0, 0)

    def test_floats_that_claim_bits_stored_are_not_read_as_integers(self):
        ds = make(np.zeros((4, 4), "u4"), 32, PixelData=None)
        ds.FloatPixelData = np.full(16, 1.5, "f4").tobytes()
        refused(*opened(ds), match="expected PixelData, found FloatPixelData")


class TestNative:
    @pytest.mark.parametrize("syntax", NATIVE)
    @pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f4", "f8"])
    def test_every_type_in_every_byte_order(self, syntax, dtype):
        values = np.stack([picture(dtype, (5, 7), bits=8, seed=seed) for seed in range(3)])
        stored, data = native(values, syntax, frames=3)
        frames = list(stored_frames(stored, data))
        np.testing.assert_array_equal(frames, values)
        assert {frame.dtype.newbyteorder("=") for frame in frames} == {values.dtype}

    @pytest.mark.parametrize("wrap", [bytes, memoryview, bytearray])
    def test_nothing_is_copied(self, wrap):
        stored, data = native(np.stack([picture("i2"), picture("i2", seed=1)]), frames=2)
        data = wrap(data)
        for frame in stored_frames(stored, data):
            assert np.shares_memory(frame, np.frombuffer(data, "u1"))

    def test_the_offset_counts(self):
        stored, data = native(picture("u2"), offset=6)
        np.testing.assert_array_equal(only(stored, b"header" + data + b"more"), picture("u2"))

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_bits_above_bits_stored(self, order):
        raw = np.array([[0xF000, 0x0FFF, 0xA800, 0x57FF]], "u2")
        syntax = ExplicitVRLittleEndian if order == "<" else ExplicitVRBigEndian
        assert only(*native(raw, syntax, bits=12)).tolist() == [[0, 4095, 2048, 2047]]
        assert only(*native(raw.view("i2"), syntax, bits=12)).tolist() == [[0, -1, -2048, 2047]]

    @pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
    def test_bits_above_bits_stored_as_pydicom_has_them(self, dtype):
        values = np.random.default_rng(0).integers(0, 256, (6, 5, np.dtype(dtype).itemsize), "u1").view(dtype)[..., 0]
        for bits in range(1, values.itemsize * 8 + 1):
            stored, data = native(values, bits=bits)
            expected, _ = get_decoder(ExplicitVRLittleEndian).as_array(data, **pixel_options(stored))
            np.testing.assert_array_equal(only(stored, data), expected)

    def test_all_bits_stored_is_no_work(self):
        values = picture("i2")
        assert significant(native(values)[0], values) is values

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
    @pytest.mark.parametrize("shape", [(5, 7), (4, 8), (1, 3)])
    def test_single_bits_across_frames(self, syntax, shape):
        masks = np.random.default_rng(0).integers(0, 2, (3, *shape), "u1")
        data = pack_bits(masks, pad=False)
        stored = replace(native(masks, syntax, frames=3)[0], allocated=1, bits=1, length=len(data))
        np.testing.assert_array_equal(list(stored_frames(stored, data)), masks)
        refused(stored, data[:-1], f"cut off: expected {len(data)} bytes, found {len(data) - 1}")

    @pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
    def test_colour_by_pixel_and_by_plane(self, dtype):
        values = picture(dtype, (6, 5, 3))
        np.testing.assert_array_equal(only(*native(values)), values)
        planes = np.ascontiguousarray(values.transpose(2, 0, 1))
        stored, _ = native(values, planar=1)
        np.testing.assert_array_equal(only(stored, planes.tobytes()), values)

    @pytest.mark.parametrize("vr", ["OB", "OW"])
    def test_bytes_in_big_endian_words(self, vr):
        values = np.stack([picture("u1", (3, 5), seed=seed) for seed in range(3)])
        ds = make(values, 8)
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        data = values.tobytes() + b"\0"
        ds.PixelData = np.frombuffer(data, "u2").byteswap().tobytes() if vr == "OW" else data
        ds["PixelData"].VR = vr
        stored, data = opened(ds)
        np.testing.assert_array_equal(list(stored_frames(stored, data)), values)
        if vr == "OW":
            refused(stored, data[:-1], "expected 46 bytes, found 45")

    def test_ybr_becomes_rgb(self):
        stored, data = native(np.array([[[0, 128, 128], [255, 128, 128], [76, 85, 255]]], "u1"), photometric="YBR_FULL")
        np.testing.assert_allclose(only(stored, data)[0], [[0, 0, 0], [255, 255, 255], [255, 0, 0]], atol=2)

    @pytest.mark.parametrize("planar", [0, 1])
    def test_halved_chroma(self, planar):
        stored, _ = native(picture("u1", (2, 4, 3)), photometric="YBR_FULL_422", planar=planar, frames=1)
        data = bytes([76, 76, 85, 255, 0, 255, 128, 128]) * 4
        stored = replace(stored, frames=2, length=len(data))
        for frame in stored_frames(stored, data):
            np.testing.assert_allclose(frame[0, :3], [[255, 0, 0], [255, 0, 0], [0, 0, 0]], atol=2)
            np.testing.assert_allclose(frame[1, 3], [255, 255, 255], atol=2)
        refused(stored, data[:-1], "expected 32 bytes, found 31")
        refused(replace(stored, length=48), bytes(48), "as long as YBR_FULL")

    def test_ybr_of_16_bits_is_refused(self):
        refused(*native(picture("u2", (4, 4, 3)), photometric="YBR_FULL"), match="does not convert")

    def test_pixels_cut_off(self):
        stored, data = native(np.stack([picture("i2", (4, 5))] * 3), frames=3)
        refused(stored, data[:-1], "cut off: expected 120 bytes, found 119")
        refused(stored, data[:80], "expected 120 bytes, found 80")
        refused(replace(stored, length=100), data, "expected 120 bytes, found 100")
        refused(replace(stored, offset=500), data, "expected 120 bytes, found 0")

    def test_what_follows_the_frames_is_left_alone(self):
        stored, data = native(picture("i2"), length=100_000)
        np.testing.assert_array_equal(only(stored, data + bytes(50_000)), picture("i2"))

    def test_undefined_length(self):
        stored, data = native(picture("u2"), length=UNDEFINED)
        refused(stored, data, "undefined length")

    @pytest.mark.parametrize(
        ("shape", "photometric"),
        [((4, 4), "RGB"), ((4, 4), "YBR_FULL"), ((4, 4, 3), "MONOCHROME2"), ((4, 4, 3), "YBR_PARTIAL_420")],
    )
    def test_samples_that_do_not_go_with_the_photometric_interpretation(self, shape, photometric):
        refused(*native(picture("u1", shape), photometric=photometric), match="photometric")

    def test_palette_colours_stay_indices(self):
        stored, data = native(picture("u1"), photometric="PALETTE COLOR")
        np.testing.assert_array_equal(only(stored, data), picture("u1"))


KINDS = [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 16), ("i2", 12), ("i1", 8), ("u2", 10)]


class TestLossless:
    @pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
    @pytest.mark.parametrize(("dtype", "bits"), KINDS)
    def test_grey(self, syntax, dtype, bits):
        frames = [picture(dtype, bits=bits, seed=seed) for seed in range(2)]
        stored, data, _ = compressed(syntax, *frames, bits=bits)
        got = list(stored_frames(stored, data))
        np.testing.assert_array_equal(got, frames)
        assert got[0].dtype == frames[0].dtype

    @pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
    @pytest.mark.parametrize("dtype", ["u1", "u2"])
    def test_colour(self, syntax, dtype):
        frames = [picture(dtype, (48, 40, 3), seed=seed) for seed in range(2)]
        photometric = "YBR_RCT" if syntax == JPEG2000Lossless else "RGB"
        stored, data, _ = compressed(syntax, *frames, photometric=photometric)
        np.testing.assert_array_equal(list(stored_frames(stored, data)), frames)
        np.testing.assert_array_equal(list(stored_frames(replace(stored, planar=1), data)), frames)

    def test_20_bits_in_32(self):
        frame = picture("u4", bits=20)
        stored, data, (code,) = compressed(JPEG2000Lossless, frame, bits=20)
        np.testing.assert_array_equal(only(stored, data), frame)
        with pytest.raises(NotImplementedError):
            decode_with("openjpeg", stored, code)

    @pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
    @pytest.mark.parametrize(("dtype", "bits"), KINDS)
    def test_all_decoders_agree(self, syntax, dtype, bits):
        frame = picture(dtype, bits=bits)
        stored, _, (code,) = compressed(syntax, frame, bits=bits)
        refusing = REFUSED.get(syntax, frozenset())
        names = [*decoders(stored), *sorted(refusing)]
        for name in names:
            np.testing.assert_array_equal(decode_with(name, stored, code), frame, err_msg=name)
        assert len(names) >= (1 if syntax == HTJ2KLossless else 3 if syntax == RLELossless else 2)

    def test_fill_bytes_between_markers(self):
        frame = picture("u2")
        stored, _, (code,) = compressed(JPEGLossless, frame)
        at = code.index(b"\xff\xc3")
        np.testing.assert_array_equal(only(stored, packed(code[:at] + b"\xff\xff\xff" + code[at:])), frame)

    @pytest.mark.parametrize("predictor", range(1, 8))
    @pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 16)])
    def test_every_predictor_of_lossless_jpeg(self, predictor, dtype, bits):
        frame = picture(dtype, bits=bits)
        stored, _, _ = compressed(JPEGLossless, frame, bits=bits)
        code = bytes(
            imagecodecs.jpeg8_encode(
                frame.view(f"u{frame.itemsize}"), lossless=True, predictor=predictor, bitspersample=bits
            )
        )
        assert decoders(stored)[0] == "turbo"
        np.testing.assert_array_equal(only(stored, packed(code)), frame)
        np.testing.assert_array_equal(decode_with("gdcm", stored, code), frame)

    def test_decoders_are_the_plugins_there_are(self):
        """A plugin that pydicom drops or renames would be missed only where it is needed."""
        for syntax, names in PREFERRED.items():
            known = set(get_decoder(syntax).available_plugins)
            assert set(names) - {"turbo", "openjpeg", "packbits"} <= known
            assert REFUSED.get(syntax, frozenset()) <= known

    def test_colour_is_left_to_plugins(self):
        assert decoders(native(picture("u1", (4, 4, 3)), JPEGBaseline8Bit)[0])[0] == "gdcm"
        assert decoders(native(picture("u1", (4, 4, 3)), JPEG2000Lossless)[0])[0] == "pylibjpeg"

    def test_refused_decoders_are_never_asked(self):
        for syntax, names in REFUSED.items():
            assert not names & set(decoders(native(picture("u2"), syntax)[0]))


class TestRunLengths:
    def test_single_bits(self):
        mask = np.random.default_rng(0).integers(0, 2, (5, 7), "u1")
        code = runs(pack_bits(mask, pad=False))
        stored = replace(compressed(RLELossless, mask)[0], allocated=1, bits=1)
        np.testing.assert_array_equal(only(stored, packed(code)), mask)

    @pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i4"])
    def test_a_segment_a_byte(self, dtype):
        frame = picture(dtype)
        planes = frame.astype(frame.dtype.newbyteorder(">")).view("u1").reshape(frame.size, -1).T
        stored, _ = native(frame, RLELossless, length=UNDEFINED)
        np.testing.assert_array_equal(only(stored, packed(runs(*(plane.tobytes() for plane in planes)))), frame)

    def test_ybr_becomes_rgb(self):
        rgb = only(*compressed(RLELossless, np.full((4, 4, 3), [76, 85, 255], "u1"), photometric="YBR_FULL")[:2])
        np.testing.assert_allclose(rgb, np.broadcast_to([255, 0, 0], (4, 4, 3)), atol=2)

    def test_garbage_above_bits_stored(self):
        stored, data, _ = compressed(RLELossless, np.full((4, 4), 0xF123, "u2"))
        assert (only(replace(stored, bits=12), data) == 0x123).all()

    @pytest.mark.parametrize("padding", [b"\0", b"\0\0", b"\xc1\0", b"\x80\x80"])  # cut runs, 64 zeros, nothing twice
    def test_padding(self, padding):
        frame = picture("u1")
        stored, _ = native(frame, RLELossless, length=UNDEFINED)
        np.testing.assert_array_equal(only(stored, item() + item(runs(frame.tobytes()) + padding) + DELIMITER), frame)

    def test_segments_too_long_or_too_short(self):
        frame = picture("u1")
        stored, _ = native(frame, RLELossless, length=UNDEFINED)
        refused(stored, packed(runs(frame.tobytes() + bytes(65))), "expected 1920 bytes in a segment, found 1985")
        refused(stored, packed(runs(frame.tobytes()[:-1])), "expected 1920 bytes in a segment, found 1919")

    def test_segments_too_few(self):
        stored, data, _ = compressed(RLELossless, picture("u1"))
        refused(replace(stored, allocated=16, bits=16), data, "expected 2 segments, found 1")


class TestDeflatedFrames:
    @staticmethod
    def stored(values, frames=1, **changes):
        return native(values, DEFLATED_FRAMES, frames=frames, length=UNDEFINED, **changes)[0]

    @staticmethod
    def deflate(raw, window):
        stream = zlib.compressobj(9, zlib.DEFLATED, window)
        return stream.compress(raw) + stream.flush()

    @pytest.mark.parametrize("window", [-15, 15], ids=["raw", "zlib"])
    @pytest.mark.parametrize("dtype", ["u1", "i2", "u4"])
    def test_integers(self, window, dtype):
        frames = np.stack([picture(dtype, (5, 7), seed=seed) for seed in range(3)])
        data = packed(*(self.deflate(frame.tobytes(), window) for frame in frames))
        np.testing.assert_array_equal(list(stored_frames(self.stored(frames, 3), data)), frames)

    @pytest.mark.parametrize("window", [-15, 15], ids=["raw", "zlib"])
    def test_single_bits_begin_at_a_byte_in_each_frame(self, window):
        masks = np.random.default_rng(0).integers(0, 2, (3, 5, 7), "u1")
        data = packed(*(self.deflate(pack_bits(mask, pad=False), window) for mask in masks))
        stored = self.stored(masks, 3, allocated=1, bits=1)
        np.testing.assert_array_equal(list(stored_frames(stored, data)), masks)

    def test_colour_by_plane(self):
        values = picture("u1", (5, 6, 3))
        data = packed(self.deflate(np.ascontiguousarray(values.transpose(2, 0, 1)).tobytes(), -15))
        np.testing.assert_array_equal(only(self.stored(values, planar=1), data), values)

    @pytest.mark.parametrize("window", [-15, 15], ids=["raw", "zlib"])
    def test_a_bomb(self, window):
        data = packed(self.deflate(bytes(2**26), window))
        tracemalloc.start()
        refused(self.stored(picture("u2", (8, 8))), data, "unpacks to more than its 128 bytes")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**20

    @pytest.mark.parametrize("window", [-15, 15], ids=["raw", "zlib"])
    def test_cut_off_or_short(self, window):
        values = picture("u2", (8, 8))
        code = self.deflate(values.tobytes(), window)
        refused(self.stored(values), packed(code[: len(code) // 2]), "cut off: expected 128 bytes, found")
        refused(self.stored(values), item() + item(code[:-2]), "cut off")
        short = self.deflate(values.tobytes()[:-1], window)
        refused(self.stored(values), packed(short), "expected 128 bytes, found 127")

    def test_a_byte_of_padding_inside(self):
        values = picture("u1", (3, 5))
        np.testing.assert_array_equal(
            only(self.stored(values), packed(self.deflate(values.tobytes() + b"\0", -15))), values
        )
        refused(self.stored(values), packed(self.deflate(values.tobytes() + b"\0\0", -15)), "more than its 15 bytes")

    def test_no_deflate_at_all(self):
        refused(self.stored(picture("u1")), packed(b"\xff" * 40), "does not inflate")


class TestFragments:
    """The frames of one file in ever other wrappings; JPEG-LS, whose decoder takes no wrong byte."""

    frames = tuple(picture("u2", seed=seed) for seed in range(3))

    def parts(self):
        stored, _, codes = compressed(JPEGLSLossless, *self.frames)
        halves = [(code[: len(code) // 4 * 2], code[len(code) // 4 * 2 :]) for code in codes]
        return stored, codes, halves

    def same(self, stored, data):
        np.testing.assert_array_equal(list(stored_frames(stored, data)), self.frames)

    @pytest.mark.parametrize(
        "table", [b"", bytes(12), b"\xff" * 12, struct.pack("<3I", 0, 10, 20), b"abcde", bytes(400)]
    )
    def test_a_fragment_a_frame_whatever_the_offset_table_says(self, table):
        stored, codes, _ = self.parts()
        self.same(stored, packed(*codes, table=table))

    def test_a_fragment_a_frame_with_much_padding(self):
        stored, codes, _ = self.parts()
        self.same(stored, packed(*(code + bytes(20) for code in codes)))

    def test_run_lengths(self):
        frame = picture("u1")
        stored, _ = native(frame, RLELossless, length=UNDEFINED)
        code = runs(frame.tobytes())
        np.testing.assert_array_equal(only(stored, packed(code[:900], code[900:])), frame)
        two = replace(stored, frames=2)
        np.testing.assert_array_equal(list(stored_frames(two, packed(code, b"", code, b"more"))), [frame] * 2)
        table = struct.pack("<2I", 0, 916 + len(code) % 2 + len(code) - 900)
        np.testing.assert_array_equal(
            list(stored_frames(two, packed(code[:900], code[900:], code, table=table))), [frame] * 2
        )

    def test_as_pydicom_writes_them(self):
        stored, codes, _ = self.parts()
        for fragments in (1, 3):
            for table in (True, False):
                self.same(stored, encapsulate(codes, fragments_per_frame=fragments, has_bot=table) + DELIMITER)

    @pytest.mark.parametrize("right", [True, False])
    def test_several_fragments_a_frame(self, right):
        stored, _, halves = self.parts()
        sizes = [16 + len(a) + len(b) + len(b) % 2 for a, b in halves]
        table = struct.pack("<3I", 0, sizes[0], sizes[0] + sizes[1] + 2 * (not right))
        self.same(stored, packed(*sum(halves, ()), table=table))

    def test_a_right_offset_table_is_needed_where_fragments_end_like_frames(self):
        stored, codes, _ = self.parts()
        cut = len(codes[0]) // 2 * 2 - 4
        fake = [codes[0][:6] + b"\xff\xd9" * 3, codes[0][12:cut], codes[0][cut:], codes[1], codes[2]]
        starts = np.cumsum([0, *(8 + len(code) + len(code) % 2 for code in fake)])
        table = struct.pack("<3I", 0, *(int(starts[number]) for number in (3, 4)))
        got = list(encoded_frames(stored, packed(*fake, table=table)))
        assert [len(code) for code in got] == [
            len(b"".join(fake[:3])) + len(fake[2]) % 2,
            *(len(c) + len(c) % 2 for c in codes[1:]),
        ]

    def test_the_extended_offset_table(self):
        stored, codes, _ = self.parts()
        data, offsets, lengths = encapsulate_extended(codes)
        self.same(replace(stored, extended=(offsets, lengths)), data)

    def test_the_extended_offset_table_comes_first_and_only_where_it_points_at_items(self):
        stored, _, halves = self.parts()
        pieces = sum(halves, ())
        places = np.cumsum([0, *(8 + len(piece) + len(piece) % 2 for piece in pieces)]).tolist()
        right = struct.pack("<3Q", *places[0:5:2])
        wrong = struct.pack("<3I", *places[:3])  # in order, and each at an item
        self.same(replace(stored, extended=(right, bytes(24))), packed(*pieces, table=wrong))
        for extended in (
            right[:-4],
            bytes(24),
            struct.pack("<3Q", *places[0:4:2], 2**40),
            struct.pack("<3Q", *places[1:6:2]),
        ):
            self.same(
                replace(stored, extended=(extended, bytes(24))), packed(*pieces, table=struct.pack("<3I", 0, 1, 2))
            )

    def test_trailing_fragments(self):
        stored, codes, halves = self.parts()
        self.same(stored, packed(*codes, b"more"))
        self.same(stored, packed(*codes, b""))
        self.same(stored, packed(*codes, codes[0]))
        self.same(stored, packed(*sum(halves, ()), b"more"))
        one = replace(stored, frames=1)
        np.testing.assert_array_equal(only(one, packed(codes[0], b"more")), self.frames[0])
        runs, _, (code,) = compressed(RLELossless, self.frames[0])
        got = list(stored_frames(replace(runs, frames=2), packed(code, code, b"more")))
        np.testing.assert_array_equal(got, [self.frames[0]] * 2)

    def test_one_frame_in_many_fragments(self):
        stored, codes, _ = self.parts()
        pieces = [codes[0][at : at + 100] for at in range(0, len(codes[0]), 100)]
        np.testing.assert_array_equal(only(replace(stored, frames=1), packed(*pieces)), self.frames[0])

    def test_without_a_delimiter(self):
        stored, codes, _ = self.parts()
        self.same(stored, packed(*codes, end=b""))

    def test_an_explicit_length(self):
        stored, codes, _ = self.parts()
        data = packed(*codes, end=b"")
        self.same(replace(stored, length=len(data)), data + b"other elements")

    def test_no_frame(self):
        stored, _, _ = self.parts()
        for data in (b"", packed(), packed(b"", b""), item(), DELIMITER):
            refused(stored, data, "no frame in the pixel data")

    def test_too_few(self):
        stored, codes, halves = self.parts()
        refused(stored, packed(*codes[:2]), "expected 3 frames, found 2 fragments")
        refused(replace(stored, frames=4), packed(*sum(halves, ())), "expected 4 frames, found 3 ends")

    def test_cut_off(self):
        stored, codes, _ = self.parts()
        data = packed(*codes, end=b"")
        size = len(codes[2]) + len(codes[2]) % 2
        refused(stored, data[:-100], f"cut off: expected {size} bytes, found {size - 100}")
        refused(replace(stored, length=len(data) - 100), data, f"expected {size} bytes, found {size - 100}")
        refused(stored, data[: -size - 2], "found 2 fragments")

    def test_no_items(self):
        stored, codes, _ = self.parts()
        refused(stored, codes[0], "without an item")
        refused(stored, packed(codes[0], end=b"") + b"nonsense", "without an item")
        refused(stored, item() + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + codes[0], "cut off")


class TestDamage:
    """What must not pass for an image. Decoders print nothing over it."""

    @pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGBaseline8Bit, JPEGExtended12Bit], ids=lambda uid: uid.keyword)
    def test_a_codestream_cut_off_anywhere(self, syntax, capfd):
        if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
            stored, code = lossy(syntax)
        else:
            stored, _, (code,) = compressed(syntax, picture("u2", bits=12), bits=12)
        whole = only(stored, packed(code))
        for size in (
            *range(0, 200, 7),
            *range(200, len(code) - 20, len(code) // 23),
            *range(len(code) - 20, len(code)),
        ):
            try:
                frame = only(stored, item() + item(code[:size]))
            except DecodeError:
                continue
            np.testing.assert_array_equal(frame, whole)  # all that was lost is an end marker or padding
            assert size > len(code) - 5
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        "syntax", [JPEGLosslessSV1, JPEGBaseline8Bit, JPEG2000Lossless], ids=lambda uid: uid.keyword
    )
    def test_only_the_end_marker_is_missing(self, syntax):
        if syntax == JPEGBaseline8Bit:
            stored, code = lossy(syntax)
        else:
            stored, _, (code,) = compressed(syntax, picture("u2", bits=12), bits=12)
        code = code[: code.rindex(b"\xff\xd9") + 2]
        expected = only(stored, packed(code))
        np.testing.assert_array_equal(only(stored, item() + item(code[:-2]) + DELIMITER), expected)

    def test_damage_inside_jpeg_ls(self):
        stored, _, (code,) = compressed(JPEGLSLossless, picture("u2"))
        half = len(code) // 2
        refused(stored, packed(code[:half] + bytes(50) + code[half + 50 :]), "do not decode")

    def test_damage_inside_run_lengths(self, capfd):
        stored, _, (code,) = compressed(RLELossless, picture("u2"))
        half = len(code) // 2
        refused(stored, packed(code[:half] + b"\x81" * 100 + code[half + 100 :]), "segment|do not decode")
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("syntax", LOSSLESS[1:], ids=lambda uid: uid.keyword)
    def test_another_size_or_depth_than_the_header_says(self, syntax):
        stored, data, _ = compressed(syntax, picture("u2", bits=12), bits=12)
        turned = replace(stored, rows=stored.columns, columns=stored.rows)
        refused(turned, data, "expected 40 x 48 x 1, found 48 x 40 x 1")
        refused(replace(stored, samples=3, photometric="RGB"), data, "expected 48 x 40 x 3, found 48 x 40 x 1")
        refused(replace(stored, allocated=8, bits=8), data, "expected 8 bits, found")

    def test_an_absurd_size_is_refused_before_memory_is_taken(self):
        stored, _, (code,) = compressed(JPEG2000Lossless, picture("u2"))
        huge = code[:8] + struct.pack(">2I", 2**30, 2**30) + code[16:]
        refused(stored, packed(huge), f"found {2**30} x {2**30} x 1")

    @pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGExtended12Bit], ids=lambda uid: uid.keyword)
    def test_no_codestream_of_the_kind(self, syntax):
        stored, _ = native(picture("u2"), syntax, length=UNDEFINED)
        for code in (
            b"\0\0",
            bytes(5000),
            b"\xff\xd8\xff\xda",
            b"\xff\x4f\xff\x51",
            b"\xff\xd8" + b"\xff" * 50,
            b"%PDF-1.4",
        ):
            match = "no frame header|expected 2 segments" if syntax == RLELossless else "no frame header"
            refused(stored, packed(code), match)

    @pytest.mark.parametrize("syntax", ["1.2.3", "Meier^Hans", str(MPEG2MPML), "1.2.840.10008.5.1.4.1.1.2"])
    def test_unknown_transfer_syntax(self, syntax):
        frames = stored_frames(*native(picture("u2"), syntax))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DecodeError, match="no decoder for") as error:
                next(frames)
        assert "Meier" not in str(error.value)

    def test_decoders_that_fail_are_silent(self, capfd, caplog):
        stored, _, (code,) = compressed(JPEGLSLossless, picture("u2"))
        logger = logging.getLogger("pydicom")
        with warnings.catch_warnings(), caplog.at_level(logging.INFO, "pydicom"):
            warnings.simplefilter("error")
            refused(stored, packed(code[:-200] + b"\xff\xd9"), "do not decode")
            assert logger.level == logging.INFO
        assert not caplog.records
        assert capfd.readouterr() == ("", "")

    def test_standard_error_is_given_back(self, capfd):
        stored, _, (code,) = compressed(JPEGLosslessSV1, picture("u2"))
        with pytest.raises(RuntimeError):
            decode_with("gdcm", stored, code[:300])
        decode_with("gdcm", stored, code)
        os.write(2, b"heard")
        assert capfd.readouterr().err == "heard"

    def test_why(self):
        stored, _, (code,) = compressed(JPEGLosslessSV1, picture("u2"))
        refused(stored, packed(code[:1000]), r"do not decode \(JPEG Lossless.*no end marker\)")
        stored, _, (code,) = compressed(JPEGLSLossless, picture("u2"))
        refused(stored, packed(code[:-100] + code[-2:]), r"do not decode \(JPEG-LS Lossless.*Error\)")

    def test_the_next_decoder_takes_over(self, monkeypatch):
        frame = picture("u2")
        stored, data, _ = compressed(JPEGLosslessSV1, frame)

        def fails(*_):
            raise MemoryError

        monkeypatch.setattr("pipeline.dicom.decoders._turbo", fails)
        np.testing.assert_array_equal(only(stored, data), frame)


def lossy(syntax, bits=None):
    """Description and codestream of a smooth image in lossy JPEG."""
    bits = bits or (8 if syntax == JPEGBaseline8Bit else 12)
    values = picture("u1" if bits == 8 else "u2", bits=bits)
    code = bytes(imagecodecs.jpeg8_encode(values, 98, bitspersample=8 if bits == 8 else 12))
    return native(values, syntax, bits, length=UNDEFINED)[0], code


class TestLossy:
    @pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit], ids=lambda uid: uid.keyword)
    def test_grey(self, syntax):
        stored, code = lossy(syntax)
        got = only(stored, packed(code))
        values = picture("u1" if stored.bits == 8 else "u2", bits=stored.bits)
        assert np.abs(got.astype(int) - values).mean() < 2 ** (stored.bits - 8)
        theirs = decode_with("pylibjpeg", stored, code)
        assert got.dtype == theirs.dtype
        assert np.abs(got.astype(int) - theirs).max() <= 1

    def test_8_bits_in_16(self):
        stored, code = lossy(JPEGBaseline8Bit)
        got = only(replace(stored, allocated=16), packed(code))
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got, only(stored, packed(code)))

    def test_overshoot_stays_white(self):
        """12-bit codestreams of 10-bit images exceed 1023 at edges; masking would turn these pixels black."""
        values = np.where(np.arange(64) % 6 < 3, 0, 1023).astype("u2") * np.ones((64, 1), "u2")
        code = bytes(imagecodecs.jpeg8_encode(values, 60, bitspersample=12))
        assert imagecodecs.jpeg8_decode(code).max() > 1023
        got = only(native(values, JPEGExtended12Bit, 10, length=UNDEFINED)[0], packed(code))
        assert np.abs(got.astype(int) - values).max() < 300

    @pytest.mark.parametrize(
        ("photometric", "marker"),
        [
            ("YBR_FULL_422", "JFIF"),
            ("YBR_FULL", "JFIF"),
            ("RGB", "JFIF"),
            ("YBR_FULL_422", "Adobe"),
            ("YBR_FULL", "Adobe"),
        ],
    )
    def test_colour(self, photometric, marker):
        """What the codestream says of its colours goes before the header's word, and is not applied twice."""
        rgb = np.zeros((32, 48, 3), "u1")
        rgb[...] = [200, 40, 90]
        code = bytes(imagecodecs.jpeg8_encode(rgb, 98))
        assert code[6:10] == b"JFIF"
        if marker == "Adobe":
            adobe = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + b"\x01"
            code = code[:2] + adobe + code[4 + int.from_bytes(code[4:6], "big") :]
        stored = native(rgb, JPEGBaseline8Bit, photometric=photometric, length=UNDEFINED)[0]
        np.testing.assert_allclose(only(stored, packed(code)), rgb, atol=4)


class TestJpeg2000:
    def test_unsigned_codestream_in_a_signed_file(self):
        values = picture("i2", bits=13)
        stored, _, _ = compressed(JPEG2000Lossless, values, bits=13)
        unsigned, _ = native((values & 0x1FFF).astype("u2"), bits=13)
        code = encode(JPEG2000Lossless, (values & 0x1FFF).astype("u2"), unsigned)
        np.testing.assert_array_equal(only(stored, packed(code)), values)

    def test_signed_codestream_in_an_unsigned_file(self):
        values = picture("u2", bits=16)
        signed, _ = native(values.view("i2"))
        code = encode(JPEG2000Lossless, values.view("i2"), signed)
        stored, _, _ = compressed(JPEG2000Lossless, values)
        np.testing.assert_array_equal(only(stored, packed(code)), values)

    @pytest.mark.parametrize(
        "tail", [b"\xff\x64\x00\x0b\x00\x01PADDING\xff\xd9", b"", bytes(2), b"\xff\x64\x00\x02\xff\xd9\0"]
    )
    def test_what_stands_in_the_place_of_the_end_marker(self, tail):
        values = picture("u2", bits=12)
        stored, _, (code,) = compressed(JPEG2000Lossless, values, bits=12)
        code = code[: code.rindex(b"\xff\xd9")]
        np.testing.assert_array_equal(only(stored, packed(code + tail)), values)

    def test_a_last_tile_part_of_unknown_length(self):
        values = picture("u2", bits=12)
        stored, _, (code,) = compressed(JPEG2000Lossless, values, bits=12)
        at = code.index(b"\xff\x90")
        open_ended = code[: at + 6] + bytes(4) + code[at + 10 :]
        np.testing.assert_array_equal(only(stored, packed(open_ended)), values)
        refused(stored, packed(open_ended[: len(code) // 2]), "cut off: no end marker")

    def test_a_tile_part_longer_than_what_is_left(self):
        stored, _, (code,) = compressed(JPEG2000Lossless, picture("u2", bits=12), bits=12)
        end = code.rindex(b"\xff\xd9") + 2
        refused(stored, item() + item(code[:1000]), f"cut off: expected {end} bytes, found 1000")

    def test_an_image_that_does_not_begin_at_the_origin(self):
        values = picture("u2", bits=12)
        stored, _, (code,) = compressed(JPEG2000Lossless, values, bits=12)
        sizes = list(struct.unpack_from(">8I", code, 8))  # ends, image offset, tile size, tile offset
        moved = [size + 64 * (number not in (4, 5)) for number, size in enumerate(sizes)]
        np.testing.assert_array_equal(only(stored, packed(code[:8] + struct.pack(">8I", *moved) + code[40:])), values)

    def test_jp2_files_inside(self):
        values = picture("u2")
        code = bytes(imagecodecs.jpeg2k_encode(values, codecformat="jp2", reversible=True, level=0))
        assert code[4:8] == b"jP  "
        stored, _, _ = compressed(JPEG2000Lossless, values)
        np.testing.assert_array_equal(only(stored, packed(code)), values)

    def test_frames_of_a_colour_file_are_all_converted(self):
        """pydicom's iter_array takes the second frame for RGB that the first one became."""
        frames = [picture("u1", (48, 40, 3), seed=seed) for seed in range(3)]
        stored, data, _ = compressed(JPEG2000Lossless, *frames, photometric="YBR_RCT")
        np.testing.assert_array_equal(list(stored_frames(stored, data)), frames)


FILES = sorted(path.relative_to(ZOO).as_posix() for path in ZOO.rglob("*.dcm"))
TWINS = {  # files that pydicom does not read, and those with the same pixels
    "pydicom-data/liver_rle.dcm": "pydicom-data/liver.dcm",
    "pydicom-data/liver_nonbyte_aligned_rle.dcm": "pydicom-data/liver_nonbyte_aligned.dcm",
    "pydicom-data/liver_deflate.dcm": "pydicom-data/liver.dcm",
    "pydicom-data/liver_nonbyte_aligned_deflate.dcm": "pydicom-data/liver_nonbyte_aligned.dcm",
    "pydicom-data/emri_small_jpeg_2k_lossless_too_short.dcm": "pydicom-data/emri_small_jpeg_2k_lossless.dcm",
    "pylibjpeg-data/JPEG2000Lossless/966.dcm": "pylibjpeg-data/JPEG2000Lossless/966_fixed.dcm",
    "pylibjpeg-data/JPEGExtended/RG2_JPLY.dcm": "pylibjpeg-data/JPEGExtended/RG2_JPLY_fixed.dcm",
    "pylibjpeg-data/JPEGExtended/JPEG-lossy.dcm": "pylibjpeg-data/JPEGExtended/JPEGExtended_1s_1f_u_16_12.dcm",
}
ROUNDED = {str(JPEGExtended12Bit): 1}
"""Largest difference to pydicom's pixels where ours are libjpeg-turbo's and pydicom's are libjpeg's."""

zoo = pytest.mark.skipif(not FILES, reason="the odd DICOM files for development are not on this machine")


def zoo_file(name, pixels=False):
    """Description, bytes and (where pydicom reads them) frames of a file of the zoo."""
    data = (ZOO / name).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = io.BytesIO(data)
        header = dcmread(stream, stop_before_pixels=True, force=True)
        header.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
        stored = describe(header, *locate(stream))
        if not pixels:
            return stored, data, None
        ds = dcmread(io.BytesIO(data), force=True)
        ds.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
        expected = ds.pixel_array
    return stored, data, expected if stored.frames > 1 else expected[None]


@zoo
@pytest.mark.thorough
class TestZoo:
    def test_it_is_complete(self):
        with (ZOO / "manifest.csv").open() as file:
            assert sorted(row["file"] for row in csv.DictReader(file)) == FILES

    @pytest.mark.parametrize("name", [name for name in FILES if name not in TWINS])
    def test_as_pydicom_reads_it(self, name):
        stored, data, expected = zoo_file(name, pixels=True)
        frames = list(stored_frames(stored, data))
        assert len(frames) == len(expected) == stored.frames
        for frame, theirs in zip(frames, expected, strict=True):
            assert frame.shape == theirs.shape
            assert frame.dtype.newbyteorder("=") == theirs.dtype.newbyteorder("=")
            np.testing.assert_allclose(frame, theirs, rtol=0, atol=ROUNDED.get(stored.syntax, 0))

    @pytest.mark.parametrize("name", TWINS if FILES else [])
    def test_what_pydicom_does_not_read_equals_its_twin(self, name):
        stored, data, _ = zoo_file(name)
        twin, twin_data, _ = zoo_file(TWINS[name])
        frames = list(stored_frames(stored, data))
        np.testing.assert_array_equal(frames, list(stored_frames(twin, twin_data)))
        assert len(frames) == stored.frames

    def test_lossy_files_are_near_their_lossless_ones(self):
        for broken, whole, within in (
            ("pylibjpeg-data/JPEGExtended/RG2_JPLY.dcm", "pylibjpeg-data/JPEGLosslessSV1/RG2_JPLL.dcm", 4),
            ("pylibjpeg-data/JPEGExtended/JPEG-lossy.dcm", "pydicom-data/JPEG2000_UNC.dcm", 5),
        ):
            ours = only(*zoo_file(broken)[:2]).astype(int)
            theirs = only(*zoo_file(whole)[:2]).astype(int)
            assert np.abs(ours - theirs).mean() < within
            assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9

    def test_fragments_as_pydicom_finds_them(self):
        for name in FILES:
            stored, data, _ = zoo_file(name)
            if stored.syntax not in (*NATIVE, DEFLATED_FRAMES):
                theirs = generate_frames(data[stored.offset :], number_of_frames=stored.frames)
                assert list(encoded_frames(stored, data)) == list(theirs), name
