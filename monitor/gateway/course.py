"""What may still happen to a reply: the states of one choice, and what each event makes of them. docs/actions.md has the table; a test compares them."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    RUNNING = "running"
    REROUTING = "rerouting"  # a target is being asked
    REROUTED = "rerouted"  # a target answers
    HALTED = "halted"
    STOPPED = "stopped"
    ENDED = "ended"
    FAILED = "failed"
    GONE = "gone"

    @property
    def over(self) -> bool:
        return self not in (State.RUNNING, State.REROUTING, State.REROUTED)


class Event(Enum):
    REROUTE = "reroute"  # a rule says so
    TAKEN = "taken"  # the target answers
    MISSED = "missed"  # it does not: the rule's `else`
    HALT = "halt"  # a rule or a policy engine says so
    STOP = "stop"  # a person or a policy engine says so
    END = "end"  # the engine is done
    FAIL = "fail"  # the engine, or the judging of it, failed
    LEAVE = "leave"  # the client is gone or reads nothing


_ENDS = {
    Event.HALT: State.HALTED, Event.STOP: State.STOPPED, Event.END: State.ENDED, Event.FAIL: State.FAILED, Event.LEAVE: State.GONE,
}  # fmt: skip

# What is not here changes nothing: of two ends the first one counts, and nobody is re-routed twice.
TABLE: dict[tuple[State, Event], State] = {
    **{(state, event): end for state in (State.RUNNING, State.REROUTING, State.REROUTED) for event, end in _ENDS.items()},
    (State.RUNNING, Event.REROUTE): State.REROUTING,
    (State.REROUTING, Event.TAKEN): State.REROUTED,
    (State.REROUTING, Event.MISSED): State.HALTED,
    (State.REROUTED, Event.REROUTE): State.HALTED,  # a second verdict halts: no loops
}
del TABLE[State.REROUTING, Event.END]  # the first engine is cut off, so its end is none of the reply


class Course:
    """Where one choice is. `went` are the states that it has been through."""

    def __init__(self) -> None:
        self.state = State.RUNNING
        self.went = [State.RUNNING]

    def take(self, event: Event) -> bool:
        """Whether the event changes anything."""
        after = TABLE.get((self.state, event))
        if after is None:
            return False
        self.state = after
        self.went.append(after)
        return True
