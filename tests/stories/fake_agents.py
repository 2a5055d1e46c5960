"""Agents in memory: a state machine that obeys orders as the real one does, and trains one step a tick with all its peers."""

from datetime import timedelta

from tests.stories.fake_agent import Agent, make_progress
from tests.stories.fake_pods import FakePods

from finetune_contract.failures import ExitCode, FailureClass, FailureReport
from finetune_contract.last_words import Finished, render_last_words
from finetune_contract.messages import Failed, Hello, Leaving, MemberPhase, PhaseChanged, Probed
from finetune_contract.orders import Commit, Exit, Probe, Start, Stop
from finetune_contract.reports import Committed, Output, Warned
from finetune_contract.state import InputDigests, StateId, newest_state
from finetune_operator.coordinator.sessions import SessionTable
from finetune_operator.decide.facts.gang import WORKING

INPUTS = InputDigests(model="m" * 64, dataset="d" * 64)
TOLD_TO_END = FailureReport(failure_class=FailureClass.DISRUPTED, message="the member was told to end (SIGTERM)")
TOLD_TO_EXIT = FailureReport(failure_class=FailureClass.DISRUPTED, message="told to exit")
PEER_LOST = FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="peer lost: connection reset", rank=0)


class FakeAgents:
    """The port `Agents`, over the real table of sessions. `total_steps` is what every job needs."""

    def __init__(self, clock, pods: FakePods, total_steps: int = 6) -> None:
        self.clock, self.pods, self.total_steps = clock, pods, total_steps
        self.table = SessionTable()
        self.agents: dict[str, Agent] = {}
        self.store: dict[str, StateId] = {}  # newest commit of each job
        self.trained: dict[str, list[tuple[int, int]]] = {}  # (formation, step) of each job
        self.num_orders = 0
        self.are_channels_up = True
        self.prepare_failure: FailureReport | None = None
        self.faults: dict[int, FailureReport] = {}  # at this step node rank 0 fails, once
        self.fault_always: FailureReport | None = None  # every formation fails before its first step
        self.inputs = INPUTS
        self.found_output: Output | None = None  # the adapter is there already (ifExists: Skip)
        self.is_store_away = False
        self.waits_for_a_store: set[str] = set()  # jobs, by uid, whose members reach no model
        self.dies_before_orders = False

    def observe(self, job_uid: str):
        return self.table.of_job(job_uid)

    def send(self, member_uid: str, order) -> None:
        from tests.stories.fake_pods import OperatorDied

        if self.dies_before_orders:
            self.dies_before_orders = False
            raise OperatorDied
        agent = self.agents.get(member_uid)
        if agent is not None and agent.is_connected:
            self.num_orders += 1
            agent.inbox.append(order)

    def forget(self, member_uid: str) -> None:
        self.table.forget(member_uid)

    def restart_operator(self) -> None:
        """Everything that was only in the operator's memory is lost; agents connect again."""
        self.table = SessionTable()
        for agent in self.agents.values():
            agent.is_connected = False
            agent.inbox.clear()

    def tick(self) -> None:
        self._follow_pods()
        for agent in list(self.agents.values()):
            self._connect(agent)
            self._obey(agent)
            self._prepare(agent)
        for agent in list(self.agents.values()):
            self._train(agent)
            self._leave(agent)

    def fail(self, agent: Agent, report: FailureReport) -> None:
        agent.failure = report
        self.say(agent, Failed(formation=agent.formation, report=report, snapshot=agent.snapshot))
        self.enter(agent, MemberPhase.FAILED)

    def warn(self, agent: Agent, reason: str, message: str) -> None:
        self.say(agent, Warned(reason=reason, message=message))

    def say(self, agent: Agent, message) -> None:
        if agent.is_connected:
            self.table.hear(agent.uid, message, self.clock.now())

    def enter(self, agent: Agent, phase: MemberPhase, resumed_step: int | None = None) -> None:
        agent.phase = phase
        told = PhaseChanged(
            phase=phase,
            formation=agent.formation,
            inputs=agent.inputs,
            snapshot=agent.snapshot,
            commit=agent.commit,
            resumed_step=resumed_step,
            output=agent.output,
        )
        self.say(agent, told)

    def _follow_pods(self) -> None:
        for uid, pod in self.pods.pods.items():
            if pod.view.phase == "Running" and uid not in self.agents:
                self.agents[uid] = Agent(uid=uid, job_uid=pod.job_uid)
            if pod.ends_at is not None and uid in self.agents and self.agents[uid].ends_at is None:
                self.agents[uid].ends_at = pod.ends_at
                self.say(self.agents[uid], Leaving(seconds=(pod.ends_at - self.clock.now()).total_seconds()))
        for uid in [uid for uid in self.agents if uid not in self.pods.pods or self.pods.pods[uid].view.is_over]:
            self.table.disconnect(uid, self.clock.now())
            del self.agents[uid]

    def _connect(self, agent: Agent) -> None:
        is_up = self.are_channels_up and not agent.is_cut_off and not agent.is_mute
        if agent.is_connected and not is_up:
            agent.is_connected = False
            self.table.disconnect(agent.uid, self.clock.now())
        elif is_up and not agent.is_connected:
            agent.is_connected = True
            left = None if agent.ends_at is None else (agent.ends_at - self.clock.now()).total_seconds()
            hello = Hello(
                member_uid=agent.uid,
                job_uid=agent.job_uid,
                address=f"ip-{agent.uid}",
                port=29500,
                probe_port=7000,
                num_devices=0,
                contract_version=1,
                oldest_contract_version=1,
                phase=agent.phase,
                formation=agent.formation,
                term=agent.term,
                snapshot=agent.snapshot,
                commit=agent.commit,
                inputs=agent.inputs,
                progress=agent.progress,
                failure=agent.failure,
                failed_formation=agent.formation if agent.failure else None,
                output=agent.output,
                leaving_seconds=left,
            )
            self.table.greet(hello, self.clock.now())

    def _prepare(self, agent: Agent) -> None:
        if agent.phase is not MemberPhase.PREPARING or agent.ends_at is not None:
            return
        if self.prepare_failure is not None:
            self.fail(agent, self.prepare_failure)
            return
        if agent.job_uid in self.waits_for_a_store:
            self.warn(agent, "StorageUnavailable", "spec.model.uri: no.such.host does not answer")
            return
        agent.inputs = self.inputs
        if self.found_output is not None:
            self._publish(agent, self.found_output)
        self.enter(agent, MemberPhase.READY if agent.output is None else MemberPhase.FINISHED)

    def _obey(self, agent: Agent) -> None:
        orders, agent.inbox = agent.inbox, []
        for order in orders:
            if order.term < agent.term:
                continue
            agent.term = order.term
            if isinstance(order, Start):
                self._start(agent, order)
            elif isinstance(order, Stop) and order.formation >= agent.formation:
                self._stop(agent, order)
            elif isinstance(order, Commit):
                self._commit(agent)
            elif isinstance(order, Probe):
                peer = self.agents.get(order.peer_uid)
                self.say(agent, Probed(peer_uid=order.peer_uid, reachable=peer is not None and not peer.is_cut_off))
            elif isinstance(order, Exit):
                is_done = agent.phase is MemberPhase.FINISHED
                self._end(agent, ExitCode.FINISHED if is_done else ExitCode.LEAVING, agent.failure or TOLD_TO_EXIT)
                return

    def _start(self, agent: Agent, order: Start) -> None:
        if order.formation <= agent.formation or agent.ends_at is not None or agent.inputs is None or agent.output is not None:
            return
        agent.formation, agent.start, agent.failure, agent.progress = order.formation, order, None, None
        agent.started.append(order.formation)
        self.enter(agent, MemberPhase.STARTING)

    def _stop(self, agent: Agent, order: Stop) -> None:
        if agent.phase in {MemberPhase.PREPARING, MemberPhase.FINISHED}:
            return
        agent.formation = order.formation
        if order.save and agent.start is not None and agent.start.node_rank == 0:
            self._commit(agent)
        self.enter(agent, MemberPhase.STOPPED)

    def _commit(self, agent: Agent) -> None:
        if agent.snapshot is None or self.is_store_away:
            return
        agent.commit = self.store[agent.job_uid] = newest_state(agent.snapshot, self.store.get(agent.job_uid))
        self.say(agent, Committed(state=agent.commit, key="k", num_bytes=100, seconds=0.1))

    def _crew(self, agent: Agent) -> list[Agent]:
        return [self.agents[peer.member_uid] for peer in agent.start.peers if peer.member_uid in self.agents]

    def _train(self, agent: Agent) -> None:
        start = agent.start
        if start is None or agent.phase not in WORKING:
            return
        crew = self._crew(agent)
        broken = len(crew) < len(start.peers) or any(peer.phase is MemberPhase.FAILED for peer in crew if peer.formation == start.formation)
        if broken and agent.phase is not MemberPhase.EXPORTING:
            self.fail(agent, PEER_LOST)
        elif any(peer.is_cut_off for peer in crew):
            return
        elif start.node_rank == 0 and all(peer.formation == start.formation for peer in crew):
            self._lead(agent, crew)

    def _lead(self, agent: Agent, crew: list[Agent]) -> None:
        """Node rank 0 takes the step; every member keeps the snapshot."""
        if agent.phase is MemberPhase.EXPORTING:
            self._publish(agent, Output(uri="s3://out/adapter", sha256="a" * 64, num_bytes=1000, step=self.total_steps))
            for peer in crew:
                self.enter(peer, MemberPhase.FINISHED)
            return
        held = newest_state(self.store.get(agent.job_uid), *(peer.snapshot for peer in crew))
        resumed = 0 if held is None else held.step
        if self.fault_always is not None:
            self.fail(agent, self.fault_always)
            return
        step = resumed + 1
        if step in self.faults:
            self.fail(agent, self.faults.pop(step))
            return
        if step > self.total_steps:
            self.enter(agent, MemberPhase.EXPORTING)
            return
        if agent.phase is MemberPhase.STARTING:
            for peer in crew:
                self.enter(peer, MemberPhase.TRAINING, resumed)
        self.trained.setdefault(agent.job_uid, []).append((agent.formation, step))
        for peer in crew:
            peer.snapshot = StateId(formation=agent.formation, step=step)
        agent.progress = make_progress(agent.formation, step, self.total_steps)
        self.say(agent, agent.progress)
        if step % 2 == 0:
            self._commit(agent)

    def _leave(self, agent: Agent) -> None:
        if agent.phase is MemberPhase.FINISHED and not agent.is_connected:
            self._end(agent, ExitCode.FINISHED, TOLD_TO_END)
            return
        if agent.ends_at is None:
            return
        self._commit(agent)
        if agent.phase not in WORKING or self.clock.now() >= agent.ends_at - timedelta(seconds=1.5):
            self._end(agent, ExitCode.FINISHED if agent.phase is MemberPhase.FINISHED else ExitCode.LEAVING, TOLD_TO_END)

    def _publish(self, agent: Agent, output: Output) -> None:
        """As the real agent: written down at once, so that nothing that ends it later takes it back."""
        agent.output = output
        finished = Finished(formation=agent.formation, output=output, progress=agent.progress)
        self.pods.termination_logs[agent.uid] = render_last_words(finished)

    def _end(self, agent: Agent, code: int, words: FailureReport) -> None:
        if agent.phase is not MemberPhase.FINISHED:
            self.pods.termination_logs[agent.uid] = render_last_words(words)
        self.pods.end(agent.uid, code)
