"""Specs from model folders: the files' numbers, where each comes from, and what is wrong with a folder."""

import importlib
import json
from string import ascii_letters

import pytest
from hypothesis import given
from hypothesis import strategies as st

import maxcrops as mc
from maxcrops.specs._training_config import read_settings

MOLMO = {
    "base_image_input_size": [336, 336],
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_padding_mask": True,
    "image_patch_size": 14,
    "image_processor_type": "MolmoImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_token_length_h": 12,
    "image_token_length_w": 12,
    "max_crops": 12,
    "overlap_margins": [4, 4],
    "processor_class": "MolmoProcessor",
}
MOLMO_CONFIG = {"model_type": "molmo", "max_position_embeddings": 4096, "hidden_size": 3584}
MOLMO2 = {
    "image_processor_type": "Molmo2ImageProcessor",
    "max_crops": 8,
    "overlap_margins": [4, 4],
    "patch_size": 14,
    "pooling_size": [2, 2],
    "processor_class": "Molmo2Processor",
    "size": {"height": 378, "width": 378},
}
MOLMO2_PROCESSOR = {
    "image_use_col_tokens": True,
    "processor_class": "Molmo2Processor",
    "use_single_crop_col_tokens": False,
    "use_single_crop_start_token": True,
    "video_use_col_tokens": False,
}
INTERNVL = {
    "crop_to_patches": False,
    "image_processor_type": "GotOcr2ImageProcessor",
    "max_patches": 12,
    "min_patches": 1,
    "processor_class": "InternVLProcessor",
    "size": {"height": 448, "width": 448},
}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008], [1008, 672], [672, 1008], [1008, 1008]]
LLAVA = {
    "crop_size": {"height": 336, "width": 336},
    "image_grid_pinpoints": PINPOINTS,
    "image_processor_type": "LlavaNextImageProcessor",
    "processor_class": "LlavaNextProcessor",
    "size": {"shortest_edge": 336},
}
IDEFICS3 = {
    "do_image_splitting": True,
    "image_processor_type": "Idefics3ImageProcessor",
    "max_image_size": {"longest_edge": 512},
    "processor_class": "Idefics3Processor",
    "size": {"longest_edge": 2048},
}
MOLMO_TRAINING = """\
run_name: multitask_train
seed: 6198
model:
  d_model: 3584
  rope_theta: 1000000.0
  tokenizer:
    identifier: mm:hf-Qwen/Qwen2-7B
  vision_backbone:
    image_model_type: openai
    image_default_input_size:
    - 336
    - 336
    image_patch_size: 14
    image_norm_eps: 1.0e-05
  init_device: null
  max_sequence_length: 4096
  image_pooling_h: 2
  image_pooling_w: 2
  low_cpu_fsdp: true
  image_projector: mlp
  max_crops: 12
  crop_mode: overlap-and-resize-c2
  use_col_tokens: true
  prompt_type: uber_model
  image_token_length_w: 12
  image_token_length_h: 12
  overlap_margins:
  - 4
  - 4
data:
  mixture:
    chart_qa: 1.0
evaluators:
- label: chart_qa
  max_crops: 36
- label: doc_qa
  max_crops: 36
"""
MOLMO2_TRAINING = """\
model:
  llm:
    max_sequence_length: 16384
  vision_backbone:
    vit:
      image_default_input_size:
      - 378
      - 378
      image_patch_size: 14
  mm_preprocessor:
    image:
      crop_mode: overlap-and-resize-c2
      max_crops: 24
      overlap_margins: [4, 4]
      use_col_tokens: true
      use_single_crop_col_tokens: false
      use_single_crop_start_token: true
"""
SIZES = [(480, 640), (1080, 1920), (3000, 400), (100, 2000), (50, 50), (777, 778)]


def _folder(path, *, preprocessor=None, processor=None, config=None, training=None):
    path.mkdir(exist_ok=True)
    for name, content in (
        ("preprocessor_config.json", preprocessor),
        ("processor_config.json", processor),
        ("config.json", config),
        ("config.yaml", training),
    ):
        if content is not None:
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    return path


