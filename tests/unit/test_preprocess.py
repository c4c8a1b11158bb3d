import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from pipeline.geometry import Geometry, body_box, resize
from pipeline.preprocess import HU_WINDOWS, Shown, Window, finish, luma, voi_window
from pipeline.records import MedaugError


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-550, 1600), (0.5, 2), (2048, 4096)])
def test_voi_windows_agree_with_pydicom(function, center, width):
    values = np.linspace(-2000, 4000, 997).astype(np.float32)
    ds = Dataset()
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = center, width, function
    ds.PhotometricInterpretation, ds.BitsStored, ds.PixelRepresentation = "MONOCHROME2", 16, 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    with np.errstate(over="ignore"):  # pydicom's exponential
        expected = apply_windowing(values.astype(np.float64), ds) / 65535
    shown, low, high = voi_window(values, center, width, function)
    np.testing.assert_allclose(np.clip((shown - low) / (high - low), 0, 1), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "function"), [(0.5, "LINEAR"), (0, "SIGMOID"), (float("nan"), "LINEAR"), (9, "CUBIC")]
)
def test_windows_that_the_standard_does_not_know_are_refused(width, function):
    with pytest.raises(ValueError, match=r"window|function"):
        voi_window(np.zeros(3, np.float32), 0, width, function)


def test_a_linear_window_of_width_one_is_a_step():
    shown, low, high = voi_window(np.array([39.4, 39.6], np.float32), 40, 1)
    np.testing.assert_allclose((shown - low) / (high - low), [0, 1])


def shown(values, low, high, **more):
    return Shown(np.array(values, np.float32), low, high, **more)


class TestFinish:
    values = np.array([[-2000, -1000, -200, 600, 9000]] * 5)

    def test_the_window_clips_and_spans_minus_one_to_one(self):
        image, pixel = finish(shown(self.values, -1000, 600), Geometry(5, 5))
        np.testing.assert_allclose(image, [[-1, -1, 0, 1, 1]] * 5, atol=1e-6)
        assert pixel is None

    def test_inverted_shows_the_highest_black(self):
        image, _ = finish(shown(self.values, -1000, 600, inverted=True), Geometry(5, 5))
        np.testing.assert_allclose(image, [[1, 1, 0, -1, -1]] * 5, atol=1e-6)

    @pytest.mark.parametrize("inverted", [False, True])
    def test_padding_is_black_before_it_is_resized(self, inverted):
        padding = np.zeros((4, 4), bool)
        padding[:, 3] = True
        values = np.full((4, 4), 0.0 if inverted else 1.0)
        image, _ = finish(shown(values, 0, 1, inverted=inverted, padding=padding), Geometry(2, 2))
        np.testing.assert_allclose(image, [[1, 0], [1, 0]], atol=1e-6)

    def test_what_is_added_around_is_black_in_inverted_images_too(self):
        image, _ = finish(shown(np.zeros((2, 4)), 0, 1, inverted=True), Geometry(4, 4))
        np.testing.assert_allclose(image, [[-1] * 4, [1] * 4, [1] * 4, [-1] * 4], atol=1e-6)

    def test_the_pixel_size_is_told_where_it_is_known(self):
        _, pixel = finish(shown(np.zeros((20, 40)), 0, 1, spacing=(0.5, 0.5)), Geometry(10, 10))
        assert pixel == pytest.approx((2.0, 2.0))

    def test_a_crop_to_the_body_takes_hounsfield_units_from_before_the_window(self):
        hu = np.full((100, 100), -1000.0)
        hu[30:70, 20:60] = -120.0  # fat, which the window shows black like the air
        geometry = Geometry(50, 50, body=True, fit="stretch")
        image, pixel = finish(shown(hu, -100, 400, body=-500.0, spacing=(1.0, 1.0)), geometry)
        assert image.max() == -1
        assert pixel == pytest.approx((0.88, 0.88), abs=0.05)  # 40 mm and a margin on 50 pixels
        whole, _ = finish(shown(hu, -1000, 400, body=-500.0), geometry)
        assert (whole > -0.9).mean() > 0.75


