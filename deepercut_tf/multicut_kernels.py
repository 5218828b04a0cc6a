"""Local search of the graph solver on flat arrays: greedy contraction, then Kernighan-Lin moves with joins and class
changes.

Written so that numba compiles it (cached on disk) and so that the same lines run as plain NumPy where numba is not
installed; both take every decision alike. The graph is in CSR form, both directions of an edge stored: neighbours of v
are `index[pointer[v]:pointer[v+1]]`, ascending; `cost[slot, k, l]` is the cost of v in class k and its neighbour in
class l sharing a cluster. Labels are clusters 0..; int64 and float64 throughout.
"""

from __future__ import annotations

import heapq

import numpy as np

try:
    from numba import njit
except ImportError:  # the fallback: the same functions, interpreted

    def njit(**options):  # type: ignore[no-redef]
        return lambda function: function


EPSILON = 1e-6  # a step must gain more than this (original: nl-lmp)


@njit(cache=True)
def _find(parent, x):
    while parent[x] != x:
        parent[x] = parent[parent[x]]
        x = parent[x]
    return x


@njit(cache=True)
def _absorb(a, b, parent, head, following, other, weight, where):
    """Chain of component a after b joined it, parallel edges summed. `where` is scratch, -1 everywhere."""
    parent[b] = a
    chain = -1
    for first in (head[a], head[b]):
        slot = first
        while slot >= 0:
            after = following[slot]
            c = _find(parent, other[slot])
            if c != a:
                if where[c] < 0:
                    where[c] = slot
                    other[slot] = c
                    following[slot] = chain
                    chain = slot
                else:
                    weight[where[c]] += weight[slot]
            slot = after
    head[a] = chain
    slot = chain
    while slot >= 0:
        where[other[slot]] = -1
        slot = following[slot]


@njit(cache=True)
def contract(pointer, index, weight):
    """Greedy additive edge contraction: join the two components of the largest total weight while it is >= 0. Returns
    labels (N,).

    A lazy heap: an entry counts only while both of its components are as they were when it was pushed.
    """
    n = len(pointer) - 1
    parent, stamp, where = np.arange(n), np.zeros(n, np.int64), np.full(n, -1)
    other, weight = index.copy(), weight.copy()
    following = np.arange(1, len(index) + 1)
    head = np.full(n, -1)
    heap = [(0.0, 0, 0, 0, 0)]
    heap.pop()
    for v in range(n):
        if pointer[v] < pointer[v + 1]:
            head[v] = pointer[v]
            following[pointer[v + 1] - 1] = -1
        for slot in range(pointer[v], pointer[v + 1]):
            if v < index[slot] and weight[slot] >= 0:
                heap.append((-weight[slot], v, index[slot], 0, 0))
    heapq.heapify(heap)
    while len(heap) > 0:
        _, a, b, stamp_a, stamp_b = heapq.heappop(heap)
        if parent[a] != a or parent[b] != b or stamp[a] != stamp_a or stamp[b] != stamp_b:
            continue
        _absorb(a, b, parent, head, following, other, weight, where)
        stamp[a] += 1
        slot = head[a]
        while slot >= 0:
            if weight[slot] >= 0:
                heapq.heappush(heap, (-weight[slot], a, other[slot], stamp[a], stamp[other[slot]]))
            slot = following[slot]
    label = np.empty(n, np.int64)
    for v in range(n):
        label[v] = _find(parent, v)
    return label


@njit(cache=True)
def components(pointer, index, label):
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
            for slot in range(pointer[v], pointer[v + 1]):
                w = index[slot]
                if part[w] < 0 and label[w] == label[v]:
                    part[w] = count
                    stack[depth] = w
                    depth += 1
        count += 1
    return part, count


