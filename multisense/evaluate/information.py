"""Who knows what: the scores of subsets of sensors, shared out among the sensors.

Shares are of what a probe can use, in the label's own score, and not bits: what no linear probe reads counts as unknown.
All are made of scores over the same resampled logs, so their intervals are paired.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from multisense.evaluate.scores import Score, weighted

Subset = tuple[str, ...]


def shapley(names: Sequence[str], scores: Mapping[Subset, Score], chance: Score) -> dict[str, Score]:
    """What each sensor adds, averaged over all orders in which the sensors could be added to none (Shapley 1953).

    `scores` of every non-empty subset, sensors in the order of `names`. The values sum up to all sensors - chance.
    """
    found = {}
    for name in names:
        rest = [n for n in names if n != name]
        parts, factors = [], []
        for size in range(len(names)):
            share = 1 / (len(names) * math.comb(len(rest), size))
            for others in combinations(rest, size):
                both = tuple(n for n in names if n == name or n in others)
                parts += [scores[both], scores[others] if others else chance]
                factors += [share, -share]
        found[name] = weighted(parts, factors)
    return found


def shares(names: Sequence[str], scores: Mapping[Subset, Score], chance: Score) -> dict[str, dict[str, Score]]:
    """For each sensor beside all others together: what is `redundant` (either tells it), `unique` (the sensor alone tells
    it, and the others do not) and `synergy` (only both together do).

    The decomposition of two sources with the least of their scores as redundancy (Williams & Beer 2010, arXiv:1004.2515;
    Barrett 2015, Physical Review E 91:052802): with `unique` of the others the parts sum up to all sensors - chance.
    Synergy below 0: a probe on all sensors has more to confuse it than to use.
    """
    found = {}
    for name in names if len(names) > 1 else ():
        alone, rest = scores[(name,)], scores[tuple(n for n in names if n != name)]
        unique = (alone - rest).floored(0.0)
        synergy = weighted([scores[tuple(names)], rest, unique], [1, -1, -1])
        found[name] = {
            "unique": unique,
            "redundant": weighted([alone, chance, unique], [1, -1, -1]),
            "synergy": synergy,
        }
    return found
