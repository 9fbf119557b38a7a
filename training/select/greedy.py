"""Choose images by score, as many as the budget allows.

Shapes: N images of the pool.
"""

import heapq
import math

import numpy as np
from numpy.typing import NDArray


def choose_images(
    scores_N: NDArray[np.float64], clusters_N: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """The numbers of `count` images that maximise a sum of roots, rising.

    sum over clusters of sqrt(sum over the cluster's chosen images of max(score - mean score, 0)),

    a submodular choice as in Park, Ahmad and Hain (arXiv 2207.12028). The shift is ours: roots want
    no negative values, and cosines of 0.7 to 0.9, say, would spread the choice evenly. Greedy is
    optimal: a cluster gives its images by falling value, so what its next one gains only falls.
    Equal gains go by score, then by number. Of one cluster the greatest scores are chosen.
    """
    values_N = np.maximum(scores_N - scores_N.mean(), 0.0)
    order_N = np.argsort(-scores_N, kind="stable")
    members = {int(c): iter(order_N[clusters_N[order_N] == c]) for c in np.unique(clusters_N)}
    totals, heap = dict.fromkeys(members, 0.0), list[tuple[float, float, int, int]]()

    def push(cluster: int) -> None:
        for number in members[cluster]:  # the next one, if any
            gain = math.sqrt(totals[cluster] + values_N[number]) - math.sqrt(totals[cluster])
            heapq.heappush(heap, (-gain, -scores_N[number], int(number), cluster))
            return

    for cluster in members:
        push(cluster)
    chosen = np.empty(count, dtype=np.int64)
    for place in range(count):
        _, _, number, cluster = heapq.heappop(heap)
        chosen[place] = number
        totals[cluster] += values_N[number]
        push(cluster)
    return np.sort(chosen)


def farthest_points(unit_MD: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Numbers of `count` images that are spread over all, in the order in which they are chosen.

    The first is the nearest to the mean of all features. Each further one has the least cosine to
    the chosen image that is nearest to it (Gonzalez, 1985). Ties go by number, and no image is
    chosen twice. The time grows with M x count.
    """
    chosen = [int((unit_MD @ unit_MD.mean(axis=0)).argmax())]
    nearest_M = np.full(len(unit_MD), -np.inf, np.float32)
    while len(chosen) < count:
        nearest_M = np.maximum(nearest_M, unit_MD @ unit_MD[chosen[-1]])
        nearest_M[chosen[-1]] = np.inf
        chosen.append(int(nearest_M.argmin()))
    return np.array(chosen, dtype=np.int64)
