"""The trust-region tools together: clip, stop, penalty, and a learning rate that follows the KL."""

from sb3_ppo_plus import PPOPlus, explain_config

model = PPOPlus(
    "MlpPolicy",
    "Pendulum-v1",
    gamma=0.9,
    learning_rate=1e-3,
    kl_coef=0.5,
    target_kl=0.05,
    kl_stop="rollback",
    controllers={
        "kl_coef": {"type": "kl_band", "target": 0.02},
        "learning_rate": {"type": "kl_band", "target": 0.02},
    },
    seed=0,
)
model.learn(20_480)
print(explain_config(model))
