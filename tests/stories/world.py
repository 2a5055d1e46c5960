"""A whole world in memory for one operator: jobs, pods, agents and a clock. Time moves by ticks; nothing sleeps."""

from datetime import UTC, datetime, timedelta

from tests.builders.observed import a_job
from tests.builders.sentences import miscounted
from tests.stories.fake_agent import Agent
from tests.stories.fake_agents import FakeAgents
from tests.stories.fake_pods import FakePods, OperatorDied

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import JobStatus
from finetune_operator.decide.answers.decision import Event
from finetune_operator.decide.facts.gang import WORKING
from finetune_operator.decide.facts.policy import policy_of
from finetune_operator.reconcile.passes import PassSettings, Reconciler
from finetune_operator.reconcile.ports import Conflict, Gone, Key, Written

TICK_SECONDS = 0.5


class FakeClock:
    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment


class FakeJobs:
    """The port `Jobs`: compare-and-swap on (uid, resourceVersion), and the rules that CEL keeps on status."""

    def __init__(self) -> None:
        self.jobs: dict[Key, FineTuneJob] = {}
        self.events: list[tuple[str, Event]] = []
        self.num_writes = 0
        self.conflicts = 0  # so many of the next writes meet a 409
        self.dies_after_writes: int | None = None
        self.stale: dict[Key, FineTuneJob] = {}
        self.unreadable: set[Key] = set()

    def get(self, key: Key) -> FineTuneJob | None:
        return self.stale.get(key) or self.jobs.get(key)

    def keys(self) -> tuple[Key, ...]:
        return tuple(self.jobs)

    async def tell_unreadable(self, key: Key) -> float | None:
        return 60.0 if key in self.unreadable else None

    async def write_status(self, job: FineTuneJob, status: JobStatus) -> Written | Conflict | Gone:
        stored = self.jobs.get(job.key)
        if stored is None or stored.metadata.uid != job.metadata.uid:
            return Gone()
        if self.conflicts or stored.metadata.resource_version != job.metadata.resource_version:
            self.conflicts = max(self.conflicts - 1, 0)
            self.stale.pop(job.key, None)
            return Conflict()
        keep_the_rules_of_status(stored.status, status)
        check_sentences(*(condition.message for condition in status.conditions), *(entry.reason for entry in status.recoveries))
        self.num_writes += 1
        written = self.put(stored.model_copy(update={"status": JobStatus.model_validate_json(status.model_dump_json())}))
        if self.dies_after_writes is not None:
            self.dies_after_writes -= 1
            if self.dies_after_writes == 0:
                self.dies_after_writes = None
                raise OperatorDied
        return Written(job=written)

    def put(self, job: FineTuneJob) -> FineTuneJob:
        version = str(int(job.metadata.resource_version or "0") + 1)
        stored = job.model_copy(update={"metadata": job.metadata.model_copy(update={"resource_version": version})})
        self.jobs[job.key] = stored
        return stored

    async def record(self, job: FineTuneJob, event: Event) -> None:
        check_sentences(event.message)
        self.events.append((job.metadata.name, event))


def check_sentences(*sentences: str) -> None:
    """Whatever a story shows, it counts one member and two members."""
    assert [found for found in map(miscounted, sentences) if found is not None] == []


def keep_the_rules_of_status(old: JobStatus, new: JobStatus) -> None:
    assert new.last_formation >= old.last_formation, "formation fell"
    assert new.last_serial >= old.last_serial, "last serial fell"
    assert new.is_ended >= old.is_ended, "an end was taken back"
    serials = [entry.serial for entry in new.members]
    assert len(set(serials)) == len(serials), "a serial is listed twice"
    assert all(serial <= new.last_serial for serial in serials)
    fresh = set(serials) - {entry.serial for entry in old.members}
    assert all(serial > old.last_serial for serial in fresh), "a serial came back"
    if old.formation is not None and new.formation is not None and old.formation.number == new.formation.number:
        assert old.formation.serials == new.formation.serials, "two formations with one number"


