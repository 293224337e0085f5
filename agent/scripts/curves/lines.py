"""What one printed line says: names with numbers, and the step, batch or epoch they belong to.

A reading tells nothing about the lines around it; `steps` places it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .gaps import NUMBER, Gap, understood
from .names import HELD_OUT, TRAINING, Kind
from .points import normalised, number_in, step_in

MAX_NUMBERS = 64  # of one line

_SETTINGS = re.compile(r"(?:Namespace|Config|Arguments|Args|Params|Adam\w{0,10}|SGD)\(|(?<!\S)--[a-z]")
# The summary behind a validation in PyTorch's imagenet example: ` * Acc@1 86.000 Acc@5 98.0`.
_SUMMARY = re.compile(r"\s*+\*\s++\w++@[0-9]")
# Keras' tutorial: `Training loss (for 1 batch) at step 100: 0.5`.
_AT_STEP = re.compile(
    r"(?: \([^()]{1,40}+\))?+ at (step|iteration|iter|epoch) ([0-9]{1,10}+(?:/[0-9]{1,10}+)?+)"
    r" ?+: ?+(?=[-+]?+(?:[.0-9]|nan|inf))",
    re.IGNORECASE,
)
_CURVES = (Kind.METRIC, Kind.WEAK, Kind.COMPANION)


@dataclass(slots=True)
class Reading:
    """`step` of `steps` over all, `batch` of `batches` within `epoch` of `epochs`; None where the line is silent."""

    values: dict[str, float | None] = field(default_factory=dict)
    step: int | None = None
    steps: int | None = None
    batch: int | None = None
    batches: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    epoch_first: bool = False
    of_validation: bool = False  # a batch of one: it belongs to the step where the training stands
    part_of_epochs: float | None = None  # 1.5 in the middle of the second epoch, as the Trainer of transformers counts

    @property
    def rule(self) -> str:
        """The rule for lines of this shape."""
        if self.step is not None and not self.epoch_first:
            return "iterations"
        return "pairs" if self.epoch is None and self.batch is None else "epochs"


class _Found(NamedTuple):
    name: str
    text: str
    value: float | None
    gap: Gap


def read_line(line: str, in_bar: bool = False) -> Reading | None:
    """The reading of a line; None when it holds no number. In the postfix of a bar (`in_bar`) every name is a curve."""
    if " at " in line and (found_at := _AT_STEP.search(line)) is not None:
        kind, count = found_at.groups()
        line = f"{kind} {count} {line[: found_at.start()]}: {line[found_at.end() :]}"
    parts = NUMBER.split(line, MAX_NUMBERS)
    if len(parts) == 1:
        return None
    reading = Reading()
    found = list(_numbers(parts, reading))
    if found and _is_wanted(found, reading, line, in_bar):
        for name, _, value, _ in _of_owners(found) if "'s " in line else found:
            reading.values.setdefault(name, value)
    return reading


def _numbers(parts: list[str], reading: Reading) -> Iterator[_Found]:
    """Takes the steps of a line into the reading, gives the numbers that may be values."""
    _leading_count(parts, reading)
    # The data that the numbers are about, where that is not what is trained on.
    group = "val" if _SUMMARY.match(parts[0]) else None
    named: str | None = None  # the same, said in front of the name of a curve: `train Loss: 0.5 Acc: 0.7`
    before, decimals = understood(parts[0]), ""
    for place in range(1, len(parts), 2):
        gap, after = before, understood(parts[place + 1])
        before = after
        if decimals:  # this number is the rest of the one before
            decimals = ""
            continue
        text, decimals = parts[place], _decimals(parts, place)
        if decimals:
            text, after = f"{text}.{decimals}", understood(parts[place + 3])
        if gap.group is not None:
            group, named = (gap.group if gap.group != "train" else None), (gap.group if gap.apart else None)
            if gap.kind not in _CURVES:
                named = None
        if gap.slash or (after.unit == "?" and not after.slash):
            continue
        of = parts[place + 2] if after.slash and place + 2 < len(parts) else None
        if of is not None and gap.opens and gap.name in HELD_OUT:  # `Test: [ 10/196]`; its summary is ` * Acc@1 86.000`
            group, named, reading.of_validation = "val", None, True
            continue
        outer = of is not None and _is_outer(parts, place)
        if _is_count(gap, after, text, of, reading, held_out=group is not None, outer=outer):
            continue
        if gap.name and gap.kind is not None:
            found = _value(gap, after, text, of)
            if found is not None:
                yield found._replace(name=_of_group(found.name, gap, named or group))


def _decimals(parts: list[str], place: int) -> str:
    """What stands behind the comma of a number such as `0,5`; empty where it is no such number, or one of a list."""
    if parts[place + 1] != "," or not parts[place].lstrip("+-").isdigit() or parts[place - 1].endswith((",", "[")):
        return ""
    behind = parts[place + 2] if place + 2 < len(parts) and parts[place + 3] != "," else ""
    return behind if behind[:1].isdigit() and "." not in behind and "," not in behind else ""


def _leading_count(parts: list[str], reading: Reading) -> None:
    """`[10]\\ttrain-rmse:0.3` (XGBoost), `10:\\tlearn: 0.6` (CatBoost), `[1,  2000] loss: 2.1` (PyTorch's tutorial)."""
    head, behind = parts[0].strip(), parts[2]
    if head == "[" and behind.strip() == "," and len(parts) > 4 and parts[4].startswith("]"):
        reading.epoch, reading.batch, reading.epoch_first = step_in(parts[1]), step_in(parts[3]), True
    elif (head == "[" and behind.startswith("]\t")) or (not head and behind.startswith(":\t")):
        reading.step = step_in(parts[1])


def _is_outer(parts: list[str], place: int) -> bool:
    """Whether the count at this place stands in brackets with another one directly behind them: `[0/25][1/1583]` (DCGAN)."""
    return place + 5 < len(parts) and "".join(parts[place + 3].split()) == "][" and understood(parts[place + 5]).slash


def _is_count(gap: Gap, after: Gap, text: str, of: str | None, reading: Reading, held_out: bool, outer: bool) -> bool:
    """Whether this number tells where the training is; the reading has it then, but for batches of held-out data."""
    kind = gap.kind
    if kind is None and after.counted is not None:
        kind = after.counted
    if kind is Kind.UNKNOWN and after.opens and gap.name in TRAINING and reading.epoch is None:
        kind = Kind.EPOCH  # timm: `Train: 0 [  50/1251 (  4%)]  Loss: 6.95`
    if outer and kind in (None, Kind.UNKNOWN) and reading.epoch is None:
        kind = Kind.EPOCH
    if kind is None and of is not None and (gap.opens or (not gap.name and reading.epoch is not None)):
        kind = Kind.BATCH
    if kind not in (Kind.STEP, Kind.BATCH, Kind.EPOCH):
        return False
    count, total = step_in(text), step_in(of) if of is not None else None
    if count is not None and not (held_out and kind is Kind.BATCH):
        _take_count(kind, count, total, reading)
    return True


def _take_count(kind: Kind, count: int, total: int | None, reading: Reading) -> None:
    if kind is Kind.STEP and reading.step is None:
        reading.step, reading.steps = count, total
    elif kind is Kind.BATCH and reading.batch is None:
        reading.batch, reading.batches = count, total
    elif kind is Kind.EPOCH and reading.epoch is None:
        reading.epoch, reading.epochs = count, total
        reading.epoch_first = reading.step is None


def _value(gap: Gap, after: Gap, text: str, of: str | None) -> _Found | None:
    if gap.kind is Kind.NEVER or (
        gap.kind is Kind.UNKNOWN and (not gap.separated or after.unit == "%" or of is not None)
    ):
        return None
    value = number_in(text)
    if of is not None:
        total = number_in(of)
        if not total or value is None:
            return None
        value, text = value / total, "."
    return _Found(gap.name, text, value, gap)


def _of_group(name: str, gap: Gap, group: str | None) -> str:
    """`acc` of a line about held-out data is `val_acc`; a rate or a norm belongs to the training all the same."""
    if group is None or gap.apart or gap.kind is Kind.COMPANION:
        return name
    first = name.replace("/", "_").replace(".", "_").split("_")[0]
    return name if first in HELD_OUT or first in TRAINING else normalised(f"{group}_{name}")


def _of_owners(found: list[_Found]) -> list[_Found]:
    """`training's auc: 0.9  valid_0's auc: 0.8` are `train_auc` and `val_auc`; sets that share a group go by their own
    names, and where there is one set alone its values need none."""
    groups = {each.gap.owner: _group_of(each.gap.owner) for each in found if each.gap.owner}
    if len(groups) < 2:
        return found
    given = list(groups.values())
    sets = {owner: group if given.count(group) == 1 else owner for owner, group in groups.items()}
    return [each._replace(name=normalised(f"{sets.get(each.gap.owner, '')} {each.name}")) for each in found]


def _group_of(owner: str) -> str:
    word = owner.rstrip("_0123456789")
    return "train" if word in TRAINING else HELD_OUT.get(word, owner)


def _is_wanted(found: list[_Found], reading: Reading, line: str, in_bar: bool) -> bool:
    if in_bar:
        return True
    placed = reading.step is not None or reading.epoch is not None
    found[:] = [each for each in found if each.gap.kind is not Kind.WEAK or placed or not each.text.isdigit()]
    kinds = {each.gap.kind for each in found}
    if placed:
        decimal = any(each.gap.kind is Kind.UNKNOWN and not each.text.isdigit() for each in found)
        return decimal or not kinds.isdisjoint(_CURVES)
    if Kind.METRIC not in kinds and Kind.WEAK not in kinds:
        return False
    return _SETTINGS.search(line) is None
