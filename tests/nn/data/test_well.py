"""The reader for The Well on small files that the test writes in its layout."""

import h5py
import numpy as np
import pytest

from structmat import FileFormatError
from structmat_nn.data import WellFile, load_well

TRAJECTORIES, TIMES, SIZE = 3, 5, (6, 4)


def put(group, name, values, *, sample=True, time=True, dims=(True, True)):
    data = group.create_dataset(name, data=values)
    data.attrs["sample_varying"], data.attrs["time_varying"], data.attrs["dim_varying"] = sample, time, list(dims)


def write(path, rng, *, feed=0.03, size=SIZE):
    """A file with scalar, vector and tensor fields, of which some vary with less than all there is."""
    arrays = {
        "A": rng.random((TRAJECTORIES, TIMES, *size)),
        "constant": rng.random((TRAJECTORIES, *size)),
        "profile": rng.random((TIMES, size[0])),
        "velocity": rng.random((TRAJECTORIES, TIMES, *size, 2)),
        "stress": rng.random((TRAJECTORIES, TIMES, *size, 2, 2)),
    }
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    with h5py.File(path, "w") as file:
        file.attrs.update(
            simulation_parameters=["F"], F=feed, dataset_name="example", grid_type="cartesian", n_spatial_dims=2,
            n_trajectories=TRAJECTORIES,
        )  # fmt: skip
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        dimensions["time"] = np.arange(TIMES, dtype=np.float32)
        for axis, n in zip("xy", size, strict=True):
            dimensions[axis] = np.linspace(0, 1, n, endpoint=False, dtype=np.float32)
        boundary = file.create_group("boundary_conditions/x_periodic")
        boundary.attrs.update(associated_dims=["x"], bc_type="PERIODIC", sample_varying=False, time_varying=False)
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["k", "by_sample", "clock"]
        for name, values in (("k", 0.06), ("by_sample", np.arange(3.0)), ("clock", np.arange(5.0))):
            scalars[name] = np.float32(values)
            scalars[name].attrs.update(sample_varying=name == "by_sample", time_varying=name == "clock")
        groups = [file.create_group(f"t{order}_fields") for order in range(3)]
        for group, names in zip(groups, (["A", "constant", "profile"], ["velocity"], ["stress"]), strict=True):
            group.attrs["field_names"] = names
        put(groups[0], "A", arrays["A"])
        put(groups[0], "constant", arrays["constant"], time=False)
        put(groups[0], "profile", arrays["profile"], sample=False, dims=(True, False))
        put(groups[1], "velocity", arrays["velocity"])
        put(groups[2], "stress", arrays["stress"])
    return arrays


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "example.hdf5"
    return path, write(path, np.random.default_rng(3))


def test_the_header_is_read(written):
    with WellFile(written[0]) as file:
        assert (file.name, file.trajectories, file.size) == ("example", TRAJECTORIES, SIZE)
        assert file.fields == {"A": 0, "constant": 0, "profile": 0, "velocity": 1, "stress": 2}
        assert file.components == {"A": 1, "constant": 1, "profile": 1, "velocity": 2, "stress": 4}
        assert file.boundary_conditions == {"x_periodic": "PERIODIC"}
        np.testing.assert_array_equal(file.times, np.arange(TIMES))
        np.testing.assert_allclose(file.grid[0], np.arange(6) / 6, atol=1e-7)


def test_fields_of_all_kinds_are_read(written):
    path, arrays = written
    with WellFile(path) as file:
        states = file.states([0, -1], trajectories=slice(1, 3))  # (2, 2, 9, 6, 4)
        assert states.dtype == np.float64
        assert states.shape == (2, 2, 9, *SIZE)
        last = states[:, 1]
        np.testing.assert_array_equal(last[:, 0], arrays["A"][1:, -1])
        np.testing.assert_array_equal(last[:, 1], arrays["constant"][1:])
        np.testing.assert_array_equal(last[:, 2], np.broadcast_to(arrays["profile"][-1][:, None], (2, *SIZE)))
        np.testing.assert_array_equal(last[:, 3:5], np.moveaxis(arrays["velocity"][1:, -1], -1, 1))
        np.testing.assert_array_equal(last[:, 6], arrays["stress"][1:, -1, ..., 0, 1])
        single = file.states(2, fields=["A"])
        np.testing.assert_array_equal(single[:, 0], arrays["A"][:, 2])


def test_a_trajectory_becomes_a_pair(written):
    path, arrays = written
    with WellFile(path) as file:
        pairs = file.pairs(fields=["A"], parameters=["F", "k", "by_sample"])
        np.testing.assert_array_equal(pairs.inputs[:, 0], arrays["A"][:, 0])
        np.testing.assert_array_equal(pairs.outputs, arrays["A"][:, -1])
        for channel, value in ((1, 0.03), (2, np.float32(0.06)), (3, np.arange(3.0)[:, None, None])):
            np.testing.assert_array_equal(pairs.inputs[:, channel], np.broadcast_to(value, (3, *SIZE)))
        back = file.pairs(fields=["A"], inverse=True, trajectories=slice(2))
        np.testing.assert_array_equal(back.inputs, arrays["A"][:2, -1])
        np.testing.assert_array_equal(back.outputs, arrays["A"][:2, 0])