@njit(cache=True)
def _slots(nodes, pointer, index):
    """(m,m) slot of the edge from nodes[i] to nodes[j] for i < j, -1 where there is none; below the diagonal unset."""
    m = len(nodes)
    slots = np.empty((m, m), np.int64)
    for i in range(m):
        start, stop = pointer[nodes[i]], pointer[nodes[i] + 1]
        for j in range(i + 1, m):
            low, high, wanted = start, stop, nodes[j]
            while low < high:
                middle = (low + high) // 2
                if index[middle] < wanted:
                    low = middle + 1
                else:
                    high = middle
            slots[i, j] = low if low < stop and index[low] == wanted else -1
    return slots


@njit(cache=True)
def _pair_cost(slots, cost, v, w, k, other):
    """Cost of local node v in class k and w in class `other` sharing a cluster; call it for neighbours only."""
    return cost[slots[v, w], k, other] if v < w else cost[slots[w, v], other, k]


@njit(cache=True)
def _start_sums(slots, cost, side, label, classes):
    """Every node's cost of its own side (m,), of the other side by class (m,K), its neighbours there (m,)."""
    m = len(side)
    own, other, border = np.zeros(m), np.zeros((m, classes)), np.zeros(m, np.int64)
    for v in range(m):
        for w in range(m):
            if v == w or (slots[v, w] if v < w else slots[w, v]) < 0:
                continue
            if side[v] == side[w]:
                own[v] += _pair_cost(slots, cost, v, w, label[v], label[w])
            else:
                border[v] += 1
                for k in range(classes):
                    other[v, k] += _pair_cost(slots, cost, v, w, k, label[w])
    return own, other, border


@njit(cache=True)
def _best_move(unary, label, own, other, border, free, anywhere):
    """(node, class, gain) of the best move of a free node with a neighbour there (or `anywhere`); node -1: none."""
    chosen, new, step = -1, -1, -np.inf
    for v in range(len(label)):
        if free[v] and (anywhere or border[v] > 0):
            present = unary[v, label[v]] + own[v]
            for k in range(unary.shape[1]):
                change = present - unary[v, k] - other[v, k]
                if change > step:
                    chosen, new, step = v, k, change
    return chosen, new, step


@njit(cache=True)
def _move(chosen, new, slots, cost, side, label, own, other, border, free):
    """Put node `chosen` on the other side in class `new`, lock it, and bring its free neighbours' sums up to date."""
    old, left = label[chosen], side[chosen]
    side[chosen], label[chosen], free[chosen] = 1 - left, new, False
    for v in range(len(side)):
        if not free[v] or (slots[v, chosen] if v < chosen else slots[chosen, v]) < 0:
            continue
        if side[v] == left:
            own[v] -= _pair_cost(slots, cost, v, chosen, label[v], old)
            border[v] += 1
            for k in range(other.shape[1]):
                other[v, k] += _pair_cost(slots, cost, v, chosen, k, new)
        else:
            own[v] += _pair_cost(slots, cost, v, chosen, label[v], new)
            border[v] -= 1
            for k in range(other.shape[1]):
                other[v, k] -= _pair_cost(slots, cost, v, chosen, k, old)


@njit(cache=True)
def _bisect(slots, cost, unary, side, label):
    """Best prefix of Kernighan-Lin moves between side 0 and side 1 (may be empty), or joining the two.

    Every step takes the move (node to the other side, in any class) that gains most, even when it loses, and locks the
    node. Changes `side` and `label` to the result and returns the decrease of the objective, 0.0 for no change.
    """
    m = len(side)
    own, other, border = _start_sums(slots, cost, side, label, unary.shape[1])
    join, split = 0.0, True
    for v in range(m):
        if side[v] == 1:
            split = False
            join -= other[v, label[v]]
    first_side, first_label = side.copy(), label.copy()
    free = np.ones(m, np.bool_)
    moved, gain, best, best_count = np.empty((m, 2), np.int64), 0.0, 0.0, 0
    for count in range(m):
        chosen, new, step = _best_move(unary, label, own, other, border, free, split and count == 0)
        if chosen < 0:
            break
        _move(chosen, new, slots, cost, side, label, own, other, border, free)
        moved[count, 0], moved[count, 1] = chosen, new
        gain += step
        if gain > best:
            best, best_count = gain, count + 1
    side[:] = first_side
    label[:] = first_label
    if join > best and join > EPSILON:
        side[:] = 0
        return join
    if best > EPSILON:
        for i in range(best_count):
            v = moved[i, 0]
            side[v], label[v] = 1 - side[v], moved[i, 1]
        return best
    return 0.0


