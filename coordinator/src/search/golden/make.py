"""Makes the references that the search's tests are held to, and the direction numbers of Sobol's sequence.

    python3 -m venv venv && venv/bin/pip install -r data/tests/golden/requirements.txt
    venv/bin/python coordinator/src/search/golden/make.py

The direction numbers are Joe and Kuo's (2008, "Constructing Sobol sequences with better two-dimensional projections", file
new-joe-kuo-6.21201), as SciPy ships them under their BSD licence.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy
from scipy import integrate, special
from scipy.stats import qmc
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

FOLDER = Path(__file__).parent
# More than there are hyperparameters.
DIMENSIONS = 64


def directions() -> None:
    """A line a dimension: degree and coefficients of the primitive polynomial, then the initial numbers m."""
    with np.load(Path(scipy.__file__).parent / "stats" / "_sobol_direction_numbers.npz") as numbers:
        polynomials, initial = numbers["poly"], numbers["vinit"]
    lines = [
        "# Joe and Kuo 2008, new-joe-kuo-6.21201: dimension, degree s, coefficients a, initial numbers m_1 to m_s",
        "# Copyright (c) 2008, Frances Y. Kuo and Stephen Joe, BSD 3-clause; see https://web.maths.unsw.edu.au/~fkuo/sobol/",
    ]
    for dimension in range(1, DIMENSIONS):
        polynomial = int(polynomials[dimension])
        degree = polynomial.bit_length() - 1
        coefficients = (polynomial >> 1) & ((1 << (degree - 1)) - 1)
        m = " ".join(str(int(number)) for number in initial[dimension][:degree])
        lines.append(f"{dimension + 1} {degree} {coefficients} {m}")
    (FOLDER / "directions.txt").write_text("\n".join(lines) + "\n")


def sobol() -> None:
    points = qmc.Sobol(DIMENSIONS, scramble=False, bits=32).random(64)
    write("sobol.json", {"scipy": scipy.__version__, "points": points.tolist()})


def gaussian() -> None:
    """A process with fixed hyperparameters: its likelihood, the gradient of it, and what it believes of other places."""
    random = np.random.default_rng(7)
    places, asked = random.random((25, 3)), random.random((10, 3))
    scores = np.sin(5 * places[:, 0]) + places[:, 1] ** 2 + 0.1 * random.standard_normal(25)
    lengths, signal, noise = [0.3, 0.8, 2.5], 1.7, 0.02
    kernel = ConstantKernel(signal) * Matern(lengths, nu=2.5) + WhiteKernel(noise)
    process = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(places, scores)
    value, gradient = process.log_marginal_likelihood(process.kernel_.theta, eval_gradient=True)
    means, deviations = process.predict(asked, return_std=True)
    # scikit-learn's order is signal, lengths, noise; its deviations hold the noise.
    write("gaussian.json", {
        "places": places.tolist(), "scores": scores.tolist(), "lengths": lengths, "signal": signal, "noise": noise,
        "log_likelihood": value, "gradient": [*gradient[1:4], gradient[0], gradient[4]],
        "asked": asked.tolist(), "means": means.tolist(), "deviations": np.sqrt(deviations**2 - noise).tolist(),
    })


def improvement() -> None:
    """ln h(z) with h(z) = φ(z) + z·Φ(z), which is the integral of Φ up to z, taken relative to Φ(z)."""
    zs = [-1000.0, -200.0, -50.0, -31.0, -30.5, -29.5, -20.0, -12.0, -8.0, -6.0, -5.0, -4.0, -3.0, -2.5, -2.0, -1.5, -1.01,
          -0.99, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
    values = []
    for z in zs:
        # Beyond some widths of the integrand nothing is left of it.
        width = 40.0 / max(1.0, abs(z)) if z < 0 else z + 40.0
        ratio = lambda t: np.exp(special.log_ndtr(z - t) - special.log_ndtr(z))
        area, _ = integrate.quad(ratio, 0.0, width, epsabs=0.0, epsrel=1e-12, limit=500)
        values.append(float(special.log_ndtr(z) + np.log(area)))
    write("improvement.json", {"z": zs, "log_h": values})


def write(name: str, content: dict) -> None:
    (FOLDER / name).write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    directions()
    sobol()
    gaussian()
    improvement()