def _taken(spec):
    return {taken.field: (taken.value, taken.file, taken.key) for taken in spec.taken}


def _assert_counts_alike(spec, other):
    assert mc.count_tokens(spec, SIZES).tolist() == mc.count_tokens(other, SIZES).tolist()
    assert mc.grids(spec, SIZES).tolist() == mc.grids(other, SIZES).tolist()


# -- folders as they are published ---------------------------------------------------------------------------------


def test_molmo(tmp_path):
    spec = mc.load_spec(_folder(tmp_path, preprocessor=MOLMO, config=MOLMO_CONFIG))
    assert spec.differences(mc.get_spec("molmo-7b-d")) == {}
    assert spec.max_sequence_length == 4096
    assert str(tmp_path) in spec.description
    taken = _taken(spec)
    assert taken["max_crops"] == (12, "preprocessor_config.json", "max_crops")
    assert taken["crop_size"] == (336, "preprocessor_config.json", "base_image_input_size")
    assert taken["patch_size"] == (14, "preprocessor_config.json", "image_patch_size")
    assert taken["overlap_margins"] == ((4, 4), "preprocessor_config.json", "overlap_margins")
    assert taken["max_sequence_length"] == (4096, "config.json", "max_position_embeddings")
    assert {key for _, file, key in taken.values() if file == "preprocessor_config.json"} >= {
        "image_token_length_h",
        "image_token_length_w",
    }


def test_molmo_pooling_follows_from_the_token_length(tmp_path):
    changes = {"image_token_length_h": 24, "image_token_length_w": 6, "max_crops": 20}
    spec = mc.load_spec(_folder(tmp_path, preprocessor={**MOLMO, **changes}))
    assert spec.pooling == (1, 4)
    assert spec.max_crops == 20


def test_molmo2_8b(tmp_path):
    config = {"model_type": "molmo2", "text_config": {"max_position_embeddings": 36864}}
    spec = mc.load_spec(_folder(tmp_path, preprocessor=MOLMO2, processor=MOLMO2_PROCESSOR, config=config))
    assert spec.differences(mc.get_spec("molmo2-8b")) == {}
    assert spec.max_sequence_length == 36864
    taken = _taken(spec)
    assert taken["low_res_col_tokens"] == (False, "processor_config.json", "use_single_crop_col_tokens")
    assert taken["col_tokens"] == (True, "processor_config.json", "image_use_col_tokens")
    assert taken["crop_size"] == (378, "preprocessor_config.json", "size")
    assert taken["pooling"] == ((2, 2), "preprocessor_config.json", "pooling_size")
    assert taken["max_sequence_length"] == (36864, "config.json", "text_config.max_position_embeddings")
    assert mc.plan(spec).sequence_length_source == "model configuration"


@pytest.mark.parametrize("col_tokens", [True, False])
def test_low_res_column_tokens_of_null_follow(col_tokens, tmp_path):
    processor = {**MOLMO2_PROCESSOR, "image_use_col_tokens": col_tokens, "use_single_crop_col_tokens": None}
    spec = mc.load_spec(_folder(tmp_path, preprocessor=MOLMO2, processor=processor))
    assert spec.low_res_col_tokens is spec.col_tokens is col_tokens


def test_nested_image_processor_goes_first(tmp_path):
    nested = {**MOLMO2_PROCESSOR, "image_processor": {**MOLMO2, "max_crops": 30}}
    spec = mc.load_spec(_folder(tmp_path, preprocessor={**MOLMO2, "max_crops": 8}, processor=nested))
    assert spec.max_crops == 30
    assert _taken(spec)["max_crops"] == (30, "processor_config.json", "image_processor.max_crops")
    assert {file for _, file, _ in _taken(spec).values()} == {"processor_config.json"}


def test_internvl(tmp_path):
    config = {"model_type": "internvl", "text_config": {"max_position_embeddings": 40960}}
    spec = mc.load_spec(_folder(tmp_path, preprocessor=INTERNVL, processor={"image_seq_length": 256}, config=config))
    assert spec.family == "internvl"
    assert spec.differences(mc.get_spec("internvl3-8b")) == {}
    assert spec.max_sequence_length == 40960
    taken = _taken(spec)
    assert taken["tokens_per_crop"] == (256, "processor_config.json", "image_seq_length")
    assert taken["crop_size"] == (448, "preprocessor_config.json", "size")
    assert taken["max_crops"] == (12, "preprocessor_config.json", "max_patches")


