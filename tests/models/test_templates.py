"""Templates: what they make of a conversation, and which of it the assistant says."""

from pathlib import Path

import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.data.records import Turn
from bitgraph.models.data.templates.marks import Specials
from bitgraph.models.data.templates.template import (
    TEMPLATES,
    load_template,
    parse_template,
    render,
)
from byte_tokenizer import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

TOKENIZER = byte_tokenizer()
SPECIALS = Specials.of(TOKENIZER.special_ids, TOKENIZER.bos_id, TOKENIZER.eos_id)
PLAIN = "Below is an instruction that describes a task. Write a response that appropriately "
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
)


def shown(template, *turns, **options):
    """The rendered text, with what is said in [] and special tokens in {}."""
    spans = render(template, turns, SPECIALS, **options)
    text = "".join(f"{{{s.text}}}" if s.special else s.text for s in spans if not s.said)
    said = ["".join(f"{{{s.text}}}" if s.special else s.text for s in spans if s.said)]
    return text, *said


def marked(source, *turns):
    return shown(parse_template("own.jinja", source), *turns)


def test_alpaca_without_input():
    text = PLAIN + "completes the request.\n\n### Instruction:\nAdd {1}.\n\n### Response:\n"
    turns = Turn("user", "Add {1}."), Turn("assistant", " 2\n")
    assert shown(load_template("alpaca"), *turns) == (text, " 2\n{</s>}")
    assert shown(load_template("alpaca"), turns[0], to_be_continued=True) == (text, "")


def test_alpaca_with_input():
    turns = Turn("user", "Add {{ input }}.", "{% 7 %}"), Turn("assistant", "2")
    assert shown(load_template("alpaca"), *turns) == (
        WITH_INPUT + "### Instruction:\nAdd {{ input }}.\n\n### Input:\n{% 7 %}\n\n### Response:\n",
        "2{</s>}",
    )


def test_alpaca_of_several_turns():
    turns = Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")
    text, said = shown(load_template("alpaca"), *turns)
    assert text.endswith(
        "### Instruction:\na\n\n### Response:\n\n\n### Instruction:\nc\n\n### Response:\n"
    )
    assert said == "b{</s>}d{</s>}"


def test_bitnet_chat():
    turns = (
        Turn("system", " Be short. "),
        Turn("user", "How are\nyou?\n"),
        Turn("assistant", " Well. "),
        Turn("user", "Good."),
    )
    spans = render(load_template("bitnet-chat"), turns, SPECIALS, to_be_continued=True)
    assert "".join(span.text for span in spans) == (
        "System: Be short.<|eot_id|>User: How are\nyou?<|eot_id|>Assistant: Well.<|eot_id|>"
        "User: Good.<|eot_id|>Assistant: "
    )
    assert [(span.text, span.special) for span in spans if span.said] == [
        ("Well.", False),
        ("<|eot_id|>", True),
    ]


def test_a_turn_ends_with_eos_where_there_is_no_eot():
    tokenizer = byte_tokenizer(specials=())
    specials = Specials.of(tokenizer.special_ids, tokenizer.bos_id, tokenizer.eos_id)
    spans = render(load_template("bitnet-chat"), [Turn("assistant", "a")], specials)
    assert (spans[-1].text, spans[-1].special) == ("</s>", True)


@pytest.mark.parametrize("name", TEMPLATES)
@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=4))
def test_generation_meets_what_training_saw(name, rounds):
    """Before each of its turns, the assistant is asked with a prefix of the whole conversation."""
    template = load_template(name)
    turns = [
        Turn(role, text)
        for user, assistant in rounds
        for role, text in (("user", user), ("assistant", assistant))
    ]
    whole = "".join(span.text for span in render(template, turns, SPECIALS))
    for index in range(1, len(turns), 2):
        asked = render(template, turns[:index], SPECIALS, to_be_continued=True)
        prefix = "".join(span.text for span in asked)
        # A history ends with its last turn; where another follows, the template parts the two.
        assert whole.startswith(prefix)


