"""The conversation with a machine: hello, offers, records, stops, ends; lost, doubled and foreign frames."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from agent import protocol
from models.accounts import User
from models.base import db, now, transaction
from models.training_jobs import TrainingJob
from services import agent_sessions, agents, api_keys, training_jobs
from services.agent_sessions import AgentSession, together
from tests.factories import hello, make_dataset, order, statements, steps

Talk = Callable[..., list[dict[str, Any]]]


def session_of(user: User) -> AgentSession:
    key, _ = api_keys.create(user, "box", "agent")
    return AgentSession(key)


def say(session: AgentSession, **message: Any) -> list[dict[str, Any]]:
    """Send one message as it would come over the wire; answers the frames that go back."""
    decoded = protocol.decode(json.dumps(message), "agent")
    frames = [protocol.decode(frame, "server") for frame in session.handle(decoded)]
    db.session.rollback()
    return frames


def is_welcome(session: AgentSession) -> bool:
    db.session.rollback()
    return session not in agent_sessions.look_at([session])[0]


def types(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["type"] for frame in frames]


@pytest.fixture
def session(app: Flask, alice: User) -> AgentSession:
    """Alice's machine, connected."""
    session = session_of(alice)
    assert types(say(session, **hello())) == ["welcome"]
    return session


@pytest.fixture
def job(session: AgentSession, alice: User) -> TrainingJob:
    """A job for that machine, offered and accepted."""
    job = training_jobs.create(alice, order(make_dataset(alice), place={"agent": session.agent_id}))
    (offer,) = [protocol.decode(frame, "server") for frame in session.orders()]
    assert offer["spec"]["job"] == job.id and offer["spec"]["token"].startswith("tj_")
    say(session, type="job_accept", job=job.id, attempt=1)
    return job


def state(job: TrainingJob) -> str:
    db.session.expire_all()
    return db.session.get_one(TrainingJob, job.id).state


def test_an_accepted_offer_starts_the_job_and_is_not_made_again(session: AgentSession, job: TrainingJob) -> None:
    assert state(job) == "starting"
    assert session.orders() == []


def test_records_are_acknowledged_once_they_are_stored(session: AgentSession, job: TrainingJob) -> None:
    sent = {"type": "records", "job": job.id, "attempt": 1, "stream": "metrics", "first": 1, "items": [steps(1, 3)]}
    for _ in range(3):
        (ack,) = say(session, **sent)
        assert (ack["type"], ack["through"]) == ("ack", 1)
    assert len(training_jobs.series_of(job.id)["loss"]) == 3


def test_records_after_a_hole_are_asked_for_again(session: AgentSession, job: TrainingJob) -> None:
    sent = {"type": "records", "job": job.id, "attempt": 1, "stream": "log"}
    (answer,) = say(session, **sent, first=3, items=[{"text": "3"}])
    assert (answer["type"], answer["after"]) == ("resend_from", 0)
    (answer,) = say(session, **sent, first=1, items=[{"text": "1"}, {"text": "2"}, {"text": "3"}])
    assert answer["through"] == 3
    assert "".join(training_jobs.log_of(job.id)) == "123"


def test_an_end_before_the_last_record_waits_for_it(session: AgentSession, job: TrainingJob) -> None:
    end = {"type": "job_final", "job": job.id, "attempt": 1, "outcome": "failed", "cause": "data", "message": "x", "advice": "y",
           "last": {"log": 1, "metrics": 0, "event": 0}, "log_bytes": 1, "log_sha256": "0" * 64}  # fmt: skip
    assert types(say(session, **end)) == ["resend_from"]
    assert state(job) == "starting"
    say(session, type="records", job=job.id, attempt=1, stream="log", first=1, items=[{"text": "a"}])
    assert types(say(session, **end)) == ["job_final_ack"]
    assert state(job) == "failed"
    assert types(say(session, **end)) == ["job_final_ack"]


