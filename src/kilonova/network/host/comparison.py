"""What differs, put in the order in which it is done: by namespace, and the filters' part also by owner. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kilonova.network.fragments import Fragment, changed
from kilonova.network.host.failures import HOST_ITSELF
from kilonova.network.layout import Chain, Changes, Layout, difference, merge


def compare(before: Mapping[str, Fragment], after: Mapping[str, Fragment]) -> tuple[dict[str, Changes], list[str]]:
    """The changes by comparison with what was last applied, and the namespaces that go."""
    gone, come = changed(before, after)
    old, new = by_namespace(gone), by_namespace(come)
    kept = {item.namespace for item in after.values()}
    stale = sorted({item.namespace for item in gone} - kept)
    names = [name for name in {**old, **new} if name not in stale]
    return {name: difference(old.get(name, Layout()), new.get(name, Layout())) for name in names}, stale


def by_namespace(items: Iterable[Fragment]) -> dict[str, Layout]:
    found: dict[str, list[Layout]] = defaultdict(list)
    for item in items:
        found[item.namespace].append(item.layout)
    return {name: merge(layouts) for name, layouts in found.items()}


def by_owner(changes: Changes, wanted: Mapping[str, Fragment], switch: str) -> list[tuple[str, Changes]]:
    """The filters' part of `changes` in transactions of their own: declarations first, then one per owner."""
    owner_of: dict[object, str] = {}
    for item in wanted.values():
        if item.namespace == switch:
            owner_of.update(dict.fromkeys(item.layout.elements, item.owner))
            owner_of.update(dict.fromkeys(item.layout.chains, item.owner))
    empty = Chain(())
    base = replace(
        changes,
        added_chains=tuple(
            (key, chain if not owner_of.get(key) else replace(empty, hook=chain.hook))
            for key, chain in changes.added_chains
        ),
        changed_chains=tuple(item for item in changes.changed_chains if not owner_of.get(item[0])),
        added_elements=tuple(item for item in changes.added_elements if not owner_of.get(item[0])),
    )
    parts: dict[str, Changes] = {}
    filled = [(key, empty, chain) for key, chain in changes.added_chains if owner_of.get(key)]
    filled += [item for item in changes.changed_chains if owner_of.get(item[0])]
    for chain_change in filled:
        owner = owner_of[chain_change[0]]
        part = parts.setdefault(owner, Changes())
        parts[owner] = replace(part, changed_chains=(*part.changed_chains, chain_change))
    for element in changes.added_elements:
        owner = owner_of.get(element[0], "")
        if owner:
            part = parts.setdefault(owner, Changes())
            parts[owner] = replace(part, added_elements=(*part.added_elements, element))
    return [(HOST_ITSELF, base), *parts.items()]
