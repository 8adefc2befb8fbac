"""Files of matrices: exact round trips, and a named error for every file that is not what it should be."""

import json
import os
import stat
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

import structmat as sm
from structmat import archive, gallery, io

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def dense(rows, columns, dtype, hermitian=False):
    x, y = np.linspace(0, 1, rows), np.linspace(0, 1, columns)
    a = 1 / (1 + np.abs(x[:, None] - y))
    if np.dtype(dtype).kind == "c":
        a = a * np.exp(2j * (x[:, None] - y) + (0 if hermitian else 1j * y**2))
    elif not hermitian:
        a = a * (1 + y**2)
    return a.astype(dtype)


def trees(rows, columns, depth):
    return tuple(sm.ClusterTree.balanced(size, depth=depth) for size in (rows, columns))


def example(dtype=np.float64, n=90, **options):
    tree = sm.ClusterTree.balanced(n, leaf_size=16)
    return sm.HSSMatrix.from_dense(dense(n, n, dtype, **options), tree, rtol=1e-5, symmetric=bool(options))


def assert_same(a, b):
    """Bit by bit: generators, trees, certificate."""
    assert type(a) is type(b)
    assert (a.shape, a.dtype, a.symmetric) == (b.shape, b.dtype, b.symmetric)
    g, h = a.generators, b.generators
    arrays = [(g.diagonal, h.diagonal), *zip(g.couplings, h.couplings, strict=True)]
    for x, y in ((g.row_basis, h.row_basis), (g.col_basis, h.col_basis)):
        arrays += [*zip(x.levels, y.levels, strict=True), *zip(x.ranks, y.ranks, strict=True)]
        assert (x.orders is None) == (y.orders is None)
        arrays += [] if x.orders is None else [*zip(x.orders, y.orders, strict=True)]
    for x, y in arrays:
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    for s, t in ((a.row_tree, b.row_tree), (a.col_tree, b.col_tree)):
        assert s == t
        assert (s.points is None) == (t.points is None)
        if s.points is not None:
            np.testing.assert_array_equal(s.points, t.points)
    assert a.certificate == b.certificate


def round_trip(a, path):
    a.save(path)
    return sm.load(path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hermitian", [False, True])
@pytest.mark.parametrize("view", ["itself", "T", "H", "conj"])
def test_round_trip_of_matrices_and_views(tmp_path, dtype, hermitian, view):
    a = example(dtype, hermitian=True) if hermitian else example(dtype)
    shown = {"itself": a, "T": a.T, "H": a.H, "conj": a.conj()}[view]
    b = round_trip(shown, tmp_path / "a.npz")
    assert_same(shown, b)
    np.testing.assert_array_equal(b.to_dense(), shown.to_dense())
    if hermitian:
        assert b.generators.row_basis is b.generators.col_basis
        assert b.row_tree is b.col_tree


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (40, 100), (97, 61)])
def test_round_trip_of_rectangular_and_tiny_matrices(tmp_path, shape):
    depth = 0 if min(shape) < 8 else 3
    a = sm.HSSMatrix.from_dense(dense(*shape, np.float64), trees(*shape, depth), rtol=1e-9)
    assert_same(a, round_trip(a, tmp_path / "a.npz"))


def test_round_trip_of_rank_zero(tmp_path):
    a = sm.HSSMatrix.identity(sm.ClusterTree.balanced(50, leaf_size=8))
    assert_same(a, round_trip(a, tmp_path / "a.npz"))


def test_points_permutations_and_solutions_survive(tmp_path, rng):
    points = rng.random((150, 1))
    for symmetric in (False, True):
        a = sm.HSSMatrix.from_kernel(lambda x, y: 1 / (1 + abs(x - y.T)), points, leaf_size=16, symmetric=symmetric)
        for shown in (a, a.T):  # their bases are interpolative
            assert_same(shown, round_trip(shown, tmp_path / "a.npz"))
    a = a.add_diagonal(1.0)
    b = round_trip(a, tmp_path / "a.npz")
    assert not b.row_tree.is_identity
    assert_same(a, b)
    x = rng.standard_normal(150)
    np.testing.assert_array_equal(a.solve(x), b.solve(x))


