"""Orders that agents still need, derived again in every pass: a lost one is sent again, an obeyed one is not."""

from finetune_contract.orders import Inspect, Overrides, Peer, Probe, Start, Stop
from finetune_operator.api.status import FormationEntry, JobStatus
from finetune_operator.decide.answers.decision import SendOrder
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.recovering import recoveries


def orders_of_formation(gang: Gang, status: JobStatus, why: str) -> tuple[SendOrder, ...]:
    """Starts of the newest formation, and stops for each member at work in another one; a member that hung first writes its stacks."""
    entry = status.formation
    if entry is None:
        return ()
    active = None if entry.is_over else entry
    crew = () if active is None else crew_of(gang, active)
    starts = () if active is None else _starts(gang, status, active, crew)
    wanted = {member.serial for member in crew}
    is_inspected = recoveries.is_inspected(status, gang.now)
    stops = tuple(
        SendOrder(member_uid=member.uid, order=Inspect(term=gang.observed.term) if is_inspected else _stop(gang, member, why))
        for member in gang.everyone
        if member.is_working and member.serial not in wanted and member.uid is not None
    )
    return starts + stops


def crew_of(gang: Gang, entry: FormationEntry) -> tuple[Member, ...]:
    """Members of a formation in node rank order, as far as they still exist."""
    known = {member.serial: member for member in gang.known}
    return tuple(known[serial] for serial in entry.serials if serial in known)


def probes(gang: Gang) -> tuple[SendOrder, ...]:
    """Every connected peer is asked whether it reaches a member whose channel is down."""
    if gang.active is None or not gang.observed.is_reconnect_over:
        return ()
    silent = [
        member.session
        for member in gang.crew
        if member.session is not None and not member.session.is_connected and not member.is_ended and member.session.probe_port is not None
    ]
    term = gang.observed.term
    return tuple(
        SendOrder(
            member_uid=peer.uid,
            order=Probe(term=term, peer_uid=session.member_uid, address=f"{session.address}:{session.probe_port}"),
        )
        for session in silent
        for peer in gang.crew
        if peer.is_connected and peer.uid is not None
    )


def _starts(gang: Gang, status: JobStatus, entry: FormationEntry, crew: tuple[Member, ...]) -> tuple[SendOrder, ...]:
    pinned = status.pinned
    peers = tuple(
        Peer(member_uid=member.uid, name=member.name, address=member.session.address)
        for member in crew
        if member.uid is not None and member.session is not None
    )
    if len(peers) != len(entry.serials):
        return ()
    resume_rank = entry.serials.index(entry.resume_serial) if entry.resume_serial in entry.serials else None
    return tuple(
        SendOrder(
            member_uid=peers[rank].member_uid,
            order=Start(
                term=gang.observed.term,
                formation=entry.number,
                node_rank=rank,
                peers=peers,
                master_address=peers[0].address,
                master_port=entry.master_port,
                resume=entry.resume,
                resume_node_rank=resume_rank,
                inputs=None if pinned is None or pinned.inputs is None else pinned.inputs.digests(),
                overrides=Overrides() if pinned is None else pinned.overrides.overrides(),
            ),
        )
        for rank, member in enumerate(crew)
        if member.is_connected and member.run is not None and member.run.formation < entry.number
    )


def _stop(gang: Gang, member: Member, why: str) -> Stop:
    assert member.run is not None
    return Stop(term=gang.observed.term, formation=member.run.formation, why=why)
