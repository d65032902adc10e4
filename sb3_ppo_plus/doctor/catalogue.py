"""The codes of the doctor: what each one means, in words for a person, and which argument it is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """
    The text of a code.

    :param title: what is wrong, in a few words
    :param why: why it is wrong, and what it leads to
    :param argument: the argument that it is about; of the environment where it says so
    :param remedy: what to change where the rule knows nothing better
    """

    title: str
    why: str
    argument: str
    remedy: str


CATALOGUE: dict[str, Meaning] = {
    # ------------------------------------------------ size of the updates
    "kl-high": Meaning(
        "updates move the policy too far",
        "PPO's estimate holds near the policy that collected the rollout. Far from it the update follows noise, and "
        "what was learned is lost again.",
        "learning_rate",
        "a third of the learning rate, or target_kl=0.02",
    ),
    "kl-spike": Meaning(
        "one update moved the policy much further than the others",
        "A single such step can end in a policy that does not come back. It follows from an outlier in the rewards or "
        "from a learning rate at the edge.",
        "target_kl",
        'target_kl=0.02 with kl_stop="rollback", which undoes such an epoch',
    ),
    "kl-drift": Meaning(
        "updates become larger and larger",
        "The same learning rate moves the policy further as it becomes more certain: small deviations make the same "
        "change of the mean count for more.",
        "learning_rate",
        "a learning rate that falls, such as lin_3e-4, or one that follows the KL (controllers)",
    ),
    "learning-rate-high": Meaning(
        "the learning rate is too high",
        "The first passes over the data alone move the policy beyond what the rollout can justify.",
        "learning_rate",
        "a tenth of the learning rate",
    ),
    "learning-rate-low": Meaning(
        "the learning rate is too low",
        "Updates hardly change the policy: training takes many times the steps that it needs.",
        "learning_rate",
        "ten times the learning rate",
    ),
    "learning-rate-stuck": Meaning(
        "the adaptive learning rate sits at its limit",
        "A controller that can go no further no longer holds the KL where it should be.",
        "controllers",
        "wider min_value and max_value of the learning rate's controller, or another n_epochs",
    ),
    "policy-frozen": Meaning(
        "the policy does not change at all",
        "The probabilities after an update equal those before: no gradient reaches the actor. Something is detached, "
        "frozen (requires_grad=False) or multiplied by zero.",
        "policy",
        "the forward pass of the policy: look for .detach(), torch.no_grad() or parameters that the optimizer lacks",
    ),
    "clip-fraction-high": Meaning(
        "most of the data is clipped",
        "Clipped rows give no gradient: the later epochs of an update compute for little.",
        "n_epochs",
        "fewer epochs, or a lower learning rate",
    ),
    "clip-fraction-low": Meaning(
        "almost nothing is ever clipped",
        "The updates stay far inside of the clip range. There may be room for a higher learning rate or more epochs.",
        "learning_rate",
        "twice the learning rate",
    ),
    "clip-range-wide": Meaning(
        "the clip range is so wide that it holds nothing back",
        "Ratios up to 1 + clip_range go unpunished; beyond 0.4 a single update may change the policy completely.",
        "clip_range",
        "clip_range=0.2",
    ),
    "clip-range-narrow": Meaning(
        "the clip range is so narrow that almost all rows are clipped",
        "Below 0.05 a row loses its gradient after the first small step.",
        "clip_range",
        "clip_range=0.1",
    ),
    "ratio-extreme": Meaning(
        "single actions became many times as likely in one update",
        "Few rows with large ratios dominate the gradient. The sign of a policy that is too certain, or of a learning "
        "rate that is too high.",
        "clip_range",
        "a lower learning rate, or dual_clip=3",
    ),
    "ratio-start": Meaning(
        "the ratio does not start at 1",
        "Before the first gradient step the policy must give the probabilities that it gave while collecting. "
        "Otherwise something differs between the two: dropout, batch normalization, masks, or changed observations.",
        "policy_kwargs",
        "a policy without dropout and batch normalization; do not change observations after they were stored",
    ),
    "epochs-many": Meaning(
        "too many passes over the same data",
        "The first epochs are fine, the later ones move the policy on data that no longer describes it.",
        "n_epochs",
        "half the epochs, or target_kl=0.02",
    ),
    # ------------------------------------------------ exploration
    "entropy-collapse": Meaning(
        "the policy stopped exploring",
        "It takes the same action whatever happens, so the rollouts hold nothing new to learn from.",
        "ent_coef",
        "ent_coef=0.01, or controllers={'ent_coef': {'type': 'entropy_target', ...}}",
    ),
    "entropy-runaway": Meaning(
        "the policy becomes more and more random",
        "The standard deviation of the actions keeps growing. Actions are clipped to their bounds, so the entropy "
        "bonus is earned without a change in behavior.",
        "ent_coef",
        "ent_coef=0",
    ),
    "entropy-stuck": Meaning(
        "the policy is still random",
        "After this many updates all actions are as likely as at the start. Either the entropy bonus outweighs the "
        "reward, or the reward says nothing.",
        "ent_coef",
        "ent_coef=0, and a look at the rewards",
    ),
    "entropy-coef-high": Meaning(
        "the entropy bonus outweighs the reward",
        "Advantages are standardized, so their weight is about 1; an entropy bonus beyond 0.1 competes with all of it.",
        "ent_coef",
        "ent_coef=0.01",
    ),
    "entropy-coef-negative": Meaning(
        "the entropy bonus is negative",
        "It punishes exploration: the policy becomes deterministic within a few updates.",
        "ent_coef",
        "ent_coef=0",
    ),
    "action-saturation": Meaning(
        "actions lie outside of their bounds",
        "They are clipped before the environment sees them. What lies beyond the bound has no effect, so the gradient "
        "there is noise.",
        "action space of the environment",
        "an action space of [-1, 1] that the environment scales, or policy_kwargs.log_std_init=-1",
    ),
    # ------------------------------------------------ critic, rewards, advantages
    "critic-lagging": Meaning(
        "the critic explains nothing of the returns",
        "Advantages are then returns with noise on top. The critic learns too slowly, or the observations lack what "
        "the return depends on.",
        "critic_learning_rate",
        "critic_learning_rate at the value of learning_rate or above, or critic_epochs=5",
    ),
    "critic-blowup": Meaning(
        "the critic is worse than a constant",
        "Its errors are larger than the spread of the returns, which makes the advantages worse than none.",
        "critic_learning_rate",
        "a lower critic_learning_rate, vf_loss='huber', or normalized rewards",
    ),
    "critic-unweighted": Meaning(
        "the value loss does not count",
        "With vf_coef at zero the critic learns nothing, and with it the advantages mean nothing.",
        "vf_coef",
        "vf_coef=0.5",
    ),
    "reward-scale": Meaning(
        "returns are larger than a critic follows easily",
        "A network begins near zero and moves by about its learning rate; targets in the thousands take it very long, "
        "and the gradient of the value loss crowds out everything else.",
        "normalize",
        "VecNormalize(norm_reward=True), `normalize: true` in YAML, or rewards divided by a constant",
    ),
    "reward-small": Meaning(
        "returns hardly differ from each other",
        "Differences this small drown in the critic's error.",
        "normalize",
        "VecNormalize(norm_reward=True), or rewards multiplied by a constant",
    ),
    "reward-sparse": Meaning(
        "there are no rewards",
        "Nothing that was done so far was rewarded, so there is nothing to learn from.",
        "reward of the environment",
        "a shaped reward, easier starts, or more exploration (ent_coef=0.01)",
    ),
    "reward-constant": Meaning(
        "the reward is the same whatever happens",
        "Every step of every episode brings the same, and episodes all end alike: nothing can be learned.",
        "reward of the environment",
        "the environment: does its state move, and does the reward depend on it?",
    ),
    "advantage-outlier": Meaning(
        "single advantages tower above all others",
        "A few rows decide where the update goes. Usually rare large rewards are behind it.",
        "normalize",
        "VecNormalize with clip_reward=10, or vf_loss='huber'",
    ),
    "advantage-bias": Meaning(
        "advantages are far from zero on average",
        "The critic is wrong in the same direction everywhere: it lags behind the returns.",
        "critic_epochs",
        "critic_epochs=5, or a higher critic_learning_rate",
    ),
    # ------------------------------------------------ data
    "nonfinite": Meaning(
        "there are numbers that are no numbers",
        "NaN or infinity in observations, rewards or the loss. One of them in an update makes the whole network NaN.",
        "nan_policy",
        "the environment: find the step that gives it (VecCheckNan); a lower learning rate if it comes from the loss",
    ),
    "envs-duplicate": Meaning(
        "environments are copies of each other",
        "They begin every episode in the same state, because they have the same seed. A rollout then holds less than "
        "it seems to.",
        "seed",
        "seeds that differ: PPOPlus(seed=...) gives environment i the seed + i",
    ),
    "envs-synchronized": Meaning(
        "all environments end their episodes in the same step",
        "A short rollout then sees the same part of the episode in all of them, and its distribution swings.",
        "env",
        "starts at different times, or rollouts as long as an episode (n_steps)",
    ),
    "truncation-missing": Meaning(
        "time limits look like failures",
        "Every episode ends after the same number of steps, and all are reported as terminated. The critic then learns "
        "that the future is worth nothing just before the limit.",
        "step() of the environment",
        "truncated=True instead of terminated=True at the limit, or gymnasium.wrappers.TimeLimit",
    ),
    "observation-scale": Meaning(
        "observations are not normalized",
        "Their dimensions differ widely in size. Large ones saturate the network, small ones are not seen.",
        "normalize",
        "VecNormalize(env), or `normalize: true` in YAML",
    ),
    "observation-constant": Meaning(
        "observations do not change",
        "What never changes tells the policy nothing. If all of them stand still, the environment is frozen or the "
        "observation is not filled in.",
        "observation of the environment",
        "the environment: what it observes, and whether it is stepped",
    ),
    # ------------------------------------------------ networks
    "gradient-spike": Meaning(
        "a gradient was many times the usual one",
        "It is cut to max_grad_norm, yet Adam's moments keep it for a while and the following steps go astray.",
        "max_grad_norm",
        "a lower max_grad_norm, vf_loss='huber', or rewards that are clipped",
    ),
    "gradient-clipped": Meaning(
        "every gradient is clipped",
        "Only the direction of a gradient counts then. With Adam this does little harm; it hides spikes.",
        "max_grad_norm",
        "normalized rewards, or a higher max_grad_norm",
    ),
    "dead-units": Meaning(
        "most units of the network are dead",
        "They give (almost) the same output for every observation, so the network is smaller than it seems and may "
        "learn no more.",
        "policy_kwargs",
        "policy_kwargs.activation_fn=tanh, normalized observations, or a lower learning rate",
    ),
    "rank-collapse": Meaning(
        "the features of the network have collapsed",
        "They span a fraction of the directions that they spanned at the start: observations that differ look alike.",
        "policy_kwargs",
        "a lower learning rate, fewer epochs, or policy_kwargs.optimizer_kwargs.weight_decay=1e-4 with adamw",
    ),
    # ------------------------------------------------ machine
    "throughput-decay": Meaning(
        "training becomes slower and slower",
        "The usual reasons are a leak (of memory, of processes, of log files), episodes that became more expensive, or "
        "other programs on the machine.",
        "env",
        "`ppo-plus train --profile`, which tells which part of the time grew",
    ),
    "memory-growth": Meaning(
        "the process takes more and more memory",
        "Something keeps what it should forget; in the end the system kills the process.",
        "env",
        "the environment and the callbacks: lists that grow with every step",
    ),
    # ------------------------------------------------ what comes of it
    "evaluation-falls": Meaning(
        "training looks better while evaluation gets worse",
        "The training return rises by something that does not help in evaluation: exploration noise, a reward that "
        "can be gamed, or a normalizer that evaluation does not share.",
        "reward of the environment",
        "the reward, and the wrappers of the evaluation's environment: the same ones in the same order",
    ),
    "return-collapse": Meaning(
        "what was learned is lost again",
        "The return has fallen far below its best and stays there.",
        "learning_rate",
        "a learning rate that falls (lin_3e-4), target_kl=0.02, or the best model instead of the last",
    ),
    "return-flat": Meaning(
        "the return does not rise",
        "After a third of the training it is where it began.",
        "learning_rate",
        "first what else is found here; then a longer training",
    ),
    "horizon-long": Meaning(
        "the discount looks much further ahead than a rollout reaches",
        "What lies beyond the rollout comes from the critic alone, which knows little at first.",
        "gamma",
        "more n_steps, or a lower gamma",
    ),
    "horizon-short": Meaning(
        "the discount forgets what an episode is about",
        "Rewards later than 1 / (1 - gamma) steps hardly count, and episodes are many times as long.",
        "gamma",
        "gamma=0.99 or more",
    ),
    "gamma-odd": Meaning(
        "the discount is out of the usual range",
        "At 1 values of endless tasks have no limit; below 0.8 the policy sees no more than five steps ahead.",
        "gamma",
        "gamma=0.99",
    ),
    "batch-small": Meaning(
        "minibatches are very small",
        "Advantages are standardized within a minibatch: over a few rows that is mostly noise, and the many gradient "
        "steps take long.",
        "batch_size",
        "batch_size=64 or more",
    ),
    "batch-uneven": Meaning(
        "the last minibatch of each epoch is smaller",
        "Its few rows get the weight of a whole minibatch.",
        "batch_size",
        "a batch_size that divides n_steps * n_envs",
    ),
    "rollout-small": Meaning(
        "rollouts are very short",
        "An update sees so few rows that its direction is mostly noise.",
        "n_steps",
        "more n_steps, or more environments",
    ),
    # ------------------------------------------------ before training
    "env-check": Meaning(
        "the environment breaks the rules of Gymnasium",
        "Stable-Baselines3's check_env found it; training may fail, or quietly learn from wrong data.",
        "environment",
        "what the message says",
    ),
    "env-nondeterministic": Meaning(
        "the same seed and the same actions give different episodes",
        "Runs then cannot be repeated. The environment draws from a generator that reset(seed=...) does not set.",
        "reset(seed) of the environment",
        "self.np_random instead of random or np.random",
    ),
    "env-seed-ignored": Meaning(
        "every seed gives the same start",
        "The environment always begins alike. That may be meant; otherwise it ignores its seed.",
        "reset(seed) of the environment",
        "super().reset(seed=seed), and starts drawn from self.np_random",
    ),
    "env-slow": Meaning(
        "the environment is slow",
        "Its steps will take nearly all of the training's time.",
        "vec_env",
        "`--vec-env subproc`, one process for each environment",
    ),
    "observation-bounds": Meaning(
        "observations leave their space",
        "The declared low and high do not hold. Whoever scales by them gets wrong numbers.",
        "observation_space of the environment",
        "the bounds of the space, or -inf and inf",
    ),
    "action-bounds": Meaning(
        "the action space is far from [-1, 1]",
        "A new policy draws actions of size 1: with tiny bounds all of them are clipped, with huge ones almost nothing "
        "of the space is tried.",
        "action space of the environment",
        "an action space of [-1, 1] that the environment scales (gymnasium.wrappers.RescaleAction)",
    ),
    "episode-endless": Meaning(
        "no episode ended",
        "Without ends there are no episode returns in the log, and every start is the first one.",
        "environment",
        "gymnasium.wrappers.TimeLimit",
    ),
}
