"""Rows to requests, on steps as vLLM's schedulers make them."""

from __future__ import annotations

import numpy as np
import pytest

from monitor.tap.requests import NO_CHOICE, Requests, choice_of


def starts(*counts: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def array(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("internal", "expected"),
    [
        ("chatcmpl-abc-0123abcd", ("abc", 0)),
        ("3_chatcmpl-abc-0123abcd", ("abc", 3)),
        ("chatcmpl-a-b_c-0-0123abcd", ("a-b_c-0", 0)),
        ("cmpl-abc-2-0123abcd", ("abc", 2)),
        ("1_cmpl-abc-0-0123abcd", ("abc", 1)),
        ("1_cmpl-abc-2-0123abcd", ("abc", NO_CHOICE)),
        ("1_cmpl-abababababababababababab0003-2-0123abcd", ("abababababababababababab0003", 7)),
        ("cmpl-abababababababababababab0003-2-0123abcd", ("abababababababababababab0003", 2)),
        ("2_chatcmpl-abababababababababababab0003-0123abcd", ("abababababababababababab0003", 2)),
        ("resp_abc_0-0123abcd", ("abc", 0)),
        ("resp_abc_2-0123abcd", ("abc", 2)),
        ("something else", ("something else", 0)),
    ],
)
def test_a_generation_is_known_by_request_and_choice(internal: str, expected: tuple[str, int]) -> None:
    assert choice_of(internal) == expected


def test_a_prompt_in_chunks_beside_a_running_reply() -> None:
    requests = Requests(4)
    requests.begin("a", 3, 100)
    requests.begin("b", 10, 100)
    # Request a has its prompt and two tokens; b computes tokens 4 to 7 of its prompt of 10.
    step = requests.step(["a", "b"], starts(1, 4), array(4, 4))
    assert step.rows.tolist() == [0, 4]
    assert step.positions.tolist()[0] == 2
    assert requests.settle(step, [[7], []]).tolist() == [0]  # b sampled nothing
    step = requests.step(["b", "a"], starts(2, 1), array(8, 5))
    kept = requests.settle(step, [[7], [7]])
    assert step.rows[kept].tolist() == [1, 2]
    assert step.positions[kept].tolist() == [0, 3]
    assert step.streams[kept].tolist() == [1, 0]


def test_a_preempted_request_goes_on_where_it_was() -> None:
    requests = Requests(2)
    assert requests.begin("a", 5, 100) is not None
    assert requests.begin("a", 9, 100) is None  # it comes back with its four tokens as if they were prompt
    step = requests.step(["a"], starts(9), array(0))
    assert step.rows.tolist() == [8]
    assert step.positions.tolist() == [4]


def test_a_cached_prefix_changes_nothing() -> None:
    requests = Requests(2)
    requests.begin("a", 20, 100)
    step = requests.step(["a"], starts(4), array(16))
    assert (step.rows.tolist(), step.positions.tolist()) == ([3], [0])


def test_rejected_guesses_get_no_score() -> None:
    requests = Requests(4)
    requests.begin("a", 4, 100)
    requests.begin("b", 4, 100)
    # a verifies three guesses, b has none; of a, the first guess stands and a token follows it: two tokens.
    step = requests.step(["a", "b"], starts(4, 1), array(6, 5), array(3, 0))
    assert step.rows.tolist() == [0, 1, 2, 3, 4]
    kept = requests.settle(step, [[7, 7], [7]])
    assert step.rows[kept].tolist() == [0, 1, 4]
    assert step.positions[kept].tolist() == [3, 4, 2]
    assert step.streams[kept].tolist() == [0, 0, 1]


def test_ends_say_how_many_tokens_were_scored_and_free_their_place() -> None:
    requests = Requests(1)
    requests.begin("a", 2, 100)
    assert requests.begin("b", 2, 100) is None  # no room: it stays without scores
    step = requests.step(["a", "b"], starts(2, 2), array(0, 0))
    kept = requests.settle(step, [[7], [7]])
    assert step.streams[kept].tolist() == [0]
    assert [(end.stream, end.tokens) for end in requests.end({"a", "gone"})] == [(0, 1)]
    begin = requests.begin("b", 2, 100)
    assert begin is not None
    assert begin.stream == 1
    assert [end.tokens for end in requests.end(["b"])] == [0]


def test_what_is_sampled_after_the_end_of_a_reply_gets_no_score() -> None:
    requests = Requests(4)
    requests.begin("a", 4, 100, [9, 8])
    requests.begin("b", 4, 3)
    # a: of four accepted tokens the second ends the reply. b: only one token is left of its limit.
    step = requests.step(["a", "b"], starts(4, 4), array(4, 5), array(3, 3))
    kept = requests.settle(step, [[1, 8, 9, 1], [9, 1, 1, 1]])
    assert step.positions[kept].tolist() == [1, 2, 2]
    assert step.streams[kept].tolist() == [0, 0, 1]
    # With asynchronous scheduling a further step was under way when they ended.
    step = requests.step(["a", "b"], starts(1, 1), array(6, 6))
    assert requests.settle(step, [[1], [1]]).tolist() == []
    assert [end.tokens for end in requests.end(["a", "b"])] == [3, 3]


def test_a_step_that_is_settled_after_its_request_has_gone_touches_nobody() -> None:
    requests = Requests(1)
    requests.begin("a", 1, 100)
    step = requests.step(["a"], starts(1), array(0))
    requests.end(["a"])
    requests.begin("b", 1, 100, list(range(20)))  # the same place, and more stops than it had room for
    assert requests.settle(step, [[3]]).tolist() == []
    assert [end.tokens for end in requests.end(["b"])] == [0]
