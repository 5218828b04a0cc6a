"""Node labelling with joint graph decomposition (ArtTrack, arXiv 1612.01465; Levinkov et al., CVPR 2017).

Minimise  sum_v u_v(l_v) + sum_(v,w) [c_v = c_w] J_vw(l_v, l_w)  over classes l and clusters c: detections of one person
share a cluster, suppressed ones cost nothing. NP-hard; this is the original's local search (nl-lmp: greedy contraction,
then Kernighan-Lin moves with joins and class changes) by numba, or, where that is not installed, the same lines
interpreted, with identical results, some hundred times slower. Cost: README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

try:
    from numba import njit
except ImportError:  # the same functions, interpreted

    def njit(**options):  # type: ignore[no-redef]
        return lambda function: function


SUPPRESSED = np.uint64(2**64 - 1)
CONFLICT = 1000.0  # cost of a suppressed and a kept node in one cluster, and of a node of probability 0
EPSILON = 1e-6  # a step must gain more than this (original: nl-lmp)
_PROBABILITY_LIMIT = 1e-7


def logit_cost(probability: np.ndarray) -> np.ndarray:
    """log((1-p)/p) with p clipped to [1e-7, 1-1e-7]: negative for p > 0.5, so probable nodes and pairs attract."""
    p = np.clip(probability, _PROBABILITY_LIMIT, 1 - _PROBABILITY_LIMIT)
    return np.log((1 - p) / p)


@dataclass(frozen=True)
class Graph:
    """The problem, the suppressed class, if any, the last one: cost[v,w,k,l] = cost[w,v,l,k] for v in k and w in l."""

    unary: np.ndarray  # (N,K)
    linked: np.ndarray  # (N,N) bool: neighbours
    cost: np.ndarray  # (N,N,K,K)


def build_graph(
    unary: np.ndarray, pwidx: np.ndarray, pw: np.ndarray, is_sparse_graph: bool = True, do_suppression: bool = True
) -> Graph:
    """The problem of `solve_nl_lmp`'s costs (not probabilities); ValueError when shapes or indices do not fit."""
    unary = np.asarray(unary, np.float64)
    pwidx, pw = np.asarray(pwidx).astype(np.int64), np.asarray(pw, np.float64).reshape(-1)
    n, c = unary.shape
    if pwidx.shape != (len(pw), 2 if c == 1 else 4):
        raise ValueError(f"pwidx has shape {pwidx.shape} for {len(pw)} costs and {c} classes, not (E,2) or (E,4)")
    if len(pwidx) and (pwidx.min() < 0 or pwidx[:, :2].max() >= n or pwidx[:, 2:].max(initial=0) >= c):
        raise ValueError(f"pwidx names a node beyond {n - 1} or a class beyond {c - 1}")
    if not (np.isfinite(unary).all() and np.isfinite(pw).all()):
        raise ValueError("unary and pw must be finite")
    if c == 1:
        pwidx = np.concatenate([pwidx, np.zeros_like(pwidx)], axis=1)
    swap = pwidx[:, 0] > pwidx[:, 1]
    pwidx[swap] = pwidx[swap][:, [1, 0, 3, 2]]
    a, b, of_a, of_b = pwidx.T
    count = c + int(do_suppression)
    linked, cost = np.full((n, n), not is_sparse_graph), np.zeros((n, n, count, count))
    # assignment in order: of a repeated pair the last value stays
    cost[a, b, of_a, of_b] = cost[b, a, of_b, of_a] = pw
    linked[a, b] = linked[b, a] = True
    np.fill_diagonal(linked, False)
    if do_suppression:
        cost[..., c, :c] = cost[..., :c, c] = CONFLICT
    return Graph(np.concatenate([unary, np.zeros((n, int(do_suppression)))], axis=1), linked, cost)


def greedy_start(graph: Graph, class_count: int) -> tuple[np.ndarray, np.ndarray]:
    """(classes, clusters) after greedy additive edge contraction: the two clusters of the largest total weight (minus
    cost) are joined while it is >= 0. Every node stays in its cheapest class other than suppressed."""
    classes = graph.unary[:, :class_count].argmin(1)
    clusters = np.arange(len(classes))
    pairs = graph.cost[clusters[:, None], clusters, classes[:, None], classes]
    weight = np.where(graph.linked, -pairs, -np.inf)
    while True:
        a, b = divmod(int(weight.argmax()), len(clusters))
        if not weight[a, b] >= 0:
            return classes, clusters
        clusters[clusters == b] = a
        both = np.where(np.isinf(weight[b]), weight[a], weight[b] + np.where(np.isinf(weight[a]), 0, weight[a]))
        both[[a, b]] = -np.inf
        weight[a] = weight[:, a] = both
        weight[b] = weight[:, b] = -np.inf


