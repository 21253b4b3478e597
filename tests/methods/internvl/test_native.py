"""A backbone comes in three layouts, OpenGVLab's, transformers' and ours, and is the same model in each."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from methods.base import Request, UserError
from methods.boxes.model import BoxesModel
from methods.internvl.backbone import Backbone
from methods.internvl.checkpoint.io import read_tensors, write_tensors
from methods.internvl.checkpoint.native import convert
from methods.internvl.checkpoint.opengvlab import SYSTEM, original_config, to_original
from methods.internvl.config import SIZES, VOCABULARY
from methods.internvl.vocabulary import SPECIALS, load_tokenizer, stand_in, token_id, train_tokenizer
from methods.registry import method_class

FAMILIES = ["qwen2", "internlm2"]


def write_qwen2_tokenizer(folder, corpus):
    """vocab.json, merges.txt and added tokens, as in the Qwen2.5-based repositories."""
    state = json.loads(train_tokenizer(corpus, 300).backend_tokenizer.to_str())
    (folder / "vocab.json").write_text(json.dumps(state["model"]["vocab"]))
    merges = (" ".join(pair) if isinstance(pair, list) else pair for pair in state["model"]["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    decoder = {str(i): {"content": t, "special": True, "normalized": False} for t, i in added.items()}
    settings = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_internlm2_tokenizer(folder, goldens):
    """tokenizer.model, and settings that ask for remote code."""
    shutil.copy(goldens / "internvl" / "sentencepiece" / "plain" / "tokenizer.model", folder)
    named = {3: "<|im_end|>", 4: "<|im_start|>"}
    later = [token for token in SPECIALS if token not in named.values()]
    added = named | {420 + i: token for i, token in enumerate(later)}
    settings = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": {str(i): {"content": token} for i, token in added.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(params=FAMILIES)
def original(request, tmp_path, goldens, corpus):
    """A tiny folder in OpenGVLab's layout, in several files of bfloat16."""
    folder = tmp_path / "InternVL2_5-0B"
    folder.mkdir()
    if request.param == "qwen2":
        write_qwen2_tokenizer(folder, corpus)
    else:
        write_internlm2_tokenizer(folder, goldens)
    size = replace(SIZES["tiny"], text_family=request.param, max_tiles=6)
    rows = len(load_tokenizer(folder)) + 3
    torch.manual_seed(0)
    backbone = Backbone(size, rows, 0)
    backbone.initialise_from_scratch(0)
    tensors = {name: t.bfloat16() for name, t in backbone.native.state_dict().items()}
    write_tensors(folder, to_original(tensors, size), "200KB")
    config = original_config(size, rows, "InternVLChatModel")
    config["auto_map"] = {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_an_original_folder_is_a_backbone(original, examples):
    method = BoxesModel.from_pretrained(original)
    assert method.processor.config.system == SYSTEM
    assert method.processor.config.max_tiles == 6
    back = to_original(
        {n.removeprefix("backbone.native."): t for n, t in method.state_dict().items()}, method.backbone.size
    )
    for name, tensor in read_tensors(original).items():
        assert torch.equal(back[name], tensor.float()), name
    assert method.segment([Request(examples[0].image, ("the red square",))])[0].steps > 0
    internlm2 = method.backbone.size.text_family == "internlm2"
    ids = method.processor.chat.encode([], reply=True)[0]
    assert (ids[0] == method.processor.tokenizer.bos_token_id) == internlm2


@pytest.mark.parametrize("original", ["qwen2"], indirect=True)
def test_internvl3_on_qwen25_is_read_by_its_configuration(original, examples):
    """The same form; its dynamic scaling of positions begins beyond 32,768 tokens, which no request here reaches."""
    before = BoxesModel.from_pretrained(original)
    config = json.loads((original / "config.json").read_text())
    config |= {"system_message": None, "hidden_size": 64}
    config["llm_config"] |= {"rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
                             "max_window_layers": 70, "moe_config": None}  # fmt: skip
    (original / "config.json").write_text(json.dumps(config))
    method = BoxesModel.from_pretrained(original)
    assert_same(method, before)
    request = Request(examples[0].image, ("the red square",))
    assert method.segment([request])[0].text == before.segment([request])[0].text
    config["llm_config"]["architectures"] = ["InternLM3ForCausalLM"]
    (original / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="InternLM3ForCausalLM.* is no InternVL2.5; give .* or an InternVL3 on Qwen2.5"):
        BoxesModel.from_pretrained(original)


def test_from_layout_to_layout_and_back(original, tmp_path):
    """original -> ours -> native -> ours: the same bits and files."""
    ours, native, again = (tmp_path / name for name in ("ours", "native", "again"))
    assert convert(original, ours) == ours
    convert(ours, native)
    convert(native, again)
    first, second = read_tensors(ours), read_tensors(again)
    assert {t.dtype for t in first.values()} == {torch.bfloat16}
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
    assert_same(BoxesModel.from_pretrained(native), BoxesModel.from_pretrained(original))
    settings = [json.loads((folder / "config.json").read_text()) for folder in (ours, again)]
    for each in settings:
        each["processor"].pop("max_tiles"), each["backbone"].pop("max_tiles")  # of the image processor, not kept
    assert settings[0] == settings[1]


def test_transformers_opens_the_native_folder(original, tmp_path):
    ours, native = convert(original, tmp_path / "ours"), tmp_path / "native"
    convert(ours, native)
    model, said = AutoModelForImageTextToText.from_pretrained(native, output_loading_info=True, dtype=torch.float32)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    method = BoxesModel.from_pretrained(ours)
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        expected = method.backbone.head(method.backbone.run(method.backbone.embed(ids)))
        torch.testing.assert_close(model.eval()(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
    assert model.config.image_token_id == token_id(method.processor.tokenizer, "<IMG_CONTEXT>")


def test_names_in_memory_are_read_too(original, tmp_path):
    """transformers has written both kinds of names."""
    native = convert(convert(original, tmp_path / "ours"), tmp_path / "native")
    method = BoxesModel.from_pretrained(original)
    write_tensors(native, dict(method.backbone.native.state_dict()), "5GB")
    assert_same(BoxesModel.from_pretrained(native), method)


@pytest.mark.parametrize("name", ["himtok", "argenseg"])
def test_methods_start_from_an_original_folder(original, name):
    tokenizer = {
        "resolution": 32,
        "width": 32,
        "multipliers": [1, 1, 1, 1],
        "blocks": 1,
        "codes": 64,
        "scales": [1, 2, 3, 4],
    }
    if name == "himtok":
        tokenizer = {"resolution": 64, "width": 64, "encoder_layers": 1, "decoder_layers": 1, "heads": 4, "codes": 64,
                 "ffn_out": 32, "pixel_base": 8, "pixel_multipliers": [1, 1, 1, 1, 1], "pixel_blocks": 1}  # fmt: skip
    parts = {"backbone": str(original), "mask_tokenizer_config": tokenizer, "processor": {"max_tiles": 1}}
    method = method_class(name).build(parts, lambda: ())
    assert method.processor.config.max_tiles == 1
    assert method.processor.config.system == SYSTEM
    assert method.backbone.vocabulary >= len(method.processor.tokenizer)


def refusal(folder):
    with pytest.raises(UserError) as caught:
        BoxesModel.from_pretrained(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def change(folder, edit):
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {n: p.name for p in folder.glob("*.safetensors") for n in load_file(p)}})
    )


def test_tensors_that_do_not_fit_are_named(original):
    name = sorted(load_file(sorted(original.glob("*.safetensors"))[0]))[0]
    held = []
    change(original, lambda tensors: held.append(tensors.pop(name)))
    assert f"lacks {name}" in refusal(original)
    change(original, lambda tensors: tensors.update({name: held[0], "surplus": torch.zeros(1)}))
    assert "has unexpected surplus" in refusal(original)
    change(original, lambda tensors: tensors.pop("surplus") is None or tensors.update({name: torch.zeros(7)}))
    assert "but must be" in refusal(original)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        ({"tie_word_embeddings": True}, "set it to false if the head is meant"),
        ({"downsample_ratio": 0.25}, "another form"),
        ({"text_config": {"model_type": "gpt2"}}, "not InternVL2.5's"),
    ],
)
def test_a_native_folder_of_another_form_is_refused(original, tmp_path, edit, complaint):
    native = convert(convert(original, tmp_path / "ours"), tmp_path / "native")
    config = json.loads((native / "config.json").read_text()) | edit
    (native / "config.json").write_text(json.dumps(config))
    assert complaint in refusal(native)


