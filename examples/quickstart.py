"""Three lines of SB3 code, and the same run that SB3's PPO makes."""

from sb3_ppo_plus import PPOPlus

model = PPOPlus("MlpPolicy", "CartPole-v1", seed=0)
model.learn(20_480)
model.save("cartpole")
