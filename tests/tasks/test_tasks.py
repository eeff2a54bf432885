"""Every task against its own oracle: the right replies grade 1, any other grade 0; splits share nothing."""

import asyncio
import io
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from whorl.base.errors import DataError, InputError
from whorl.base.nouns import Message
from whorl.tasks import GSM8K, Arithmetic, Digits, Example, Grade, LookUps, Task
from whorl.tasks.arithmetic import OPERATORS
from whorl.tasks.replies import ask, calling, saying, traced

ARITHMETIC = Arithmetic(max_digits=4)
DIGITS = Digits()
ITEMS = ["abcdefghij"[number % 10] * (number + 1) for number in range(200)]
SENTENCES = {f"module.name{number}": f"Give back item {item}." for number, item in enumerate(ITEMS)}
SENTENCES |= {f"other.name{number}": f"give back Item  {item}" for number, item in enumerate(ITEMS)}
LOOKUPS = LookUps(sentences=SENTENCES, n_test=15)


def grade(task: Task, example: Example, *replies: Message) -> Grade:
    return asyncio.run(task.grade(example, traced(*replies)))


@pytest.mark.parametrize("task", [ARITHMETIC, DIGITS, LOOKUPS], ids=lambda task: task.name)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_right_replies_grade_1_and_examples_repeat(task, split: str) -> None:
    first = list(islice(task.examples(split), 400))
    assert first == list(islice(task.examples(split), 400))
    assert len({example.id for example in first}) == len(first)
    assert isinstance(task, Task)
    for example in first[:100]:
        assert grade(task, example, *task.solution(example)).score == 1


@pytest.mark.parametrize("task", [ARITHMETIC, DIGITS, LOOKUPS], ids=lambda task: task.name)
def test_another_examples_answer_grades_0(task) -> None:
    examples = list(islice(task.examples("train"), 50))
    for example, other in pairwise(examples):
        if example.reference != other.reference:
            result = grade(task, example, *task.solution(example)[:-1], task.solution(other)[-1])
            assert result.score == 0 and result.reason
    with pytest.raises(InputError, match="no split 'dev'"):
        next(task.examples("dev"))


@given(
    st.integers(0, 300),
    st.sampled_from(["no call", "twice", "other tool", "other expression", "off by one", "two numbers"]),
)
@settings(deadline=None)
def test_arithmetic_perturbed(index: int, how: str) -> None:
    example = next(islice(ARITHMETIC.examples("train"), index, None))
    call, answer = ARITHMETIC.solution(example)
    replies = {
        "no call": (answer,),
        "twice": (call, call, answer),
        "other tool": (calling("abacus", expression=example.meta["expression"]), answer),
        "other expression": (calling("calculator", expression=example.meta["expression"] + "1"), answer),
        "off by one": (call, saying(f"It is {int(example.reference) + 1}.")),
        "two numbers": (call, saying(f"{answer.text} Or 5.")),
    }[how]
    assert grade(ARITHMETIC, example, *replies).score == 0


def test_arithmetic_references_and_splits() -> None:
    train = list(islice(ARITHMETIC.examples("train"), 3000))
    test = list(ARITHMETIC.examples("test"))
    assert len(test) == 500 == len({example.meta["expression"] for example in test})
    for example in (*train, *test):
        assert int(example.reference) == eval(example.meta["expression"])
        for operand in example.meta["operands"]:
            assert str(operand) in example.conversation.messages[0].text
    pairs = [{frozenset(example.meta["operands"]) for example in split} for split in (train, test)]
    assert not pairs[0] & pairs[1]
    assert {example.meta["operator"] for example in test} == set(OPERATORS)
    assert len({example.conversation.messages[0].text.rstrip("0123456789.?") for example in train}) > 20


def test_arithmetic_takes_any_spacing_and_wording() -> None:
    example = next(ARITHMETIC.examples("test"))
    call = calling("calculator", expression=example.meta["expression"].replace(" ", ""))
    assert grade(ARITHMETIC, example, call, saying(f"The answer is {int(example.reference):,}.")).score == 1
    assert grade(ARITHMETIC, example, call, saying("")).parts == {"call_exact": 1, "answer_exact": 0}
    odd = Message(role="assistant", tool_calls=(replace(call.tool_calls[0], arguments={"expression": 3}),))
    assert grade(ARITHMETIC, example, odd, saying("x")).score == 0


@given(st.integers(0, 100), st.data())
def test_lookups_and_digits_perturbed(index: int, data: st.DataObject) -> None:
    example = next(islice(LOOKUPS.examples("train"), index, None))
    call, answer = LOOKUPS.solution(example)
    words = answer.text.split()
    place = data.draw(st.integers(0, len(words) - 1))
    instead = data.draw(st.sampled_from([[], ["x"], [words[place].upper()]]))
    changed = [*words[:place], *instead, *words[place + 1 :]]
    assert grade(LOOKUPS, example, call, saying(" ".join(changed))).parts == {"call": 1, "answer": 0}
    digit = next(islice(DIGITS.examples("test"), index, None))
    other = data.draw(st.integers(0, 99).filter(lambda value: value != int(digit.reference)))
    assert grade(DIGITS, digit, saying(f"It is {other}.")).score == 0
    assert grade(DIGITS, digit, saying(f"{digit.reference} or {other}")).score == 0


def test_settings_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"only \d+ of n_test 500 .* raise max_digits"):
        list(Arithmetic(max_digits=1).examples("test"))
    with pytest.raises(InputError, match="max_digits"):
        Arithmetic(max_digits=0)
    with pytest.raises(InputError, match="n_test 1797"):
        next(Digits(n_test=1797).examples("test"))
    with pytest.raises(InputError, match="scale 0"):
        Digits(scale=0)


