"""Names of the language for what a plan speaks of."""

from __future__ import annotations

from cascade.transforms.fuse import Plan


class Names:
    """Tensors of a plan under legal names; fresh ones never clash with those of the source."""

    def __init__(self, plan: Plan):
        self.steps = plan.stream.by_name
        source = plan.stream.cascade
        taken = {
            *source.tensors,
            *(r.name for r in source.ranks),
            *plan.accumulators,
            *plan.classes,
        }
        self.taken = (
            taken | {p.name for p in source.params} | {r.name.upper() for r in source.ranks}
        )
        self.known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name of a tensor: its own, or one made for a reduction taken out of a statement."""
        step = self.steps.get(name)
        if step is None or step.named:
            return name
        return self.made(name, self.stem(name))

    def made(self, key: str, stem: str) -> str:
        """The name made for a key, the same at every call."""
        if key not in self.known:
            self.known[key] = self.fresh(stem)
        return self.known[key]

    def stem(self, name: str) -> str:
        step = self.steps.get(name)
        if step is None or step.named:
            return name
        return f"{step.einsum.tensor}_{step.op}"

    def fresh(self, stem: str) -> str:
        """A name that nothing has, nor the extent of anything."""
        name, n = stem, 2
        while name in self.taken or (name != name.upper() and name.upper() in self.taken):
            name, n = f"{stem}_{n}", n + 1
        self.taken.add(name)
        return name
