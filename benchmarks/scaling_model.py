"""What an iteration would cost with more workers than there are: arithmetic, not a measurement.

N workers of the model propose codes (P), encode the batches shown to the critic (S), decode (D) and
learn (L). Each of M adversaries updates the critic n times (c), answers (A) and updates the
generator (G), on a share of the rows of all. With X the way of a batch of codes from worker to
worker and R the sums over a group, at no staleness:

    answer    = max(X + c, S + X) + (n − 1) c + A + R_critic + X
    iteration = max(P + max(S + D, answer) + L + R_model,  n c + A + G + R_critic + R_generator,
                    calls of the driver) + W

where W is the driver's wait for the figures of an iteration before it asks for the next. Nothing
else is hidden behind anything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from lvtrain.cluster.plan import Messages, ring

WORKERS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Line:
    """Seconds of a piece of work: fixed + slope · rows."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]]) -> Self:
        """The line through the first and the last of some measurements; one measurement, or a
        line that would be below zero, is taken to be proportional to the rows."""
        (few, little), (many, much) = points[0], points[-1]
        slope = (much - little) / (many - few) if many > few else much / many
        fixed = little - slope * few
        return cls(fixed, slope) if fixed >= 0 and slope >= 0 else cls(0.0, much / many)

    def at(self, rows: float) -> float:
        return self.fixed + self.slope * rows


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Measured seconds of the work of one worker of each kind on one device, by rows."""

    device: str
    """What they were measured on."""
    propose: Line
    show: Line
    decode: Line
    learn: Line
    criticise: Line
    """One round."""
    answer: Line
    generate: Line


@dataclass(frozen=True)
class Link:
    """What two workers are connected by."""

    name: str
    bandwidth: float
    """Bytes a second in one direction."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    """Kinds of workers that can have it."""


NVLINK = Link("NVLink", 450e9, ("cuda",))
FAST = Link("100 Gb/s", 12.5e9)
SLOW = Link("25 Gb/s", 3.125e9)
MEMORY = Link("one node", math.inf)
"""What is measured of the exchange already has the way through one node's memory in it."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """All that the model takes for granted."""

    cpu: StepTimes
    """Measured on this machine's CPU: one thread a worker."""
    gpu: StepTimes | None = None
    """Measured on a GPU; without it there are no rows for GPUs."""
    rows: int
    """Sentences a worker of the model, whatever their number: the batch grows with them."""
    words: float
    """Words a sentence."""
    rounds: int
    """Updates of the critic an iteration."""
    messages: Messages
    """Sizes of what is sent: an iteration's, by `lvtrain.cluster.plan`."""
    pack: float
    """Measured seconds to pack a worker's codes."""
    store: float
    """Measured seconds from worker to worker on one node, links apart."""
    unpack: float
    """Measured seconds to unpack a piece; a worker unpacks one from each that it meets."""
    call: float
    """Measured seconds of the driver for each call of a worker."""
    wait: float
    """Measured seconds from a call to its result, which the driver waits for every iteration."""
    links: tuple[Link, ...] = (NVLINK, FAST, SLOW)
    latency: float = 20e-6
    """Assumed seconds of each hop of a sum over a group, of which there are 2 ⌈log₂ n⌉."""

    @property
    def measured(self) -> dict[str, StepTimes]:
        """Step times by the kind of device, where there are any."""
        return {"cpu": self.cpu} | ({"cuda": self.gpu} if self.gpu else {})


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """An iteration of N workers and M adversaries, in seconds."""

    workers: int
    adversaries: int
    iteration: float
    words_per_second: float
    stages: dict[str, float]
    """What each would take by itself: the model's work, the adversary's, the exchange, the sums
    over a group, the driver's calls."""
    hidden: bool
    """The answer is there when the decoder has done its part."""

    @property
    def limit(self) -> str:
        """The stage that takes longest."""
        return max(self.stages, key=lambda name: self.stages[name])