def test_lookups_split_by_what_is_said() -> None:
    names = LOOKUPS.names
    assert set(names["train"]) | set(names["test"]) == set(SENTENCES)
    for name in names["test"]:  # its twin is documented alike but for case, spaces and a full stop
        twin = (
            name.replace("module", "other") if name.startswith("module") else name.replace("other", "module")
        )
        assert twin in names["test"]
    asked = [example.meta["name"] for example in LOOKUPS.examples("test")]
    assert len(asked) == 15 == len(set(asked)) and set(asked) <= set(names["test"])
    trained = {example.meta["name"] for example in islice(LOOKUPS.examples("train"), 2 * len(names["train"]))}
    assert trained == set(names["train"])


def test_lookups_parts() -> None:
    example = next(LOOKUPS.examples("test"))
    call, answer = LOOKUPS.solution(example)
    assert grade(LOOKUPS, example, answer).parts == {"call": 0, "answer": 1}
    wrong = calling("lookup", name=example.meta["name"] + "x")
    assert grade(LOOKUPS, example, wrong, answer).parts == {"call": 0, "answer": 1}
    assert grade(LOOKUPS, example, call, saying(answer.text + " And more.")).parts == {"call": 1, "answer": 0}
    assert grade(LOOKUPS, example, call, saying("  " + answer.text.replace(" ", "\n"))).score == 1
    with pytest.raises(InputError, match="no names in split 'test'"):
        next(LookUps(sentences={}).examples("test"))


def test_digits_are_the_data_sets_and_disjoint() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    examples = {
        split: list(islice(Digits(resample="nearest").examples(split), 1437)) for split in ("train", "test")
    }
    assert len(examples["test"]) == 360 and len(examples["train"]) == 1437
    shown: dict[str, set[bytes]] = {}
    for split, given_examples in examples.items():
        shown[split] = set()
        for example in given_examples:
            (part,) = example.conversation.images
            pixels = np.asarray(Image.open(io.BytesIO(part.data)))
            assert pixels.shape == (16, 16) and pixels.dtype == np.uint8
            original = bunch.images[example.meta["index"]]
            assert np.array_equal(pixels[::2, ::2], np.rint(original * 255 / 16))
            assert int(example.reference) == bunch.target[example.meta["index"]]
            shown[split].add(pixels.tobytes())
    assert not shown["train"] & shown["test"]
    assert not set(DIGITS.indices["train"]) & set(DIGITS.indices["test"])


def test_digits_are_augmented_only_in_training_and_stay_readable() -> None:
    """A classifier of the plain training images reads the augmented ones: the label still fits."""
    from sklearn.neighbors import KNeighborsClassifier

    def pixels(examples: list[Example]) -> np.ndarray:
        return np.stack(
            [np.asarray(Image.open(io.BytesIO(e.conversation.images[0].data))).ravel() for e in examples]
        )

    train = list(islice(DIGITS.examples("train"), 2 * len(DIGITS.indices["train"])))
    plain, moved = train[: len(train) // 2], train[len(train) // 2 :]
    assert [example.meta for example in plain] == [example.meta for example in moved]
    assert (pixels(plain) != pixels(moved)).any(axis=1).mean() > 0.99
    reader = KNeighborsClassifier(3).fit(pixels(plain), [example.reference for example in plain])
    assert reader.score(pixels(moved), [example.reference for example in moved]) > 0.95
    test = list(DIGITS.examples("test"))
    assert reader.score(pixels(test), [example.reference for example in test]) > 0.95


def test_gsm8k_reads_and_grades(tmp_path) -> None:
    path = tmp_path / "gsm8k-test.jsonl"
    path.write_text('{"question": "How many?", "answer": "1,000+234=1,234\\n#### 1,234"}\n', encoding="utf-8")
    task = GSM8K(test=path)
    (example,) = task.examples("test")
    assert example.reference == "1,234" and example.conversation.messages[0].text == "How many?"
    for reply in (
        "#### 1234",
        "5 and 6, so #### $1,234.00",
        "It is 1234.",
        "$1,234",
        "#### 1234 apples, not 7",
    ):
        assert grade(task, example, saying(reply)).score == 1, reply
    for reply in ("", "#### -1234", "1234 #### 7", "1234 or 7", "#### none"):
        assert grade(task, example, saying(reply)).score == 0, reply


def test_gsm8k_files_that_cannot_be_used(tmp_path) -> None:
    with pytest.raises(InputError, match="no file given for split 'train'"):
        next(GSM8K().examples("train"))
    with pytest.raises(InputError, match=r"absent\.jsonl does not exist"):
        next(GSM8K(test=tmp_path / "absent.jsonl").examples("test"))
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "a", "answer": "#### 1"}\n{"question": "b", "answer": "no mark"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        list(GSM8K(test=path).examples("test"))


def test_gsm8k_real_files(test_data) -> None:
    task = GSM8K(train=test_data("gsm8k-train.jsonl"), test=test_data("gsm8k-test.jsonl"))
    counts = {}
    questions = {}
    for split in ("train", "test"):
        examples = list(task.examples(split))
        counts[split] = len(examples)
        questions[split] = {example.conversation.messages[0].text for example in examples}
        for example in examples:
            assert grade(task, example, *task.solution(example)).score == 1, example
    assert counts == {"train": 7473, "test": 1319}
    assert not questions["train"] & questions["test"]


def test_examples_check_themselves() -> None:
    with pytest.raises(DataError, match="must end just before the assistant's turn"):
        Example(id="a", conversation=replace(ask("hi"), messages=(saying("hi"),)), reference="")
    with pytest.raises(DataError, match="between 0 and 1"):
        Grade(score=1.5)
    with pytest.raises(DataError, match="empty text"):
        Example.of_text("a", "")
