"""A curvature operator that is a given matrix."""

import tensorflow as tf

from custom_op import CurvatureOperator


class MatrixOperator(CurvatureOperator):
    """A over two parameters, so that structures are in play."""

    def __init__(self, matrix, dtype=tf.float64):
        self.matrix = tf.constant(matrix, dtype)
        self.products = 0
        super().__init__({"a": tf.zeros([2], dtype), "b": tf.zeros([len(matrix) - 2], dtype)})

    def _product(self, vector):
        self.products += 1
        return self.unflatten(tf.linalg.matvec(self.matrix, self.flatten(vector)))
