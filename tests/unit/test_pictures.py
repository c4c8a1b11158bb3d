"""Ordinary images in the two passes."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.files import SetAside, Unreadable, list_entries
from pipeline.geometry import Geometry
from pipeline.pictures import look_at_picture, picture_frame
from pipeline.preprocess import Preparation, Window, finish
from pipeline.reading import look, prepare
from pipeline.scans import Rules


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


PREPARATION = Preparation(Window.parse("full"), Geometry(16, 16))


def read(file, preparation=PREPARATION):
    """Prepared image, [-1, 1]."""
    return finish(picture_frame(file.read_bytes(), preparation), preparation.geometry)[0]


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(("dtype", "highest"), [("u1", 255), ("u2", 65535)])
def test_grey_of_either_depth_spans_its_type(tmp_path, dtype, highest, ending):
    values = np.linspace(0, highest, 256).round().astype(dtype).reshape(16, 16)
    file = tmp_path / f"x.{ending}"
    picture(file, values)
    np.testing.assert_allclose(read(file), values / (highest / 2) - 1, atol=1e-5)
    found = look_at_picture(io.BytesIO(file.read_bytes()))
    assert (found.header.highest, found.header.rows, found.header.columns) == (highest, 16, 16)


def test_big_endian_tiff(tmp_path):
    values = (np.arange(256).reshape(16, 16) * 257).astype(">u2")
    Image.frombytes("I;16B", (16, 16), values.tobytes()).save(tmp_path / "x.tif")
    np.testing.assert_allclose(read(tmp_path / "x.tif"), values / 32767.5 - 1, atol=1e-5)


def test_white_is_zero_is_turned_round(tmp_path):
    values = np.linspace(0, 65535, 256).round().astype("u2").reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={262: 0})
    np.testing.assert_allclose(read(tmp_path / "x.tif"), 1 - values / 32767.5, atol=1e-5)


def test_floating_point_needs_a_window_of_its_own(tmp_path):
    values = np.linspace(-1, 3, 256, dtype=np.float32).reshape(16, 16)
    picture(tmp_path / "x.tif", values)
    with pytest.raises(Unreadable, match="floating point"):
        read(tmp_path / "x.tif")
    ranged = Preparation(Window.parse((-1, 3)), Geometry(16, 16))
    np.testing.assert_allclose(read(tmp_path / "x.tif", ranged), (values - 1) / 2, atol=1e-5)


def test_grey_stored_as_colour_is_grey_and_colour_is_set_aside(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), "u1")
    picture(tmp_path / "grey.png", np.stack([grey] * 3, axis=-1))
    np.testing.assert_allclose(read(tmp_path / "grey.png"), grey / 127.5 - 1, atol=1e-5)
    picture(tmp_path / "colour.png", np.stack([grey, grey, 255 - grey], axis=-1))
    with pytest.raises(SetAside, match="colour"):
        read(tmp_path / "colour.png")


def test_damaged_and_foreign_files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), "u1")
    picture(tmp_path / "in" / "x.png", noise)
    data = (tmp_path / "in" / "x.png").read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "in" / "note.txt").write_text("hello")
    frames = [Image.fromarray(noise), Image.fromarray(noise.T)]
    frames[0].save(tmp_path / "in" / "stack.tif", save_all=True, append_images=frames[1:])
    rules = Rules("images", PREPARATION)
    fates = {}
    for entry in list_entries(tmp_path / "in"):
        found = look(entry, rules)
        last = prepare((entry, found), rules, tmp_path) if found.status == "image" else found
        fates[entry.name] = last.status, last.reason
    assert fates["x.png"] == ("image", "")
    assert fates["cut.png"][0] == "quarantined"
    assert fates["note.txt"] == ("set aside", "no image file")
    assert fates["stack.tif"] == ("set aside", "an animation or a stack of images")