def test_internvl_by_its_model_type_alone(tmp_path):
    preprocessor = {name: value for name, value in INTERNVL.items() if name != "processor_class"}
    spec = mc.load_spec(_folder(tmp_path, preprocessor=preprocessor, config={"model_type": "internvl"}))
    assert spec.family == "internvl"
    with pytest.raises(mc.UnknownSpecError, match="GotOcr2ImageProcessor"):
        mc.load_spec(_folder(tmp_path / "alone", preprocessor=preprocessor))


def test_llava_next(tmp_path):
    config = {
        "model_type": "llava_next",
        "text_config": {"max_position_embeddings": 32768},
        "vision_config": {"patch_size": 14},
    }
    processor = {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    spec = mc.load_spec(_folder(tmp_path, preprocessor=LLAVA, processor=processor, config=config))
    assert spec.resolutions == tuple(tuple(entry) for entry in PINPOINTS)
    assert spec.max_crops == 9
    known = mc.get_spec("llava-v1.6-mistral-7b").replace(resolutions=PINPOINTS)
    assert spec.differences(known) == {}
    assert spec.chosen == {"vision_feature_select_strategy": "default"}
    assert _taken(spec)["resolutions"] == (
        tuple(tuple(entry) for entry in PINPOINTS),
        "preprocessor_config.json",
        "image_grid_pinpoints",
    )


@pytest.mark.parametrize(("seq_len", "edge", "size"), [(64, 2048, 512), (81, 1536, 384), (169, 1456, 364)])
@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_idefics_and_smolvlm(family, seq_len, edge, size, tmp_path):
    name = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[family]
    preprocessor = {
        **IDEFICS3,
        "image_processor_type": f"{name}ImageProcessor",
        "processor_class": f"{name}Processor",
        "size": {"longest_edge": edge},
        "max_image_size": {"longest_edge": size},
    }
    folder = _folder(
        tmp_path, preprocessor=preprocessor, processor={"image_seq_len": seq_len}, config={"model_type": family}
    )
    spec = mc.load_spec(folder)
    assert spec.family == family
    assert (spec.tokens_per_crop, spec.longest_edge, spec.crop_size) == (seq_len, edge, size)
    _assert_counts_alike(spec, mc.get_spec(family, tokens_per_crop=seq_len, longest_edge=edge, crop_size=size))
    taken = _taken(spec)
    assert taken["tokens_per_crop"] == (seq_len, "processor_config.json", "image_seq_len")
    assert taken["longest_edge"] == (edge, "preprocessor_config.json", "size.longest_edge")
    assert taken["crop_size"] == (size, "preprocessor_config.json", "max_image_size")


def test_idefics_without_splitting(tmp_path):
    folder = _folder(tmp_path, preprocessor={**IDEFICS3, "do_image_splitting": False}, processor={"image_seq_len": 64})
    spec = mc.load_spec(folder)
    assert spec.chosen == {"do_image_splitting": "false"}
    assert mc.worst_case(spec).tokens == 67


def test_smolvlm_pooling_is_the_model_s_scale_factor(tmp_path):
    config = {"model_type": "smolvlm", "scale_factor": 4, "vision_config": {"patch_size": 16, "image_size": 512}}
    spec = mc.load_spec(_folder(tmp_path, preprocessor=IDEFICS3, processor={"image_seq_len": 64}, config=config))
    assert spec.pooling == (4, 4)


def test_defaults_where_the_files_are_silent(tmp_path):
    spec = mc.load_spec(_folder(tmp_path, config={"model_type": "molmo2"}))
    assert spec.differences(mc.get_spec("molmo2")) == {}
    assert spec.taken == ()
    assert set(spec.defaulted) >= {"max_crops", "crop_size", "low_res_col_tokens"}
    assert spec.max_sequence_length is None
    null = mc.load_spec(_folder(tmp_path, preprocessor={**MOLMO, "max_crops": None}, config=MOLMO_CONFIG))
    assert null.max_crops == 12
    assert "max_crops" not in _taken(null)
    assert "max_crops" in null.defaulted
    assert "crop_size" not in null.defaulted


def test_one_file(tmp_path):
    _folder(tmp_path, preprocessor={**MOLMO, "max_crops": 5}, config={"model_type": "molmo2"})
    assert mc.load_spec(tmp_path / "preprocessor_config.json").max_crops == 5
    assert mc.load_spec(str(tmp_path / "config.json")).family == "molmo2"


@pytest.mark.parametrize(
    ("preprocessor", "processor", "config"),
    [
        (MOLMO, None, MOLMO_CONFIG),
        (MOLMO2, MOLMO2_PROCESSOR, None),
        (INTERNVL, {"image_seq_length": 256}, None),
        (LLAVA, None, None),
        (IDEFICS3, {"image_seq_len": 64}, None),
    ],
)
def test_taken_is_what_the_files_hold(preprocessor, processor, config, tmp_path):
    spec = mc.load_spec(_folder(tmp_path, preprocessor=preprocessor, processor=processor, config=config))
    assert spec.taken
    for taken in spec.taken:
        content = json.loads((tmp_path / taken.file).read_text())
        for part in taken.key.split("."):
            content = content[part]
        assert content is not None
    assert json.dumps(spec.to_dict())


# -- folders that transformers writes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracles():
    """Makes one of the processors that the exact tests use."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from oracles.torchvision_ops import declare_missing

    declare_missing()
    return lambda family, **settings: importlib.import_module(f"oracles.{family}").Oracle(**settings).processor


@pytest.mark.parametrize(
    ("family", "settings", "key", "changes"),
    [
        ("molmo2", {}, "molmo2", {}),
        ("molmo2", {"use_single_crop_col_tokens": False}, "molmo2-8b", {}),
        (
            "molmo2",
            {"max_crops": 24, "overlap_margins": [2, 3], "use_single_crop_col_tokens": True},
            "molmo2",
            {"max_crops": 24, "overlap_margins": (2, 3)},
        ),
        ("internvl", {"size": 448, "max_patches": 7}, "internvl3-8b", {"max_crops": 7}),
        (
            "internvl",
            {"size": 384, "max_patches": 9, "min_patches": 2},
            "internvl",
            {"max_crops": 9, "min_crops": 2},
        ),
        (
            "llava_next",
            {"size": 336, "pinpoints": PINPOINTS, "strategy": "default", "additional_tokens": 1},
            "llava-v1.6-mistral-7b",
            {"resolutions": PINPOINTS},
        ),
        ("idefics3", {"longest_edge": 1456, "tile": 364, "image_seq_len": 169}, "idefics3", {}),
        ("idefics3", {"longest_edge": 1536, "tile": 384, "image_seq_len": 81}, "smolvlm-instruct", {}),
        ("smolvlm", {"longest_edge": 2048, "tile": 512, "image_seq_len": 64}, "smolvlm2-256m-video-instruct", {}),
    ],
)
def test_saved_processors(family, settings, key, changes, oracles, tmp_path):
    oracles(family, **settings).save_pretrained(tmp_path)
    spec, expected = mc.load_spec(tmp_path), mc.get_spec(key, **changes)
    assert spec.family == family
    assert (spec.grid, spec.crop_size, spec.tokens) == (expected.grid, expected.crop_size, expected.tokens)
    assert {taken.file for taken in spec.taken} == {"processor_config.json"}
    _assert_counts_alike(spec, expected)


@pytest.mark.parametrize(
    ("module", "name", "settings", "key", "changes"),
    [
        ("molmo2", "Molmo2", {"max_crops": 16}, "molmo2", {"max_crops": 16}),
        ("got_ocr2", "GotOcr2", {"max_patches": 6}, "internvl", {"max_crops": 6}),
        ("llava_next", "LlavaNext", {}, "llava_next", {}),
        ("idefics3", "Idefics3", {"size": {"longest_edge": 728}}, "idefics3", {"longest_edge": 728}),
        ("smolvlm", "SmolVLM", {"do_image_splitting": False}, "smolvlm", {"do_image_splitting": False}),
    ],
)
def test_saved_image_processors(module, name, settings, key, changes, oracles, tmp_path):
    upstream = importlib.import_module(f"transformers.models.{module}.image_processing_{module}")
    getattr(upstream, f"{name}ImageProcessor")(**settings).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": key}))
    spec = mc.load_spec(tmp_path)
    assert spec.differences(mc.get_spec(key, **changes)) == {}
    assert {taken.file for taken in spec.taken} == {"preprocessor_config.json"}


# -- configurations of training runs -------------------------------------------------------------------------------


def test_molmo_training(tmp_path):
    spec = mc.load_spec(_folder(tmp_path, training=MOLMO_TRAINING))
    assert spec.differences(mc.get_spec("molmo")) == {}
    assert spec.max_sequence_length == 4096
    taken = _taken(spec)
    assert taken["max_crops"] == (12, "config.yaml", "model.max_crops")
    assert taken["crop_size"] == (336, "config.yaml", "model.vision_backbone.image_default_input_size")
    assert taken["patch_size"] == (14, "config.yaml", "model.vision_backbone.image_patch_size")
    assert taken["overlap_margins"] == ((4, 4), "config.yaml", "model.overlap_margins")
    assert taken["max_sequence_length"] == (4096, "config.yaml", "model.max_sequence_length")


def test_molmo_training_with_one_crop(tmp_path):
    spec = mc.load_spec(_folder(tmp_path, training=MOLMO_TRAINING.replace("overlap-and-resize-c2", "resize")))
    assert spec.chosen == {"crop_mode": "resize"}
    assert mc.worst_case(spec).tokens == 158


def test_molmo_training_without_column_tokens(tmp_path):
    training = MOLMO_TRAINING.replace("use_col_tokens: true", "use_col_tokens: false")
    spec = mc.load_spec(_folder(tmp_path, training=training))
    assert (spec.col_tokens, spec.low_res_col_tokens) == (False, False)
    assert mc.worst_case(spec, max_crops=1).tokens == 144 + 2 + 144 + 2


@pytest.mark.parametrize(
    "start_token",
    [
        "      use_single_crop_start_token: true\n",
        pytest.param(""),
    ],
)
def test_molmo2_training(start_token, tmp_path):
    training = MOLMO2_TRAINING.replace("      use_single_crop_start_token: true\n", start_token)
    spec = mc.load_spec(_folder(tmp_path, training=training))
    assert spec.family == "molmo2"
    assert spec.chosen == {"variant": "training"}
    assert spec.clamp_reduced_sides
    assert (spec.max_crops, spec.low_res_col_tokens, spec.max_sequence_length) == (24, False, 16384)
    _assert_counts_alike(spec, mc.get_spec("molmo2-8b", variant="training", max_crops=24))
    assert _taken(spec)["max_crops"] == (24, "config.yaml", "model.mm_preprocessor.image.max_crops")


@pytest.mark.parametrize("name", ["model.yaml", "run.yml"])
def test_training_files_of_other_names(name, tmp_path):
    (tmp_path / name).write_text(MOLMO_TRAINING)
    assert mc.load_spec(tmp_path / name).family == "molmo"


def test_training_of_something_else(tmp_path):
    with pytest.raises(mc.UnknownSpecError, match="no known model"):
        mc.load_spec(_folder(tmp_path, training="model:\n  layers: 12\n  heads: 4\n"))


def test_training_with_contradictory_numbers(tmp_path):
    training = MOLMO_TRAINING.replace("image_token_length_w: 12", "image_token_length_w: 9")
    with pytest.raises(mc.ConfigError, match="image_token_length_w 9 does not fit"):
        mc.load_spec(_folder(tmp_path, training=training))


@pytest.mark.parametrize("mark", ["!!python/tuple", "&id001"])
def test_training_with_marks_of_pyyaml(mark, tmp_path):
    training = MOLMO_TRAINING.replace("overlap_margins:\n", f"overlap_margins: {mark}\n")
    assert mc.load_spec(_folder(tmp_path, training=training)).overlap_margins == (4, 4)


# -- folders that are not right ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "named", "nearest"),
    [
        ({"model_type": "molmo3"}, "molmo3", "molmo2"),
        ({"model_type": "internvl_chat2"}, "internvl_chat2", "internvl"),
        ({"model_type": "llava"}, "llava", "llava_next"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "llama", "llava_next"),
    ],
)
def test_unknown_model(config, named, nearest, tmp_path):
    with pytest.raises(mc.UnknownSpecError) as error:
        mc.load_spec(_folder(tmp_path, config=config))
    assert f"its files name {named}" in str(error.value)
    assert nearest in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert isinstance(error.value, KeyError)


@pytest.mark.parametrize(
    ("files", "named", "knob"),
    [
        ({"config": {"model_type": "qwen2_vl"}}, "qwen2_vl", "max_pixels"),
        ({"config": {"model_type": "gemma4"}}, "gemma4", "max_soft_tokens"),
        (
            {"preprocessor": {"image_processor_type": "Qwen2VLImageProcessorFast"}},
            "Qwen2VLImageProcessorFast",
            "pixels",
        ),
    ],
)
def test_models_without_crops_are_refused_in_one_sentence(files, named, knob, tmp_path):
    with pytest.raises(mc.UnsupportedError, match=rf"{named} encodes images at their own resolution.*{knob}"):
        mc.load_spec(_folder(tmp_path, **files))


@pytest.mark.parametrize("name", ["qwen2_vl", "Qwen/Qwen2.5-VL-7B-Instruct", "mistral3", "Qwen/Qwen3-VL-8B-Instruct"])
def test_names_of_models_without_crops(name):
    with pytest.raises(mc.UnsupportedError, match="cuts no crops"):
        mc.get_spec(name)


def test_files_that_name_nothing(tmp_path):
    with pytest.raises(mc.UnknownSpecError, match="its files name no model"):
        mc.load_spec(_folder(tmp_path, config={}, preprocessor={"max_crops": 12}))


def test_empty_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "other.yaml").write_text("max_crops: 12\n")
    with pytest.raises(FileNotFoundError, match=r"holds none of .*preprocessor_config\.json"):
        mc.load_spec(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        mc.load_spec(tmp_path / "missing")


@pytest.mark.parametrize("name", ["preprocessor", "processor", "config"])
@pytest.mark.parametrize("content", ["{", "", "[1, 2]", '"molmo"', "null", "{'a': 1}"])
def test_broken_json(name, content, tmp_path):
    folder = _folder(tmp_path, **{"preprocessor": MOLMO, "config": MOLMO_CONFIG, name: content})
    with pytest.raises(mc.ConfigError, match=rf"{name}_config\.json|config\.json"):
        mc.load_spec(folder)


def test_no_utf8(tmp_path):
    folder = _folder(tmp_path, preprocessor=MOLMO)
    (folder / "config.json").write_bytes(b'{"model_type": "\xff\xfe"}')
    with pytest.raises(mc.ConfigError, match=r"config\.json cannot be read"):
        mc.load_spec(folder)


def test_deep_json(tmp_path):
    with pytest.raises(mc.ConfigError, match=r"config\.json"):
        mc.load_spec(_folder(tmp_path, config="[" * 100_000))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("base_image_input_size", [336, 448], r"only square crops are known, got \[336, 448\]"),
        ("base_image_input_size", [], "base_image_input_size"),
        ("base_image_input_size", {"depth": 3}, "base_image_input_size"),
        pytest.param("base_image_input_size", 0, "crop_size"),
        pytest.param("base_image_input_size", 336.7, "crop_size"),
        pytest.param("base_image_input_size", "336", "crop_size"),
        ("image_token_length_h", 11, "image_token_length_h 11 does not fit 24 patches"),
        ("image_token_length_w", 13, "image_token_length_w 13 does not fit 24 patches"),
        pytest.param("image_token_length_w", 0, "image_token_length_w"),
        pytest.param(
            "image_token_length_w",
            "12",
            "image_token_length_w",
        ),
        pytest.param("image_patch_size", 0, "patch_size"),
        ("image_patch_size", -14, "patch_size"),
        pytest.param("image_patch_size", "14", "patch_size"),
        ("image_patch_size", 13, "does not fit"),
        ("max_crops", 0, r"max_crops must be in 1\.\.\d+, got 0"),
        ("max_crops", -3, r"max_crops must be in 1\.\.\d+, got -3"),
        ("max_crops", "twelve", "max_crops"),
        ("max_crops", 8.5, "max_crops"),
        ("max_crops", True, "max_crops"),
        ("max_crops", [12], "max_crops"),
        ("max_crops", 10**30, "max_crops"),
        ("overlap_margins", [4], "overlap_margins"),
        ("overlap_margins", [4, 4, 4], "overlap_margins"),
        ("overlap_margins", 4, "overlap_margins"),
        ("overlap_margins", ["a", "b"], "overlap_margins"),
        ("overlap_margins", [-1, 4], "overlap_margins"),
        ("overlap_margins", [12, 12], "overlap_margins must leave a window"),
        pytest.param("overlap_margins", [4.7, 4.2], "overlap_margins"),
        pytest.param("overlap_margins", "44", "overlap_margins"),
    ],
)
def test_absurd_values(key, value, message, tmp_path):
    folder = _folder(tmp_path, preprocessor={**MOLMO, key: value}, config=MOLMO_CONFIG)
    with pytest.raises(mc.ConfigError, match=message) as error:
        mc.load_spec(folder)
    assert str(tmp_path) in str(error.value)
    assert "incompatible function" not in str(error.value)


@pytest.mark.parametrize("value", ["4096", 0, -5, 1.5])
def test_absurd_sequence_length(value, tmp_path):
    folder = _folder(tmp_path, preprocessor=MOLMO, config={**MOLMO_CONFIG, "max_position_embeddings": value})
    with pytest.raises(mc.ConfigError, match="max_position_embeddings"):
        mc.load_spec(folder)


@pytest.mark.parametrize("pinpoints", [[], [[336]], [[1, 2, 3]], [336, 672], 5, [["a", "b"]]])
def test_absurd_pinpoints(pinpoints, tmp_path):
    with pytest.raises(mc.ConfigError, match=r"image_grid_pinpoints|resolutions"):
        mc.load_spec(_folder(tmp_path, preprocessor={**LLAVA, "image_grid_pinpoints": pinpoints}))


# -- the reader of training configurations -------------------------------------------------------------------------


def _flat(value, path=""):
    """Dotted path -> scalar or list of scalars of what PyYAML reads."""
    if isinstance(value, dict):
        leaves = {}
        for key, item in value.items():
            leaves.update(_flat(item, f"{path}.{key}" if path else str(key)))
        return leaves
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return {}
    return {path: value}


def _same(text):
    yaml = pytest.importorskip("yaml")
    expected = _flat(yaml.safe_load(text))
    found = read_settings(text)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {name: type(v) for name, v in expected.items()}


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: -2\nc: +3\nd: 1.5\ne: -0.25\nf: 1.0e-05\ng: 5.\n",
        "a: true\nb: False\nc: null\nd: ~\ne: Null\nf: TRUE\n",
        "a: word\nb: two words\nc: a/path.txt\nd: gs://bucket/x\ne: a-b_c\n",
        "a: '12'\nb: \"null\"\nc: ''\nd: 'two words'\n",
        "# head\na: 1  # behind\n  # indented\nb: word # behind\nc: not#a comment\n",
        "a:\n  b:\n    c: 1\n  d: 2\ne: 3\n",
        "a:\n    b:\n        c: 1\n    d:\n        e: 2\n",
        "a:\n- 4\n- 4\nb: 1\n",
        "a:\n  - 4\n  - word\n  - null\n  - true\n  - 1.5\nb: 1\n",
        "a:\n  b:\n  - 1\n  - 2\n  c: 3\n",
        "a: [4, 4]\nb: []\nc: [x, y, 1.5, null]\nd: [ 1 ,2 ]\n",
        "a:\n- b: 1\n  c: 2\n- b: 3\nd: 4\n",
        "a:\n  - b: 1\n    c:\n      d: 5\n  - b: 3\ne: 4\n",
        "a:\n- b: 1\n  c:\n  - 1\n  - 2\n- b: 3\nd:\n- 5\n",
        "---\na: 1\n...\n",
        "%YAML 1.1\n---\na: 1\n",
        "a: 1\r\nb:\r\n  c: 2\r\n",
        "\n\na: 1\n\n\nb:\n\n  c: 2\n",
        "'a b': 1\n\"c\": 2\n",
        "a:    5   \n",
        "a: # comment\n  b: 1\nc: # comment\n- 1\n",
        MOLMO_TRAINING,
        MOLMO2_TRAINING,
    ],
)
def test_reads_as_pyyaml(text):
    _same(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: 'word' # behind a quoted value\n",
        'a: "word" # behind a quoted value\nb: [1, 2] # it\'s a list\n',
        "a: 'it''s'\n",
        "a: [a, 'b, c']\n",
        "a:\n- s3://bucket/x\n- gs://bucket/y\n",
        "a:\n- 12:30 is a time\n- word\n",
        "a:\nb: 1\n",
        "a: &id001\n- 1\nb: *id001\n",
        "a: {}\n",
        "a: {b: 1, c: [1, 2]}\n",
        "a: [1,\n  2]\n",
        "a: |\n  text\n  b: 3\nc: 2\n",
        "a: long text\n  goes on\nb: 1\n",
        "a:\n- - 1\n  - 2\n- - 3\n",
        "a: [[1, 2], [3, 4]]\n",
        "a: yes\nb: off\n",
        "a: inf\nb: nan\nc: infinity\n",
        "a: .inf\n",
        "a: tRue\nb: nULL\n",
        "a: 0x10\n",
        "\ufeffa: 1\n",
        "a:\n-\n- 1\n",
        "a: .5\nb: 1_000\nc: 010\nd: 12:30\ne: 1e5\n",
        "d e: 3\n1: 2\nb: 4\n",
        "a: [x, 'y', 1.5]\nb: 2\n",
        "a:\n  - b: 1\n    c: 2\n  - 3\nd: 4\n",
        "b: !!int 5\nc: !!str 5\n",
    ],
)
def test_reads_nothing_otherwise_than_pyyaml(text):
    """What it cannot read as PyYAML does, it leaves out."""
    yaml = pytest.importorskip("yaml")
    expected = _flat(yaml.safe_load(text.lstrip("\ufeff")))
    found = read_settings(text)
    for name, value in found.items():
        assert (type(value), value) == (type(expected[name]), expected[name])


def test_nothing_to_read():
    for text in ("", "\n\n", "# a comment\n", "just words\n", "- 1\n- 2\n", "---\n"):
        assert read_settings(text) == {}


_NOT_WORDS = {"inf", "nan", "infinity", "true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_words = st.text(ascii_letters, min_size=1, max_size=8).filter(lambda word: word.lower() not in _NOT_WORDS)
_scalars = st.one_of(st.integers(-(10**12), 10**12), st.booleans(), st.none(), _words)
_leaves = st.one_of(_scalars, st.lists(st.integers(-999, 9999), max_size=4))
_trees = st.dictionaries(
    _words,
    st.recursive(_leaves, lambda inner: st.dictionaries(_words, inner, min_size=1, max_size=4), max_leaves=12),
    max_size=5,
)


@given(_trees)
def test_reads_what_pyyaml_writes(tree):
    yaml = pytest.importorskip("yaml")
    text = yaml.safe_dump(tree)
    assert read_settings(text) == _flat(tree)


@given(_trees, st.integers(2, 6))
def test_reads_other_indents(tree, indent):
    yaml = pytest.importorskip("yaml")
    assert read_settings(yaml.safe_dump(tree, indent=indent, sort_keys=False)) == _flat(tree)


@given(st.text(max_size=200))
def test_reader_takes_any_text(text):
    settings = read_settings(text)
    assert all(isinstance(name, str) for name in settings)
