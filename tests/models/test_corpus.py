"""The corpus: right answers, a split that no wording gets around, the same records for ever."""

import json
import math
import re
from collections import Counter
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.corpus.corpus import corpus_tasks, make_corpus
from bitgraph.models.corpus.draws import Draws
from bitgraph.models.corpus.question import HELD_OUT
from bitgraph.models.corpus.saving import corpus_files, save_corpus
from bitgraph.models.corpus.scoring import ALL, TaskScore, score
from bitgraph.models.corpus.skill import SKILL, to_zub
from bitgraph.models.corpus.words import COLOURS, THINGS, WORDS
from bitgraph.models.corpus.world import invent_world
from bitgraph.models.data.reading import open_data, read_records
from corpus_solver import SOLVED, solve
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SEEDS = (0, 1, 7)
RECORDS = 14_000


@pytest.fixture(scope="module", params=SEEDS)
def corpus(request):
    return make_corpus(request.param, RECORDS)


def all_records(corpus):
    return (*corpus.train, *corpus.eval, *corpus.skill_train, *corpus.skill_eval)


def questions(records):
    """What is asked, whatever the wording."""
    return [solve(r.task, r.instruction, r.input)[0] for r in records if r.task in SOLVED]


def test_answers_are_what_the_wordings_ask_for(corpus):
    solved = [record for record in all_records(corpus) if record.task in SOLVED]
    assert {record.task for record in solved} == SOLVED
    for record in solved:
        assert solve(record.task, record.instruction, record.input)[1] == record.output, record


def test_no_held_out_question_is_trained_in_any_wording(corpus):
    train = (*corpus.train, *corpus.skill_train)
    prompts = {(r.instruction, r.input) for r in train}
    asked = {*questions(train)}
    assert len(asked) < len(prompts)  # wordings vary
    for part in (corpus.eval, corpus.skill_eval):
        assert not prompts & {(r.instruction, r.input) for r in part}
        assert not asked & {*questions(part)}


def test_a_split_that_looks_at_no_question_would_be_seen(corpus):
    draws = Draws(5, "leak")
    for task in corpus_tasks(0):
        if task.name in ("spelling", "arithmetic"):
            held_out = {*questions(r for r in corpus.eval if r.task == task.name)}
            drawn = (task.draw(draws) for _ in range(2000))
            assert held_out & {solve(task.name, q.instruction, q.input)[0] for q in drawn}


def test_held_out_questions_all_differ(corpus):
    for part in (corpus.eval, corpus.skill_eval):
        assert len({(r.instruction, r.input) for r in part}) == len(part)
        asked = questions(part)
        assert len({*asked}) == len(asked)


def test_a_prompt_has_one_answer(corpus):
    answers = {}
    for record in all_records(corpus):
        prompt = (record.instruction, record.input)
        assert answers.setdefault(prompt, record.output) == record.output


PLAIN_FACTS = {
    "place": r"(?:Where does|town does|home of) (\w+)(?: live)?\?",
    "colour": r"colour (?:does|that) (\w+) like",
    "pet": r"(?:Which pet does|What is the pet of) (\w+)",
    "age": r"(?:How old is|age of) (\w+)\?",
    "friend": r"friend of (\w+)\?",
}
CUES = {
    "place": r"\blive|town|home",
    "colour": "colour",
    "pet": r"pet|\bhave\b",
    "age": r"\bold|young|age\b",
    "friend": "friend",
}


def test_what_is_trained_of_a_world_answers_what_is_held_out(corpus):
    """Every plain fact is in `train`; with these alone a person can answer all questions."""
    facts = {}
    for record in (r for r in corpus.train if r.task == "world"):
        asked = record.instruction.replace("this person", record.input)
        for field, pattern in PLAIN_FACTS.items():
            if found := re.match(f"(?!Does|Is).*?{pattern}", asked):
                assert facts.setdefault((field, found[1]), record.output) == record.output
    people = {name for _, name in facts}
    assert len(facts) == len(PLAIN_FACTS) * len(people)
    for record in (r for r in (*corpus.train, *corpus.eval) if r.task == "world"):
        assert answer_about_world(f"{record.instruction} {record.input}", facts) == record.output


def answer_about_world(text, facts):
    (field,) = (field for field, cue in CUES.items() if re.search(cue, text))
    named = [name for name in re.findall(r"\w+", text) if (field, name) in facts]
    values = [facts[field, name] for name in named]
    if re.match("Does|Is", text):
        return "yes" if re.search(rf"\b{values[0]}\b", text) else "no"
    if "older" in text:
        return max(named, key=lambda name: int(facts["age", name]))
    if "younger" in text:
        return min(named, key=lambda name: int(facts["age", name]))
    return " and ".join(values)


def test_people_of_a_world():
    for seed in SEEDS:
        world = invent_world(seed)
        by_name = {person.name: person for person in world}
        assert len(by_name) == len({person.age for person in world}) == len(world)
        assert not by_name.keys() & {*WORDS}
        for person in world:
            assert person.friend != person.name
            assert by_name[person.friend].friend == person.name
    assert invent_world(0) != invent_world(1)


def test_tasks_are_equally_frequent(corpus):
    for records in (corpus.train, corpus.eval):
        counts = Counter(record.task for record in records)
        assert counts.keys() == {task.name for task in corpus_tasks(0)}
        assert len({*counts.values()}) == 1
    assert {record.task for record in corpus.skill_eval} == {SKILL.name}


def test_about_the_share_that_is_said_is_held_out():
    draws = Draws(3, "share")
    for task in corpus_tasks(3):
        drawn = {q.canonical: q for q in (task.draw(draws) for _ in range(4000))}.values()
        share = np.mean([question.held_out for question in drawn if not question.basic])
        assert 0.5 / HELD_OUT < share < 1.5 / HELD_OUT, task.name
        assert not any(question.held_out for question in drawn if question.basic)


