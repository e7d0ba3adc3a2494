"""The world: users and items with tastes, and what they make of an impression.

Shape letters: U users, I items, N impressions, K taste dimensions, C categories. A leading 2 stands
for clicks and conversions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DAY_S", "DEVICES", "GENDERS", "NUM_DAYS", "Context", "World", "draw_context"]

NUM_USERS = 5_000
NUM_ITEMS = 2_000
NUM_CATEGORIES = 25
BRANDS_PER_CATEGORY = 8
TASTE_DIM = 3
NUM_DAYS = 30
DAY_S = 86_400
DEVICES = ("phone", "tablet", "desktop")
GENDERS = ("f", "m")
AGE_BORDERS = (25, 35, 45, 55, 65)
CTR = 0.12
"""Mean of p_ctr; the intercept is set to give it in every world."""
CVR_OF_CLICKS = 0.15
"""Mean of p_cvr over clicks; the intercept is set to give it in every world."""
INTERCEPT_LIMIT = 20.0
"""Intercepts are sought up to this size; in a world of more signal, up to as many times it."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Context(NamedTuple):
    """Impressions: who saw what, when and where.

    Users, items and devices are positions in the world's arrays, not ids.
    """

    user_N: Ints
    item_N: Ints
    device_N: Ints
    time_N: Ints
    """Seconds since the first day began."""

    @property
    def day_N(self) -> Ints:
        """Number of the day, from 0."""
        return self.time_N // DAY_S

    @property
    def hour_N(self) -> Ints:
        """Hour of the day, 0 to 23."""
        return self.time_N % DAY_S // 3600