class World:
    """One cluster and one operator. `tick` moves everything once, then lets the operator settle."""

    def __init__(self, *, slots: int = 100, total_steps: int = 6, policy_of=policy_of) -> None:
        self.policy_of = policy_of
        self.clock = FakeClock()
        self.jobs = FakeJobs()
        self.pods = FakePods(self.clock, slots)
        self.agents = FakeAgents(self.clock, self.pods, total_steps)
        self.term = 0
        self.is_operator_up = True
        self.start_operator()

    def start_operator(self, reconnect_seconds: float = 2.0) -> None:
        self.term += 1
        settings = PassSettings(trainer_image="trainer:1", reconnect_seconds=reconnect_seconds, policy_of=self.policy_of)
        self.reconciler = Reconciler(members=self.pods, agents=self.agents, jobs=self.jobs, clock=self.clock, settings=settings)
        self.reconciler.lead(self.term)
        self.is_operator_up = True

    def stop_operator(self) -> None:
        self.is_operator_up = False
        self.agents.restart_operator()
        self.agents.are_channels_up = False

    def restart_operator(self) -> None:
        self.agents.restart_operator()
        self.agents.are_channels_up = True
        self.start_operator()

    def apply(self, name: str = "bot", **changes) -> FineTuneJob:
        number = len(self.jobs.jobs) + 1
        job = a_job(name=name, uid=f"{number:04d}-{name}", created_at=self.clock.now() + timedelta(milliseconds=number), **changes)
        return self.jobs.put(job)

    def change_spec(self, name: str = "bot", **changes) -> None:
        job = self.job(name)
        metadata = job.metadata.model_copy(update={"generation": job.metadata.generation + 1})
        self.jobs.put(job.model_copy(update={"metadata": metadata, "spec": job.spec.model_copy(update=changes)}))

    def delete_job(self, name: str = "bot") -> None:
        del self.jobs.jobs[("default", name)]

    def job(self, name: str = "bot") -> FineTuneJob:
        return self.jobs.jobs[("default", name)]

    def status(self, name: str = "bot") -> JobStatus:
        return self.job(name).status

    def live_pods(self, name: str = "bot") -> list[str]:
        uid = self.job(name).metadata.uid
        pods = [pod.view for pod in self.pods.pods.values() if pod.job_uid == uid]
        return [pod.uid for pod in sorted(pods, key=lambda pod: pod.serial) if not pod.is_over and not pod.is_deleting]

    def agent(self, node_rank: int, name: str = "bot") -> Agent:
        """The agent with this node rank in the newest formation."""
        serial = self.status(name).formation.serials[node_rank]
        wanted = self.job(name).member_name(serial)
        uid = next(uid for uid, pod in self.pods.pods.items() if pod.view.name == wanted)
        return self.agents.agents[uid]

    def steps(self, name: str = "bot") -> list[int]:
        """Every step that was made, in order, whichever formation made it."""
        return [step for _, step in self.agents.trained.get(self.job(name).metadata.uid, [])]

    def made(self, name: str = "bot") -> list[str]:
        return [pod for pod in self.pods.made if pod.startswith(f"{name}-")]

    def reasons(self, name: str = "bot") -> list[str]:
        return [event.reason for owner, event in self.jobs.events if owner == name]

    async def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.moment += timedelta(seconds=TICK_SECONDS)
            self.pods.tick()
            self.pods.collect({job.metadata.uid for job in self.jobs.jobs.values()})
            self.agents.tick()
            self.pods.catch_up()
            if self.is_operator_up:
                await self.settle()
            self.check_invariants()

    async def settle(self) -> None:
        """Passes over all jobs until nothing is written any more. A death of the operator is followed by a restart."""
        for _ in range(30):
            before = self._num_effects()
            try:
                known = set(self.jobs.keys()) | set(self.reconciler._last_seen)
                for key in sorted(known):
                    await self.reconciler.run_pass(key)
            except OperatorDied:
                self.restart_operator()
                continue
            except TimeoutError:
                continue  # the queue tries again
            self.pods.catch_up()
            if self._num_effects() == before:
                return
        raise AssertionError(f"passes never come to rest: {self._num_effects()}")

    async def until(self, check, *, within_seconds: float = 60) -> None:
        deadline = self.clock.now() + timedelta(seconds=within_seconds)
        while not check():
            if self.clock.now() > deadline:
                raise AssertionError(
                    f"not reached; {[(key[1], job.status.phase, job.status.columns) for key, job in self.jobs.jobs.items()]}"
                )
            await self.tick()

    async def until_phase(self, phase: str, name: str = "bot", *, within_seconds: float = 60) -> None:
        await self.until(lambda: self.status(name).phase == phase, within_seconds=within_seconds)

    async def until_step(self, step: int, name: str = "bot") -> None:
        uid = self.job(name).metadata.uid
        await self.until(lambda: any(done >= step for _, done in self.agents.trained.get(uid, [])))

    async def rests(self, *names: str) -> bool:
        """All of them are over: no pod lives, and another pass over everything writes nothing."""
        await self.tick(4)
        return await self.is_quiet() and not any(self.live_pods(name) for name in names or ("bot",))

    async def is_quiet(self) -> bool:
        """Another pass over everything writes nothing."""
        before = self._num_effects()
        known = self.jobs.keys()
        for key in known:
            await self.reconciler.run_pass(key)
        return self._num_effects() == before

    def check_invariants(self) -> None:
        for key, job in self.jobs.jobs.items():
            uid = job.metadata.uid
            pods = [pod.view for pod in self.pods.pods.values() if pod.job_uid == uid and not pod.is_stranger]
            live = [pod for pod in pods if not pod.is_over and not pod.is_deleting]
            assert len({pod.serial for pod in pods}) == len(pods), f"{key}: two pods for one place"
            if not self.pods.is_stale:
                most = job.spec.resources.nodes.max + job.spec.resources.spares + 1
                assert len(live) <= most, f"{key}: {len(live)} live pods"
                formation = job.status.formation
                assert formation is None or len(formation.serials) <= job.spec.resources.nodes.max, f"{key}: a formation with a spare"
            working = {}
            for agent in self.agents.agents.values():
                if agent.job_uid == uid and agent.phase in WORKING and agent.start is not None:
                    working.setdefault(agent.formation, set()).add(agent.start.peers)
            assert all(len(peers) == 1 for peers in working.values()), f"{key}: two formations with one number"

    def _num_effects(self) -> tuple[int, int, int, int]:
        return (self.jobs.num_writes, len(self.pods.made), len(self.pods.deleted), len(self.jobs.events))