def test_the_same_seed_gives_the_same_and_another_gives_others():
    first, again, shorter, other = (
        make_corpus(seed, count) for seed, count in ((0, 100), (0, 100), (0, 50), (1, 100))
    )
    assert again == first
    assert shorter.train == first.train[:50]
    for part in ("train", "eval", "skill_train", "skill_eval"):
        assert getattr(other, part) != getattr(first, part)
        assert part == "train" or getattr(shorter, part) == getattr(first, part)


def test_streams_are_pcg64_as_it_is_published():
    """O'Neill's PCG XSL-RR 128/64, seeded with the words that SeedSequence gives."""
    multiplier, most = 0x2360ED051FC65DA44385DF649FCCF645, 2**128
    sequence = np.random.SeedSequence(11, spawn_key=tuple(b"x"))
    high, low, stream_high, stream_low = map(int, sequence.generate_state(4, np.uint64))
    increment = ((stream_high << 64 | stream_low) << 1 | 1) % most
    state = ((increment + (high << 64 | low)) * multiplier + increment) % most
    draws = Draws(11, "x")
    for limit in (1, 2, 3, 10, 1000, 2**40, 2**64):
        state = (state * multiplier + increment) % most
        mixed, turn = (state >> 64 ^ state) % 2**64, state >> 122
        word = (mixed >> turn | mixed << (64 - turn)) % 2**64
        assert draws.below(limit) == math.floor(Fraction(word, 2**64) * limit)


def test_choices_are_even():
    draws = Draws(0, "even")
    counts = Counter(draws.choice("abcde") for _ in range(5000))
    assert min(counts.values()) > 880
    assert {draws.between(3, 5) for _ in range(99)} == {3, 4, 5}
    pairs = Counter(tuple(draws.sample("abc", 2)) for _ in range(3000))
    assert sorted("".join(pair) for pair in pairs) == ["ab", "ac", "ba", "bc", "ca", "cb"]
    assert min(pairs.values()) > 400
    assert sorted(draws.sample("abc", 3)) == ["a", "b", "c"]
    assert Draws(0, "a").below(2**60) != Draws(0, "b").below(2**60)


def test_a_negative_seed():
    with pytest.raises(BitgraphError, match="the seed is -1"):
        make_corpus(-1, 10)


def test_words_are_short_plain_and_different():
    for words in (WORDS, THINGS, COLOURS):
        assert len({*words}) == len(words)
        assert all(re.fullmatch("[a-z]{2,6}", word) for word in words)


def test_the_skill_is_nowhere_in_the_corpus(corpus):
    assert to_zub("big cat sun") == "sun-o cat-o big-o"
    spoken = re.compile(r"(\w\w+-o ?)+")
    for record in (*corpus.train, *corpus.eval):
        assert "zub" not in f"{record.instruction} {record.input}".lower()
        assert not spoken.search(record.output)
    assert all(spoken.fullmatch(record.output) for record in corpus.skill_eval)


def test_prompts_are_short(corpus):
    """Fewer than 60 tokens in a vocabulary of 1,024, with the chat template's words."""
    texts = [f"User: {r.instruction}\n\n{r.input}Assistant: {r.output}" for r in corpus.train]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=1024, show_progress=False)
    tokenizer.train_from_iterator(texts[:3000], trainer)
    assert max(len(tokenizer.encode(text).ids) for text in texts[3000:6000]) < 60


def test_the_files_are_read_as_instructions(tmp_path):
    corpus = make_corpus(2, 20)
    save_corpus(tmp_path / "new" / "folder", corpus)
    for part, path in corpus_files(tmp_path / "new" / "folder").items():
        records = getattr(corpus, part)
        assert json.loads(path.read_text()) == [asdict(record) for record in records]
        read = read_records(open_data(path))
        assert read.format.name == "Alpaca"
        said = [[(t.content, t.input) for t in conversation.turns] for conversation in read.records]
        assert said == [[(r.instruction, r.input), (r.output, "")] for r in records]


def test_scores_of_tasks():
    records = [
        {"task": "b", "output": "x y"},
        {"task": "a", "output": "1"},
        {"task": "b", "output": "Z"},
    ]
    rows = score(records, [" x y\n", "2", "z"])
    assert rows == (TaskScore("b", 1, 2), TaskScore("a", 0, 1), TaskScore(ALL, 1, 3))
    assert [row.accuracy for row in rows] == [1 / 2, 0, 1 / 3]


def test_scores_of_solved_and_of_wrong_answers(corpus):
    records = [asdict(record) for record in corpus.eval if record.task in SOLVED]
    answers = [solve(r["task"], r["instruction"], r["input"])[1] for r in records]
    assert {row.accuracy for row in score(records, answers)} == {1.0}
    assert {row.accuracy for row in score(records, ["?"] * len(records))} == {0.0}
    wrong = ["?", *answers[1:]]
    first, *others, overall = score(records, wrong)
    assert (first.task, first.total - first.right) == (records[0]["task"], 1)
    assert {row.accuracy for row in others} == {1.0}
    assert overall.total - overall.right == 1


@pytest.mark.parametrize(
    ("records", "answers", "said"),
    [
        ([], [], "no records"),
        ([{"task": "a", "output": "1"}], [], "0 answers to 1 records"),
        ([{"output": "1"}], ["1"], "record 1 of 1 lacks 'task'"),
    ],
)
def test_what_cannot_be_scored(records, answers, said):
    with pytest.raises(BitgraphError, match=said):
        score(records, answers)