def test_a_file_of_a_loaded_matrix_holds_the_same_bytes(tmp_path):
    b = round_trip(example(), tmp_path / "a.npz")
    b.save(tmp_path / "b.npz")
    with np.load(tmp_path / "a.npz") as first, np.load(tmp_path / "b.npz") as second:
        assert first.files == second.files
        assert all(np.array_equal(first[key], second[key]) for key in first.files)


def test_details_of_certificates_survive(tmp_path):
    a = example()
    details = {
        "count": np.int64(3),
        "pair": (1, 2.5),
        "nested": {"yes": True, "none": None, "list": [1, (2,)]},
        "phase": 1 + 2j,
        "infinite": np.inf,
        "tiny": 5e-324,
    }
    a.certificate = replace(a.certificate, estimate=0.1 + 0.2, details=details)
    assert round_trip(a, tmp_path / "a.npz").certificate == a.certificate
    a.certificate = replace(a.certificate, details={"array": np.arange(3)})
    np.testing.assert_array_equal(round_trip(a, tmp_path / "a.npz").certificate.details["array"], np.arange(3))
    a.certificate = replace(a.certificate, details={"bad": object()})
    with pytest.raises(TypeError, match="a certificate with a object among its details cannot be saved"):
        a.save(tmp_path / "a.npz")


def test_samples_keep_their_report(tmp_path, rng):
    inputs = rng.standard_normal((64, 14))
    green = gallery.green_operator_1d(64)
    a = sm.HSSMatrix.from_samples(inputs, green.operator() @ inputs, rank=2, leaf_size=8, symmetric=True)
    assert round_trip(a, tmp_path / "a.npz").certificate == a.certificate


# ----------------------------------------------------------------------------- names and replacement


