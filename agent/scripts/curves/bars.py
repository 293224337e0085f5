"""Progress bars: those of tqdm and ultralytics, in whatever loop they stand, and those that Keras prints for the batches
of an epoch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .lines import Reading, read_line
from .names import HELD_OUT
from .points import MAX_STEP, normalised, number_in, step_in, valid_step
from .steps import Steps

MAX_BARS = 32  # different ones that are told apart
MAX_GIVEN = 500  # values remembered for one count
MOST_ROUNDS = 10_000  # a bar around another one that counts further than this does not count epochs

# With `unit_scale` tqdm writes counts short: `5.00k/10.0k`. It does so for bytes too, and these are none of steps.
_SCALES = {"k": 10**3, "M": 10**6, "G": 10**9}
_COUNT = re.compile(r"\s*+([0-9]{1,12}|[0-9.]{1,5}[kMG]?)/([0-9]{1,12}|[0-9.]{1,5}[kMG]?)\s*+\[")
_OF_BYTES = re.compile(r"[^,]*+, *+[0-9.?]++[kMGTP]?+i?+B/s")
_TIME = r"(?:[0-9.]++s|[0-9]++(?::[0-9]{2}){1,2}+)"
# `50% ━━━━━━────── 4/8 8.7it/s 0.4s<0.5s`; a count of bytes (`5.1/5.4MB`) is none of steps.
_ULTRALYTICS = re.compile(
    r"% [━╸─]++ ([0-9]{1,12}+)/([0-9]{1,12}+)(?![\w.])"
    rf"(?: ++[0-9.]++[A-Za-z]++/s)?+(?: ++{_TIME}(?:<{_TIME})?+)?+"
)
_ENDLESS = re.compile(r"(?:^|[:\s])([0-9]{1,12}|[0-9.]{1,5}[kMG]?)it \[[0-9:]++,\s*+")
_KERAS = re.compile(r"\s*+([0-9]{1,10})/([0-9]{1,10}|Unknown)\s++(?=\[[=>.]|[━╸╺]|- [0-9]|[0-9]++m?s )")
_FIGURES = re.compile(r"[0-9.\s]+")
_PERCENT = re.compile(r"[\s:]*+[0-9]{1,3}$")
_ASIDE = re.compile(
    r"\b(eval\w*|val|valid\w*|test\w*|predict\w*|generat\w*|sampl\w*|map|load\w*|download\w*|upload\w*|token\w*|filter\w*"
    r"|fetch\w*|sav\w*|sanity|shard\w*|process\w*|preprocess\w*|extract\w*|infer\w*|convert\w*|files?|writing|reading|cach\w*"
    r"|class +images)\b"
)
# `Epoch 3/10`, and the bare `3/10` that YOLO begins its rows with.
_EPOCH = re.compile(r"(?:\bepochs?\W{0,3}|^(?=[0-9]{1,9}/[0-9]{1,9}\s))([0-9]{1,9})?(?:\s?/\s?([0-9]{1,9}))?")


@dataclass(slots=True)
class Bar:
    """A state of a bar: `label` in front, `count` of `total` (None: endless), `postfix` behind the speed; `end` is where
    it ends in the line."""

    label: str
    count: int
    total: int | None
    postfix: str
    end: int

    @property
    def is_aside(self) -> bool:
        """Whether it counts something other than steps of the training."""
        return _ASIDE.search(self.label.lower()) is not None

    @property
    def is_done(self) -> bool:
        return self.count == self.total


def bar_in(line: str) -> Bar | None:
    """The bar that a line shows; None when it shows none."""
    percent = line.find("%|")
    if percent >= 0:
        return _of_tqdm(line, percent)
    counted = _ULTRALYTICS.search(line) if "━" in line or "─" in line else None
    if counted is not None:
        return _counted(line, counted.start(), counted, "", counted.end())
    return _endless(line) if "it [" in line else None


def _of_tqdm(line: str, percent: int) -> Bar | None:
    drawn = line.find("|", percent + 2)
    counted = _COUNT.match(line, drawn + 1) if drawn > 0 else None
    if counted is None:
        return None
    is_short = not (counted[1].isdigit() and counted[2].isdigit())
    if is_short and _OF_BYTES.match(line, counted.end()):
        return None
    end = _end(line, counted.end())
    return _counted(line, percent, counted, _behind_the_speed(line[counted.end() : end]), end)


def _counted(line: str, percent: int, counted: re.Match[str], postfix: str, end: int) -> Bar | None:
    count, total = _count_in(counted.group(1)), _count_in(counted.group(2))
    if count is None or not total:
        return None
    label = _PERCENT.sub("", line[max(0, percent - 200) : percent])
    return Bar(label.strip(), min(count, total), total, postfix, end)


def _count_in(text: str) -> int | None:
    """The count that a bar shows, `500` or `5.00k`."""
    scale = _SCALES.get(text[-1], 1)
    number = number_in(text.rstrip("kMG"))
    return valid_step(round(number * scale)) if number is not None else None


def _endless(line: str) -> Bar | None:
    found = _ENDLESS.search(line)
    count = _count_in(found.group(1)) if found else None
    if found is None or count is None:
        return None
    end = _end(line, found.end())
    return Bar(line[: found.start()].strip(" :"), count, None, line[found.end() : end].partition(",")[2], end)


def _end(line: str, inside: int) -> int:
    """Where a bar ends: behind the bracket that closes the one we are inside of; at the end of the line where that was
    cut off, or where a postfix stands behind it (`], loss=0.5`)."""
    depth, end = 1, inside
    while depth:
        close = line.find("]", end)
        if close < 0:
            return len(line)
        depth += line.count("[", end, close) - 1
        end = close + 1
    return len(line) if line.startswith(", ", end) else end


def _behind_the_speed(inside: str) -> str:
    """`00:10<01:30, 5.00it/s, loss=0.5]` -> `loss=0.5`."""
    return inside.partition(", ")[2].partition(", ")[2].removesuffix("]")


@dataclass(slots=True)
class _Seen:
    is_inside: bool = False  # it began in the middle of the one that led: an evaluation
    count: int = -1
    rounds: int = 0
    given: dict[str, float | None] = field(default_factory=dict)  # the values that came with this count


@dataclass
class Bars:
    """Finds out which of the bars counts the steps of the training, and where it stands.

    The first one leads, until it is done or a finer one begins inside it before it has moved. Bars that begin again (a
    new one for each epoch) are laid end to end. Bars for evaluation, downloads and the like never lead.
    """

    steps: Steps
    _seen: dict[tuple[str, int | None], _Seen] = field(default_factory=dict)
    _leader: tuple[str, int | None] | None = None
    _around: int | None = None  # the total of the bar that the leader began inside of

    def read(self, bar: Bar) -> tuple[str, int, Reading, int | None] | None:
        """Rule, step, reading and total of a state; None where it tells nothing new."""
        if bar.is_aside:
            return self._aside(bar)
        epoch = _EPOCH.search(bar.label.lower())
        reading = _values(bar)
        if epoch and epoch.group(1) is None:  # a bar over epochs
            self.steps.at_epoch(bar.count, bar.total)
            return "bars", *self._newest("bars", reading)
        if epoch:
            self.steps.at_epoch(step_in(epoch.group(1)) or 0, step_in(epoch.group(2) or ""))
        return self._placed(bar, reading, inside_epoch=epoch is not None)

    def _placed(self, bar: Bar, reading: Reading, inside_epoch: bool) -> tuple[str, int, Reading, int | None] | None:
        key = (_FIGURES.sub("", bar.label), bar.total)
        seen = self._seen.get(key) or self._begun(key)
        is_news = _take_news(seen, bar, reading)
        rule = "epochs" if inside_epoch else "bars"
        if not self._leads(key):
            return (rule, *self._newest(rule, reading)) if reading.values else None
        if inside_epoch:
            step = self.steps.laid_out(bar.count, bar.total)
            total = bar.total * self.steps.epochs if bar.total and self.steps.epochs else None
        else:
            step = seen.rounds * (bar.total or 0) + bar.count
            around = self._around or self.steps.epochs or (1 if not seen.rounds else None)
            total = bar.total * around if bar.total and around else None
        if not 0 <= step < MAX_STEP:
            return None
        is_certain = inside_epoch or seen.rounds > 0 or not bar.is_done
        self.steps.moved_to(step, total, is_certain, by_bar=True)
        self.steps.serves |= bool(reading.values)
        return (rule, step, reading, self.steps.total) if is_news or reading.values else None

    def _begun(self, key: tuple[str, int | None]) -> _Seen:
        if len(self._seen) >= MAX_BARS:
            del self._seen[next(other for other in self._seen if other != self._leader)]
        leader = self._seen.get(self._leader) if self._leader else None
        of = self._leader[1] if self._leader else None
        self._seen[key] = _Seen(leader is not None and of is not None and 0 < leader.count < of)
        return self._seen[key]

    def _leads(self, key: tuple[str, int | None]) -> bool:
        """One that is done keeps the lead over shorter ones when it has served: they are evaluations."""
        if key != self._leader and not self._seen[key].is_inside and self._may_lead(key[1]):
            leader = self._seen.get(self._leader) if self._leader else None
            rounds = self._leader[1] if self._leader and leader and leader.count == 0 else None
            self._around = rounds if rounds and rounds <= MOST_ROUNDS else None
            self._leader, self.steps.serves = key, False
        return self._leader == key

    def _may_lead(self, total: int | None) -> bool:
        leader = self._seen.get(self._leader) if self._leader else None
        if leader is None or self._leader is None or leader.count == 0:
            return True
        is_established = leader.rounds > 0 or self.steps.serves
        is_done = self._leader[1] in (None, leader.count)
        return is_done and (not is_established or (total or 0) > leader.count)

    def _aside(self, bar: Bar) -> tuple[str, int, Reading, int | None] | None:
        """Of a bar for held-out data, its end counts, for the step where the training stands."""
        reading = _values(bar) if bar.is_done else Reading()
        held = next((HELD_OUT[word] for word in re.findall("[a-z]+", bar.label.lower()) if word in HELD_OUT), None)
        if not reading.values or held is None:
            return None
        reading.values = {
            name if name.startswith((*HELD_OUT, "train")) else normalised(f"{held}_{name}"): value
            for name, value in reading.values.items()
        }
        return ("bars", *self._newest("bars", reading))

    def _newest(self, rule: str, reading: Reading) -> tuple[int, Reading, int | None]:
        step, total = self.steps.newest(rule, reading.values)
        return step, reading, total


def _take_news(seen: _Seen, bar: Bar, reading: Reading) -> bool:
    """Leaves in the reading what was not given with this count; whether the count is another one.

    tqdm draws a bar at each change of its postfix, with a count that it brings up to date only ten times a second: the
    first state with a new count is the exact one. The last state of a bar is what its round came to.
    """
    is_news = bar.count != seen.count
    if is_news or len(seen.given) > MAX_GIVEN:
        seen.rounds += bar.count < seen.count
        seen.count, seen.given = bar.count, {}
    reading.values = {
        name: value
        for name, value in reading.values.items()
        if name not in seen.given or (bar.is_done and seen.given[name] != value)
    }
    seen.given.update(reading.values)
    return is_news


def _values(bar: Bar) -> Reading:
    """What stands behind a bar, and in the text in front of it where that names a metric (`loss: 0.12:  10%|`)."""
    reading = read_line(bar.postfix, in_bar=True) if bar.postfix else None
    reading = reading or Reading()
    before = read_line(bar.label) if bar.label else None
    for name, value in before.values.items() if before else ():
        reading.values.setdefault(name, value)
    return reading


@dataclass
class KerasBars:
    """` 50/100 [====>....] - 5s 3ms/step - loss: 0.5`: batches of the epoch that a line before has named."""

    steps: Steps
    _batches: int | None = None
    _epoch: int | None = None

    def read(self, line: str) -> tuple[str, int, Reading, int | None] | None:
        """Rule, step, reading and total of a line; None when it is not such a bar or shows no metric."""
        counted = _KERAS.match(line)
        reading = read_line(line[counted.end() :], in_bar=True) if counted else None
        if counted is None or reading is None or not reading.values:
            return None
        count, batches = step_in(counted.group(1)), step_in(counted.group(2))
        if self._epoch != self.steps.epoch:
            self._epoch, self._batches = self.steps.epoch, batches
        if batches is not None and batches != self._batches and self._batches is not None:
            reading.values = {normalised(f"eval_{name}"): value for name, value in reading.values.items()}
            return ("epochs", *_with(reading, self.steps.newest("epochs", reading.values)))
        reading.batch, reading.batches = count, batches
        return ("epochs", *_with(reading, self.steps.place("epochs", reading)))


def _with(reading: Reading, place: tuple[int, int | None]) -> tuple[int, Reading, int | None]:
    return place[0], reading, place[1]
