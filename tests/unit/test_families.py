"""Names such as `timm:resnet50`: what they mean, and what is said where they cannot be had."""

import json
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.serving import answering

from sightline.encoders.base import FAMILIES, is_of_family, load_encoder
from sightline.encoders.hub import Hub
from sightline.errors import EncoderError, ExtraMissing, HubUnreachable, ModelDamaged, ModelNotFound

HAS_TORCH = find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="needs the torch extra: pip install 'sightline[torch]'")


@pytest.fixture
def offline(tmp_path: Path) -> Hub:
    return Hub(cache=tmp_path, offline=True)


@pytest.mark.parametrize("name", ["timm:resnet50", "hf:openai/clip-vit-base-patch32", "simclr:./a.ckpt", "tim:x"])
def test_a_word_and_a_colon_are_a_family(name: str) -> None:
    assert is_of_family(name)


@pytest.mark.parametrize("name", ["mini", "./timm", "C:/models/mine", r"C:\models", "timm:"])
def test_other_names_are_not(name: str) -> None:
    assert not is_of_family(name)


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my:model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_of_family("my:model")


@pytest.mark.parametrize(
    ("name", "near"), [("tim:resnet50", "timm"), ("openclip:ViT-B-32/openai", "open_clip"), ("HF:a/b", "hf")]
)
def test_a_misspelt_family_suggests_the_nearest(name: str, near: str, offline: Hub) -> None:
    with pytest.raises(ModelNotFound, match=f"no family of models .*did you mean {near}"):
        load_encoder(name, hub=offline)


def test_an_unknown_model_is_told_of_the_families() -> None:
    with pytest.raises(ModelNotFound, match=r"timm:resnet50.*did you mean"):
        load_encoder("minni")


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_without_its_packages_says_what_to_install(family: str, offline: Hub) -> None:
    with pytest.raises(ExtraMissing, match=r"needs 'torch', which is not installed.*pip install 'sightline\[torch\]'"):
        load_encoder(f"{family}:anything", hub=offline)