def test_a_refusal_fails_the_job_with_its_reason(session: AgentSession, alice: User) -> None:
    job = training_jobs.create(alice, order(make_dataset(alice), place={"agent": session.agent_id}))
    say(
        session,
        type="job_refuse",
        job=job.id,
        attempt=1,
        cause="data",
        message="Outside the folders.",
        advice="Use --root.",
    )
    shown = training_jobs.summary(training_jobs.get_for(alice, job.id))
    assert shown["status"] == "failed" and shown["error"] == {
        "cause": "data",
        "message": "Outside the folders.",
        "advice": "Use --root.",
    }


def test_a_stop_reaches_the_machine_and_pauses_the_job(session: AgentSession, job: TrainingJob, alice: User) -> None:
    training_jobs.stop(alice, job.id)
    (stop,) = [protocol.decode(frame, "server") for frame in session.orders()]
    assert (stop["type"], stop["mode"]) == ("job_stop", "stop")
    say(session, type="stop_ack", job=job.id, attempt=1, mode="stop")
    assert session.orders() == []
    final = {"outcome": "stopped", "last": {}, "log_bytes": 0, "log_sha256": ""}
    say(session, type="job_final", job=job.id, attempt=1, **final)
    assert state(job) == "paused"


def test_a_cancelled_job_is_ended_on_the_machine(session: AgentSession, job: TrainingJob, alice: User) -> None:
    training_jobs.cancel(alice, job.id)
    (stop,) = [protocol.decode(frame, "server") for frame in session.orders()]
    assert stop["mode"] == "cancel"
    (late,) = say(session, type="records", job=job.id, attempt=1, stream="log", first=1, items=[{"text": "late"}])
    assert (late["type"], late["code"]) == ("error", "stale_attempt")


def test_after_a_reconnect_each_job_is_resumed_or_abandoned(
    session: AgentSession, job: TrainingJob, alice: User
) -> None:
    say(session, type="records", job=job.id, attempt=1, stream="log", first=1, items=[{"text": "a"}, {"text": "b"}])
    held = [{"job": job.id, "attempt": 1, "phase": "running", "last": {"log": 5, "metrics": 0, "event": 0}},
            {"job": 4711, "attempt": 1, "phase": "running", "last": {}}]  # fmt: skip
    again = session_of(alice)
    (welcome,) = say(again, **hello(jobs=held))
    assert welcome["jobs"] == [
        {
            "job": job.id,
            "attempt": 1,
            "decision": "resume",
            "after": {"log": 2, "metrics": 0, "event": 0, "samples": 0},
        },
        {"job": 4711, "attempt": 1, "decision": "abandon", "after": {}},
    ]
    assert is_welcome(again) and not is_welcome(session)


def test_somebody_elses_job_is_abandoned(session: AgentSession, job: TrainingJob, bob: User) -> None:
    theirs = session_of(bob)
    (welcome,) = say(theirs, **hello("machine-of-bob", jobs=[{"job": job.id, "attempt": 1}]))
    assert welcome["jobs"][0]["decision"] == "abandon"
    (answer,) = say(theirs, type="records", job=job.id, attempt=1, stream="log", first=1, items=[{"text": "x"}])
    assert answer["code"] == "stale_attempt"
    assert "".join(training_jobs.log_of(job.id)) == ""


def test_what_a_newer_agent_lets_us_ignore_is_passed_over(session: AgentSession) -> None:
    assert say(session, type="weather", may_ignore=True, degrees=21) == []
    for mark in ({}, {"may_ignore": "yes"}, {"may_ignore": False}):
        with pytest.raises(protocol.ProtocolError, match="unknown message type 'weather'"):
            say(session, type="weather", **mark)


def test_a_copied_folder_is_refused(session: AgentSession, alice: User) -> None:
    copy = session_of(alice)
    (answer,) = say(copy, **hello(secret="another secret"))
    assert (answer["type"], answer["code"]) == ("error", "cloned")
    assert copy.agent_id is None and is_welcome(session)


def test_a_second_agent_from_a_copied_folder_waits_until_the_first_is_gone(session: AgentSession, alice: User) -> None:
    copy = session_of(alice)
    (answer,) = say(copy, **hello(boot="boot-2"))
    assert (answer["type"], answer["code"]) == ("error", "cloned") and is_welcome(session)
    agent_sessions.close([session])
    assert types(say(session_of(alice), **hello(boot="boot-2"))) == ["welcome"]


