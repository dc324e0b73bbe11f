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
from scipy.stats import qmc

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


def write(name: str, content: dict) -> None:
    (FOLDER / name).write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    directions()
    sobol()
