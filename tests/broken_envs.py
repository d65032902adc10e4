"""Point masses that break one rule of the tensor face each, in the way their names say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th
from toy_envs import DictPointMass, PointMass, StillPointMass

from sb3_ppo_plus.envs.base import EPISODE_LENGTH
from sb3_ppo_plus.types import Observations, TensorStep

# The rule of the contract, the environment that breaks it, and what the message has to say.
BROKEN: list[tuple[str, type[PointMass], str]] = []


def breaks(rule: str, message: str) -> Callable[[type[PointMass]], type[PointMass]]:
    """Enter an environment in the list: the contract's ``test_<rule>`` has to fail with a message that matches."""

    def enter(broken: type[PointMass]) -> type[PointMass]:
        BROKEN.append((rule, broken, message))
        return broken

    return enter


@breaks("reset_gives_observations_of_the_space", r"shape \(2, 2\), not \(3, 2\)")
class ReturnsOneObservationTooFew(PointMass):
    def reset_tensors(self) -> Observations:
        return super().reset_tensors()[:-1]


@breaks("reset_gives_observations_of_the_space", "is torch.float64, not torch.float32")
class ReturnsDoubles(PointMass):
    def observe(self) -> Observations:
        return super().observe().double()


@breaks("reset_gives_observations_of_the_space", "has keys")
class LacksAnEntry(DictPointMass):
    def observe(self) -> Observations:
        return {"position": super().observe()["position"]}


@breaks("reset_gives_observations_of_the_space", "is on meta and the environment on cpu")
class LivesElsewhere(PointMass):
    def reset_tensors(self) -> Observations:
        return super().reset_tensors().to("meta")


@breaks("reset_gives_observations_of_the_space", r"reset_stats\['start'\]")
class GivesResetStatsOfOneEnvironment(PointMass):
    def begin(self, ended: th.Tensor) -> None:
        super().begin(ended)
        self.reset_stats = {"start": self.x[0].clone()}


class ChangesTheStep(PointMass):
    """Base of what differs in the answer of a step only."""

    def change(self, step: TensorStep) -> TensorStep:
        return step

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        return self.change(super().step_tensors(actions))


@breaks("step_gives_tensors_of_the_right_shape_and_dtype", "rewards is torch.float64")
class RewardsAreDoubles(ChangesTheStep):
    def change(self, step: TensorStep) -> TensorStep:
        return step._replace(rewards=step.rewards.double())


@breaks("step_gives_tensors_of_the_right_shape_and_dtype", r"rewards has shape \(3, 1\)")
class RewardsAreAColumn(ChangesTheStep):
    def change(self, step: TensorStep) -> TensorStep:
        return step._replace(rewards=step.rewards[:, None])


@breaks("step_gives_tensors_of_the_right_shape_and_dtype", "terminated is torch.float32")
class FlagsAreNumbers(ChangesTheStep):
    def change(self, step: TensorStep) -> TensorStep:
        return step._replace(terminated=step.terminated.float())


@breaks("step_gives_tensors_of_the_right_shape_and_dtype", r"stats\['speed'\] has shape \(2,\)")
class StatsAreTooShort(ChangesTheStep):
    def change(self, step: TensorStep) -> TensorStep:
        return step._replace(stats={**step.stats, "speed": step.stats["speed"][:-1]})


@breaks("step_gives_tensors_of_the_right_shape_and_dtype", r"final_obs has shape \(0, 2\)")
class FinalObsHasFinishedRowsOnly(ChangesTheStep):
    def change(self, step: TensorStep) -> TensorStep:
        return step._replace(final_obs=step.final_obs[step.terminated | step.truncated])


@breaks("step_gives_tensors_of_the_right_shape_and_dtype", "not a TensorStep")
class StepIsATuple(ChangesTheStep):
    def change(self, step: TensorStep) -> Any:
        return tuple(step)


@breaks("observations_and_rewards_are_finite", "rewards of record")
class RewardsAreNotFinite(ChangesTheStep):
    def change(self, step: TensorStep) -> TensorStep:
        return step._replace(rewards=step.rewards / (~step.truncated).float())


@breaks("an_ended_episode_is_reset_within_the_step", "obs equals final_obs")
class FinalObsIsTakenAfterTheReset(ChangesTheStep):
    def change(self, step: TensorStep) -> TensorStep:
        return step._replace(final_obs=step.obs)


@breaks("an_ended_episode_is_reset_within_the_step", "that of the step before")
class FinalObsIsTakenBeforeTheStep(PointMass):
    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        before = self.observe()
        step = super().step_tensors(actions)
        done = step.terminated | step.truncated
        return step._replace(final_obs=th.where(done[:, None], before, step.final_obs))


@breaks("an_ended_episode_is_reset_within_the_step", "obs equals final_obs")
class NeverResets(PointMass):
    started = False

    def begin(self, ended: th.Tensor) -> None:
        kept = self.x.clone(), self.v.clone()
        super().begin(ended)
        if self.started:
            self.x, self.v = kept
        self.started = True


@breaks("an_ended_episode_is_reset_within_the_step", "wherever an episode was terminated")
class ResetsAfterTimeLimitsOnly(PointMass):
    def begin(self, ended: th.Tensor) -> None:
        super().begin(ended & (self.x.abs() <= 1.0))