@dataclass(frozen=True, slots=True)
class World:
    r"""Users and items. Clicks and conversions each have a logit of main effects and interactions.

    .. math:: z = b + \alpha_u + \beta_i + \gamma_{device} + \delta_{hour}
        + signal \, (t_u \cdot v_i + r_u \, price_i + s \cos(hour - peak_{category}))

    A user's taste :math:`t_u` is partly that of the user's age and gender, an item's position
    :math:`v_i` mostly that of its category. Users also differ in how they react to prices
    (:math:`r_u`), and categories in their time of day. Conversions have tastes and biases of their
    own, correlated with those of clicks: clicked impressions are no fair sample for conversions.

    Where the world drifts, tastes and items' biases turn, day by day, towards those of others: the
    :math:`t_u` of day n is :math:`\cos(n \, drift) \, t_u + \sin(n \, drift) \, t'_u`, and so are
    :math:`\beta_i` and the tastes of conversions.
    """

    age_U: Ints
    gender_U: Ints
    activity_U: Floats
    """Share of the impressions that each user sees."""
    device_UD: Floats
    """How often each user uses each device."""
    category_I: Ints
    brand_I: Ints
    price_I: Floats
    popularity_I: Floats
    """Share of the impressions that each item gets."""
    price_z_I: Floats
    """Standardised logarithm of the price."""
    bias_2U: Floats
    """Of clicks and of conversions, as in everything below."""
    bias_2I: Floats
    taste_2UK: Floats
    position_IK: Floats
    price_reaction_2U: Floats
    peak_hour_C: Floats
    signal: float
    """Factor of tastes, of reactions to prices and of the categories' time of day."""
    intercept_2: Floats
    drift: float = 0.0
    """Angle in radians by which tastes and biases of items turn in a day."""
    later_bias_2I: Floats | None = None
    """Where they turn to; so are the tastes below."""
    later_taste_2UK: Floats | None = None

    @classmethod
    def draw(
        cls,
        seed: int,
        *,
        num_users: int = NUM_USERS,
        num_items: int = NUM_ITEMS,
        signal: float = 1.0,
        drift: float = 0.0,
    ) -> World:
        """The world of `seed`; the intercepts are set so that `CTR` and `CVR_OF_CLICKS` hold.

        Args:
            seed: decides everything that is drawn.
            num_users: number of users U.
            num_items: number of items I.
            signal: how much users' tastes, their reactions to prices and the categories' time of
                day count in the logits; with 0 main effects alone are left.
            drift: angle in radians by which tastes and biases of items turn in a day.
        """
        rng = np.random.default_rng([seed, 0])
        age_U = rng.integers(18, 75, num_users)
        gender_U = rng.integers(0, len(GENDERS), num_users)
        group_U = np.digitize(age_U, AGE_BORDERS) * len(GENDERS) + gender_U
        num_groups = (len(AGE_BORDERS) + 1) * len(GENDERS)
        category_I = rng.integers(0, NUM_CATEGORIES, num_items)
        price_z_I = _standardise(_grouped(rng, category_I, NUM_CATEGORIES, (), shared=0.6))

        taste_UK = _grouped(rng, group_U, num_groups, (TASTE_DIM,), shared=0.5)
        buying_UK = _mix(
            taste_UK, _grouped(rng, group_U, num_groups, (TASTE_DIM,), shared=0.6), 0.6
        )
        bias_U = _grouped(rng, group_U, num_groups, (), shared=0.3)
        bias_I = _grouped(rng, category_I, NUM_CATEGORIES, (), shared=0.3)
        reaction_U = _grouped(rng, group_U, num_groups, (), shared=0.5)
        world = cls(
            age_U=age_U,
            gender_U=gender_U,
            activity_U=_shares(rng.gamma(4.0, size=num_users)),
            device_UD=rng.dirichlet([3.0, 1.0, 2.0], num_users),
            category_I=category_I,
            brand_I=category_I * BRANDS_PER_CATEGORY
            + rng.integers(0, BRANDS_PER_CATEGORY, num_items),
            price_I=np.exp(3.0 + 0.9 * price_z_I).round(2),
            popularity_I=_shares(rng.lognormal(sigma=0.7, size=num_items)),
            price_z_I=price_z_I,
            bias_2U=np.stack(
                [0.5 * bias_U, 0.5 * _mix(bias_U, rng.standard_normal(num_users), 0.5)]
            ),
            bias_2I=np.stack(
                [0.6 * bias_I, 0.6 * _mix(bias_I, rng.standard_normal(num_items), 0.5)]
            ),
            taste_2UK=np.stack([1.1 * taste_UK, 0.9 * buying_UK]) / np.sqrt(TASTE_DIM),
            position_IK=_grouped(rng, category_I, NUM_CATEGORIES, (TASTE_DIM,), shared=0.8),
            price_reaction_2U=np.stack([0.3 * reaction_U, 0.3 * reaction_U - 0.3]),
            peak_hour_C=rng.uniform(0.0, 24.0, NUM_CATEGORIES),
            signal=signal,
            intercept_2=np.zeros(2),
        )
        world = world._calibrated(draw_context(world, 200_000, rng))
        return world._drifting(drift, np.random.default_rng([seed, 3])) if drift else world

    def logits(self, seen: Context) -> tuple[Floats, Floats]:
        """Logits of a click, and of a conversion given a click, each [N]."""
        ctr_N, cvr_N = (self._logit(seen, k) for k in (0, 1))
        return ctr_N, cvr_N

    def probs(self, seen: Context) -> tuple[Floats, Floats]:
        """p_ctr and p_cvr of every impression, each [N]."""
        ctr_N, cvr_N = self.logits(seen)
        return sigmoid(ctr_N), sigmoid(cvr_N)

    def _logit(self, seen: Context, k: int) -> Floats:
        user_N, item_N = seen.user_N, seen.item_N
        angle_N = 2 * np.pi / 24 * (seen.hour_N - self.peak_hour_C[self.category_I[item_N]])
        bias_N, taste_N = self._on_its_day(seen, k)
        main_N = self.bias_2U[k][user_N] + bias_N
        main_N += np.array([(0.15, 0.0, -0.15), (-0.2, 0.0, 0.2)])[k][seen.device_N]
        main_N += 0.15 * np.cos(2 * np.pi / 24 * (seen.hour_N - 21))
        price_N = self.price_reaction_2U[k][user_N] * self.price_z_I[item_N]
        hour_N = (0.25, 0.1)[k] * np.cos(angle_N)
        logit_N: Floats = self.intercept_2[k] + main_N
        for interaction_N in (taste_N, price_N, hour_N):
            logit_N += self.signal * interaction_N
        return logit_N

    def _on_its_day(self, seen: Context, k: int) -> tuple[Floats, Floats]:
        """Each impression's bias of the item, and how far the item is to the user's taste."""
        user_N, item_N = seen.user_N, seen.item_N
        position_NK = self.position_IK[item_N]
        bias_N = self.bias_2I[k][item_N]
        taste_N = np.einsum("nk,nk->n", self.taste_2UK[k][user_N], position_NK)
        if self.later_bias_2I is None or self.later_taste_2UK is None:
            return bias_N, taste_N
        angle_N = self.drift * seen.day_N
        later_N = np.einsum("nk,nk->n", self.later_taste_2UK[k][user_N], position_NK)
        return (
            np.cos(angle_N) * bias_N + np.sin(angle_N) * self.later_bias_2I[k][item_N],
            np.cos(angle_N) * taste_N + np.sin(angle_N) * later_N,
        )

    def _drifting(self, drift: float, rng: np.random.Generator) -> World:
        """The same world, where each user turns to another one's tastes, each item likewise."""
        users, items = (rng.permutation(n) for n in (len(self.age_U), len(self.category_I)))
        return replace(
            self,
            drift=drift,
            later_bias_2I=self.bias_2I[:, items],
            later_taste_2UK=self.taste_2UK[:, users],
        )

    def _calibrated(self, seen: Context) -> World:
        """The same world; sets the intercepts that give the two rates on `seen`."""
        ctr_N, cvr_N = self.logits(seen)
        limit = INTERCEPT_LIMIT * max(self.signal, 1.0)
        self.intercept_2[0] = _intercept(ctr_N, np.ones_like(ctr_N), CTR, limit)
        p_ctr_N = sigmoid(ctr_N + self.intercept_2[0])
        self.intercept_2[1] = _intercept(cvr_N, p_ctr_N, CVR_OF_CLICKS, limit)
        return self


