"""Node labelling with joint graph decomposition (ArtTrack, arXiv 1612.01465; Levinkov et al., CVPR 2017).

Minimise  sum_v u_v(l_v) + sum_(v,w) [c_v = c_w] J_vw(l_v, l_w)  over classes l and clusters c: detections of one person
share a cluster, suppressed ones cost nothing. NP-hard; this is the original's local search (nl-lmp: greedy contraction,
then Kernighan-Lin moves with joins and class changes), of several classes from two starts, by numba, or, where that is
not installed, the same lines interpreted, with identical results, some hundred times slower. Cost: README.md.
"""

from __future__ import annotations

from typing import NamedTuple

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


class Graph(NamedTuple):
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
    count = c + int(do_suppression)
    linked, cost = np.full((n, n), not is_sparse_graph), np.zeros((n, n, count, count))
    _fill(linked, cost, pwidx, pw)
    np.fill_diagonal(linked, False)
    if do_suppression:
        cost[..., c, :c] = cost[..., :c, c] = CONFLICT
    return Graph(np.concatenate([unary, np.zeros((n, int(do_suppression)))], axis=1), linked, cost)


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
    # of several classes the search also begins with every node's second best, without which it misses many optima
    starts = graph.unary[:, : unary.shape[1]].argsort(1, kind="stable").T[:2]
    ends = [kernighan_lin(graph, start, greedy_start(graph, start)) for start in starts]
    classes, clusters = min(ends, key=lambda end: objective(graph, *end))
    clusters, _ = components(graph.linked, clusters)
    result = np.stack([classes, clusters], axis=1).astype(np.uint64)
    result[classes == unary.shape[1], 0] = SUPPRESSED
    return result


# ---- compiled --------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _fill(linked, cost, pwidx, pw):
    """Both directions of every pair; of a repeated one the last value stays."""
    for e in range(len(pw)):
        v, w, k, m = pwidx[e]
        cost[v, w, k, m] = cost[w, v, m, k] = pw[e]
        linked[v, w] = linked[w, v] = True


@njit(cache=True)
def objective(graph, classes, clusters):
    """What is minimised, of classes (N,) 0..K-1 and clusters (N,)."""
    total = 0.0
    for v in range(len(classes)):
        total += graph.unary[v, classes[v]]
        for w in range(v):
            if graph.linked[v, w] and clusters[v] == clusters[w]:
                total += graph.cost[v, w, classes[v], classes[w]]
    return total


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
def greedy_start(graph, classes):
    """Clusters (N,) after greedy additive edge contraction: the two of the largest total weight (minus cost) are joined
    while it is >= 0."""
    n = len(classes)
    weight, best, clusters = np.full((n, n), -np.inf), np.zeros(n, np.int64), np.arange(n)
    for v in range(n):
        for w in range(n):
            if graph.linked[v, w]:
                weight[v, w] = -graph.cost[v, w, classes[v], classes[w]]
        best[v] = weight[v].argmax()  # of every row
    while True:
        a = 0
        for v in range(1, n):
            if weight[v, best[v]] > weight[a, best[a]]:
                a = v
        b = best[a]
        if not weight[a, b] >= 0:
            return clusters
        for v in range(n):
            clusters[v] = a if clusters[v] == b else clusters[v]
            x, y = weight[a, v], weight[b, v]
            both = x + y if min(x, y) > -np.inf else max(x, y)
            weight[a, v] = weight[v, a] = both if v != a and v != b else -np.inf
            weight[b, v] = weight[v, b] = -np.inf
            if best[v] == a or best[v] == b:
                best[v] = weight[v].argmax()
            elif weight[v, a] > weight[v, best[v]] or (weight[v, a] == weight[v, best[v]] and a < best[v]):
                best[v] = a
        best[a] = weight[a].argmax()


@njit(cache=True)
def kernighan_lin(graph, classes, clusters):
    """Improve (classes, clusters) by rounds of joins and moves between neighbouring clusters, splits, class changes,
    each on connected clusters, until one gains less than 1e-6; the state before it."""
    n, count = graph.unary.shape
    room = np.empty(n), np.empty((n, count)), np.empty((4, n), np.int64), np.empty(n, np.bool_)
    active, classes = np.ones(n, np.bool_), classes.copy()
    while True:
        clusters, parts = components(graph.linked, clusters)
        before, touched = (classes.copy(), clusters.copy()), np.zeros(n, np.bool_)
        adjacent = np.zeros((parts, parts), np.bool_)
        for v in range(n):
            for w in range(n):
                adjacent[clusters[v], clusters[w]] |= graph.linked[v, w] and clusters[v] < clusters[w]
        gain = _sweep(adjacent, graph, clusters, classes, active, touched, room)
        clusters, parts = components(graph.linked, clusters)
        gain += _sweep(np.identity(parts, np.bool_), graph, clusters, classes, active, touched, room)
        clusters, parts = components(graph.linked, clusters)
        gain += _sweep_classes(graph, clusters, classes, touched)
        if gain < EPSILON:
            return before
        active = touched