def test_a_folder_is_not_written_over_itself(original):
    with pytest.raises(UserError, match="another place"):
        convert(original, original)


def test_a_stand_in_has_as_many_entries_as_asked_for():
    tokenizer = stand_in(600)
    assert len(tokenizer) == 600
    assert tokenizer.decode(tokenizer.encode("the réd car")) == "the réd car"
    assert [token_id(tokenizer, special) for special in SPECIALS] == list(range(600 - len(SPECIALS), 600))


# Millions of parameters (all, vision tower, projector, language model with both embeddings) of the published weights.
PUBLISHED = {
    "1b": (938.2, 304.0, 4.5), "2b": (2205.8, 304.0, 12.6), "4b": (3712.6, 304.0, 12.6), "8b": (8075.4, 304.0, 33.6),
    "26b": (25514, 5536.5, 116.4), "38b": (38388, 5536.5, 91.8), "78b": (78408, 5536.5, 172.0),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_have_the_published_number_of_parameters(name):
    size = SIZES[name]
    with torch.device("meta"):
        backbone = Backbone(size, VOCABULARY[size.text_family], 0)
    found = [
        sum(p.numel() for p in part.parameters()) / 1e6
        for part in (backbone, backbone.vision_tower, backbone.projector)
    ]
    assert found == pytest.approx(PUBLISHED[name], rel=2e-4, abs=0.06)