def draw_context(
    world: World, num_rows: int, rng: np.random.Generator, *, num_days: int = NUM_DAYS
) -> Context:
    """Draw `num_rows` impressions of `num_days` days in the order of time.

    There are more in the evening; what is shown does not depend on the user's taste.
    """
    hours = np.arange(24)
    by_hour = _shares(1.2 + np.cos(2 * np.pi / 24 * (hours - 20)))
    hour_N = rng.choice(24, num_rows, p=by_hour)
    second_N = hour_N * 3600 + rng.integers(0, 3600, num_rows)
    time_N = np.sort(rng.integers(0, num_days, num_rows) * DAY_S + second_N)
    user_N = rng.choice(len(world.activity_U), num_rows, p=world.activity_U)
    item_N = rng.choice(len(world.popularity_I), num_rows, p=world.popularity_I)
    cumulative_ND = world.device_UD.cumsum(axis=1)[user_N]
    device_N = (rng.random(num_rows)[:, None] > cumulative_ND[:, :-1]).sum(axis=1)
    return Context(user_N, item_N, device_N, time_N)


def sigmoid(logit_N: Floats) -> Floats:
    """1 / (1 + exp(-z)); the worlds' logits are too small to overflow."""
    prob_N: Floats = 1.0 / (1.0 + np.exp(-logit_N))
    return prob_N


def _grouped(
    rng: np.random.Generator,
    group_N: Ints,
    num_groups: int,
    shape: tuple[int, ...],
    *,
    shared: float,
) -> Floats:
    """Standard normals, a share `shared` of whose variance is common to the members of a group."""
    common = rng.standard_normal((num_groups, *shape))[group_N]
    own = rng.standard_normal((len(group_N), *shape))
    return _mix(common, own, float(np.sqrt(shared)))


def _mix(a: Floats, b: Floats, correlation: float) -> Floats:
    """A standard normal with that correlation to `a`, from two standard normals."""
    mixed: Floats = correlation * a + np.sqrt(1 - correlation**2) * b
    return mixed


def _standardise(x_N: Floats) -> Floats:
    z_N: Floats = (x_N - x_N.mean()) / x_N.std()
    return z_N


def _shares(x_N: Floats) -> Floats:
    share_N: Floats = x_N / x_N.sum()
    return share_N


def _intercept(logit_N: Floats, weight_N: Floats, rate: float, limit: float) -> float:
    """The b of at most `limit` for which sigmoid(logit + b) has the weighted mean `rate`.

    Found by bisection.
    """
    low, high = -limit, limit
    for _ in range(60):
        middle = (low + high) / 2
        if np.average(sigmoid(logit_N + middle), weights=weight_N) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2
