import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from pipeline.preprocess import HU_WINDOWS, Geometry, Window, finish, linear_window, luma, range_window, resize
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
    np.testing.assert_allclose(linear_window(values, center, width, function), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "function"), [(0.5, "LINEAR"), (0, "SIGMOID"), (float("nan"), "LINEAR"), (9, "CUBIC")]
)
def test_windows_that_the_standard_does_not_know_are_refused(width, function):
    with pytest.raises(ValueError, match=r"window|function"):
        linear_window(np.zeros(3, np.float32), 0, width, function)


def test_a_range_window_clips():
    np.testing.assert_allclose(range_window(np.array([-2000, -1000, -200, 600, 9000.0]), -1000, 600), [0, 0, 0.5, 1, 1])


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
        out = Geometry(32, 32, "pad").apply(self.image)
        assert out[8:24].min() == 1
        assert out[:8].max() == out[24:].max() == 0

    def test_crop_fills_the_frame_with_the_middle(self):
        image = self.image.copy()
        image[:, :10] = image[:, 30:] = 0
        assert Geometry(32, 32, "crop").apply(image).min() == 1

    def test_stretch_fills_the_frame_with_everything(self):
        image = self.image.copy()
        image[:, 20:] = 0
        out = Geometry(32, 32, "stretch").apply(image)
        assert out[:, :16].min() == 1
        assert out[:, 16:].max() == 0

    @pytest.mark.parametrize("fit", ["pad", "crop"])
    def test_pixels_that_are_not_square(self, fit):
        # 20 rows of 2 mm and 40 columns of 1 mm make a square: nothing to pad, nothing to crop.
        np.testing.assert_allclose(Geometry(32, 32, fit).apply(self.image, 2.0, 1.0), 1.0, atol=1e-6)

    def test_frames_that_are_not_square(self):
        assert Geometry(16, 32, "pad").apply(self.image).min() == 1
        assert Geometry(16, 64, "pad").apply(self.image).shape == (16, 64)

    @pytest.mark.parametrize(
        ("fit", "size"), [("pad", (1.25, 1.25)), ("crop", (0.625, 0.625)), ("stretch", (0.625, 1.25))]
    )
    def test_the_size_of_a_prepared_pixel(self, fit, size):
        assert Geometry(32, 32, fit).pixel_size((20, 40), (1.0, 1.0)) == pytest.approx(size)


def test_finish_puts_padding_to_black_before_it_resizes():
    unit = np.ones((4, 4), np.float32)
    padding = np.zeros((4, 4), bool)
    padding[:, 3] = True
    out = finish(unit, padding, Geometry(2, 2), None)
    np.testing.assert_allclose(out, [[1, 0], [1, 0]], atol=1e-6)


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
