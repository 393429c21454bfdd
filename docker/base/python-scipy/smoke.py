"""Says that scipy computes. Run as the image's user, without a network: any error fails the build."""

import numpy
import scipy
import scipy.integrate
import scipy.linalg

area, _ = scipy.integrate.quad(lambda x: x * x, 0.0, 3.0)
assert abs(area - 9.0) < 1e-9, area
assert numpy.allclose(scipy.linalg.inv(numpy.diag([2.0, 4.0])), numpy.diag([0.5, 0.25]))
print("numpy", numpy.__version__, "scipy", scipy.__version__)