def test_steps_of_trajectories_become_pairs(written):
    path, arrays = written
    with WellFile(path) as file:
        pairs = file.pairs(fields=["A"], first=1, stride=2, parameters=["by_sample"])
    assert len(pairs) == 3 * 2  # from the snapshots 1 and 2 to 3 and 4
    np.testing.assert_array_equal(pairs.inputs[:, 0], arrays["A"][:, 1:3].reshape(6, *SIZE))
    np.testing.assert_array_equal(pairs.outputs, arrays["A"][:, 3:5].reshape(6, *SIZE))
    np.testing.assert_array_equal(pairs.inputs[:, 1, 0, 0], [0, 0, 1, 1, 2, 2])


def test_only_what_is_asked_for_is_read(written, monkeypatch):
    read = []
    original = h5py.Dataset.__getitem__

    def counting(self, index, **options):
        result = original(self, index, **options)
        read.append((self.name, np.size(result)))
        return result

    with WellFile(written[0]) as file:
        monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
        file.states(1, fields=["velocity"], trajectories=slice(1))
    assert read == [("/t1_fields/velocity", 6 * 4 * 2)]


def test_a_folder_becomes_a_data_set(tmp_path):
    rng, arrays = np.random.default_rng(5), {}
    for folder, feeds in (("train", (0.03, 0.05)), ("valid", (0.03,)), ("test", (0.05,))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number, feed in enumerate(feeds):
            path = tmp_path / "data" / folder / f"part_{number}.hdf5"
            arrays[folder, number] = write(path, rng, feed=feed)
    dataset = load_well(tmp_path, fields=["A", "velocity"], parameters=["F"], trajectories=2)
    assert dataset.name == "example"
    assert dataset.channels == (4, 3)
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.tests["in span"])] == [4, 2, 2]
    assert list(dataset.tests) == ["in span"]
    np.testing.assert_array_equal(dataset.train.inputs[2:, 0], arrays["train", 1]["A"][:2, 0])
    np.testing.assert_array_equal(dataset.train.inputs[:, 3, 0, 0], [0.03, 0.03, 0.05, 0.05])
    scalar = load_well(tmp_path, fields=["A"], stride=1)
    assert scalar.channels == (1, 1)
    assert scalar.train.inputs.shape == (2 * 3 * 4, *SIZE)


def test_files_with_another_grid_or_none_are_named(tmp_path):
    rng = np.random.default_rng(0)
    for folder, size in (("train", SIZE), ("valid", (4, 4)), ("test", SIZE)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.hdf5", rng, size=size)
    with pytest.raises(FileFormatError, match=r"a.hdf5 has another grid than the files before it \(size \(4, 4\)\)"):
        load_well(tmp_path, fields=["A"])
    with pytest.raises(FileFormatError, match="there is no HDF5 file in"):
        load_well(tmp_path / "train")


def test_truncated_and_foreign_files_are_named(tmp_path, written):
    path, _ = written
    whole = path.read_bytes()
    for keep in (0, 100, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / f"cut{keep}.hdf5"
        cut.write_bytes(whole[:keep])
        with pytest.raises(FileFormatError, match=rf"cut{keep}.hdf5 is not an HDF5 file, or it is truncated"):
            WellFile(cut)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        WellFile(tmp_path / "nothing.hdf5")
    foreign = tmp_path / "foreign.hdf5"
    with h5py.File(foreign, "w") as file:
        file["numbers"] = np.ones(3)
    with pytest.raises(FileFormatError, match=r"foreign.hdf5 is not in the layout of The Well: it has no group 'dim"):
        WellFile(foreign)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.attrs.pop("n_trajectories"), "no attribute 'n_trajectories'"),
        (lambda file: file["dimensions"].pop("y"), "its dimensions lack 'y'"),
        (lambda file: file["dimensions"].attrs.pop("spatial_dims"), "lack 'the attribute spatial_dims'"),
        (lambda file: file["t0_fields"].pop("A"), "the field 'A' is listed, but is not there"),
        (lambda file: file.attrs.modify("n_trajectories", 4), r"'A' has shape \(3, 5, 6, 4\); expected \(4, 5, 6, 4\)"),
    ],
)
def test_what_is_missing_is_named(written, damage, message):
    path, _ = written
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(FileFormatError, match=message), WellFile(path) as opened:
        opened.states(0)


def test_damaged_data_are_named(written):
    """A file whose header is whole but whose numbers do not have their checksum."""
    path, _ = written
    values = np.random.default_rng(0).random((3, 5, 6, 4)).astype(np.float32)
    with h5py.File(path, "a") as file:
        del file["t0_fields/A"]
        data = file["t0_fields"].create_dataset("A", data=values, fletcher32=True, chunks=(3, 5, 6, 4))
        where = data.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where + 10] ^= 255
    path.write_bytes(content)
    with WellFile(path) as file, pytest.raises(FileFormatError, match="is damaged, it cannot be read"):
        file.states(0, fields=["A"])


def test_bad_arguments_are_named(written):
    with WellFile(written[0]) as file:
        with pytest.raises(ValueError, match="fields must be some of A, constant"):
            file.states(0, fields=["B"])
        with pytest.raises(IndexError, match=r"no snapshot 5 in .*, which has 5"):
            file.states(5)
        with pytest.raises(ValueError, match=r"has no parameter 'nu'; it has .*k.*F"):
            file.scalar("nu")
        with pytest.raises(ValueError, match="'clock' varies in time"):
            file.scalar("clock")
        with pytest.raises(ValueError, match="no pair 7 snapshots apart"):
            file.pairs(stride=7)
        with pytest.raises(ValueError, match="there is no pair"):
            file.pairs(first=3, last=2)