def test_a_machine_whose_place_a_copy_has_taken_gives_up_what_is_over_and_nothing_else(
    session: AgentSession, job: TrainingJob, alice: User
) -> None:
    other = training_jobs.create(alice, order(make_dataset(alice), place={"agent": session.agent_id}))
    agent_sessions.close([session])
    say(session_of(alice), **hello(boot="boot-2"))  # a copy, which knows of no job
    assert (state(job), state(other)) == ("failed", "queued")
    held = [{"job": one, "attempt": 1, "last": {}} for one in (job.id, other.id, 2**30)]
    refused, *over = say(session_of(alice), **hello(jobs=held))
    assert refused["code"] == "cloned"
    assert [(one["code"], one["job"], one["attempt"]) for one in over] == [
        ("stale_attempt", job.id, 1), ("stale_attempt", 2**30, 1),
    ]  # fmt: skip


def test_a_job_that_its_machine_no_longer_has_does_not_run_for_ever(
    session: AgentSession, job: TrainingJob, alice: User
) -> None:
    agent_sessions.close([session])
    say(session_of(alice), **hello(boot="boot-2"))
    shown = training_jobs.summary(training_jobs.get_for(alice, job.id))
    assert shown["status"] == "failed" and shown["error"]["cause"] == "member_machine"


def test_an_offer_that_fits_no_frame_does_not_hold_up_the_next(session: AgentSession, alice: User) -> None:
    dataset = make_dataset(alice)
    first = training_jobs.create(alice, order(dataset, place={"agent": session.agent_id}))
    with transaction():
        first.parameters = {"notes": "x" * 70_000}
    second = training_jobs.create(alice, order(dataset, place={"agent": session.agent_id}))
    assert session.orders() == [] and state(first) == "failed"
    (offer,) = [protocol.decode(frame, "server") for frame in session.orders()]
    assert offer["spec"]["job"] == second.id


def test_a_cancel_after_a_stop_is_sent_at_once(session: AgentSession, job: TrainingJob, alice: User) -> None:
    training_jobs.stop(alice, job.id)
    db.session.rollback()
    (stop,) = [protocol.decode(frame, "server") for frame in session.orders()]
    assert stop["mode"] == "stop"
    say(session, type="stop_ack", job=job.id, attempt=1, mode="stop")
    training_jobs.cancel(alice, job.id)
    db.session.rollback()
    (cancel,) = [protocol.decode(frame, "server") for frame in session.orders()]
    assert cancel["mode"] == "cancel" and session.orders() == []


def test_a_look_finds_those_for_whom_there_is_something(session: AgentSession, job: TrainingJob, alice: User) -> None:
    """Of four machines one holds a job, one waits for nothing, one has a job waiting, and one has not said hello."""
    sessions = [session, session_of(alice), session_of(alice), session_of(alice)]
    for number, other in enumerate(sessions[1:3]):
        say(other, **hello(agent=f"machine {number}"))
    training_jobs.create(alice, order(make_dataset(alice), place={"agent": sessions[2].agent_id}))
    db.session.rollback()
    assert agent_sessions.look_at(sessions) == ([], [session, sessions[2]])


def test_a_look_finds_those_for_whom_another_socket_speaks(session: AgentSession, alice: User) -> None:
    newer = session_of(alice)
    say(newer, **hello())
    assert agent_sessions.look_at([session, newer]) == ([session], [])


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_after_a_restart_ninety_five_machines_a_second_come_back(count: int) -> None:
    pauses = agent_sessions.pauses(count)
    a_second = Counter(int(pause - 6.5) for pause in pauses)
    assert len(set(pauses)) == count and all(many <= 95 for many in a_second.values())
    assert not pauses or (min(pauses) >= 6.5 and max(pauses) <= 6.5 + count / 95)


def test_a_revoked_key_is_no_longer_welcome(session: AgentSession, alice: User) -> None:
    api_keys.revoke(alice, session.key_id)
    assert not is_welcome(session)


