"""The parts of a training by several processes that need none: stores, moments, normalizers, order of episodes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch as th
import torch.distributed as dist
from resumed_runs import vec
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus.advantages import standardize
from sb3_ppo_plus.distributed.meeting import fresh_part
from sb3_ppo_plus.distributed.moments import moments_of, over_all, standardize_by
from sb3_ppo_plus.distributed.normalizers import SharedNormalizers
from sb3_ppo_plus.distributed.rollouts import _in_turn
from sb3_ppo_plus.distributed.states import own_share
from sb3_ppo_plus.distributed.trees import pack, unpack
from sb3_ppo_plus.runs.folder import RunFolder
from sb3_ppo_plus.runs.ranks import Launch, find_launched, note_launch


class Together:
    """Stands for the ranks: gives the parts of all of them."""

    def __init__(self, *parts: th.Tensor) -> None:
        self.parts = parts

    def gather(self, values: th.Tensor) -> th.Tensor:
        return th.stack(self.parts)


def meet(store: dist.Store, size: int) -> list[dist.Store]:
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(lambda rank: fresh_part(store, rank, size, 20.0), range(size)))


def test_processes_that_are_started_again_find_nothing_of_those_before() -> None:
    store = dist.HashStore()
    for stale in ("first", "second"):
        parts = meet(store, 3)
        assert not any(part.check(["address"]) for part in parts)
        parts[0].set("address", stale)
        assert [part.get("address").decode() for part in parts] == [stale] * 3


def test_a_process_that_does_not_come_is_named() -> None:
    store = dist.HashStore()
    store.set("ppo_plus/here/2", "of-a-dead-process")
    with pytest.raises(TimeoutError, match=r"ranks \[1, 2\] of 3"):
        fresh_part(store, 0, 3, 0.1)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    x, mask = th.randn(60, generator=th.Generator().manual_seed(0)) * 3 + 100, th.arange(60) % 7 != 0
    cuts = (slice(0, 5), slice(5, 40), slice(40, 60))
    for chosen in (None, mask):
        own = [moments_of(x[cut], None if chosen is None else chosen[cut]) for cut in cuts]
        ranks: Any = Together(*(th.stack(moments)[None] for moments in own))
        (moments,) = over_all(ranks, own[:1])
        expected = standardize(x, chosen)
        assert th.allclose(standardize_by(x, chosen, moments), expected, atol=1e-5)
        assert not th.allclose(standardize_by(x, chosen, own[0]), expected, atol=1e-2)


def test_numbers_too_few_to_standardize_stay_as_they_are() -> None:
    x, mask = th.tensor([3.0, 5.0]), th.tensor([True, False])
    assert standardize_by(x, mask, moments_of(x, mask)).tolist() == [3.0, 0.0]
    nobody = moments_of(x, th.zeros(2, dtype=th.bool))
    assert standardize_by(x, th.zeros(2, dtype=th.bool), nobody).tolist() == [0.0, 0.0]


def test_normalizers_become_one_that_has_seen_everything() -> None:
    draw = np.random.default_rng(0)
    before, first, second, third = (draw.normal(i, i + 1, size=(50, 4)) for i in range(4))
    wrappers = [VecNormalize(vec("CartPole-v1", 2)) for _ in range(2)]
    one = VecNormalize(vec("CartPole-v1", 2))
    for wrapper in (*wrappers, one):
        wrapper.obs_rms.update(before)
    shared = [SharedNormalizers(wrapper) for wrapper in wrappers]
    for each in shared:
        each.begin_with(shared[0].state())
    for new in ((first, second), (third, before[:0])):
        for wrapper, values in zip(wrappers, new, strict=True):
            if len(values):
                wrapper.obs_rms.update(values)
        one.obs_rms.update(np.concatenate(new))
        seen = [each.seen() for each in shared]
        for each in shared:
            each.merge(seen)
    for wrapper in wrappers:
        assert np.allclose(wrapper.obs_rms.mean, one.obs_rms.mean, rtol=1e-12)
        assert np.allclose(wrapper.obs_rms.var, one.obs_rms.var, rtol=1e-10)
        assert wrapper.obs_rms.count == pytest.approx(one.obs_rms.count)
    assert np.array_equal(wrappers[0].obs_rms.mean, wrappers[1].obs_rms.mean)
    assert wrappers[0].ret_rms.count == one.ret_rms.count


def test_episodes_come_in_turn() -> None:
    assert _in_turn([["a1", "a2", "a3", "a4"], ["b1", "b2"], []]) == ["a1", "a2", "b1", "a3", "a4", "b2"]


def test_trees_go_through_bytes() -> None:
    tree = {"a": [1, None, "text"], "b": np.arange(3.0), "c": {"d": th.ones(2)}}
    back = unpack(pack(tree))
    assert back["a"] == tree["a"] and back["b"].tolist() == [0.0, 1.0, 2.0] and back["c"]["d"].tolist() == [1.0, 1.0]


def test_each_rank_gets_its_share_of_a_checkpoint() -> None:
    class Rank:
        def __init__(self, rank: int, size: int) -> None:
            self.rank, self.size = rank, size

    tree: dict[str, Any] = {"env": 0, "last_obs": 0, "counters": 7, "ranks": [{"env": 1, "last_obs": 1, "counters": 7}]}
    two: list[Any] = [Rank(0, 2), Rank(1, 2)]
    assert [own_share(tree, rank)[0]["env"] for rank in two] == [0, 1]
    assert own_share(tree, two[1])[1] == []
    alone, told = own_share(tree, None)
    assert alone["env"] == 0 and told == ["2 ranks have saved it and 1 go on"]
    third: Any = Rank(2, 3)
    new, told = own_share(tree, third)
    assert (new["env"], new["last_obs"], new["counters"]) == (None, None, 7) and told


def test_a_run_is_found_again_by_its_launcher_and_its_command(tmp_path: Any) -> None:
    again = Launch("job", 1)
    assert find_launched(tmp_path / "missing", again, "train") is None
    for number, (key, command) in enumerate((("job", "train"), ("other", "train"), ("job", "train --seed 1"))):
        folder = RunFolder(tmp_path / f"run_{number}")
        folder.checkpoints.mkdir(parents=True)
        (folder.checkpoints / "checkpoint_10.zip").touch()
        note_launch(folder, Launch(key, 0), command)
    (tmp_path / "run_3").mkdir()
    assert find_launched(tmp_path, again, "train") == tmp_path / "run_0"
    assert find_launched(tmp_path, Launch("job", 0), "train") is None
    (tmp_path / "run_0" / "checkpoints" / "checkpoint_10.zip").unlink()
    assert find_launched(tmp_path, again, "train") is None
