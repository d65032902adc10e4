"""The doctor after the fact: logs of this package and of SB3, and the files that it writes."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import slow_but
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure

from sb3_ppo_plus.doctor import Severity, examine_run
from sb3_ppo_plus.doctor.findings import Finding
from sb3_ppo_plus.doctor.history import History, history_of_rows
from sb3_ppo_plus.doctor.journal import Action, Journal, examine
from sb3_ppo_plus.doctor.measures import measure_observations
from sb3_ppo_plus.doctor.report import write_reports
from sb3_ppo_plus.doctor.run_folder import read_csv, read_events
from sb3_ppo_plus.doctor.settings import Settings, settings_of_config
from sb3_ppo_plus.errors import InvalidArgument

STEP = "time/total_timesteps"


def bad_history(updates: int = 30) -> History:
    made = History(Settings(learning_rate=0.01, clip_range=math.inf))
    for update in range(updates):
        values = {"train/approx_kl": 0.5, "train/clip_fraction": 0.8, "rollout/ep_rew_mean": 10.0 + update % 7}
        made.append((update + 1) * 1000, {**values, "train/learning_rate": 0.01})
    made.add_evaluation(5000, 11.0)
    made.add_evaluation(9000, 12.0)
    return made


# ------------------------------------------------ from lines of a log to updates


def test_numbers_of_an_update_belong_to_the_rollout_before() -> None:
    """SB3 writes a line between a rollout and its update, and evaluations take the update's numbers with them."""
    rows = [
        {"eval/mean_reward": 1.0, STEP: 0.0},
        {STEP: 100.0, "time/fps": 9.0, "rollout/ep_rew_mean": 5.0},
        {STEP: 150.0, "eval/mean_reward": 2.0, "train/approx_kl": 0.1},
        {STEP: 200.0, "time/fps": 9.0, "rollout/ep_rew_mean": 6.0, "doctor/rank": 4.0},
        {STEP: 300.0, "time/fps": 9.0, "rollout/ep_rew_mean": 7.0, "train/approx_kl": 0.2},
        {STEP: 300.0, "eval/mean_reward": 3.0, "train/approx_kl": 0.3},
    ]
    history = history_of_rows(rows)
    assert history.steps == [100, 200, 300]
    assert list(history.columns["train/approx_kl"]) == [0.1, 0.2, 0.3]
    assert list(history.columns["rollout/ep_rew_mean"]) == [5.0, 6.0, 7.0]
    assert [value for value in history.columns["doctor/rank"] if value == value] == [4.0]
    assert history.evaluations == [(0, 1.0), (150, 2.0), (300, 3.0)]


def test_a_history_goes_through_its_state_and_back() -> None:
    made = bad_history()
    made.append(99_000, {"train/loss": math.nan, "new": 1.0})
    again = History(made.settings)
    again.load_state_dict(made.state_dict())
    assert again.steps == made.steps and again.evaluations == made.evaluations
    for name, column in made.columns.items():
        assert [str(value) for value in column] == [str(value) for value in again.columns[name]]
        assert again.every(name) == made.every(name)
    assert made.every("doctor/nonfinite").tolist() == [1.0]


# ------------------------------------------------ reading


def test_a_csv_that_was_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    path.write_text(f"{STEP},train/loss,note\n1,0.5,x\n2,,y\n3,nan,z\n4,0.")
    assert read_csv(path)[:2] == [{STEP: 1.0, "train/loss": 0.5}, {STEP: 2.0}]
    assert math.isnan(read_csv(path)[2]["train/loss"])
    assert len(read_csv(path)) == 3


@pytest.mark.parametrize("kind", slow_but(["tensorboard"], ["csv", "tensorboard"]))
def test_runs_of_sb3_are_examined(kind: str, tmp_path: Path) -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=128, batch_size=64, learning_rate=0.03, seed=0, device="cpu")
    model.set_logger(configure(str(tmp_path / "run"), [kind]))
    model.learn(128 * 24)
    found = examine_run(tmp_path / ("run" if kind == "csv" else ""))
    assert found.history.steps == [128 * (update + 1) for update in range(24)]
    # What is wrong with such a rate on every processor; which other findings there are depends on roundings.
    assert found.journal.entries["kl-high"].finding.severity >= Severity.WARNING
    assert "kl-spike" in found.journal.entries
    assert found.history.settings == Settings()


