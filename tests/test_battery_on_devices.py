"""The checks of the battery on matrices whose data are in another array library: those of a device."""

import pytest

from structmat.exceptions import DeviceError
from structmat.testing import CHECKS, Case
from structmat.testing.solving import _is_singular
from tests import cases
from tests.conftest import cupy_library, strict_library, torch_library

# of every format: general, Hermitian, rectangular, built; full rank shows what inverses lose, columns of length 1e-40
# (transpose_of_tall_c8) what underflows
CHOSEN = (
    "general_97_f8", "symmetric_97_c16", "transpose_of_tall_c8", "general_points_2d", "rank_zero",
    "from_kernel_symmetric",
    "hodlr_general_97_f8", "hodlr_symmetric_97_c16", "hodlr_tall", "hodlr_full_rank", "hodlr_definite",
    "hodlr_from_sparse",
    "h_general_97_f4", "h_symmetric_97_c16", "h_tall", "h_general_points_2d", "h_from_kernel",
    "h2_general_97_f8", "h2_symmetric_97_c16", "h2_tall", "h2_rank_zero", "h2_from_kernel_rectangular",
    "h2_low_rank_hermitian",
)  # fmt: skip

# what runs on the CPU only and says so, by format
FACTORING = (
    "solve_with_vectors_and_blocks", "solve_with_views", "solve_in_one_call", "solves_refuse_bad_input", "determinant",
    "inverse_as_operator", "inverse_matrix",
)  # fmt: skip
REFUSED = {
    "HSSMatrix": {"inverse_matrix"},
    "HODLRMatrix": {"inverse_matrix", "product_of_matrices", "hadamard_product"},
    "HMatrix": {"product_of_matrices", "hadamard_product", *FACTORING},
    "H2Matrix": {"product_of_matrices", "hadamard_product"},
}
# array_api_strict cannot assign to an array at places that an array of indices names
ASSIGNING = (
    "sum_and_difference", "low_rank_update", "sparse_update", "both_norms", "truncation_keeps_its_certificate",
    "nothing_changes_a_matrix",
)  # fmt: skip


# the strict library is slow: it sees one of each kind
LIBRARIES = {
    "array-api-strict": (strict_library, ("symmetric_97_c16", "hodlr_tall", "h_symmetric_97_c16", "h2_tall")),
    "torch": (torch_library, CHOSEN),
    "cupy": (cupy_library, CHOSEN),
}
PAIRS = [
    pytest.param(library, name, marks=pytest.mark.gpu if library == "cupy" else ())
    for library, (_, names) in LIBRARIES.items()
    for name in names
]


def moved(name, library):
    matrix, dense, tolerance = cases.build(name)
    return Case(matrix._with_arrays(LIBRARIES[library][0]().asarray), dense, tolerance, seed=len(name))


def run(name, case, check):
    """Run the check, or see that it is refused with the way out."""
    refused = REFUSED[type(case.matrix).__name__]
    nothing_to_factor = "determinant" in refused and check == "singular_matrices_are_refused"
    if CHECKS[check].reason_to_skip(case) is not None or nothing_to_factor:
        return
    if name.endswith(("_any", "_coarse_dense")):  # A and A^H have two partitions
        refused = refused | {"sum_and_difference"}
    if check not in refused:
        CHECKS[check](case)
        return
    if not (check in FACTORING and _is_singular(case)):  # else there may be nothing to check
        with pytest.raises(DeviceError, match=r'to_device\("cpu"\)'):
            CHECKS[check](case)


@pytest.mark.parametrize(("library", "name"), PAIRS)
def test_battery_on_a_device(library, name):
    case = moved(name, library)
    for check in CHECKS:
        strictly = library == "array-api-strict" and type(case.matrix).__name__ == "H2Matrix"
        if not (strictly and check in ASSIGNING):
            run(name, case, check)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in cases.BUILDERS if "mixed" not in name])  # these only multiply there
@pytest.mark.parametrize("library", ["torch", pytest.param("cupy", marks=pytest.mark.gpu)])
def test_the_whole_battery_on_a_device(library, name):
    case = moved(name, library)
    for check in CHECKS:
        run(name, case, check)
