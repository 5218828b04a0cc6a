"""Node labelling with joint graph decomposition (Insafutdinov et al., ArtTrack, arXiv 1612.01465; Levinkov et al., CVPR
2017).

Minimise  sum_v u_v(l_v) + sum_(v,w) [c_v = c_w] J_vw(l_v, l_w)  over classes l and clusters c: detections of one person
share a cluster, suppressed ones cost nothing. NP-hard; this is the original's local search (nl-lmp: greedy contraction,
then Kernighan-Lin), without a compiled extension: numba where it is installed, else the same code as plain NumPy
(identical results, some hundred times slower).

Complexity for N nodes and E edges: contraction O(E log E) heap operations plus the merged neighbour lists (O(N^2) when
one component swallows all); a round of the search O(P m^2 K) for P neighbouring pairs of clusters of m nodes together,
K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SUPPRESSED = np.uint64(2**64 - 1)
CONFLICT = 1000.0  # cost of a suppressed and a kept node in one cluster, and of a node of probability 0
_PROBABILITY_LIMIT = 1e-7


def logit_cost(probability: np.ndarray) -> np.ndarray:
    """log((1-p)/p) with p clipped to [1e-7, 1-1e-7]: negative for p > 0.5, so probable nodes and pairs attract."""
    p = np.clip(probability, _PROBABILITY_LIMIT, 1 - _PROBABILITY_LIMIT)
    return np.log((1 - p) / p)


@dataclass(frozen=True)
class Graph:
    """The problem as `multicut_kernels` has it; `unary` (N,K) and `cost` include the suppressed class, if any."""

    pointer: np.ndarray
    index: np.ndarray
    cost: np.ndarray
    unary: np.ndarray

    def objective(self, classes: np.ndarray, clusters: np.ndarray) -> float:
        """The objective of classes (N,) 0..K-1 and clusters (N,)."""
        n = len(self.unary)
        source = np.repeat(np.arange(n), np.diff(self.pointer))
        inside = clusters[source] == clusters[self.index]
        pairs = self.cost[inside, classes[source][inside], classes[self.index][inside]]
        return float(self.unary[np.arange(n), classes].sum() + pairs.sum() / 2)


def build_graph(
    unary: np.ndarray, pwidx: np.ndarray, pw: np.ndarray, is_sparse_graph: bool = True, do_suppression: bool = True
) -> Graph:
    """The problem of `solve_nl_lmp`'s costs (not probabilities); ValueError when shapes or indices do not fit."""
    unary = np.asarray(unary, np.float64)
    pwidx, pw = np.asarray(pwidx).astype(np.int64), np.asarray(pw, np.float64).reshape(-1)
    n, c = _check(unary, pwidx, pw)
    if c == 1:
        pwidx = np.concatenate([pwidx, np.zeros_like(pwidx)], axis=1)
    keep = pwidx[:, 0] != pwidx[:, 1]
    pwidx, pw = pwidx[keep], pw[keep]
    swap = pwidx[:, 0] > pwidx[:, 1]
    pwidx[swap] = pwidx[swap][:, [1, 0, 3, 2]]
    pairs = pwidx[:, 0] * n + pwidx[:, 1]
    complete = np.ravel_multi_index(np.triu_indices(n, 1), (n, n)) if not is_sparse_graph else np.zeros(0, np.int64)
    edges = np.unique(np.concatenate([pairs, complete]))
    k = c + int(do_suppression)
    table = np.zeros((len(edges), k, k))
    # assignment in order: of a repeated edge the last value stays
    table[np.searchsorted(edges, pairs), pwidx[:, 2], pwidx[:, 3]] = pw
    if do_suppression:
        table[:, c, :c] = table[:, :c, c] = CONFLICT
    low, high = edges // max(n, 1), edges % max(n, 1)
    source, target = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.lexsort((target, source))
    cost = np.concatenate([table, table.transpose(0, 2, 1)])[order]
    pointer = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=n))])
    full = np.concatenate([unary, np.zeros((n, int(do_suppression)))], axis=1)
    return Graph(pointer.astype(np.int64), target[order], cost, full)


