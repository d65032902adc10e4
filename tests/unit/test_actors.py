"""Actors: the numbers of SB3's ``policy(obs)``, from the same draws, to float32 rounding or to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_ppo_plus import actors
from sb3_ppo_plus.actors import ArrayActor, PolicyActor, make_actor, why_not_in_arrays

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float64)
# Its keys are not in the order in which they are given.
PARTS = spaces.Dict({"velocity": spaces.Box(-9, 9, (3,)), "angle": spaces.Box(-9, 9, (2,), np.float64)})
BOX = spaces.Box(np.array([-0.5, -2.0, 0.0], np.float32), np.array([0.5, 1.0, 0.25], np.float32))
ACTIONS: dict[str, spaces.Space] = {
    "one number": spaces.Box(-1, 1, (1,)),
    "box": BOX,
    "box of many": spaces.Box(-1, 1, (17,)),
    "table": spaces.Box(-1, 1, (2, 3)),
    "float64": spaces.Box(-0.3, 0.3, (2,), np.float64),
    "integers": spaces.Box(-2, 2, (2,), np.int64),
    "discrete": spaces.Discrete(4),
    "discrete of one": spaces.Discrete(1),
    "multidiscrete": spaces.MultiDiscrete([3, 2, 5]),
    "multibinary": spaces.MultiBinary(4),
}


def make_policy(action_space: spaces.Space = BOX, observation_space: spaces.Space = VECTOR, **kwargs: Any) -> Any:
    """A policy whose weights are of a size that makes rounding visible, and samples differ from means."""
    th.manual_seed(1)
    kind = MultiInputActorCriticPolicy if isinstance(observation_space, spaces.Dict) else ActorCriticPolicy
    policy = kind(observation_space, action_space, lambda _: 1e-3, **{"net_arch": [8, 7], **kwargs})
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    policy.set_training_mode(False)
    return policy


def observations(policy: Any, n_envs: int, steps: int) -> list[Any]:
    policy.observation_space.seed(3)
    rng = np.random.default_rng(3)

    def one(space: Any) -> np.ndarray:
        return rng.normal(size=(n_envs, *space.shape)).astype(space.dtype)

    space = policy.observation_space
    parts = isinstance(space, spaces.Dict)
    return [{key: one(part) for key, part in space.items()} if parts else one(space) for _ in range(steps)]


def rows(policy: Any, n_envs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Memory as the rollout buffer has it, with something else in it."""
    space = policy.action_space
    size = int(np.prod(space.shape)) if space.shape else 1
    dtype = np.float32 if isinstance(space, spaces.Box) else space.dtype
    return np.full((n_envs, size), 7, dtype), np.full(n_envs, 7, np.float32), np.full(n_envs, 7, np.float32)


def play(policy: Any, n_envs: int, act: Callable[..., Any], steps: int = 6) -> tuple[list[Any], th.Tensor]:
    """What comes of some steps, and the state of the generator afterwards."""
    th.manual_seed(5)
    found = []
    for obs in observations(policy, n_envs, steps):
        actions, values, log_probs = rows(policy, n_envs)
        commands = act(obs, actions, values, log_probs)
        found.append((commands, actions, values, log_probs))
    return found, th.get_rng_state()


def assert_same_as_sb3(policy: Any, n_envs: int, tolerance: float = 2e-5) -> None:
    actor = make_actor(policy, n_envs)
    assert isinstance(actor, ArrayActor), why_not_in_arrays(policy, n_envs)
    ours, our_state = play(policy, n_envs, actor.act)
    theirs, their_state = play(policy, n_envs, PolicyActor(policy).act)
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    assert th.equal(our_state, their_state)
    # Steps differ: nothing was left over from the one before.
    assert not np.array_equal(ours[0][2], ours[1][2])


@pytest.mark.parametrize("n_envs", [1, 3, 16])
@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_space_gives_sb3s_numbers_from_sb3s_draws(name: str, n_envs: int) -> None:
    assert_same_as_sb3(make_policy(ACTIONS[name]), n_envs)


@pytest.mark.parametrize("name", ["box", "discrete", "multidiscrete", "multibinary"])
def test_the_policy_actor_is_sb3s_loop_to_the_bit(name: str) -> None:
    policy = make_policy(ACTIONS[name])
    ours, _ = play(policy, 4, PolicyActor(policy).act)
    th.manual_seed(5)
    for obs, (commands, stored, values, log_probs) in zip(observations(policy, 4, 6), ours, strict=True):
        with th.no_grad():
            sampled, value, log_prob = policy(th.as_tensor(obs))
        np.testing.assert_array_equal(stored, sampled.numpy().reshape(4, -1))
        np.testing.assert_array_equal(values, value.numpy().flatten())
        np.testing.assert_array_equal(log_probs, log_prob.numpy())
        expected = np.clip(sampled.numpy(), BOX.low, BOX.high) if name == "box" else sampled.numpy()
        np.testing.assert_array_equal(commands, expected)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.ELU, nn.SiLU, nn.LeakyReLU, nn.Sigmoid])
