"""Problems that several test files build matrices from."""

import numpy as np

import structmat as sm


def line(n):
    return (np.arange(n) + 0.5) / n


def kernel_k(n):
    """1 / (|x - y| + 1/n): Hermitian positive definite."""

    def kernel(x, y):
        return 1.0 / (np.abs(np.subtract.outer(x, y)) + 1.0 / n)

    return kernel


def kernel_l(n):
    """log |x - y| with log(1/n) on the diagonal: indefinite, badly conditioned for large n."""

    def kernel(x, y):
        distance = np.abs(np.subtract.outer(x, y))
        return np.log(np.where(distance > 0, distance, 1.0 / n))

    return kernel


KERNELS = {"K": kernel_k, "L": kernel_l}


def dense_problem(name, n):
    return KERNELS[name](n)(line(n), line(n))


def one_sided(n):
    """A kernel that is neither symmetric nor a function of the distance alone."""

    def kernel(x, y):
        difference = np.subtract.outer(x, y)
        return np.exp(-np.abs(difference)) * (1.0 + 0.5 * np.sign(difference)) + np.eye(1) / n

    return kernel


def relative_error(matrix, dense):
    return float(np.linalg.norm(np.asarray(matrix) - dense) / np.linalg.norm(dense))


class Counter:
    """An operator that counts the columns it is applied to."""

    def __init__(self, dense):
        self.dense, self.shape, self.dtype = dense, dense.shape, dense.dtype
        self.forward = self.backward = 0

    def matmat(self, x):
        self.forward += x.shape[1]
        return self.dense @ x

    def rmatmat(self, x):
        self.backward += x.shape[1]
        return self.dense.conj().T @ x


def tree_of(n, leaf_size):
    return sm.ClusterTree.balanced(n, leaf_size)
