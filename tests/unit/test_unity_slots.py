"""Which agent sits where and what its step was made of, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_ppo_plus.envs.unity.records import Records, Report
from sb3_ppo_plus.envs.unity.slots import Rows, Slots


def records(*agents: tuple[int, float, float], interrupted: bool = False, group: float = 0.0) -> Records:
    """Agents with their reward and what they see."""
    n = len(agents)
    return Records(
        np.array([agent for agent, _, _ in agents], np.int64),
        np.array([reward for _, reward, _ in agents], np.float32),
        np.full(n, group, np.float32),
        np.zeros(n, np.int64),
        np.full(n, interrupted),
        [np.array([[seen] for _, _, seen in agents], np.float32).reshape(n, 1)],
        np.ones((n, 2), bool),
    )


def report(asking: Any = (), ended: Any = (), **how: Any) -> dict[str, Report]:
    return {"A": Report(records(*asking), records(*ended, **how))}


def make(n: int = 2) -> tuple[Rows, Slots]:
    rows = Rows([((1,), np.dtype(np.float32))], 2, n)
    return rows, Slots(rows, 0, n)


def test_the_reward_of_a_first_question_belongs_to_nobody() -> None:
    rows, slots = make()
    slots.receive(report([(7, 5.0, 0.1)]))
    assert rows.asks.tolist() == [True, False] and rows.rewards.tolist() == [0.0, 0.0]
    rows.start_step()
    slots.receive(report([(7, 1.5, 0.2)]))
    assert rows.rewards.tolist() == [1.5, 0.0] and np.allclose(rows.obs.arrays[0][:, 0], [0.2, 0.0])


def test_an_end_and_a_new_beginning_in_one_exchange() -> None:
    rows, slots = make()
    slots.receive(report([(7, 0.0, 0.1)]))
    rows.start_step()
    slots.receive(report([(7, 9.0, 0.3)], ended=[(7, -1.0, 0.2)], interrupted=True))
    assert rows.rewards[0] == -1.0 and rows.truncated[0] and not rows.terminated[0]
    assert np.isclose(rows.final.arrays[0][0, 0], 0.2) and np.isclose(rows.obs.arrays[0][0, 0], 0.3)
    assert rows.asks[0] and not rows.open[0]


def test_an_end_that_comes_alone_leaves_the_row_idle_until_the_next_question() -> None:
    rows, slots = make()
    slots.receive(report([(7, 0.0, 0.1), (8, 0.0, 0.1)]))
    rows.start_step()
    slots.receive(report(ended=[(7, 2.0, 0.2)]))
    slots.receive(report([(8, 1.0, 0.4)]))
    assert rows.ended.tolist() == [True, False] and rows.asks.tolist() == [False, True]
    rows.start_step()
    slots.receive(report([(7, 4.0, 0.5), (8, 1.0, 0.6)]))
    assert rows.rewards.tolist() == [0.0, 1.0], "the new episode's first reward is dropped"
    assert rows.asks.tolist() == [True, True]


def test_a_new_agent_takes_the_seat_that_has_been_free_for_longest() -> None:
    rows, slots = make(3)
    slots.receive(report([(1, 0, 0), (2, 0, 0), (3, 0, 0)]))
    rows.start_step()
    slots.receive(report([(3, 0, 0)], ended=[(2, 0, 0)]))
    rows.start_step()
    slots.receive(report([(3, 0, 0)], ended=[(1, 0, 0)]))
    rows.start_step()
    slots.receive(report([(3, 0, 0), (9, 0, 0.9)]))
    assert np.flatnonzero(np.isclose(rows.obs.arrays[0][:, 0], 0.9)).tolist() == [1], "2 left before 1"
    rows.start_step()
    slots.receive(report([(3, 0, 0), (9, 0, 0.9), (1, 0, 0.1)]))
    assert slots.asking["A"].tolist() == [2, 1, 0], "1 comes back to its own"
    # 2 comes back too late
    rows.start_step()
    slots.receive(report([(2, 0, 0)]))
    assert slots.asking["A"].tolist() == [-1] and slots.without_row == {2}
    slots.receive(report(ended=[(2, 0, 0)]))
    assert slots.without_row == set()


def test_an_agent_that_asks_in_the_same_exchange_keeps_its_seat() -> None:
    rows, slots = make(1)
    slots.receive(report([(1, 0, 0)]))
    rows.start_step()
    slots.receive(report([(9, 0, 0), (1, 0, 0.5)], ended=[(1, 0, 0)]))
    assert slots.asking["A"].tolist() == [-1, 0]


def test_what_was_done_before_a_reset_leads_nowhere() -> None:
    rows, slots = make()
    slots.receive(report([(7, 0.0, 0.1)]))
    rows.start_step()
    slots.let_go()
    slots.receive(report([(7, 3.0, 0.2)], ended=[]))
    assert rows.rewards[0] == 0.0 and rows.asks[0]
    # an end without a decision before it is an episode that nobody saw
    slots.let_go()
    slots.receive(report(ended=[(7, 3.0, 0.2)]))
    assert not rows.ended.any() and rows.n_dropped == 1


def test_a_lost_game_ends_what_was_under_way() -> None:
    rows, slots = make(3)
    slots.receive(report([(7, 0.0, 0.1), (8, 0.0, 0.2)]))
    rows.start_step()
    slots.receive(report([], ended=[(8, 1.0, 0.3)]))
    assert slots.lose() == 1
    assert rows.lost.tolist() == [True, False, False] and rows.ended.tolist() == [True, True, False]
    assert rows.truncated.tolist() == [True, False, False] and rows.terminated.tolist() == [False, True, False]
    slots.receive(report([(1, 5.0, 0.9)]))
    assert rows.rewards.tolist() == [0.0, 1.0, 0.0] and rows.asks.tolist() == [True, False, False]


def test_group_rewards_are_kept_apart() -> None:
    rows, slots = make()
    slots.receive(report([(7, 0.0, 0.1)]))
    rows.start_step()
    slots.receive(report(ended=[(7, 1.0, 0.2)], group=3.0))
    assert rows.rewards[0] == 1.0 and rows.group_rewards[0] == 3.0