@njit(cache=True)
def _update(nodes, first, a, b, graph, label, classes):
    """`_bisect` between the `first` nodes (cluster a) and the others (b); the gain; sets labels and classes."""
    pointer, index, cost, unary = graph
    m = len(nodes)
    side, own_class, own_unary = np.zeros(m, np.int64), np.empty(m, np.int64), np.empty((m, unary.shape[1]))
    for i in range(m):
        side[i] = i >= first
        own_class[i] = classes[nodes[i]]
        for k in range(unary.shape[1]):
            own_unary[i, k] = unary[nodes[i], k]
    gain = _bisect(_slots(nodes, pointer, index), cost, own_unary, side, own_class)
    if gain > 0:
        for i in range(m):
            label[nodes[i]] = a if side[i] == 0 else b
            classes[nodes[i]] = own_class[i]
    return gain


@njit(cache=True)
def _chain(nodes, label, cluster, head, following, size):
    """Make the list of `cluster` from those of `nodes` that have its label."""
    head[cluster], size[cluster] = -1, 0
    for i in range(len(nodes) - 1, -1, -1):
        if label[nodes[i]] == cluster:
            following[nodes[i]] = head[cluster]
            head[cluster] = nodes[i]
            size[cluster] += 1


@njit(cache=True)
def sweep(pairs, count, graph, label, classes, active, touched):
    """UPDATE of each row (a, b) of clusters of which one is active; b = -1 splits a, again and again while that gains.
    The total gain.

    Labels of split-off parts count up from `count`. Nodes of changed clusters become active and touched.
    """
    n = len(label)
    head, following, size = np.full(count + n, -1), np.full(n, -1), np.zeros(count + n, np.int64)
    for v in range(n - 1, -1, -1):
        following[v] = head[label[v]]
        head[label[v]] = v
        size[label[v]] += 1
    total, fresh = 0.0, count
    for row in range(len(pairs)):
        a, b = pairs[row, 0], pairs[row, 1]
        split = b < 0
        while (
            size[a] > 0
            and (active[head[a]] or (not split and size[b] > 0 and active[head[b]]))
            and (split or size[b] > 0)
        ):
            second = fresh if split else b
            nodes, i = np.empty(size[a] + size[second], np.int64), 0
            for cluster in (a, second):
                v = head[cluster]
                while v >= 0:
                    nodes[i] = v
                    v = following[v]
                    i += 1
            gain = _update(nodes, size[a], a, second, graph, label, classes)
            if gain <= 0:
                break
            total += gain
            for v in nodes:
                active[v] = True
                touched[v] = True
            _chain(nodes, label, a, head, following, size)
            _chain(nodes, label, second, head, following, size)
            if not split:
                break
            fresh += 1
    return total


@njit(cache=True)
def sweep_classes(graph, label, classes, touched):
    """Best single class change after another with clusters fixed, every node at most once; the total gain."""
    pointer, index, cost, unary = graph
    n, count = unary.shape
    level = unary.copy()  # what a node costs in each class, as its cluster stands
    for v in range(n):
        for slot in range(pointer[v], pointer[v + 1]):
            if label[index[slot]] == label[v]:
                for k in range(count):
                    level[v, k] += cost[slot, k, classes[index[slot]]]
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
        for slot in range(pointer[chosen], pointer[chosen + 1]):
            w = index[slot]
            if label[w] == label[chosen]:
                touched[w] = True
                for k in range(count):
                    level[w, k] += cost[slot, new, k] - cost[slot, classes[chosen], k]
        classes[chosen] = new
