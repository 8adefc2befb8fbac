"""The cache: what is found again, what is made again, what is refused."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from structmat import FileFormatError
from structmat_nn import data
from structmat_nn.data import CacheWarning, Recipe, cache_directory
from structmat_nn.data.dataset import TEST_SETS, DataSet
from structmat_nn.data.poisson1d import pairs_by_part


class Counted:
    """A recipe that remembers what it was asked for, and can be interrupted."""

    def __init__(self, fail_at=None, version=1):
        self.calls = []
        self.fail_at = fail_at
        self.recipe = Recipe(
            "counted", "none", self.generate, self.assemble, (4,),
            {"train": 10, "validation": 2, **dict.fromkeys(TEST_SETS, 2)}, {"scale": 1.0}, version=version, chunk=4,
        )  # fmt: skip

    def generate(self, part, count, rng, size, settings):
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append((part, count))
        inputs = settings["scale"] * rng.standard_normal((count, *size))
        return {"inputs": inputs, "outputs": 2 * inputs}

    @staticmethod
    def assemble(name, parts, size, settings):
        return DataSet(name, **pairs_by_part(parts), grid=(np.arange(4.0),), settings=settings)


ALL_CALLS = [("train", 4), ("train", 4), ("train", 2), ("validation", 2), *((test, 2) for test in TEST_SETS)]


def test_a_second_load_makes_nothing(tmp_path):
    first, second = Counted(), Counted()
    made = data.load(first.recipe, cache=tmp_path)
    read = data.load(second.recipe, cache=tmp_path)
    assert first.calls == ALL_CALLS
    assert second.calls == []
    np.testing.assert_array_equal(made.train.inputs, read.train.inputs)
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_interrupted_run_continues_where_it_stopped(tmp_path):
    interrupted, after = Counted(fail_at=2), Counted()
    with pytest.raises(KeyboardInterrupt):
        data.load(interrupted.recipe, cache=tmp_path)
    continued = data.load(after.recipe, cache=tmp_path)
    assert after.calls == ALL_CALLS[2:]
    np.testing.assert_array_equal(continued.train.inputs, data.load(Counted().recipe, cache=False).train.inputs)


@pytest.mark.parametrize("change", [{"seed": 1}, {"scale": 2.0}, {"size": 5}, {"version": 2}])
def test_whatever_changes_the_numbers_changes_the_folder(tmp_path, change):
    data.load(Counted().recipe, cache=tmp_path)
    changed = Counted(version=change.get("version", 1))
    arguments = {key: value for key, value in change.items() if key != "version"}
    if "size" in change:
        changed.assemble = None
        with pytest.raises(Exception, match="grid has size"):
            data.load(changed.recipe, cache=tmp_path, **arguments)
    else:
        data.load(changed.recipe, cache=tmp_path, **arguments)
    assert changed.calls == ALL_CALLS
    assert len(list(tmp_path.iterdir())) == 2


def test_no_cache_writes_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("STRUCTMAT_DATA", str(tmp_path))
    data.load(Counted().recipe, cache=False)
    assert list(tmp_path.iterdir()) == []
    data.load(Counted().recipe)
    assert len(list(tmp_path.iterdir())) == 1


def first_file(folder):
    return next(folder.rglob("train-00000-4.npz"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "changed"])
def test_damaged_files_are_named_and_made_again(tmp_path, damage):
    whole = data.load(Counted().recipe, cache=tmp_path)
    path = first_file(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[content.index(whole.train.inputs[:4].tobytes())] ^= 1
    path.write_bytes(content[: {"truncated": 500, "empty": 0, "changed": len(content)}[damage]])
    again = Counted()
    with pytest.warns(CacheWarning, match=r"train-00000-4\.npz is damaged"):
        repaired = data.load(again.recipe, cache=tmp_path)
    assert again.calls == [("train", 4)]
    np.testing.assert_array_equal(whole.train.inputs, repaired.train.inputs)
    data.load(again.recipe, cache=tmp_path)
    assert again.calls == [("train", 4)]


def test_foreign_files_are_refused(tmp_path):
    data.load(Counted().recipe, cache=tmp_path)
    np.savez(first_file(tmp_path), inputs=np.ones((4, 4)))
    with pytest.raises(FileFormatError, match="has no header and no checksum"):
        data.load(Counted().recipe, cache=tmp_path)


def test_a_chunk_of_another_data_set_is_refused(tmp_path):
    data.load(Counted().recipe, cache=tmp_path / "one")
    data.load(Counted().recipe, cache=tmp_path / "two", scale=2.0)
    first_file(tmp_path / "one").write_bytes(first_file(tmp_path / "two").read_bytes())
    with pytest.raises(FileFormatError, match="it says of itself"):
        data.load(Counted().recipe, cache=tmp_path / "one")


def test_nothing_is_unpickled(tmp_path):
    data.load(Counted().recipe, cache=tmp_path)
    np.savez(first_file(tmp_path), inputs=np.array([{"a": 1}], dtype=object))
    with pytest.warns(CacheWarning, match="Object arrays cannot be loaded"):
        data.load(Counted().recipe, cache=tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda inputs: inputs[:1], "'counted' made 1 rows of 'inputs' for 4 samples of 'train'"),
        (lambda inputs: inputs * np.nan, "inputs of 'train' of 'counted' must be finite"),
    ],
)
def test_what_a_recipe_makes_is_checked_before_it_is_stored(tmp_path, bad, message):
    counted = Counted()
    made = counted.recipe.generate

    def generate(*arguments):
        arrays = made(*arguments)
        return {**arrays, "inputs": bad(arrays["inputs"])}

    with pytest.raises(ValueError, match=message):
        data.load(dataclasses.replace(counted.recipe, generate=generate), cache=tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def test_the_folder_says_what_is_in_it(tmp_path):
    data.load(Counted().recipe, cache=tmp_path, seed=3)
    described = json.loads(next(tmp_path.rglob("recipe.json")).read_text())
    assert (described["name"], described["seed"], described["settings"]) == ("counted", 3, {"scale": 1.0})


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("STRUCTMAT_DATA", str(tmp_path))
    assert cache_directory() == tmp_path
    assert cache_directory("here") == Path("here")
    monkeypatch.delenv("STRUCTMAT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_directory() == tmp_path / "structmat"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_directory().parts[-3:] == ("Library", "Caches", "structmat")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_directory() == tmp_path / "structmat"


ENDLESS = """
import sys
from structmat_nn import data
data.load("burgers", samples={"train": 100000}, size=32, horizon=1.0, cache=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_leaves_whole_chunks(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)])
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.rglob("train-*.npz"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("train-*.npz")}
    assert len(written) >= 3
    counts = {"train": 100 * len(written), "validation": 1, **dict.fromkeys(TEST_SETS, 1)}
    resumed = data.load("burgers", samples=counts, size=32, horizon=1.0, cache=tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("train-*.npz")} == written
    fresh = data.load("burgers", samples=counts, size=32, horizon=1.0, cache=False)
    np.testing.assert_array_equal(resumed.train.outputs, fresh.train.outputs)
