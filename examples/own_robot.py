"""A robot of your own: an MJCF file, what it sees, what it is paid for, and what may differ on the real one."""

from pathlib import Path

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import MujocoTask, MujocoVecEnv, Outcome


class Balancer(MujocoTask):
    """Stay upright on two wheels and roll forward at a given speed in m/s."""

    needs = ("sensordata",)

    def __init__(self, speed=0.5):
        model = Path(__file__).with_name("balancer.xml")
        super().__init__(model, frame_skip=4, reset_noise_scale=0.03, max_episode_steps=250)
        self.speed = speed

    def setup(self, model):
        super().setup(model)
        self.up, self.forward = model.sensor("up").adr[0] + 2, model.sensor("velocity").adr[0]

    def observe(self, data):
        return data.sensordata  # what its IMU and wheel encoders measure

    def evaluate(self, data, action, before, after):
        upright = data.sensordata[:, self.up]  # 1 is upright, 0 lies on the floor
        speed = data.sensordata[:, self.forward]
        terms = {"upright": upright, "speed": -(speed - self.speed).abs(), "effort": -0.05 * action.square().sum(1)}
        return Outcome(sum(terms.values()), upright < 0.7, terms)


if __name__ == "__main__":
    real_robots_differ = {
        "body_mass": {"scale": [0.8, 1.2], "names": ["chassis"], "also": ["body_inertia"]},
        "geom_friction": {"scale": [0.6, 1.4], "columns": [0], "shared": True},
        "motor strength": {"field": "actuator_gear", "scale": [0.8, 1.2], "columns": [0]},
    }
    env = MujocoVecEnv(Balancer(), 16, seed=0, randomization=real_robots_differ, observation_noise=0.01, action_delay=1)
    PPOPlus("MlpPolicy", env, n_steps=256, batch_size=256, seed=0, verbose=1).learn(100_000)