def _check(unary: np.ndarray, pwidx: np.ndarray, pw: np.ndarray) -> tuple[int, int]:
    if unary.ndim != 2 or unary.shape[1] < 1:
        raise ValueError(f"unary has shape {unary.shape}, expected (N, classes)")
    n, c = unary.shape
    width = 2 if c == 1 else 4
    if pwidx.ndim != 2 or pwidx.shape[1] != width or len(pw) != len(pwidx):
        raise ValueError(f"pwidx has shape {pwidx.shape} and pw {len(pw)} values, expected (E,{width}) and E values")
    if len(pwidx) and (pwidx[:, :2].min() < 0 or pwidx[:, :2].max() >= n or pwidx[:, 2:].max(initial=0) >= c):
        raise ValueError(f"pwidx names a node beyond {n - 1} or a class beyond {c - 1}")
    if not (np.isfinite(unary).all() and np.isfinite(pw).all()):
        raise ValueError("unary and pw must be finite")
    return n, c


def greedy_start(graph: Graph, class_count: int) -> tuple[np.ndarray, np.ndarray]:
    """(classes, clusters) after the contraction; every node starts in its cheapest class other than suppressed."""
    from deepercut_tf.multicut_kernels import contract

    classes = graph.unary[:, :class_count].argmin(1)
    source = np.repeat(np.arange(len(classes)), np.diff(graph.pointer))
    weight = -graph.cost[np.arange(len(graph.index)), classes[source], classes[graph.index]]
    return classes, contract(graph.pointer, graph.index, weight)


def kernighan_lin(graph: Graph, classes: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Improve (classes, clusters) until a whole round gains less than 1e-6; the state of that round's beginning then.

    A round: joins and moves between neighbouring clusters, splits, class changes; clusters are made connected before
    each.
    """
    from deepercut_tf.multicut_kernels import EPSILON, components, sweep, sweep_classes

    flat = (graph.pointer, graph.index, graph.cost, graph.unary)
    clusters, count = components(graph.pointer, graph.index, clusters)
    active = np.ones(len(clusters), bool)
    while True:
        before = classes.copy(), clusters.copy()
        touched = np.zeros(len(clusters), bool)
        gain = sweep(_adjacent(graph, clusters, count), count, flat, clusters, classes, active, touched)
        clusters, count = components(graph.pointer, graph.index, clusters)
        every = np.stack([np.arange(count), np.full(count, -1)], axis=1)
        gain += sweep(every, count, flat, clusters, classes, active, touched)
        clusters, count = components(graph.pointer, graph.index, clusters)
        if graph.unary.shape[1] > 1:
            gain += sweep_classes(flat, clusters, classes, touched)
        if gain < EPSILON:
            return before
        active = touched


def _adjacent(graph: Graph, clusters: np.ndarray, count: int) -> np.ndarray:
    """(M,2) pairs a < b of clusters that share an edge, ascending."""
    source, target = np.repeat(clusters, np.diff(graph.pointer)), clusters[graph.index]
    crossing = source < target
    return np.stack(np.divmod(np.unique(source[crossing] * count + target[crossing]), max(count, 1)), axis=1)


def solve_nl_lmp(
    unary: np.ndarray,
    pwidx: np.ndarray,
    pw: np.ndarray,
    is_sparse_graph: bool = True,
    solver_type: bool = False,
    do_suppression: bool = True,
    logit_in_solver: bool = False,
) -> np.ndarray:
    """(N,2) uint64: class and cluster of every node; a suppressed node has class 2^64-1 and, as a rule, a cluster of
    its own.

    `unary` (N,C) costs of the classes; `pwidx` (E,2) pairs of nodes, or (E,4) with their classes when C > 1; `pw` (E,)
    or (E,1) cost of the pair sharing a cluster. Self pairs are ignored, of repeated ones the last counts; without
    `is_sparse_graph` unlisted pairs cost 0 instead of being no neighbours. `logit_in_solver`: both are probabilities.
    `solver_type` has no effect, as in the original. Deterministic; ValueError for wrong shapes, indices or values that
    are not finite.
    """
    from deepercut_tf.multicut_kernels import components

    unary, pw = np.asarray(unary, np.float64), np.asarray(pw, np.float64)
    if logit_in_solver:
        unary = np.where(unary < _PROBABILITY_LIMIT, CONFLICT, logit_cost(unary))
        pw = logit_cost(pw)
    graph = build_graph(unary, pwidx, pw, is_sparse_graph, do_suppression)
    if not len(unary):
        return np.zeros((0, 2), np.uint64)
    classes, clusters = greedy_start(graph, unary.shape[1])
    classes, clusters = kernighan_lin(graph, classes, clusters)
    clusters, _ = components(graph.pointer, graph.index, clusters)
    result = np.stack([classes, clusters], axis=1).astype(np.uint64)
    result[classes == unary.shape[1], 0] = SUPPRESSED
    return result