def test_the_list_shows_whether_a_machine_is_there(session: AgentSession, alice: User) -> None:
    (agent,) = agents.list_for(alice)
    assert agents.is_connected(agent)
    agent_sessions.close([session])
    db.session.expire_all()
    assert not agents.is_connected(agents.list_for(alice)[0])


def test_a_heartbeat_pushes_the_leases_of_all_its_jobs_and_ends_their_absence(
    session: AgentSession, job: TrainingJob, alice: User
) -> None:
    other = training_jobs.create(alice, order(make_dataset(alice), place={"agent": session.agent_id}))
    over = training_jobs.create(alice, order(make_dataset(alice), place={"agent": session.agent_id}))
    for one in (other, over):
        say(session, type="job_accept", job=one.id, attempt=1)
    training_jobs.cancel(alice, over.id)
    long_ago = now() - timedelta(minutes=5)
    with transaction():
        for one in (job, other, over):
            training_jobs.queries.attempt_of(one.id, 1).lease_until = long_ago
        db.session.get_one(TrainingJob, other.id).disconnected_since = long_ago
    told = [{"job": one.id, "attempt": 1} for one in (job, other, over)] + [{"job": 4711, "attempt": 1}]
    stops = say(session, type="heartbeat", jobs=told)
    assert {(stop["type"], stop["job"], stop["mode"]) for stop in stops} == {
        ("job_stop", over.id, "cancel"), ("job_stop", 4711, "cancel"),
    }  # fmt: skip
    db.session.expire_all()
    leases = [training_jobs.queries.attempt_of(one.id, 1).lease_until for one in (job, other, over)]
    assert [until is not None and until > now() for until in leases] == [True, True, False]
    assert training_jobs.get_for(alice, other.id).disconnected_since is None


def test_a_heartbeat_of_a_hundred_jobs_asks_the_database_as_often_as_one_of_two(
    session: AgentSession, alice: User
) -> None:
    dataset = make_dataset(alice)
    jobs = [training_jobs.create(alice, order(dataset, place={"agent": session.agent_id})) for _ in range(20)]
    told = [{"job": one.id, "attempt": 1} for one in jobs]
    say(session, type="heartbeat", jobs=told)  # takes them

    def asked_for(some: list[dict[str, int]]) -> int:
        with statements() as asked:
            session.handle({"type": "heartbeat", "jobs": some})
        db.session.rollback()
        return len(asked)

    # The least of three: now and then one also writes down the signs of life of the last seconds.
    few, many = (min(asked_for(some) for _ in range(3)) for some in (told[:2], told))
    assert few == many


def test_a_heartbeat_of_a_machine_without_jobs_asks_the_database_nothing(session: AgentSession) -> None:
    say(session, type="heartbeat", jobs=[])
    with statements() as asked:
        session.handle({"type": "heartbeat", "jobs": []})
    assert asked == []


def test_a_message_of_more_records_than_the_window_is_no_message(session: AgentSession, job: TrainingJob) -> None:
    most = lines(job, 1, 2000)
    assert say(session, **most)[0]["through"] == 2000
    with pytest.raises(protocol.ProtocolError, match="at most 2000 records"):
        say(session, **lines(job, 2001, 4001))
    group, alone, after = together([lines(job, 2001, 2003), lines(job, 2004, 4004), lines(job, 4005, 4006)])
    assert (len(group), len(alone), len(after)) == (1, 1, 1)


@pytest.mark.parametrize("message", [
    {"type": "heartbeat", "jobs": []}, {"type": "records", "job": 1, "attempt": 1, "stream": "log", "first": 1, "items": []},
])  # fmt: skip
def test_nothing_comes_before_hello(app: Flask, alice: User, message: dict[str, Any]) -> None:
    with pytest.raises(protocol.ProtocolError, match="hello comes first"):
        say(session_of(alice), **message)


