from __future__ import annotations

import pytest
import yaml

from dmdkit.config import load_run_config, recipe_names, recipe_path, shape_of
from dmdkit.errors import ConfigError

# docs/model.md section 7, "Training as published"
PUBLISHED = {
    "mosi-aligned": {
        "model": (50, 10, 4, (5, 5, 5)),
        "dropout": {
            "attention_text": 0.3,
            "attention_audio": 0.2,
            "attention_vision": 0.0,
            "embed": 0.2,
            "text": 0.5,
            "output": 0.5,
            "residual": 0.0,
            "relu": 0.0,
        },
    },
    "mosei-aligned": {
        "model": (30, 6, 4, (5, 1, 3)),
        "dropout": {
            "attention_text": 0.4,
            "attention_audio": 0.0,
            "attention_vision": 0.0,
            "embed": 0.0,
            "text": 0.3,
            "output": 0.5,
            "residual": 0.0,
            "relu": 0.0,
        },
    },
}
TRAINING = {
    "losses": "released",
    "batch_size": 16,
    "accumulate_batches": 10,
    "learning_rate": 1e-4,
    "clip_value": 0.6,
    "plateau_patience": 5,
    "early_stop_patience": 10,
    "modality_dropout": 0.0,
    "precision": "32-true",
}


def load(*assignments):
    return load_run_config(recipe_path("small"), assignments)


def test_these_recipes_come_with_dmdkit_and_validate():
    assert recipe_names() == ["mosei-aligned", "mosi-aligned", "small"]
    for name in recipe_names():
        config = load_run_config(recipe_path(name))
        assert load_run_config(recipe_path(f"{name}.yaml")) == config


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_holds_the_published_values(name):
    config, expected = load_run_config(recipe_path(name)), PUBLISHED[name]
    model = config.model
    kernels = tuple(model.kernels.as_dict()[modality] for modality in ("text", "audio", "vision"))
    assert (model.width, model.heads, model.levels, kernels) == expected["model"]
    assert model.dropout.model_dump() == expected["dropout"]
    training = config.training.model_dump()
    assert {key: training[key] for key in TRAINING} == TRAINING
    assert (config.data.task, config.data.label_range, config.data.normalisation) == ("regression", (-3, 3), "none")
    assert config.data.nan_policy == "zero", "the published loader replaces -inf"


@pytest.mark.parametrize(("name", "widths"), [("mosi-aligned", (768, 5, 20)), ("mosei-aligned", (768, 74, 35))])
def test_a_published_recipe_fits_the_published_features(name, widths):
    modalities = ("text", "audio", "vision")
    features = dict(zip(modalities, widths, strict=True))
    config = load_run_config(recipe_path(name))
    shape = shape_of(config.model, features, dict.fromkeys(modalities, 50), 1)
    expected = {"mosi-aligned": [46, 46, 46], "mosei-aligned": [46, 50, 48]}
    assert list(shape.projected_lengths.values()) == expected[name]


def test_assignments_change_one_setting_each():
    config = load("training.learning_rate=3e-4", "training.seed=7", "model.dropout.text=0.1", "data.label_range=[-1, 1]")
    assert config.training.learning_rate == 3e-4
    assert config.training.seed == 7
    assert config.model.dropout.text == 0.1
    assert config.data.label_range == (-1, 1)
    assert load("training.seed=1", "training.seed=2").training.seed == 2


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("training.sed=1", "training.sed: unknown key"),
        ("trainig.seed=1", "trainig: unknown key"),
        ("seed", "expected key=value"),
        ("=1", "expected key=value"),
        ("training.seed=[", "not valid YAML"),
        ("training.seed=x", "training.seed"),
        ("training.seed=-1", "training.seed"),
        ("training.batch_size=1", "training.batch_size"),
        ("training.learning_rate=0", "training.learning_rate"),
        ("training.learning_rate=.nan", "training.learning_rate"),
        ("training.learning_rate=.inf", "training.learning_rate"),
        ("training.learning_rate=1e999", "training.learning_rate"),
        ("training.losses=other", "training.losses"),
        ("training.modality_dropout=1", "training.modality_dropout"),
        ("model.width.x=1", "width is not a section"),
        ("model.heads=7", "heads=7 does not divide width=30"),
        ("model.width=2", "heads=6 does not divide width=2"),
        ("model.kernels.text=0", "model.kernels.text"),
        ("data.nan_policy=keep", "data.nan_policy"),
        ("data.label_range=[3, -3]", "label_range=3, -3: expected low < high"),
        ("data.label_range=[1, 1]", "label_range=1, 1: expected low < high"),
        ("data.label_range=3", "data.label_range"),
        ("model=5", "model"),
    ],
)
def test_a_wrong_assignment_is_named(assignment, said):
    with pytest.raises(ConfigError) as caught:
        load(assignment)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- a", b"model: [", b"\xff\xfe\x00", b"a: &x [*x]", b"!!python/name:os.system"])
def test_a_file_that_is_no_recipe_is_one_readable_error(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load_run_config(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.learning_rate", "1e38"),
        ("training.clip_value", "1e39"),
        ("training.distillation_weight", "1e39"),
        ("training.decoupling_weight", "1e39"),
        ("text_encoder", "{path: bert, learning_rate: 1.0e+38}"),
        ("training.batch_size", "10000000000"),
        ("model.levels", "10000000000"),
    ],
)
def test_a_number_beyond_what_training_computes_with_is_named(key, value):
    with pytest.raises(ConfigError, match=key):
        load(f"{key}={value}")


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "9" * 5000, "2024-99-99", "{seed: 1, seed: 2}"])
def test_yaml_that_cannot_be_meant_is_one_readable_error(tmp_path, text):
    with pytest.raises(ConfigError, match=r"--set .*: (not valid YAML|nested too deeply)") as caught:
        load(f"training={text}")
    assert "\n" not in str(caught.value)
    path = tmp_path / "recipe.yaml"
    path.write_text(f"training: {text}\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: (not valid YAML|nested too deeply)"):
        load_run_config(path)


def test_a_repeated_key_is_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_path("small").read_text() + "training:\n  seed: 3\n")
    with pytest.raises(ConfigError, match="the key 'training' is there twice"):
        load_run_config(path)


def test_a_merged_key_may_be_given_again(tmp_path):
    values = yaml.safe_load(recipe_path("small").read_text())
    kernels = values["model"].pop("kernels")
    text = yaml.safe_dump(values) + "  # merged\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("model:\n", f"model:\n  kernels: {{<<: {kernels}, text: 1}}\n".replace("'", "")))
    assert load_run_config(path).model.kernels.text == 1


def test_an_enormous_file_is_not_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="larger than"):
        load_run_config(path)


def test_a_yaml_bomb_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="unknown key"):
        load_run_config(path)


def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"neither a file nor one of the recipes mosei-aligned, mosi-aligned, small"):
        recipe_path("mosi")


def test_a_recipe_of_ones_own_is_a_file(tmp_path):
    values = yaml.safe_load(recipe_path("small").read_text())
    values["training"]["seed"] = 5
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    assert load_run_config(recipe_path(str(path))).training.seed == 5