@pytest.mark.torch
@needs_torch
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm:resnt50", "no model 'resnt50'.*did you mean .*resnet50"),
        ("timm:resnet50.a1_in2k", "no weights 'a1_in2k' of resnet50, expected one of .*a1_in1k"),
        ("timm:test_resnet@./none.pt", "there is no file .*none.pt"),
        ("open_clip:ViT-B32/openai", "no architecture 'ViT-B32'.*did you mean .*ViT-B-32"),
        ("open_clip:ViT-B-32", "names no weights, expected one of its tags .*laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79", "no weights .* of ViT-B-32 .*did you mean laion2b_s34b_b79k"),
        ("dinov2:bas", "no DINOv2 'bas'.*did you mean dinov2:base"),
        ("hf:./none", "holds no config.json"),
        ("st:./none", "holds no modules.json"),
        ("simclr:./none.ckpt", "there is no file .*none.ckpt"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # the libraries warn of themselves
def test_what_is_not_there_is_named_with_what_is(name: str, told: str, offline: Hub) -> None:
    if name.startswith("st:") and find_spec("sentence_transformers") is None:
        pytest.skip("needs sentence-transformers")
    with pytest.raises(ModelNotFound, match=told):
        load_encoder(name, hub=offline)


@pytest.mark.torch
@needs_torch
@pytest.mark.parametrize(
    "name", ["timm:resnet50", "hf:openai/clip-vit-base-patch32", "dinov2:base", "open_clip:RN50/yfcc15m"]
)
@pytest.mark.filterwarnings("ignore")
def test_offline_a_published_model_is_refused_at_once(
    name: str, offline: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubUnreachable, match=r"not on this disk and offline mode is on.*hf download"):
        load_encoder(name, hub=offline)


@pytest.mark.torch
@needs_torch
@pytest.mark.filterwarnings("ignore")
class TestWeights:
    """Files of weights that do not fit."""

    def test_a_state_of_another_architecture_names_the_keys(self, tmp_path: Path, offline: Hub) -> None:
        from tests import towers

        path = towers.timm_state(tmp_path, "test_resnet").partition("@")[2]
        with pytest.raises(
            ModelDamaged, match=r"do not fit: it lacks .*and .* more; the model does not know bn1.bias, .* more"
        ):
            load_encoder(f"timm:test_vit@{path}", hub=offline)

    def test_a_weight_of_another_shape_is_named_with_both(self, tmp_path: Path, offline: Hub) -> None:
        import torch
        from tests import towers

        name = towers.timm_state(tmp_path, "test_resnet")
        path = name.partition("@")[2]
        document = torch.load(path)
        document["state_dict"]["module.bn1.weight"] = torch.ones(3)
        torch.save(document, path)
        with pytest.raises(ModelDamaged, match=r"of another shape are bn1.weight \(3,\) instead of \(32,\)"):
            load_encoder(name, hub=offline)

    @pytest.mark.parametrize("content", [b"not a checkpoint", b""])
    def test_a_file_that_is_no_checkpoint_is_refused(self, content: bytes, tmp_path: Path, offline: Hub) -> None:
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(ModelDamaged, match=r"cannot be read as weights .*torch.save\(model.state_dict"):
            load_encoder(f"timm:test_resnet@{tmp_path / 'a.pt'}", hub=offline)

    def test_code_in_a_checkpoint_is_not_run(self, tmp_path: Path, offline: Hub) -> None:
        import pickle

        class Bomb:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (tmp_path / "ran",)

        (tmp_path / "a.ckpt").write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ModelDamaged, match="cannot be read as weights"):
            load_encoder(f"simclr:{tmp_path / 'a.ckpt'}", hub=offline)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("layout", ["lightning-bolts", "sthalles"])
    def test_layouts_of_simclr_give_the_same_network(self, layout: str, tmp_path: Path, offline: Hub) -> None:
        from tests import towers

        encoder = load_encoder(towers.simclr_checkpoint(tmp_path, "resnet18", layout), hub=offline)
        other = load_encoder(towers.simclr_checkpoint(tmp_path, "resnet18"), hub=offline)
        assert (encoder.dim, encoder.image_size) == (512, 246)
        assert encoder.fingerprint == other.fingerprint

    def test_a_checkpoint_without_a_resnet_is_told_what_was_looked_for(self, tmp_path: Path, offline: Hub) -> None:
        import torch

        torch.save({"state_dict": {"vit.patch.weight": torch.ones(2)}}, tmp_path / "a.ckpt")
        with pytest.raises(ModelDamaged, match=r"holds no conv1.weight but vit.patch.weight, expected a ResNet below"):
            load_encoder(f"simclr:{tmp_path / 'a.ckpt'}", hub=offline)

    def test_a_partial_state_goes_over_a_whole_base_and_not_over_none(self, tmp_path: Path, offline: Hub) -> None:
        import torch
        from tests import towers

        folder = towers.transformers_folder(tmp_path, "clip")
        base = load_encoder(f"hf:{folder}", hub=offline)
        torch.save({"text_projection.weight": torch.eye(16, 32)}, tmp_path / "tuned.pt")
        tuned = load_encoder(f"hf:{folder}@{tmp_path / 'tuned.pt'}", hub=offline)
        assert tuned.fingerprint != base.fingerprint
        assert tuned.picture_fingerprint == base.picture_fingerprint  # type: ignore[attr-defined]
        architecture = towers.open_clip_state(tmp_path).partition("@")[0]
        torch.save({"visual.proj": torch.ones(32, 16)}, tmp_path / "part.pt")
        with pytest.raises(ModelDamaged, match=r"it lacks .* more"):
            load_encoder(f"{architecture}@{tmp_path / 'part.pt'}", hub=offline)

    def test_a_type_of_model_without_vectors_is_refused(self, tmp_path: Path, offline: Hub) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
        with pytest.raises(EncoderError, match=r"is of type 'gpt2', expected one of clip, siglip, blip"):
            load_encoder(f"hf:{tmp_path}", hub=offline)