@pytest.mark.parametrize("name", ["plain", "matrix.hss", "matrix.npz", "x" * 240])
def test_the_name_is_taken_as_it_is(tmp_path, name):
    example().save(str(tmp_path / name))
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert sm.load(str(tmp_path / name)).shape == (90, 90)


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    example().save(path)
    old = path.read_bytes()
    written = []

    def fail(archive, key, array):
        if len(written) == 4:
            raise OSError("no space left")
        written.append(key)

    monkeypatch.setattr(archive, "_write", fail)
    with pytest.raises(OSError, match="no space left"):
        example(n=40).save(path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_an_interruption_leaves_nothing_behind(tmp_path):
    def write():
        with archive.atomic_file(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_and_links_are_kept(tmp_path):
    path, link = tmp_path / "a.npz", tmp_path / "link.npz"
    example().save(path)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    link.symlink_to(path)
    example(n=40).save(link)
    assert link.is_symlink()
    assert sm.load(path).shape == (40, 40)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        example().save(tmp_path / "nowhere" / "a.npz")


def test_other_objects_are_not_saved(tmp_path):
    with pytest.raises(TypeError, match="cannot save a ndarray; the formats with files are HSSMatrix"):
        io.save(np.eye(3), tmp_path / "a.npz")


# ------------------------------------------------------------------------------------- bad files


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "a.npz"
    example(n=40).save(path)
    return path


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        sm.load(tmp_path / "nothing.npz")


def test_truncation_at_any_length_is_found(good, tmp_path):
    whole = good.read_bytes()
    path = tmp_path / "cut.npz"
    for length in {*range(70), *range(70, len(whole), 97), *range(len(whole) - 70, len(whole))}:
        path.write_bytes(whole[:length])
        with pytest.raises(sm.FileFormatError, match=r"cut\.npz is (empty|not a file|truncated or damaged)"):
            sm.load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(sm.FileFormatError, match=r"truncated or damaged .*; save the matrix again"):
        sm.load(path)


def test_a_flipped_byte_is_found_or_harmless(good, tmp_path):
    """Time stamps and the like in the archive may change; nothing of the matrix may."""
    whole, expected, found = good.read_bytes(), sm.load(good), 0
    path = tmp_path / "flipped.npz"
    positions = range(0, len(whole), 41)
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 0x15
        path.write_bytes(changed)
        try:
            b = sm.load(path)
        except sm.FileFormatError:
            found += 1
        else:
            assert_same(expected, b)
    assert found > 0.5 * len(positions)


def rewritten(good, path, change):
    """Copy a good file with some arrays changed, and every checksum of the archive itself right."""
    with np.load(good) as archive:
        arrays = {key: archive[key] for key in archive.files}
    change(arrays)
    np.savez(path, **arrays)
    return path


def header_of(arrays):
    return json.loads(arrays["header"].tobytes())


def put_header(arrays, header):
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)


def with_checksum(arrays):
    declared = {key: arrays[key] for key in header_of(arrays)["arrays"]}
    arrays["checksum"] = np.frombuffer(archive._checksum(arrays["header"], declared), dtype=np.uint8)


def newer(arrays):
    put_header(arrays, header_of(arrays) | {"version": archive.VERSION + 1})


def other_class(arrays):
    put_header(arrays, header_of(arrays) | {"class": "ButterflyMatrix"})
    with_checksum(arrays)


def changed_entry(arrays):
    arrays["diagonal"] = arrays["diagonal"] + 1e-12


def other_shape(arrays):
    arrays["diagonal"] = arrays["diagonal"][:1]


def without_diagonal(arrays):
    del arrays["diagonal"]


def without_header(arrays):
    del arrays["header"]


def other_header(arrays):
    put_header(arrays, {"format": "pictures", "version": 1})


def header_of_numbers(arrays):
    arrays["header"] = np.eye(2)


def header_of_noise(arrays):
    arrays["header"] = np.arange(7, dtype=np.uint8)


def wrong_depth(arrays):
    header = header_of(arrays)
    header["trees"]["row"]["depth"] -= 1
    put_header(arrays, header)
    with_checksum(arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            newer,
            r"written by a newer version of structmat \(format 2; this one reads up to 1\); upgrade",
        ),
        (other_class, r"holds a ButterflyMatrix, but this version reads only HSSMatrix"),
        (changed_entry, r"is damaged: its contents do not have the checksum stored with them"),
        (other_shape, r"damaged \(array diagonal is not what the header says\)"),
        (without_diagonal, r"is damaged: it lacks the arrays diagonal"),
        (without_header, r"an archive of something else: it has no header of structmat"),
        (other_header, r"an archive of something else: its header is not one of structmat"),
        (header_of_numbers, r"an archive of something else: its header is not one of structmat"),
        (header_of_noise, r"an archive of something else: its header is not one of structmat"),
        (wrong_depth, r"is no valid matrix, though its checksum is right"),
    ],
)
def test_archives_that_are_no_good(good, tmp_path, change, message):
    with pytest.raises(sm.FileFormatError, match=message):
        sm.load(rewritten(good, tmp_path / "bad.npz", change))


def test_files_of_others(tmp_path):
    np.save(tmp_path / "dense.npy", np.eye(3))
    (tmp_path / "notes.txt").write_text("no matrix")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.eye_array(3).tocsr())
    for name in ("dense.npy", "notes.txt"):
        with pytest.raises(sm.FileFormatError, match=f"{name} is not a file of structmat: it is no zip archive"):
            sm.load(tmp_path / name)
    with pytest.raises(sm.FileFormatError, match=r"an archive of something else: .*it holds _is_array.npy, data.npy"):
        sm.load(tmp_path / "sparse.npz")
    with pytest.raises(sm.FileFormatError, match="it holds nothing"):
        sm.load(tmp_path / "empty.zip")


def test_pickles_are_never_opened(good, tmp_path):
    def change(arrays):
        arrays["diagonal"] = np.array([{"a": 1}], dtype=object)

    with pytest.raises(sm.FileFormatError, match="truncated or damaged"):
        sm.load(rewritten(good, tmp_path / "bad.npz", change))