@breaks("an_ended_episode_is_reset_within_the_step", "no episode ended within n_steps = 40")
class NeverEnds(PointMass):
    def move(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        self.limit = 10**6
        return self.x * 0.0, self.x > 2.0


@breaks("final_obs_is_obs_where_nothing_ended", "final_obs and obs differ at step")
class ResetsTheNeighbours(PointMass):
    def begin(self, ended: th.Tensor) -> None:
        super().begin(th.full_like(ended, bool(ended.any())))


@breaks("an_ended_episode_is_reset_within_the_step", "resets draw nothing")
class StartsElsewhereLater(StillPointMass):
    def begin(self, ended: th.Tensor) -> None:
        super().begin(ended)
        self.x[ended] = 0.0 if bool(ended.all()) else 0.25


@breaks("episode_statistics_begin_anew_with_each_episode", "episode_length of step")
class CountsOn(PointMass):
    """Lengths that the environment reports go on over the end of an episode."""

    total: th.Tensor | int = 0

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensors(actions)
        self.total = self.total + 1
        return step._replace(stats={**step.stats, EPISODE_LENGTH: th.zeros_like(self.lengths) + self.total})


@breaks("episode_statistics_begin_anew_with_each_episode", "episode_length of step")
class CountsTooEarly(ChangesTheStep):
    def change(self, step: TensorStep) -> TensorStep:
        return step._replace(stats={**step.stats, EPISODE_LENGTH: self.lengths.clone()})


@breaks("episode_statistics_begin_anew_with_each_episode", "go together")
class CountsStepsOnly(ChangesTheStep):
    def change(self, step: TensorStep) -> TensorStep:
        return step._replace(stats={EPISODE_LENGTH: step.stats[EPISODE_LENGTH]})


@breaks("the_same_seed_repeats_the_trajectory", "two environments with the same seed: obs of record 0")
class IgnoresSeeds(PointMass):
    def take_seeds(self) -> list[int | None]:
        super().take_seeds()
        return [None] * self.num_envs


@breaks("another_seed_gives_another_trajectory", "the seed has no effect")
class AlwaysTakesTheSameSeed(PointMass):
    def take_seeds(self) -> list[int | None]:
        return [3 if seed is not None else None for seed in super().take_seeds()]


@breaks("seeding_again_repeats_the_trajectory", "an environment in use: obs of record 0")
class IgnoresLaterSeeds(PointMass):
    used = False

    def take_seeds(self) -> list[int | None]:
        seeds = super().take_seeds()
        seeds, self.used = ([None] * self.num_envs if self.used else seeds), True
        return seeds


@breaks("a_seed_is_used_once", "take_seeds")
class UsesItsSeedAtEveryReset(PointMass):
    def take_seeds(self) -> list[int | None]:
        return list(self._seeds)


@breaks("environment_i_is_environment_0_with_seed_plus_i", "environment 1 of 3: obs of record 0")
class SeedsAllAlike(PointMass):
    def take_seeds(self) -> list[int | None]:
        return [super().take_seeds()[0]] * self.num_envs


@breaks("environment_i_is_environment_0_with_seed_plus_i", "environment 0 of 3: obs of record")
class SharesAGenerator(PointMass):
    def reset_tensors(self) -> Observations:
        self.generators._generators = [None] * self.num_envs
        self.generators.seed(self.take_seeds())
        self.generators._generators = [self.generators[0]] * self.num_envs
        self.begin(th.ones(self.num_envs, dtype=th.bool))
        return self.observe()


@breaks("environment_i_is_environment_0_with_seed_plus_i", "environment 0 of 3: obs of record")
class DisturbsHiddenState(PointMass):
    """Pushes the neighbours of what was reset, after their observations were made."""

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensors(actions)
        self.v += 0.01 * bool((step.terminated | step.truncated).any())
        return step


@breaks("the_same_environment_goes_on_from_a_state", "for a second time: obs of record")
class ForgetsGenerators(PointMass):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict({**state, "generators": self.generators.state_dict()})


@breaks("the_same_environment_goes_on_from_a_state", "for a second time: .*episode_length")
class ForgetsClocks(PointMass):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict({**state, "lengths": self.lengths})


@breaks("a_new_environment_goes_on_from_a_saved_state", "going on in a new environment: obs of record")
class KeepsSomethingForItself(PointMass):
    """A wind that its first reset draws and that no state holds."""

    wind: th.Tensor | None = None

    def begin(self, ended: th.Tensor) -> None:
        if self.wind is None:
            self.wind = self.generators.draw(np.arange(self.num_envs)).normal(1)[:, 0]
        super().begin(ended)

    def force(self, actions: th.Tensor) -> th.Tensor:
        return super().force(actions) + (0.0 if self.wind is None else self.wind)


@breaks("a_new_environment_goes_on_from_a_saved_state", "going on in a new environment: obs of record 40")
class KeepsItsPendingSeeds(PointMass):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict({**state, "seeds": self._seeds})


@breaks("a_state_is_a_copy", r"\['v'\] was changed after it was taken")
class GivesItsOwnTensorsAway(PointMass):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "v": self.v}


@breaks("a_state_is_a_copy", r"\['v'\] was changed after it was loaded")
class KeepsTheTensorsItLoads(PointMass):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.v = state["v"]


@breaks("a_state_is_made_of_plain_values_and_tensors", r"\['v'\] is a ndarray")
class HasArraysInItsState(PointMass):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "v": self.v.numpy().copy()}


@breaks("a_state_is_made_of_plain_values_and_tensors", r"\['limit'\] is a float64")
class HasNumbersOfNumpyInItsState(PointMass):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "limit": np.float64(self.limit)}


@breaks("a_state_is_made_of_plain_values_and_tensors", "is empty")
class HasNoState(PointMass):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@breaks("a_state_of_another_number_of_environments_is_refused", "refused")
class RefusesTooLate(PointMass):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.x = self.x * 0.0
        super().load_state_dict(state)


@breaks("a_state_of_another_number_of_environments_is_refused", "accepted without an error")
class TakesAnyState(PointMass):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.x, self.v = state["x"].clone(), state["v"].clone()