class TestResize:
    @pytest.mark.parametrize("factor", [2, 4, 8])
    def test_shrinking_by_a_whole_factor_is_the_mean_of_blocks(self, factor):
        image = np.random.default_rng(0).random((32, 64), np.float32)
        blocks = image.reshape(32 // factor, factor, 64 // factor, factor).mean((1, 3))
        np.testing.assert_allclose(resize(image, 32 // factor, 64 // factor), blocks, atol=1e-6)

    def test_shrinking_weighs_by_overlap(self):
        # 3 pixels onto 2: each takes one whole pixel and half of the middle one.
        np.testing.assert_allclose(resize(np.array([[0, 3, 9]], np.float32), 1, 2), [[1, 7]], atol=1e-6)

    def test_the_mean_is_kept(self):
        image = np.random.default_rng(0).random((37, 53), np.float32)
        assert resize(image, 16, 20).mean() == pytest.approx(image.mean(), abs=1e-5)

    def test_enlarging_is_linear_interpolation(self):
        image = np.random.default_rng(0).random((7, 9), np.float32)
        expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None], (16, 20), mode="bilinear")
        np.testing.assert_allclose(resize(image, 16, 20), expected[0, 0].numpy(), atol=1e-6)

    def test_fine_stripes_do_not_alias(self):
        stripes = np.tile(np.array([0.0, 1.0], np.float32), (64, 32))
        np.testing.assert_allclose(resize(stripes, 16, 16), 0.5, atol=1e-6)


class TestGeometry:
    image = np.ones((20, 40), np.float32)

    def test_pad_keeps_everything_in_the_middle(self):
        out, _ = Geometry(32, 32, "pad").apply(self.image, 0.0)
        assert out[8:24].min() == 1
        assert out[:8].max() == out[24:].max() == 0

    def test_crop_fills_the_frame_with_the_middle(self):
        image = self.image.copy()
        image[:, :10] = image[:, 30:] = 0
        assert Geometry(32, 32, "crop").apply(image, 0.0)[0].min() == 1

    def test_stretch_fills_the_frame_with_everything(self):
        image = self.image.copy()
        image[:, 20:] = 0
        out, _ = Geometry(32, 32, "stretch").apply(image, 0.0)
        assert out[:, :16].min() == 1
        assert out[:, 16:].max() == 0

    @pytest.mark.parametrize("fit", ["pad", "crop"])
    def test_pixels_that_are_not_square(self, fit):
        # 20 rows of 2 mm and 40 columns of 1 mm make a square: nothing to pad, nothing to crop.
        np.testing.assert_allclose(Geometry(32, 32, fit).apply(self.image, 0.0, (2.0, 1.0))[0], 1.0, atol=1e-6)

    def test_frames_that_are_not_square(self):
        assert Geometry(16, 32, "pad").apply(self.image, 0.0)[0].min() == 1
        assert Geometry(16, 64, "pad").apply(self.image, 0.0)[0].shape == (16, 64)

    @pytest.mark.parametrize(
        ("fit", "size"), [("pad", (1.25, 1.25)), ("crop", (0.625, 0.625)), ("stretch", (0.625, 1.25))]
    )
    def test_the_size_of_a_prepared_pixel(self, fit, size):
        assert Geometry(32, 32, fit).apply(self.image, 0.0)[1] == pytest.approx(size)

    @pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
    def test_a_pixel_size_in_mm_draws_everything_to_scale(self, spacing):
        y, x = np.mgrid[: int(80 / spacing[0]), : int(120 / spacing[1])]
        disc = np.hypot((y + 0.5) * spacing[0] - 40, (x + 0.5) * spacing[1] - 60) < 20  # 40 mm across
        out, pixel = Geometry(64, 32, mm=2.0).apply(disc.astype(np.float32), 0.0, spacing)
        assert pixel == (2.0, 2.0)
        assert out.shape == (64, 32)  # 128 mm by 64 mm: the height is padded, the width cut
        assert out[:, 16].sum() == pytest.approx(20, abs=0.8)
        assert out[32].sum() == pytest.approx(20, abs=0.8)
        assert out[:11].max() == out[53:].max() == 0


class TestBody:
    def test_the_table_is_no_part_of_it(self):
        inside = np.zeros((200, 200), bool)
        inside[40:140, 30:170] = True
        inside[150:153, 10:190] = True  # a table
        rows, columns = body_box(inside)
        assert (rows.start, rows.stop, columns.start, columns.stop) == pytest.approx((40, 140, 30, 170), abs=7)
        assert rows.start <= 40
        assert rows.stop >= 140

    def test_nothing_there_keeps_everything(self):
        assert body_box(np.zeros((20, 30), bool)) == (slice(0, 20), slice(0, 30))


def test_luma_of_grey_is_grey():
    np.testing.assert_allclose(luma(np.full((2, 2, 3), 77, np.uint8)), 77, atol=1e-4)


class TestWindow:
    def test_names_ranges_and_words(self):
        assert (Window.parse("lung").low, Window.parse("lung").high) == HU_WINDOWS["lung"]
        assert Window.parse((-5, 5)) == Window("range", -5.0, 5.0)
        assert Window.parse("dicom").kind == "dicom"
        assert Window.parse("full").kind == "full"

    def test_an_unknown_name_names_the_nearest(self):
        with pytest.raises(MedaugError, match="did you mean 'mediastinum'"):
            Window.parse("mediastium")

    @pytest.mark.parametrize("ends", [(5, 5), (6, 5), (float("nan"), 5), (0, float("inf"))])
    def test_ends_in_the_wrong_order(self, ends):
        with pytest.raises(MedaugError, match="low below high"):
            Window.parse(ends)
