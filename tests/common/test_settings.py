"""Settings: values from the command line, presets and files, and what is refused."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.errors import DataError
from common.runs import shelf
from common.runs.options import Parser, training_settings
from common.runs.settings import check_number, check_numbers, read_settings_file, resolve, setting


@dataclass
class Config:
    lr: float = setting(1e-3, "learning rate, 100 % of it")
    epochs: int = setting(5, names=("max_epochs",))
    clip: float | None = setting(None, "gradient clip")
    path: str | None = setting(None, "a path")
    model: str = setting("lpm", "network", ("lpm", "cpm"))
    stages: int = setting(3, "stages", (3, 6))
    debug: bool = setting(False, "pictures")
    flip: bool | None = setting(None, "flip test")


def from_command_line(*words):
    parser = Parser("about")
    parser.settings(Config)
    return vars(parser.parse_args(words))


def test_only_given_options_are_in_the_namespace():
    assert from_command_line() == {}
    assert from_command_line("--lr", "2e-4", "--max_epochs=7") == {"lr": "2e-4", "epochs": "7"}
    assert from_command_line("--debug", "--no-flip") == {"debug": True, "flip": False}


def test_help_shows_defaults_and_choices():
    parser = Parser("about")
    parser.settings(Config)
    text = " ".join(parser.format_help().split())
    assert (
        "100 % of it (default: 0.001)" in text
        and "--model {lpm,cpm}" in text
        and "--stages {3,6}" in text
        and "--[no-]debug" in text
    )


@pytest.mark.parametrize("words", [("--model=hourglass",), ("--stages=4",), ("--unknown=1",)])
def test_the_command_line_refuses_unknown_choices_and_options(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        from_command_line(*words)
    assert stopped.value.code == 2 and words[0].split("=")[0] in capsys.readouterr().err


def test_values_have_the_type_of_the_field():
    config = resolve(
        Config, from_command_line("--lr=1", "--epochs=9", "--clip=2", "--stages=6", "--path", "x y", "--debug")
    )
    assert config == Config(1.0, 9, 2.0, "x y", "lpm", 6, True, None)
    assert type(config.lr) is float and type(config.epochs) is int and type(config.stages) is int


def test_later_layers_win_and_none_unsets():
    assert resolve(Config, {"lr": 1, "clip": 3}, {"lr": "2"}, {"clip": "none"}) == Config(lr=2.0)
    assert resolve(Config, {"clip": None, "path": "null", "flip": ""}) == Config()
    assert resolve(Config) == Config()


@pytest.mark.parametrize("text", ["yes", "TRUE", "on", "1", True, 1])
def test_true_words(text):
    assert resolve(Config, {"debug": text, "flip": text}) == Config(debug=True, flip=True)


@pytest.mark.parametrize("text", ["no", "False", "off", "0", False, 0])
def test_false_words(text):
    assert resolve(Config, {"debug": text, "flip": text}) == Config(flip=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 1}, "unknown setting 'learning_rate'; known: lr, epochs"),
        ({"lr": "fast"}, "setting lr: 'fast' is not a float"),
        ({"lr": None}, "setting lr needs a value of type float"),
        ({"lr": ""}, "setting lr: '' is not a float"),
        ({"epochs": 3.7}, "setting epochs: 3.7 is not a int"),
        ({"epochs": True}, "setting epochs: True is not a int"),
        ({"epochs": [1]}, r"setting epochs: \[1\] is not a int"),
        ({"path": {"a": 1}}, "is not a str"),
        ({"path": "a\0b"}, "is not a str"),
        ({"debug": "perhaps"}, "setting debug: 'perhaps' is not a bool"),
        ({"debug": 2}, "setting debug: 2 is not a bool"),
        ({"model": "hourglass"}, "setting model: 'hourglass' is not one of lpm, cpm"),
        ({"stages": 4}, "setting stages: 4 is not one of 3, 6"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(DataError, match=message):
        resolve(Config, values)


FILES = {
    "plain.ini": "# a comment\nlr = 2e-4\nmodel: cpm\npath =\n",
    "section.ini": "[training]\nlr = 2e-4  # tuned\n[network]\nmodel = cpm\npath = none\n",
    "comment_first.ini": "; made by hand\n[settings]\nlr=2e-4\nmodel=cpm\n",
    "before_and_in.ini": "lr=2e-4\n[DEFAULT]\nmodel=cpm\n",
    "file.yaml": "lr: 2e-4\nmodel: cpm\npath: null\n",
    "file.yml": "lr: 0.0002\nmodel: cpm\n",
}


@pytest.mark.parametrize("name", FILES)
def test_files_with_and_without_sections(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    assert resolve(Config, read_settings_file(tmp_path / name)) == Config(lr=2e-4, model="cpm")


@pytest.mark.parametrize("name", ["a.ini", "a.yaml"])
def test_keys_may_be_written_with_dashes_and_keep_their_case(tmp_path, name):
    (tmp_path / name).write_text("max-Epochs = 3\n" if name == "a.ini" else "max-Epochs: 3\n")
    assert {k: str(v) for k, v in read_settings_file(tmp_path / name).items()} == {"max_Epochs": "3"}


def test_percent_signs_and_hashes_in_values(tmp_path):
    (tmp_path / "a.ini").write_text("path = 50%/run#3\n")
    assert read_settings_file(tmp_path / "a.ini") == {"path": "50%/run#3"}


def test_empty_files_change_nothing(tmp_path):
    for name in ("a.ini", "a.yaml"):
        (tmp_path / name).write_text("")
        assert read_settings_file(tmp_path / name) == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ini", b"lr\n"),
        ("a.ini", b"lr = 1\nlr = 2\n"),
        ("a.ini", b"[half\nlr = 1\n"),
        ("a.ini", b"lr = \xff\xfe\n"),
        ("a.yaml", b"lr: [1\n"),
        ("a.yaml", b"- lr\n- 2\n"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"settings file .*{name}"):
        read_settings_file(tmp_path / name)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match="none.ini does not exist"):
        read_settings_file(tmp_path / "none.ini")


@dataclass
class Training:
    dataset: str = setting("lsp", choices=("lsp", "mpii"))
    data_root: str | None = setting(None)
    valid_split: str = setting("valid")
    epochs: int = setting(140, names=("num_epochs", "-n"))
    flip_test: bool = setting(True)
    resume: str | None = setting(None)
    groups: list = setting([1, 2], "groups of joints", rare=True)


PRESETS = {"paper": {"epochs": 100}, "smoke": {"epochs": 2}}


def training(*words, **more):
    parser = Parser("Train it.")
    parser.ignore({"host": "its log server is gone"})
    return training_settings(parser, Training, PRESETS, list(words), **more)


def test_help_is_grouped_and_rare_options_come_on_demand(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        training("--help")
    text = capsys.readouterr().out
    assert text.index("data:") < text.index("network:") < text.index("training:")
    assert "--groups" not in text and "--help-all lists 1 further options" in text and "-n" in text
    assert "go on from the newest state" in text, "the vocabulary's words"
    monkeypatch.setattr("sys.argv", ["train.py", "--help-all"])
    with pytest.raises(SystemExit):
        training("--help-all")
    assert "--groups" in capsys.readouterr().out


def test_layers_of_a_training(tmp_path):
    (tmp_path / "own.ini").write_text("num_epochs = 7\nflip_test = no\n")
    assert training() == Training(epochs=100)
    assert training("--preset=smoke", "--config", str(tmp_path / "own.ini")) == Training(epochs=7, flip_test=False)
    assert training("--config", str(tmp_path / "own.ini"), "-n", "3").epochs == 3
    assert training("--resume").resume == "auto" and training("--resume=a.pt").resume == "a.pt"
    assert training("--groups", "[3, 4]").groups == [3, 4] and Training().groups is not Training().groups
    (tmp_path / "SYNTHETIC").touch()
    assert training(folder=lambda config: tmp_path).epochs == 2
    assert training("--preset=paper", folder=lambda config: tmp_path).epochs == 100


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--flip_test", "False"], False), (["--flip_test=on"], True), (["--no-flip_test"], False), (["--flip_test"], True),
     (["--flip_test", "--epochs", "5"], True)],
)  # fmt: skip
def test_switches_in_any_spelling(words, expected):
    assert training(*words).flip_test is expected


def test_a_switch_that_is_neither(capsys):
    with pytest.raises(SystemExit):
        training("--flip_test=perhaps")
    assert "neither yes nor no" in capsys.readouterr().err


def test_dead_options_are_said(capsys):
    assert training("--host", "x", "--epochs=3") == training("--host=x", "-n", "3") == Training(epochs=3)
    assert capsys.readouterr().err.count("--host has no effect: its log server is gone") == 2


def test_numbers_below_their_bound_are_named():
    check_numbers(Training(), epochs=1)
    for value in (0, float("nan"), -3):
        with pytest.raises(DataError, match="setting epochs"):
            check_numbers(Training(epochs=value), epochs=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", -1), ("lr", float("nan")), ("lr", float("inf")), ("batch_size", 0), ("input_width", -256), ("workers", -1),
     ("t", 0), ("channels", 0.0), ("ema", 1.5), ("seed", -1), ("limit", 0), ("workers", 10**6), ("input_height", 10**9)],
)  # fmt: skip
def test_numbers_that_make_no_sense(name, value):
    with pytest.raises(DataError, match=f"setting {name}: .* makes no sense; give --{name}"):
        check_number(name, value)


def test_numbers_that_make_no_sense_end_every_programme(capsys):
    with pytest.raises(DataError, match="setting epochs"):
        training("--epochs=-1")
    parser = Parser("about")
    parser.options("batch_size", "threads")
    with pytest.raises(SystemExit):
        parser.parse_args(["--batch_size", "-4"])
    assert "setting batch_size: -4 makes no sense" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a: &a [1, 2]\nb: *a\nlr: 2\n", "lr: 2\n"])
def test_aliases_are_read(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    assert read_settings_file(tmp_path / "a.yaml")["lr"] == 2


@pytest.mark.parametrize(
    "inner", ["[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]", "{{x: *{0}, y: *{0}, z: *{0}}}"]
)
def test_aliases_that_multiply(tmp_path, inner):
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{new}: &{new} {inner.format(old)}" for old, new in itertools.pairwise("abcdefghijklm")]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(DataError, match="a.yaml holds more than 100000 values"):
        read_settings_file(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("a: &a [*a]")
    with pytest.raises(DataError, match="a.yaml holds more"):
        read_settings_file(tmp_path / "a.yaml")


def test_the_line_is_named(tmp_path):
    (tmp_path / "a.ini").write_text("lr = 1\nepochs\n")
    with pytest.raises(DataError, match=r"(?s)a.ini.*line +2"):
        read_settings_file(tmp_path / "a.ini")


def test_an_option_of_the_library_takes_an_originals_spelling():
    parser = Parser("about")
    parser.options("weights")
    parser.also("weights", "checkpoint", "-c")
    assert [parser.parse_args([word, "F"]).weights for word in ("--weights", "--checkpoint", "-c")] == ["F"] * 3
    assert "[--checkpoint, -c]" in parser.format_help()


def test_a_data_set_in_large_or_small_letters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shelf, "REPOSITORY", tmp_path / "repository")
    for name in ("data/LSPET", "repository/data/lspet", "repository/data/PennAction"):
        (tmp_path / name).mkdir(parents=True)
    assert shelf.data_folder(None, "lspet") == Path("data/LSPET")
    assert shelf.data_folder(None, "penn_action") == tmp_path / "repository/data/PennAction"
    assert shelf.data_folder(None, "mpii") == tmp_path / "repository/data/mpii"
    assert shelf.data_folder("elsewhere", "mpii") == Path("elsewhere")


def test_places_of_results_that_are_files(tmp_path, capsys):
    """Said before the work; a file of results may be replaced, and a folder may have a suffix."""
    (tmp_path / "file").touch()
    (tmp_path / "old.npz").touch()
    parser = Parser("about")
    parser.options("out", "json", "result")
    for words in (
        ["--out", "file"],
        ["--out", "file/x.npz"],
        ["--json", "file/x/y.json"],
        ["--result", "old.npz/z.json"],
    ):
        with pytest.raises(SystemExit):
            parser.parse_args([words[0], str(tmp_path / words[1])])
        assert f"{tmp_path / words[1].partition('/')[0]} is a file and no folder" in capsys.readouterr().err
    for name in ("old.npz", "new/deep/x.npz", "new.d/"):
        parser.parse_args(["--out", str(tmp_path / name)])