def forecast(
    given: Assumptions, steps: StepTimes, link: Link, workers: int, adversaries: int
) -> Forecast:
    """What the model says of so many workers."""
    rows, sent, rounds = given.rows, given.messages, given.rounds
    shared = rows * workers / adversaries
    propose, show = steps.propose.at(rows), steps.show.at(rows)
    decode, learn = steps.decode.at(rows), steps.learn.at(rows)
    critic, answer = steps.criticise.at(shared), steps.answer.at(shared)
    generate = steps.generate.at(shared)

    met = workers // math.gcd(workers, adversaries)
    wire = max(rows, shared) * sent.code / link.bandwidth
    exchange = given.pack + given.store + met * given.unpack + wire

    def sums(sizes: Sequence[int], count: int) -> float:
        hops = 2 * math.ceil(math.log2(count))
        return ring(count, sum(sizes)) / link.bandwidth + len(sizes) * hops * given.latency

    model_sums = sums(sent.model, workers)
    critic_sums, generator_sums = sums(sent.critic, adversaries), sums(sent.generator, adversaries)
    first = max(exchange + critic, show + exchange if sent.proposals > 1 else 0.0)
    answered = first + (rounds - 1) * critic + answer + critic_sums + exchange
    of_adversary = rounds * critic + answer + generate
    of_driver = given.call * (4 * workers + (rounds + 2) * adversaries)
    iteration = max(
        propose + max(show + decode, answered) + learn + model_sums,
        of_adversary + critic_sums + generator_sums,
        of_driver,
    )
    iteration += given.wait
    return Forecast(
        workers=workers,
        adversaries=adversaries,
        iteration=iteration,
        words_per_second=rows * workers * given.words / iteration,
        stages={
            "model": propose + show + decode + learn,
            "adversary": of_adversary,
            "exchange": (sent.proposals + sent.answers) * exchange,
            "all-reduce": max(model_sums, critic_sums + generator_sums),
            "driver": of_driver + given.wait,
        },
        hidden=answered <= show + decode,
    )


def adversaries_for(given: Assumptions, steps: StepTimes, link: Link, workers: int) -> int:
    """The fewest adversaries whose time is hidden; where none are enough, as many as make an
    iteration shortest. Their number divides that of the workers: each has rows of whole ones."""
    counts = [count for count in range(1, workers + 1) if workers % count == 0]
    found = {count: forecast(given, steps, link, workers, count) for count in counts}
    hidden = [count for count in counts if found[count].hidden]
    return hidden[0] if hidden else min(counts, key=lambda count: found[count].iteration)


def most_for_one(given: Assumptions, steps: StepTimes, link: Link) -> int | None:
    """The largest N of the default N : 1, of all up to the largest number of workers: as many
    workers as one adversary keeps up with unseen. None where it does not with a single one."""
    best = None
    for workers in range(1, WORKERS[-1] + 1):
        if forecast(given, steps, link, workers, 1).hidden:
            best = workers
    return best


def limits(given: Assumptions, steps: StepTimes, link: Link, many: bool) -> dict[str, int | None]:
    """The fewest workers of the model at which each stage takes the longest, with one adversary
    or, `many`, with as many as hide; None where it never does."""
    found: dict[str, int | None] = dict.fromkeys(
        ("adversary", "exchange", "all-reduce", "driver"), None
    )
    for workers in range(1, WORKERS[-1] + 1):
        count = adversaries_for(given, steps, link, workers) if many else 1
        limit = forecast(given, steps, link, workers, count).limit
        if limit in found and found[limit] is None:
            found[limit] = workers
    return found


def extrapolate(given: Assumptions) -> list[dict[str, Any]]:
    """The figures of the report: for each kind of device that was measured and each link."""
    tables = []
    for kind, steps in given.measured.items():
        for link in given.links:
            if kind not in link.devices:
                continue
            one = forecast(given, steps, link, 1, 1).words_per_second
            rows = []
            for workers in WORKERS:
                hiding = adversaries_for(given, steps, link, workers)
                for adversaries in sorted({1, hiding}):
                    found = forecast(given, steps, link, workers, adversaries)
                    rows.append(
                        {
                            "workers": workers,
                            "adversaries": adversaries,
                            "iteration_ms": round(1e3 * found.iteration, 2),
                            "words_per_second": round(found.words_per_second),
                            "efficiency": round(found.words_per_second / (workers * one), 3),
                            "limit": found.limit,
                            "adversary_hidden": found.hidden,
                            "stages_ms": {n: round(1e3 * s, 2) for n, s in found.stages.items()},
                        }
                    )
            tables.append(
                {
                    "device": kind,
                    "measured_on": steps.device,
                    "link": link.name,
                    "default_workers_for_one_adversary": most_for_one(given, steps, link),
                    "limit_from_with_one_adversary": limits(given, steps, link, many=False),
                    "limit_from_with_enough_adversaries": limits(given, steps, link, many=True),
                    "rows": rows,
                }
            )
    return tables
