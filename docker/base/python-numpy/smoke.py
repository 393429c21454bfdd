"""Says that numpy computes. Run as the image's user, without a network: any error fails the build."""

import numpy

assert (numpy.eye(3) @ numpy.arange(3.0)).tolist() == [0.0, 1.0, 2.0]
assert abs(numpy.linalg.det(numpy.array([[1.0, 2.0], [3.0, 4.0]])) + 2.0) < 1e-9
print("numpy", numpy.__version__)