def test_activations(activation: Any) -> None:
    assert_same_as_sb3(make_policy(activation_fn=activation), 4)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"net_arch": []},
        {"net_arch": {"pi": [9], "vf": []}},
        {"net_arch": {"pi": [], "vf": [4, 4, 4]}},
        {"share_features_extractor": False},
        {"net_arch": [200, 200]},
    ],
    ids=str,
)
def test_networks(kwargs: dict[str, Any]) -> None:
    assert_same_as_sb3(make_policy(**kwargs), 12, tolerance=2e-4)


def test_layers_without_bias() -> None:
    policy = make_policy()
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            module.bias = None
    assert_same_as_sb3(policy, 4)


@pytest.mark.parametrize("shared", [True, False])
def test_observations_in_parts_are_joined_in_sb3s_order(shared: bool) -> None:
    assert_same_as_sb3(make_policy(observation_space=PARTS, share_features_extractor=shared), 4)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_observations_of_any_number_type(dtype: Any) -> None:
    space = spaces.Box(0, 200, (4,), dtype)
    assert_same_as_sb3(make_policy(observation_space=space), 4)


def test_large_logits_neither_overflow_nor_warn() -> None:
    for name in ("discrete", "multidiscrete", "multibinary"):
        policy = make_policy(ACTIONS[name])
        with th.no_grad():
            policy.action_net.bias.mul_(300.0)
        with np.errstate(all="raise", under="ignore"):
            assert_same_as_sb3(policy, 4, tolerance=1e-4)