def kernighan_lin(graph: Graph, classes: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Improve (classes, clusters) by rounds of joins and moves between neighbouring clusters, splits, class changes,
    each on connected clusters, until one gains less than 1e-6; the state before it."""
    flat = graph.unary, graph.linked, graph.cost
    source, target = np.nonzero(graph.linked)
    clusters, count = components(graph.linked, clusters)
    active = np.ones(len(clusters), bool)
    while True:
        before = classes.copy(), clusters.copy()
        touched = np.zeros(len(clusters), bool)
        adjacent = np.zeros((count, count), bool)
        adjacent[clusters[source], clusters[target]] = True
        gain = _sweep(np.argwhere(np.triu(adjacent, 1)), count, flat, clusters, classes, active, touched)
        clusters, count = components(graph.linked, clusters)
        every = np.stack([np.arange(count), np.full(count, -1)], axis=1)
        gain += _sweep(every, count, flat, clusters, classes, active, touched)
        clusters, count = components(graph.linked, clusters)
        if graph.unary.shape[1] > 1:
            gain += _sweep_classes(flat, clusters, classes, touched)
        if gain < EPSILON:
            return before
        active = touched


def solve_nl_lmp(
    unary, pwidx, pw, is_sparse_graph=True, solver_type=False, do_suppression=True, logit_in_solver=False
) -> np.ndarray:
    """(N,2) uint64: class and cluster of every node; a suppressed one has class 2^64-1 and mostly a cluster of its own.

    `unary` (N,C) costs of the classes; `pwidx` (E,2) pairs of nodes, or (E,4) with their classes when C > 1; `pw` (E,)
    or (E,1) cost of the pair sharing a cluster. Self pairs are ignored, of repeated ones the last counts; without
    `is_sparse_graph` unlisted pairs cost 0 instead of being no neighbours. `logit_in_solver`: both are probabilities.
    `solver_type` has no effect, as in the original. ValueError for wrong shapes, indices or values that are not finite.
    """
    unary, pw = np.asarray(unary, np.float64), np.asarray(pw, np.float64)
    if logit_in_solver:
        unary = np.where(unary < _PROBABILITY_LIMIT, CONFLICT, logit_cost(unary))
        pw = logit_cost(pw)
    graph = build_graph(unary, pwidx, pw, is_sparse_graph, do_suppression)
    if not len(unary):
        return np.zeros((0, 2), np.uint64)
    classes, clusters = kernighan_lin(graph, *greedy_start(graph, unary.shape[1]))
    clusters, _ = components(graph.linked, clusters)
    result = np.stack([classes, clusters], axis=1).astype(np.uint64)
    result[classes == unary.shape[1], 0] = SUPPRESSED
    return result


# ---- compiled --------------------------------------------------------------------------------------------------------


@njit(cache=True)
def components(linked, label):
    """Connected parts of equal label, numbered in the order of their lowest node; (labels, count)."""
    n = len(label)
    part, stack, count = np.full(n, -1), np.empty(n, np.int64), 0
    for root in range(n):
        if part[root] >= 0:
            continue
        part[root], stack[0], depth = count, root, 1
        while depth > 0:
            depth -= 1
            v = stack[depth]
            for w in range(n):
                if part[w] < 0 and linked[v, w] and label[w] == label[v]:
                    part[w], stack[depth] = count, w
                    depth += 1
        count += 1
    return part, count


@njit(cache=True)
def _best_move(own, other, border, costs, now, free, anywhere):
    """(node, class, gain) of the best move of a free node with a neighbour there (or `anywhere`); node -1: none."""
    chosen, new, step = -1, -1, -np.inf
    for i in range(len(now)):
        if free[i] and (anywhere or border[i] > 0):
            present = costs[i, now[i]] + own[i]
            for k in range(costs.shape[1]):
                if present - costs[i, k] - other[i, k] > step:
                    chosen, new, step = i, k, present - costs[i, k] - other[i, k]
    return chosen, new, step


@njit(cache=True)
def _bisect(nodes, first, graph, label, classes, a, b):
    """Best prefix of Kernighan-Lin moves between the `first` nodes (cluster a) and the others (b), or joining them.

    Every step takes the move (node to the other side, in any class) that gains most, even when it loses, and locks the
    node. Sets `label` and `classes` and returns the decrease of the objective, 0.0 for no change.
    """
    unary, linked, cost = graph
    m = len(nodes)
    side, now, costs, free = np.arange(m) >= first, classes[nodes], unary[nodes], np.ones(m, np.bool_)
    # of every node: cost of its own side, of the other side by class, neighbours there
    own, other, border = np.zeros(m), np.zeros(costs.shape), np.zeros(m, np.int64)
    for i in range(m):
        for j in range(m):
            v, w = nodes[i], nodes[j]
            if linked[v, w] and side[i] == side[j]:
                own[i] += cost[v, w, now[i], now[j]]
            elif linked[v, w]:
                border[i] += 1
                for k in range(other.shape[1]):
                    other[i, k] += cost[v, w, k, now[j]]
    join = 0.0
    for i in range(first, m):
        join -= other[i, now[i]]
    moved, gain, best, best_count = np.empty((m, 2), np.int64), 0.0, 0.0, 0
    for step in range(m):
        i, new, more = _best_move(own, other, border, costs, now, free, first == m and step == 0)
        if i < 0:
            break
        left, old = side[i], now[i]
        side[i], now[i], free[i] = not left, new, False
        for j in range(m):
            v, w = nodes[j], nodes[i]
            if not free[j] or not linked[v, w]:
                continue
            sign, leaving, coming = (1, old, new) if side[j] == left else (-1, new, old)
            own[j] -= sign * cost[v, w, now[j], leaving]
            border[j] += sign
            for k in range(other.shape[1]):
                other[j, k] += sign * cost[v, w, k, coming]
        moved[step, 0], moved[step, 1] = i, new
        gain += more
        if gain > best:
            best, best_count = gain, step + 1
    if join > best and join > EPSILON:
        label[nodes] = a
        return join
    if best <= EPSILON:
        return 0.0
    for i, new in moved[:best_count]:
        label[nodes[i]] = b if i < first else a
        classes[nodes[i]] = new
    return best


@njit(cache=True)
def _sweep(pairs, count, graph, label, classes, active, touched):
    """`_bisect` for each row (a, b) of clusters one of which is active; b = -1 splits a, again while that gains; labels
    of split-off parts count up from `count`. Changed nodes become active and touched. The total gain."""
    n = len(label)
    members, size = np.empty((count + n, n), np.int64), np.zeros(count + n, np.int64)
    for v in range(n):
        members[label[v], size[label[v]]] = v
        size[label[v]] += 1
    total, fresh = 0.0, count
    for row in range(len(pairs)):
        a, b, split = pairs[row, 0], pairs[row, 1], pairs[row, 1] < 0
        while (
            size[a] > 0 and (split or size[b] > 0) and (active[members[a, 0]] or (not split and active[members[b, 0]]))
        ):
            second = fresh if split else b
            nodes = np.concatenate((members[a, : size[a]], members[second, : size[second]]))
            gain = _bisect(nodes, size[a], graph, label, classes, a, second)
            if gain <= 0:
                break
            total += gain
            size[a] = size[second] = 0
            for v in nodes:
                members[label[v], size[label[v]]] = v
                size[label[v]] += 1
                active[v] = touched[v] = True
            if not split:
                break
            fresh += 1
    return total


@njit(cache=True)
def _sweep_classes(graph, label, classes, touched):
    """Best single class change after another with clusters fixed, every node at most once; the total gain."""
    unary, linked, cost = graph
    n, count = unary.shape
    level = unary.copy()  # what a node costs in each class, as its cluster stands
    for v in range(n):
        for w in range(n):
            if linked[v, w] and label[v] == label[w]:
                level[v] += cost[v, w, :, classes[w]]
    free, total = np.ones(n, np.bool_), 0.0
    while True:
        chosen, new, step = -1, -1, EPSILON
        for v in range(n):
            for k in range(count):
                if free[v] and level[v, classes[v]] - level[v, k] > step:
                    chosen, new, step = v, k, level[v, classes[v]] - level[v, k]
        if chosen < 0:
            return total
        total += step
        free[chosen], touched[chosen] = False, True
        for w in range(n):
            if linked[chosen, w] and label[w] == label[chosen]:
                touched[w] = True
                level[w] += cost[w, chosen, :, new] - cost[w, chosen, :, classes[chosen]]
        classes[chosen] = new
