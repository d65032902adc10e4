"""Fine-tune a trained agent on a heavier pendulum without losing what it knows."""

import gymnasium as gym

from sb3_ppo_plus import PPOPlus

teacher = PPOPlus("MlpPolicy", "Pendulum-v1", gamma=0.9, learning_rate=1e-3, seed=0).learn(20_480)
heavier = gym.make("Pendulum-v1", g=12.0)
student = PPOPlus(
    "MlpPolicy",
    heavier,
    gamma=0.9,
    learning_rate=1e-3,
    reference_policy=teacher,
    reference_kl_coef=0.1,
    controllers={"reference_kl_coef": {"type": "kl_proportional", "target": 0.1}},
    seed=1,
)
student.set_parameters(teacher.get_parameters())
student.learn(10_240)
student.save("pendulum_heavier")
