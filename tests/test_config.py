"""Settings: every mistake at once, each with what was probably meant; files round-trip."""

import pytest

from hamnet.errors import HamnetError
from hamnet.training.config import TrainConfig, load_config, to_toml


def write(tmp_path, text):
    path = tmp_path / "train.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_round_trip_through_toml(tmp_path):
    config = TrainConfig()
    assert load_config(write(tmp_path, to_toml(config))) == config


def test_changed_settings_round_trip_through_toml(tmp_path):
    config = load_config(overrides=["target.reference=minao", "data.fractions=[0.5, 0.25, 0.25]"])
    assert config.target.reference == "minao"
    assert config.data.fractions == (0.5, 0.25, 0.25)
    assert load_config(write(tmp_path, to_toml(config))) == config


def test_overrides_come_after_the_file_and_the_last_one_wins(tmp_path):
    path = write(tmp_path, "[training]\nseed = 1\nmax_minutes = 2\n")
    config = load_config(path, ["training.seed=2", "training.seed=3"])
    assert config.training.seed == 3
    assert config.training.max_minutes == 2


@pytest.mark.parametrize(
    ("value", "expected"), [("minao", "minao"), ('"minao"', "minao"), (" sap ", "sap")]
)
def test_text_needs_no_quotes(value, expected):
    assert load_config(overrides=[f"target.reference={value}"]).target.reference == expected


def test_all_mistakes_are_reported_at_once_with_suggestions(tmp_path):
    path = write(
        tmp_path,
        "[target]\nreference = 'minoa'\n[training]\nbach_size = 4\nseed = 'one'\n[modle]\n",
    )
    with pytest.raises(HamnetError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 4 mistakes")
    assert "training.bach_size: unknown key; did you mean 'batch_size'?" in message
    assert "did you mean 'minao'?" in message
    assert "training.seed: " in message
    assert "got 'one'" in message
    assert "modle: unknown key; did you mean 'model'?" in message


def test_a_key_of_another_section_is_found():
    with pytest.raises(HamnetError, match=r"did you mean 'training\.max_minutes'\?"):
        load_config(overrides=["max_minutes=3"])
    with pytest.raises(HamnetError, match=r"did you mean 'training\.seed'\?"):
        load_config(overrides=["model.seed=3"])


@pytest.mark.parametrize(
    "text", ["training.seed", "=3", "training.=3", ".seed=3", "training..seed=3"]
)
def test_malformed_override(text):
    with pytest.raises(HamnetError, match=r"expected section\.key=value"):
        load_config(overrides=[text])


def test_override_inside_a_value(tmp_path):
    with pytest.raises(HamnetError, match="'seed' is a value, not a section"):
        load_config(write(tmp_path, "[training]\nseed = 1\n"), ["training.seed.x=1"])


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_impossible_numbers(value):
    with pytest.raises(HamnetError, match=r"training\.max_minutes"):
        load_config(overrides=[f"training.max_minutes={value}"])


def test_broken_toml_names_the_file_and_the_line(tmp_path):
    path = write(tmp_path, "[training\n")
    with pytest.raises(HamnetError, match=r"train\.toml: not valid TOML .*line 1"):
        load_config(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(HamnetError, match=r"nowhere\.toml: cannot be read"):
        load_config(tmp_path / "nowhere.toml")