@pytest.mark.parametrize("name", ["box", "discrete", "multidiscrete", "multibinary"])
def test_the_update_will_find_the_stored_log_probabilities(name: str) -> None:
    policy = make_policy(ACTIONS[name])
    if name == "box":
        with th.no_grad():
            policy.log_std.fill_(-7.0)  # where an action's own rounding matters
    obs = observations(policy, 8, 1)[0]
    actions, values, log_probs = rows(policy, 8)
    make_actor(policy, 8).act(obs, actions, values, log_probs)
    taken = th.as_tensor(actions).flatten() if name == "discrete" else th.as_tensor(actions).float()
    expected = policy.evaluate_actions(th.as_tensor(obs), taken)
    np.testing.assert_allclose(values, expected[0].detach().numpy().flatten(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_probs, expected[1].detach().numpy(), rtol=1e-3, atol=1e-2)


# ------------------------------------------------ memory


@pytest.mark.parametrize("name", ["box", "table", "discrete", "multidiscrete", "multibinary"])
def test_actions_for_the_environment_are_its_own(name: str) -> None:
    policy = make_policy(ACTIONS[name])
    actor = make_actor(policy, 4)
    first, second = observations(policy, 4, 2)
    stored, values, log_probs = rows(policy, 4)
    commands = actor.act(first, stored, values, log_probs)
    kept = commands.copy()
    stored[...] = 0
    actor.act(second, *rows(policy, 4))
    np.testing.assert_array_equal(commands, kept)


def test_parameters_that_change_between_steps_are_followed() -> None:
    policy, twin = make_policy(), make_policy()
    actor = make_actor(policy, 4)

    def change(policy: Any) -> None:
        policy.log_std.data -= 1.0
        policy.mlp_extractor.policy_net[2].weight.data.mul_(2.0)
        policy.value_net.load_state_dict({name: value + 1.0 for name, value in policy.value_net.state_dict().items()})

    first, second = observations(policy, 4, 2)
    results = []
    for acting, act in ((policy, actor.act), (twin, PolicyActor(twin).act)):
        th.manual_seed(0)
        act(first, *rows(acting, 4))
        change(acting)
        memory = rows(acting, 4)
        results.append((act(second, *memory), *memory))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# ------------------------------------------------ NaN


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distributions check their parameters; torch.compile switches that off for the whole process."""
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", True)


@pytest.mark.usefixtures("checks")
def test_a_policy_that_has_become_nan_raises_sb3s_error_at_once() -> None:
    policy = make_policy()
    with th.no_grad():
        policy.action_net.weight[0, 0] = np.nan
    actor = make_actor(policy, 4)
    assert isinstance(actor, PolicyActor)
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        actor.act(observations(policy, 4, 1)[0], *rows(policy, 4))


@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize("name", ["box", "discrete", "multidiscrete", "multibinary"])
def test_an_observation_that_is_nan_raises_sb3s_error(name: str) -> None:
    policy = make_policy(ACTIONS[name])
    actor = make_actor(policy, 4)
    assert isinstance(actor, ArrayActor)
    obs = observations(policy, 4, 1)[0]
    obs[2, 1] = np.nan
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        actor.act(obs, *rows(policy, 4))


# ------------------------------------------------ what is left to the policy


class OwnForward(ActorCriticPolicy):
    def forward(self, obs: Any, deterministic: bool = False) -> Any:
        actions, values, log_prob = super().forward(obs, deterministic)
        return actions, values + 1.0, log_prob


class OwnDistribution(ActorCriticPolicy):
    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        return super()._get_action_dist_from_latent(2.0 * latent_pi)


class OwnFeatures(ActorCriticPolicy):
    def extract_features(self, *args: Any, **kwargs: Any) -> Any:
        return super().extract_features(*args, **kwargs)


class OwnExtractor(FlattenExtractor):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).square()


class OwnMlp(MlpExtractor):
    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        return super().forward_actor(features) * 2.0


class OwnNetwork(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = OwnMlp(self.features_dim, self.net_arch, self.activation_fn, self.device)


def plain(kind: Any = ActorCriticPolicy, space: spaces.Space = VECTOR, **kwargs: Any) -> Any:
    return kind(space, BOX, lambda _: 1e-3, **{"net_arch": [8], **kwargs})


def with_hook() -> Any:
    policy = plain()
    policy.mlp_extractor.value_net[0].register_forward_hook(lambda module, inputs, output: output + 1.0)
    return policy


def with_early_hook() -> Any:
    policy = plain()
    policy.register_forward_pre_hook(lambda module, inputs: None)
    return policy


def with_forward_of_its_own() -> Any:
    policy = plain()
    policy.action_net.forward = lambda latent: th.zeros(len(latent), 3)
    return policy


def with_method_of_its_own() -> Any:
    policy = plain()
    policy._get_action_dist_from_latent = lambda latent: None
    return policy


def with_dropout() -> Any:
    policy = plain()
    policy.mlp_extractor.policy_net.append(nn.Dropout(0.5))
    return policy


def with_activation_first() -> Any:
    policy = plain()
    policy.mlp_extractor.policy_net = nn.Sequential(nn.Tanh(), nn.Linear(5, 8))
    return policy


def with_head_of_its_own() -> Any:
    policy = plain()
    policy.value_net = nn.Sequential(nn.Linear(8, 1))
    return policy


def with_parametrization() -> Any:
    policy = plain()
    nn.utils.parametrizations.weight_norm(policy.action_net)
    return policy


STRANGERS: dict[str, Callable[[], Any]] = {
    "own forward": lambda: plain(OwnForward),
    "own distribution": lambda: plain(OwnDistribution),
    "own features": lambda: plain(OwnFeatures),
    "own extractor": lambda: plain(features_extractor_class=OwnExtractor),
    "own mlp_extractor": lambda: plain(OwnNetwork),
    "gSDE": lambda: plain(use_sde=True),
    "double": lambda: plain().double(),
    "unknown activation": lambda: plain(activation_fn=nn.GELU),
    "slope": lambda: plain(activation_fn=lambda: nn.LeakyReLU(2.0)),
    "discrete observations": lambda: plain(space=spaces.Discrete(5)),
    "tables": lambda: plain(space=spaces.Box(-1, 1, (2, 3))),
    "large": lambda: plain(net_arch=[700, 700]),
    "hook": with_hook,
    "early hook": with_early_hook,
    "forward of its own": with_forward_of_its_own,
    "method of its own": with_method_of_its_own,
    "dropout": with_dropout,
    "activation first": with_activation_first,
    "head of its own": with_head_of_its_own,
    "parametrization": with_parametrization,
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_arrays_do_not_know_is_left_to_the_policy(name: str) -> None:
    policy = STRANGERS[name]()
    assert why_not_in_arrays(policy, 4) is not None
    assert isinstance(make_actor(policy, 4), PolicyActor)


def test_hooks_for_all_modules_are_noticed() -> None:
    policy = plain()
    assert why_not_in_arrays(policy, 4) is None
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        assert why_not_in_arrays(policy, 4) is not None
    finally:
        handle.remove()


def test_the_policies_of_sb3_are_known() -> None:
    assert why_not_in_arrays(plain(), 4) is None
    assert why_not_in_arrays(make_policy(observation_space=PARTS), 4) is None


@pytest.mark.parametrize("n_envs", [1, 2, 3, 5, 8, 31, 64, 257, 5000])
@pytest.mark.parametrize("shape", [(17, 64), (64, 64), (64, 1), (256, 256), (400, 300), (376, 256), (9000, 1)])
def test_products_are_cut_so_that_no_thread_wakes(shape: tuple[int, int], n_envs: int) -> None:
    linear = nn.Linear(*shape, device="meta")
    pieces = actors._pieces(linear, n_envs)
    assert [row for piece in pieces for row in range(piece.start, piece.stop)] in (list(range(n_envs)), [])
    for piece in pieces:
        n = piece.stop - piece.start
        with_vector = n == 1 or shape[1] == 1
        assert n * shape[0] * shape[1] <= (9215 if with_vector else 2**18)
    # Two rows of what is usual always fit.
    assert pieces or n_envs == 1 or (n_envs % 2 and shape[0] * shape[1] > 2**16)


def test_a_product_in_pieces_is_the_same(monkeypatch: Any) -> None:
    policy = make_policy()
    monkeypatch.setattr(actors, "_PRODUCT", 3 * 56)
    monkeypatch.setattr(actors, "_VECTOR_PRODUCT", 20)
    actor = make_actor(policy, 8)
    assert isinstance(actor, ArrayActor)
    assert [len(layer.pieces) for layer in actor.critic] == [2, 3, 4]
    assert_same_as_sb3(policy, 8)