def test_what_is_no_run_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="nowhere does not exist"):
        examine_run(tmp_path / "nowhere")
    with pytest.raises(InvalidArgument, match=r"neither progress.csv nor event files .*set_logger"):
        examine_run(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InvalidArgument, match=r"neither a progress.csv nor an event file"):
        examine_run(tmp_path / "notes.txt")
    (tmp_path / "progress.csv").write_text(f"{STEP},eval/mean_reward\n0,1.0\n")
    with pytest.raises(InvalidArgument, match="has no update in it"):
        examine_run(tmp_path)
    (tmp_path / "progress.csv").unlink()
    for name in ("PPO_1", "PPO_2"):
        (tmp_path / name).mkdir()
        configure(str(tmp_path / name), ["tensorboard"]).close()
    with pytest.raises(InvalidArgument, match=r"the logs of 2 runs \(PPO_1, PPO_2\)"):
        examine_run(tmp_path)
    assert read_events(tmp_path / "PPO_1") == []


def test_settings_come_from_the_configuration_of_either_package(tmp_path: Path) -> None:
    lines = f"{STEP},time/fps,train/approx_kl\n" + "".join(f"{100 * n},1,0.01\n" for n in range(1, 9))
    (tmp_path / "progress.csv").write_text(lines)
    (tmp_path / "config.yml").write_text(
        "learning_rate: lin_1e-3\nn_envs: 8\nclip_range: [0.1, 0.3]\nnormalize: false\n"
    )
    settings = examine_run(tmp_path).history.settings
    assert (settings.learning_rate, settings.n_envs, settings.clip_range) == (1e-3, 8, 0.3)
    assert settings.normalizes_obs is False
    # RL Zoo's: a tag of Python's, and a list of pairs
    (tmp_path / "config.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - learning_rate\n    - 0.0003\n  - - n_envs\n    - 4\n"
    )
    settings = examine_run(tmp_path).history.settings
    assert (settings.learning_rate, settings.n_envs) == (3e-4, 4)


def test_settings_in_every_form() -> None:
    controller = {"learning_rate": {"type": "kl_band", "target": 0.01, "min_value": 1e-5, "max_value": 1e-2}}
    settings = settings_of_config(
        {
            "learning_rate": {"type": "linear", "start": 3e-4, "end": 0},
            "n_timesteps": 1e6,
            "ent_coef": "0.01",
            "clip_range": None,
            "controllers": controller,
            "normalize": {"norm_reward": False},
        }
    )
    assert (settings.learning_rate, settings.ent_coef, settings.total_timesteps) == (3e-4, 0.01, 1_000_000)
    assert (settings.rate_bounds, settings.clip_range) == ((1e-5, 1e-2), None)
    assert (settings.normalizes_obs, settings.normalizes_reward) == (True, False)
    assert settings_of_config({"learning_rate": "no number"}).learning_rate is None
    assert Settings.from_mapping(json.loads(json.dumps(settings.to_mapping()))) == settings


# ------------------------------------------------ the journal


def test_patience_and_severity() -> None:
    def kl(severity: Severity) -> Finding:
        return Finding("kl-high", severity, 1.0, 0.1, (0, 0), "less")

    journal = Journal()
    warning, alarm = kl(Severity.WARNING), kl(Severity.ALARM)
    assert [len(journal.note(step, [warning])) for step in (1, 2)] == [0, 0]
    assert journal.note(3, []) == []  # it did not hold: the count begins anew
    assert [len(journal.note(step, [found])) for step, found in enumerate([warning, alarm, warning], 4)] == [0, 0, 1]
    assert journal.entries["kl-high"].finding.severity == Severity.WARNING
    # an alarm that has not held long enough counts as the warning that has
    assert [len(journal.note(step, [alarm])) for step in (7, 8, 9, 10)] == [0, 0, 1, 0]
    assert journal.entries["kl-high"].finding.severity == Severity.ALARM
    assert (journal.entries["kl-high"].first, journal.entries["kl-high"].last) == (6, 10)
    again = Journal()
    again.load_state_dict(json.loads(json.dumps(journal.state_dict())))
    assert again.state_dict() == journal.state_dict()
    assert Journal(["kl-high"]).note(1, [warning], at_once=True) == []
    assert Journal().note(1, [warning], at_once=True) == [warning]