@njit(cache=True)
def _look(nodes, first, graph, classes, room):
    """Fill `room` for `_bisect`; what joining both sides would gain."""
    unary, linked, cost = graph
    own, other, (now, border, order, free), side = room
    m, kinds = len(nodes), unary.shape[1]
    for i in range(m):
        v, old, alone = nodes[i], classes[nodes[i]], 0.0
        now[i], border[i], side[i], free[i] = old, 0, i >= first, i
        for k in range(kinds):
            other[i, k] = unary[v, k]
        for j in range(i):
            w, kind = nodes[j], now[j]
            if not linked[v, w]:
                continue
            if (i >= first) == (j >= first):
                alone += cost[v, w, old, kind]
                own[j] += cost[v, w, old, kind]
            else:
                border[i] += 1
                border[j] += 1
                for k in range(kinds):
                    other[i, k] += cost[v, w, k, kind]
                    other[j, k] += cost[v, w, old, k]
        own[i] = alone + unary[v, old]
    join = 0.0
    for i in range(first, m):
        join -= other[i, now[i]] - unary[nodes[i], now[i]]
    return join


@njit(cache=True)
def _bisect(nodes, first, graph, label, classes, a, b, room):
    """Best prefix of Kernighan-Lin moves between the `first` nodes (cluster a) and the others (b), or joining them.

    Every step takes the move (of a node with a neighbour there to the other side, in any class) that gains most, even
    when it loses, and locks the node. Sets `label` and `classes` and returns the decrease of the objective, 0.0 for no
    change. `room`: arrays to work in.
    """
    _, linked, cost = graph
    # of every node: cost as it is, on the other side by class; class, neighbours there, order of moves; side, not locked
    own, other, (now, border, order, free), side = room
    m, kinds, join = len(nodes), other.shape[1], _look(nodes, first, graph, classes, room)
    gain, best, best_count, last, v, old, new = 0.0, 0.0, 0, -1, 0, 0, 0
    for step in range(m):
        here, chosen, ahead, kind = side[last], -1, -np.inf, 0
        for n in range(m - step):
            j = free[n]
            w = nodes[j]
            if last >= 0 and linked[v, w]:
                leaves = here != side[j]  # the side of j
                sign, leaving, coming = (1, old, new) if leaves else (-1, new, old)
                own[j] -= sign * cost[v, w, leaving, now[j]]
                border[j] += sign
                for k in range(kinds):
                    other[j, k] += sign * cost[v, w, coming, k]
            if border[j] > 0 or (first == m and step == 0):
                for k in range(kinds):
                    if own[j] - other[j, k] > ahead:
                        chosen, kind, ahead = n, k, own[j] - other[j, k]
        if chosen < 0:
            break
        last = free[chosen]
        free[chosen], order[step] = free[m - step - 1], last
        v, old, new = nodes[last], now[last], kind
        now[last], side[last] = new, not side[last]
        gain += ahead
        if gain > best:
            best, best_count = gain, step + 1
    if join > best and join > EPSILON:
        label[nodes] = a
        return join
    if best <= EPSILON:
        return 0.0
    for i in order[:best_count]:
        label[nodes[i]] = b if i < first else a
        classes[nodes[i]] = now[i]
    return best


@njit(cache=True)
def _sweep(wanted, graph, label, classes, active, touched, room):
    """`_bisect` for each pair of clusters a <= b that is `wanted` and one of which is active; a pair of a with itself
    splits a, again while that gains; labels of split-off parts count up. Changed nodes become active and touched. The
    total gain."""
    n, count = len(label), len(wanted)
    members, size = np.empty((count + n, n), np.int64), np.zeros(count + n, np.int64)
    for v in range(n):
        members[label[v], size[label[v]]] = v
        size[label[v]] += 1
    total, fresh = 0.0, count
    for pair in range(count * count):
        a, b = divmod(pair, count)
        while wanted[a, b] and size[a] > 0 and size[b] > 0 and (active[members[a, 0]] or active[members[b, 0]]):
            second = fresh if a == b else b
            nodes = np.concatenate((members[a, : size[a]], members[second, : size[second]]))
            gain = _bisect(nodes, size[a], graph, label, classes, a, second, room)
            if gain <= 0:
                break
            total += gain
            size[a] = size[second] = 0
            for v in nodes:
                members[label[v], size[label[v]]] = v
                size[label[v]] += 1
                active[v] = touched[v] = True
            if a != b:
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