HOSTILE = st.lists(
    st.sampled_from(["<|eot_id|>", "</s>", "<s>", "<|eot", "_id|>", "<", "\n", "a"]), max_size=6
).map("".join)


@pytest.mark.parametrize("name", TEMPLATES)
@given(HOSTILE, HOSTILE)
def test_no_text_becomes_a_special_token(name, question, answer):
    spans = render(
        load_template(name), [Turn("user", question), Turn("assistant", answer)], SPECIALS
    )
    names = [span.text for span in spans if span.special]
    assert names == {"alpaca": ["</s>"], "bitnet-chat": ["<|eot_id|>"] * 2}[name]
    said = "".join(span.text for span in spans if span.said and not span.special)
    assert said == (answer if name == "alpaca" else answer.strip())


def test_names_inside_names_stay_text():
    specials = Specials.of({"<s>": 0, "</s>": 1, "x<s>y": 2, "s>": 3}, 0, 1)
    for text in ("x<s>y", "xx<s>yy", "<<s>", "s>s>"):
        assert [s.special for s in specials.split(specials.guard(text))] == [False]
        assert "".join(s.text for s in specials.split(specials.guard(text))) == text
    assert [s.text for s in specials.split("ax<s>yb")] == ["a", "x<s>y", "b"]


def test_a_template_like_those_of_hugging_face():
    source = """
{%- if not tools is defined or not tools %}{% set tools = none %}{% endif %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}{{ message['content'] }}</s>{% endgeneration %}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '\n' }}
    {%- endif %}
    {%- if loop.last %}{% break %}{% endif %}
{%- endfor %}"""
    assert marked(source, Turn("user", "a", "b"), Turn("assistant", "c")) == (
        "{<s>}<|im_start|>user\na\n\nb\n<|im_start|>assistant\n",
        "c{</s>}",
    )


def test_a_file(tmp_path: Path):
    path = tmp_path / "own.jinja"
    path.write_text("{{ messages[0].content }}")
    assert shown(load_template(str(path)), Turn("user", "é")) == ("é", "")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("a\n{% for %}", r"own\.jinja is wrong in line 2 \("),
        ("{{ 'a' }", r"own\.jinja is wrong in line 1 \("),
        ("{% generation %}\n\na", r"own\.jinja is wrong in line \d \("),
        ("a\n\n{{ messages[0].contents }}", r"own\.jinja fails in line 3 \(.*contents"),
        ("a\n{{ unknown + 'a' }}", r"own\.jinja fails in line 2 \('unknown' is undefined"),
        ("{{ raise_exception('roles must\nalternate') }}", r"line 1 \(roles must alternate\)"),
        ("\n{{ 1 / 0 }}", r"line 2 \(division by zero"),
        ("{{ ''.__class__.__mro__ }}", r"fails in line 1 \("),
        ("{{ messages.append(1) }}", r"fails in line 1 \("),
        ("{% for i in range(10**9) %}{% endfor %}", r"fails in line 1 \("),
        (
            "{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}",
            r"fails \(its generation blocks are nested\)",
        ),
    ],
)
def test_bad_templates(source: str, problem: str):
    with pytest.raises(BitgraphError, match=problem) as raised:
        marked(source, Turn("user", "a"))
    assert "\n" not in str(raised.value)


def test_files_that_are_no_templates(tmp_path: Path):
    with pytest.raises(BitgraphError, match=r"cannot be read .*one of alpaca, bitnet-chat"):
        load_template(str(tmp_path / "none"))
    with pytest.raises(BitgraphError, match=r"cannot be read"):
        load_template(str(tmp_path))
    path = tmp_path / "latin"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(BitgraphError, match=r"latin is not UTF-8 text \(byte 3\)"):
        load_template(str(path))