def test_observations_are_measured_by_dimension() -> None:
    observations = np.stack([np.linspace(-1, 1, 50), np.full(50, 3.0), np.linspace(-40, 40, 50)], axis=1)
    measured = measure_observations(observations)
    deviation = np.linspace(-1, 1, 50).std()
    assert measured["doctor/obs_constant"] == pytest.approx(1 / 3)
    assert measured["doctor/obs_std_max"] == pytest.approx(40 * deviation)
    assert measured["doctor/obs_std_spread"] == pytest.approx(40.0)
    assert measured["doctor/obs_max"] == 40.0


# ------------------------------------------------ writing


class Page(HTMLParser):
    """What is in a page, and whether its elements are closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "line", "br", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value:
                self.links.append(value)
            if name == "id" and value:
                self.ids.add(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def write(tmp_path: Path) -> tuple[Journal, Path, Path]:
    history = bad_history()
    journal = examine(history)
    journal.actions.append(Action(3000, "kl-high", "learning rate lowered from <0.01> to 0.005"))
    data, page = write_reports(tmp_path / "A & B <run>", history, journal, "ValueError: <nan>")
    return journal, data, page


def test_the_page_holds_curves_findings_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    journal, _, path = write(tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == [] and "script" not in page.tags and "link" not in page.tags
    assert page.tags.count("svg") == 4  # return, KL, clip fraction, learning rate
    assert {link for link in page.links if not link.startswith("#")} == set()
    codes = {finding.code for finding in journal.findings()}
    assert {"kl-high", "clip-fraction-high"} <= codes <= page.ids
    assert {link[1:] for link in page.links} <= page.ids
    assert "A & B <run>" in page.text and "lowered from <0.01>" in page.text and "ValueError: <nan>" in page.text
    marks = re.findall(r"<rect [^>]*><title>kl-high: steps [\d,]+ to 30,000</title>", path.read_text(encoding="utf-8"))
    assert len(marks) == 1  # in the one panel that it belongs to
    assert path.stat().st_size < 100_000


def test_the_data_is_strict_json_and_comes_back(tmp_path: Path) -> None:
    journal, path, _ = write(tmp_path)
    data = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert data["worst"] == "alarm"
    assert data["settings"]["clip_range"] == "inf"
    assert [Finding.from_mapping(values) for values in data["findings"]] == journal.findings()
    assert data["actions"][0]["step"] == 3000
    assert data["ended_by"] == "ValueError: <nan>"
    assert "url" not in data["findings"][0] and data["findings"][0]["page"].startswith("docs/doctor.md#")


def test_a_long_run_makes_a_short_page(tmp_path: Path) -> None:
    history = bad_history(5000)
    _, page = write_reports(tmp_path, history, Journal())
    assert page.stat().st_size < 100_000
    longest = max(len(points.split()) for points in re.findall(r'points="([^"]*)"', page.read_text(encoding="utf-8")))
    assert 200 <= longest <= 400


def test_a_run_without_findings_says_so(tmp_path: Path) -> None:
    history = History()
    for update in range(3):
        history.append(100 * (update + 1), {"train/approx_kl": 0.01})
    _, page = write_reports(tmp_path, history, examine(history))
    assert "Nothing was found in 3 updates, 300 steps." in page.read_text(encoding="utf-8")


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_renders_the_page(tmp_path: Path) -> None:
    _, _, path = write(tmp_path)
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,2400", f"--screenshot={picture}"]
    subprocess.run([str(BROWSER), *flags, path.as_uri()], check=True, timeout=60, capture_output=True)
    assert picture.stat().st_size > 20_000
    dump = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()]
    seen = subprocess.run(dump, check=True, timeout=60, capture_output=True, text=True).stdout
    assert seen.count("<polyline") >= 4