@pytest.mark.torch
@needs_torch
@pytest.mark.filterwarnings("ignore")
def test_an_index_finds_its_model_again_from_another_folder(
    tmp_path: Path, offline: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests import tiny, towers

    from sightline.index import Index

    tiny.coloured_pictures(tmp_path, 6)
    towers.transformers_folder(tmp_path, "blip")
    monkeypatch.chdir(tmp_path)
    with Index(str(tmp_path / "a.index"), model="hf:./blip", hub=offline) as index:
        index.add(tmp_path)
        assert index.info()["model"] == f"hf:{tmp_path / 'blip'}"
    monkeypatch.chdir("/")
    with Index(str(tmp_path / "a.index"), hub=offline) as index:
        assert len(index.search("a red dog", k=3)) == 3
        assert index.search(image=tmp_path / "3.png", k=1)[0].uri.endswith("3.png")


@pytest.mark.torch
@needs_torch
@pytest.mark.parametrize(("licence", "is_said"), [("cc-by-nc-4.0", True), ("apple-amlr", True), ("apache-2.0", False)])
def test_a_licence_that_forbids_commercial_use_is_said_before_the_library_fetches(
    licence: str, is_said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from sightline.encoders.torch.libraries import files_of

    class Card(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"id": self.path, "cardData": {"license": licence}}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with answering(Card) as address:
        hub = Hub(endpoint=f"http://{address}", cache=tmp_path)
        with files_of("someone/something-that-nobody-has", ["model.safetensors"], hub):
            pass
    assert (f"something-that-nobody-has, {licence}, forbids commercial use" in caplog.text) is is_said


@needs_torch
def test_only_harmless_warnings_of_a_library_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    import logging
    import warnings

    from sightline.encoders.torch.libraries import loading

    def library() -> None:
        warnings.warn("QuickGELU mismatch between final model config and pretrained tag", UserWarning, stacklevel=1)
        warnings.warn("Importing from timm.models.layers is deprecated", FutureWarning, stacklevel=1)
        logging.warning("No pretrained weights loaded for model 'RN50'. Model initialized randomly.")
        logging.warning("no CLIP weights found")

    with pytest.warns(UserWarning, match="QuickGELU mismatch") as shown, loading("open_clip:x"):
        library()
    assert len(shown) == 1
    assert [record.getMessage() for record in caplog.records] == ["no CLIP weights found"]


@needs_torch
@pytest.mark.filterwarnings("ignore")  # open_clip warns of one config whose tag says nothing of its activation
def test_every_published_tag_of_open_clip_gets_the_activation_it_was_trained_with() -> None:
    """Built without memory, from the options that `open_clip:ARCHITECTURE/TAG` gives, but for the weights."""
    import torch

    from sightline.encoders.torch.libraries import library
    from sightline.encoders.torch.open_clip import options_of

    open_clip = library("open_clip")
    built: dict[str, set[str]] = {}
    tags = [(architecture, tag) for architecture, tag in open_clip.list_pretrained()]
    quick = [pair for pair in tags if open_clip.get_pretrained_cfg(*pair).get("quick_gelu")]
    assert ("ViT-B-32", "openai") in quick
    for architecture, tag in tags:
        options = options_of(open_clip, architecture, tag)
        assert options == {"pretrained": tag, "force_quick_gelu": (architecture, tag) in quick}
        if not options["force_quick_gelu"] or architecture in built:
            continue
        with torch.device("meta"):
            model = open_clip.create_model(architecture, force_custom_text=True, force_quick_gelu=True, device="meta")
        built[architecture] = {type(part).__name__ for part in model.text.modules() if "GELU" in type(part).__name__}
    assert built
    assert all(activations == {"QuickGELU"} for activations in built.values()), built