class TestFrames:
    @pytest.mark.parametrize("frame, sentence", [
        ("{", "not JSON"), ("[]", "object"), ('{"type": 7}', "type"), ('{"type": "magic"}', "unknown message"),
        ('{"type": "pong", "n": "1"}', "wrong type"), ('{"type": "pong", "n": -1}', "out of range"), ('{"type": "pong", "n": true}', "wrong type"),
        ('{"type": "pong"}', "lacks"), ('{"type": "pong", "n": NaN}', "not JSON"),
            ('{"type": "pong", "n": 1e999}', "too large"), (b"binary", "binary"),
        ('{"type": "records", "job": 1, "attempt": 1, "stream": "secrets", "first": 1, "items": []}', "no stream"),
    ])  # fmt: skip
    def test_what_is_no_message_is_said_to_be_none(self, frame: str | bytes, sentence: str) -> None:
        with pytest.raises(protocol.ProtocolError, match=sentence):
            protocol.decode(frame, "agent")

    def test_a_frame_has_a_largest_size(self) -> None:
        with pytest.raises(protocol.ProtocolError, match="larger"):
            protocol.encode("error", code="x", message="a" * 70_000)

    @given(st.text() | st.binary())
    def test_whatever_comes_only_a_protocol_error_goes(self, frame: str | bytes) -> None:
        try:
            assert isinstance(protocol.decode(frame, "agent")["type"], str)
        except protocol.ProtocolError:
            pass

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=10,
        )
    )
    def test_whatever_json_comes_in_a_hello_only_a_protocol_error_goes(self, value: Any) -> None:
        try:
            protocol.decode(json.dumps({**hello(), "jobs": value}), "agent")
        except protocol.ProtocolError:
            pass

    def test_a_spec_survives_the_wire(self) -> None:
        spec = protocol.JobSpec(
            1, 2, "n", "language", {"seed": 1}, {"kind": "local", "path": "/a"}, None, "yard-tiny", "yard-tiny"
        )
        frame = protocol.decode(protocol.encode("job_offer", spec=spec.as_dict()), "server")
        assert protocol.JobSpec.from_dict(frame["spec"]) == spec
        with pytest.raises(protocol.ProtocolError):
            protocol.JobSpec.from_dict({"job": 1})


def lines(job: TrainingJob, first: int, last: int, stream: str = "log") -> dict[str, Any]:
    items = [{"text": f"{n}\n"} if stream == "log" else steps(n, n) for n in range(first, last + 1)]
    return {"type": "records", "job": job.id, "attempt": 1, "stream": stream, "first": first, "items": items}


def test_records_that_follow_one_another_are_stored_together_and_each_once(
    session: AgentSession, job: TrainingJob
) -> None:
    frames = [lines(job, 1, 3), lines(job, 1, 2, "metrics"), lines(job, 4, 5), lines(job, 3, 3, "metrics")]
    (group,) = together(frames)
    replies = [protocol.decode(frame, "server") for frame in session.handle_together(group)]
    assert {(one["type"], one["stream"], one["through"]) for one in replies} == {
        ("ack", "log", 5),
        ("ack", "metrics", 3),
    }
    again = [
        protocol.decode(frame, "server") for frame in session.handle_together([lines(job, 2, 5), lines(job, 6, 6)])
    ]
    assert [one["through"] for one in again] == [6]
    assert "".join(training_jobs.log_of(job.id)) == "1\n2\n3\n4\n5\n6\n"


def test_what_cannot_be_stored_together_is_parted_in_its_order(job: TrainingJob) -> None:
    beat = {"type": "heartbeat", "jobs": []}
    other = {**lines(job, 3, 3), "attempt": 2}
    frames = [lines(job, 1, 2), beat, lines(job, 3, 3), other, lines(job, 9, 9), lines(job, 4, 4)]
    assert together(frames) == [[frame] for frame in frames]


def test_a_bad_record_among_good_ones_holds_up_only_itself(session: AgentSession, job: TrainingJob) -> None:
    bad = {**lines(job, 1, 1, "metrics"), "items": [{"steps": "many", "values": {}}]}
    replies = [protocol.decode(f, "server") for f in session.handle_together([lines(job, 1, 2), bad, lines(job, 3, 3)])]
    assert [one["type"] for one in replies] == ["ack", "error", "ack"]
    assert "".join(training_jobs.log_of(job.id)) == "1\n2\n3\n"
