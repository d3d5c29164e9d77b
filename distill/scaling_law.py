"""Saturating power laws: how an error falls with compute or samples, and how sure that is.

error(x) = floor + amount * x ** -exponent: Hestness et al. 2017, "Deep Learning Scaling is
Predictable, Empirically", eq. 1 with its irreducible error; fitted as Hoffmann et al. 2022
("Chinchilla", appendix D.2) do: a robust loss on logarithms, from many starts. Recipes are compared
at equal x, as Cherti et al. 2023 compare data sets for CLIP. Left out: laws of two variables
(model size and data), which need grids of runs.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.special import expit

MIN_SIZES = 4
"""Distinct x that a fit needs: three parameters, and one to contradict them."""
MIN_SPAN = 4.0
"""Largest over smallest x that a fit needs: an exponent is a slope over logarithms of x."""
MAX_REACH = 10.0
"""How far beyond the largest measured x, as a factor, a law is asked."""
_MAX_EXPONENT = 5.0
# Hoffmann et al. take 1e-3 for losses with little noise; evaluation scores have more.
_ROBUST_FROM = 0.05

Numbers = Float[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """error(x) = floor + amount * (x / unit) ** -exponent.

    Attributes:
        floor: error that more x does not take away; in the error's unit, at least 0.
        amount: what x takes away from, at x = unit; in the error's unit.
        exponent: how fast; above 0.
        unit: the geometric mean of the fitted x, so that `amount` is a size one can read.
    """

    floor: float
    amount: float
    exponent: float
    unit: float

    def error(self, x: float) -> float:
        """Return the error at `x`."""
        return self.floor + self.amount * (x / self.unit) ** -self.exponent

    def needed(self, error: float, *, within: float) -> float | None:
        """Return the x with this error; None where that is above `within`, or nowhere at all."""
        if error <= self.floor or self.amount == 0:
            return None
        # As a logarithm: a flat law's x has more digits than a float's exponent can say.
        times = (math.log(self.amount) - math.log(error - self.floor)) / self.exponent
        return None if times > math.log(within / self.unit) else self.unit * math.exp(times)


def check_points(x: Numbers, error: Numbers, of: str) -> None:
    """Refuse points that three parameters would fit whatever they were.

    Raises:
        ValueError: fewer than `MIN_SIZES` distinct x, a span below `MIN_SPAN`, or a number that is
            not finite and above 0.
    """
    for name, values in (("x", x), ("error", error)):
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            raise ValueError(
                f"{of}: {name} must be finite and above 0, got {values[wrong][0]:g} in point "
                f"{int(wrong.argmax()) + 1}"
            )
    sizes = np.unique(x)
    if len(sizes) < MIN_SIZES:
        raise ValueError(
            f"{of}: {len(sizes)} different x, and a law of three parameters needs at least "
            f"{MIN_SIZES}: run more sizes"
        )
    if sizes[-1] / sizes[0] < MIN_SPAN:
        raise ValueError(
            f"{of}: x spans a factor of {sizes[-1] / sizes[0]:.2g}, and at least {MIN_SPAN:g} is "
            "needed to see a slope: run smaller or larger sizes"
        )


def fit_power_law(x: Numbers, error: Numbers, *, of: str = "the points") -> PowerLaw:
    """Fit floor, amount and exponent.

    Args:
        x: compute, samples or steps of each run, shape (n,); several runs (seeds) may share one.
        error: 1 - accuracy, or a loss, shape (n,); above 0.
        of: what the points are, for messages.

    Raises:
        ValueError: see `check_points`.
    """
    x, error = np.asarray(x, np.float64), np.asarray(error, np.float64)
    check_points(x, error, of)
    lowest, typical = np.log(error.min()), np.log(np.median(error))
    starts = itertools.product((0.1, 0.5, 0.9), (0.1, 0.3, 1.0, 2.0))
    fits = [
        _descend(x, error, (lowest + np.log(share), typical + np.log1p(-share), exponent))
        for share, exponent in starts
    ]
    return min(fits, key=lambda found: found[0])[1]


def _descend(
    x: Numbers, error: Numbers, start: tuple[float, float, float]
) -> tuple[float, PowerLaw]:
    """Return the robust cost and the law reached from logarithms of floor, amount; exponent."""
    unit = float(np.exp(np.log(x).mean()))
    log_x, log_error = np.log(x / unit), np.log(error)

    def misses(values: np.ndarray) -> np.ndarray:
        return np.logaddexp(values[0], values[1] - values[2] * log_x) - log_error

    def slopes(values: np.ndarray) -> np.ndarray:
        floors = expit(values[0] - values[1] + values[2] * log_x)  # the floor's part of the error
        return np.stack((floors, 1 - floors, (floors - 1) * log_x), axis=1)

    lowest, typical = log_error.min(), np.median(log_error)
    low = np.array((lowest - 20.0, lowest - 20.0, 1e-3))
    high = np.array((lowest, typical + 20.0, _MAX_EXPONENT))
    found = least_squares(
        misses,
        np.clip(start, low + 1e-6, high - 1e-6),
        jac=slopes,  # pyright: ignore[reportArgumentType] - the stub knows its names only
        bounds=(low, high),
        loss="soft_l1",
        f_scale=_ROBUST_FROM,
        xtol=1e-9,
        ftol=1e-9,
        gtol=1e-9,
    )
    floor, amount = np.exp(found.x[:2])
    law = PowerLaw(floor=float(floor), amount=float(amount), exponent=float(found.x[2]), unit=unit)
    return float(found.cost), law


def resample(x: Numbers, error: Numbers, law: PowerLaw, draws: np.random.Generator) -> Numbers:
    """Draw errors as another set of runs at the same x might have had them, shape (n,).

    The law's relative misses are drawn anew over all x (a residual bootstrap: the few seeds of
    one x say too little of its spread), made larger by what three parameters take of them.
    """
    fitted = np.array([law.error(value) for value in x])
    missed = np.log(error / fitted)
    wider = np.sqrt(len(x) / max(len(x) - 3, 1))
    return fitted * np.exp(wider * draws.choice(missed, len(x)))


def bootstrap(
    law: PowerLaw, x: Numbers, error: Numbers, *, draws: int = 300, seed: int = 0
) -> list[PowerLaw]:
    """Fit `draws` laws to runs drawn anew from `law`; their spread is its uncertainty.

    Args:
        law: what `fit_power_law` found of x and error.
        x: see there.
        error: see there.
        draws: how many.
        seed: of the draws.

    Raises:
        ValueError: fewer than 20 draws have no 95 % interval.
    """
    if draws < 20:
        raise ValueError(f"an interval of 95 % needs at least 20 draws, got {draws}")
    generator = np.random.default_rng(seed)
    # Near the law is the best start for runs like these, and far from it the next best.
    here = (np.log(law.floor), np.log(law.amount), law.exponent)
    far = (here[0] - 3.0, np.log(law.floor + law.amount), law.exponent / 2)
    laws = []
    for _ in range(draws):
        drawn = resample(x, error, law, generator)
        fits = (_descend(x, drawn, here), _descend(x, drawn, far))
        laws.append(min(fits, key=lambda found: found[0])[1])
    return laws


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the middle 95 % of `values`."""
    low, high = np.quantile(np.asarray(values, np.float64), (0.025, 0.975), method="nearest")
    return float(low), float(high)


def check_reach(at: float, x: Numbers, of: str) -> None:
    """Refuse to say what lies too far beyond everything measured.

    Raises:
        ValueError: `at` is not above 0, or beyond `MAX_REACH` times the largest x.
    """
    if not 0 < at <= MAX_REACH * float(np.max(x)):
        raise ValueError(
            f"{of}: x must be above 0 and at most {MAX_REACH:g} times the largest measured one "
            f"({np.max(x):g}), got {at:g}: a law fitted so far below says nothing there"
        )
