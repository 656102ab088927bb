# SPDX-License-Identifier: Apache-2.0
"""BOBA-200 and S1K-200 out of small files in the published fields."""

from __future__ import annotations

from collections import Counter

import pytest
from datasets import Dataset
from made_samples import shuffled, write

from t3s_megatron.accuracy.pool import Limits, VerifierPool
from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.prompts import load_prompts, write_rows
from t3s_megatron.teacher_data.recipes import INSTRUCTION, RECIPES, choose, trace_rows

BOBA, S1K = RECIPES["boba-200"], RECIPES["s1k-200"]


def boba(number: int, **fields) -> dict:
    """A row of AReaL-boba-106k.jsonl, its prompt rendered for DeepSeek-R1."""
    asks = f"What is {number} + 1? {INSTRUCTION}"
    made = {
        "prompt": f"<｜User｜>\n{asks}<｜Assistant｜><think>\n",
        "task": "math",
        "query_id": f"q{number}",
        "solutions": [f"\\boxed{{{number + 1}}}"],
    }
    return made | fields


def s1k(number: int, **fields) -> dict:
    """A row of s1K-1.1."""
    made = {
        "question": f"What is {number} + 1?",
        "solution": f"We add.\n\nThe answer is \\boxed{{{number + 1}}}",
        "cot_type": "math",
        "source_type": "AI-MO/NuminaMath-CoT/aops_forum",
        "metadata": "{'messages': [{'role': 'user'}]}",
        "gemini_thinking_trajectory": f"gemini thinks {number}",
        "gemini_attempt": f"The final answer is {number}",
        "deepseek_thinking_trajectory": f"\nr1 thinks {number}\n",
        "deepseek_attempt": f"**{number + 1}**: \\boxed{{{number + 1}}}",
    }
    return made | fields


@pytest.fixture
def take(tmp_path):
    """take(recipe, rows): what is chosen of them."""

    def taken(recipe, rows, seed=0, count=200, **options):
        source = write(tmp_path / "published.jsonl", rows)
        return choose(recipe, source, seed=seed, count=count, **options)

    return taken


def keys(chosen) -> list[str]:
    return [one.prompt.key for one in chosen.problems]


def test_a_row_of_boba(take):
    (one,) = take(BOBA, [boba(3)]).problems
    # Without DeepSeek's markers, and without a second instruction.
    assert one.prompt.messages == ({"role": "user", "content": f"What is 3 + 1? {INSTRUCTION}"},)
    assert one.prompt.answer == "4" and one.traces == {}
    assert one.prompt.metadata == {"dataset": "AReaL-boba", "query_id": "q3"}


def test_a_row_of_boba_for_fine_tuning_has_its_gold_answer_in_the_response(take):
    row = {"prompt": boba(3)["prompt"], "answer": "so\n</think>\n\n\\boxed{4}"}
    (one,) = take(BOBA, [row]).problems
    assert one.prompt.answer == "4"
    assert one.prompt.metadata["gold"] == "boxed in the published response"


def test_a_row_of_s1k(take):
    (one,) = take(S1K, [s1k(3)]).problems
    assert one.prompt.messages[0]["content"] == f"What is 3 + 1?\n\n{INSTRUCTION}"
    assert one.prompt.answer == "4"
    assert trace_rows([one]) == [
        one.prompt.to_row() | {"teacher": teacher, "response": response}
        for teacher, response in (
            ("deepseek-r1", "<think>\nr1 thinks 3\n</think>\n\n**4**: \\boxed{4}"),
            (
                "gemini-2.0-flash-thinking",
                "<think>\ngemini thinks 3\n</think>\n\nThe final answer is 3",
            ),
        )
    ]


def test_the_first_s1k_has_geminis_traces(take):
    row = {k: v for k, v in s1k(3).items() if k[:6] not in ("gemini", "deepse")}
    row |= {"cot": None, "thinking_trajectories": ["hm"], "attempt": "\\boxed{4}"}
    (one,) = take(S1K, [row], instruction="").problems
    assert one.traces == {"gemini-2.0-flash-thinking": "<think>\nhm\n</think>\n\n\\boxed{4}"}
    assert one.prompt.messages[0]["content"] == "What is 3 + 1?"


@pytest.mark.parametrize(
    ("recipe", "row", "why"),
    [
        (BOBA, boba(1, task="code"), "not mathematics"),
        (BOBA, {"task": "code", "input_output": "{}"}, "not mathematics"),
        (BOBA, boba(1, solutions=["so it is\nfour"]), "no answer, in a box or alone"),
        (BOBA, boba(1, solutions=[]), "no answer, in a box or alone"),
        (BOBA, boba(1, solutions=["\\boxed{1}", "\\boxed{2}"]), "several gold answers"),
        (BOBA, boba(1, solutions="\\boxed{2}"), "`solutions` is no list of texts"),
        (BOBA, boba(1, prompt=None), "`prompt` is no text"),
        (BOBA, boba(1, prompt="<｜User｜><｜Assistant｜>"), "the problem is empty"),
        (BOBA, boba(1, prompt="1? \ud800"), "its text is not valid Unicode"),
        (S1K, s1k(1, cot_type="crossword"), "not mathematics"),
        pytest.param(
            S1K,
            s1k(1, cot_type="coding", solution=None),
            "not mathematics",
            id="simplescaling/s1 data/collect_data.py: USACO and LiveCodeBench",
        ),
        (S1K, {"cot_type": "science"}, "not mathematics"),
        (S1K, s1k(1, question="Prove that 1 < 2."), "asks for a proof"),
        (S1K, s1k(1, question="Show that 1 < 2.", solution=None), "asks for a proof"),
        (S1K, s1k(1, source_type="x/Theorem proof/y"), "asks for a proof"),
        pytest.param(
            S1K,
            s1k(1, solution=None),
            "no solution is published",
            id="simplescaling/s1 data/featurization.py tests `solution` for None",
        ),
        (S1K, s1k(1, solution="it is 2"), "no answer, in a box or alone"),
        (S1K, s1k(1, solution="2"), "no answer, in a box or alone"),
        (S1K, s1k(1, solution="\\boxed{2"), "no answer, in a box or alone"),
        (S1K, s1k(1, solution="\\boxed{2} or \\boxed{3}"), "several gold answers"),
    ],
)
def test_what_does_not_qualify_is_counted_and_ends_nothing(take, recipe, row, why):
    good = boba(9) if recipe is BOBA else s1k(9)
    chosen = take(recipe, [good, row])
    assert len(chosen.problems) == chosen.qualified == 1 and chosen.rows == 2
    assert chosen.left_out.counts == {why: 1}
    assert chosen.left_out.first[why].endswith("line 2")
    with pytest.raises(DataError, match="no problem for|No row has the fields") as found:
        take(recipe, [row])
    assert why in str(found.value)


@pytest.mark.parametrize(
    ("source", "solution", "gold"),
    [
        pytest.param("qq8933/AIME_1983_2024", "128", "128", id="s1 data/add_aime.py"),
        pytest.param("qq8933/AIME_1983_2024", 128, "128", id="a number in a copy as JSON"),
        pytest.param("TIGER-Lab/TheoremQA/float", "0.3333", "0.3333", id="s1: TheoremQA, Answer"),
        ("TIGER-Lab/TheoremQA/bool", "True", "True"),
        ("TIGER-Lab/TheoremQA/list of integer", "[1, 2]", "[1, 2]"),
        pytest.param("daman1209arora/jeebench/math", "B", "B", id="s1: JEEBench, gold"),
        ("daman1209arora/jeebench/phy", "$2.5$", "2.5"),
        pytest.param("qfq/quant", "6", "6", id="s1: teasers, by the notebook's name"),
        ("simplescaling/s1-teasers", "6", "6"),
        ("qfq/openaimath/Algebra", "So \\boxed{7}.", "7"),
        ("TIGER-Lab/TheoremQA/float", "We find \\boxed{7}.", "7"),
    ],
)
def test_bare_answers_of_the_sources_that_have_them(take, source, solution, gold):
    (one,) = take(S1K, [s1k(3, source_type=source, solution=solution)]).problems
    assert one.prompt.answer == gold


def test_an_explanation_of_such_a_source_is_no_answer(take):
    row = s1k(3, source_type="TIGER-Lab/TheoremQA/float", solution="First we add.\nThen 4.")
    chosen = take(S1K, [s1k(9), row])
    assert chosen.left_out.counts == {"no answer, in a box or alone": 1}
    why = "no answer, in a box or alone"
    assert chosen.left_out.sources[why] == {"TIGER-Lab/TheoremQA/float": 1}


@pytest.mark.parametrize(
    ("metadata", "qualifies"),
    [("{'domain': ['Algebra'], 'answer': '4'}", True), ("{'answer': None}", False), ("{", False)],
)
def test_the_answer_of_omni_math_is_in_its_metadata(take, metadata, qualifies):
    row = s1k(3, source_type="KbsdJames/Omni-MATH", solution="We add.", metadata=metadata)
    chosen = take(S1K, [s1k(9), row])
    assert (chosen.qualified == 2) is qualifies
    assert {one.prompt.answer for one in chosen.problems} == ({"4", "10"} if qualifies else {"10"})


@pytest.mark.parametrize(
    ("solutions", "gold"),
    [(["$\\frac{1}{2}$"], "\\frac{1}{2}"), (["$$4$$"], "4"), (["4", "\\boxed{4}"], "4"),
     (["$4$ and $5$"], "$4$ and $5$")],
)  # fmt: skip
def test_bare_solutions_of_boba(take, solutions, gold):
    (one,) = take(BOBA, [boba(3, solutions=solutions)]).problems
    assert one.prompt.answer == gold


QUESTION = ({"role": "user", "content": "1 + 1?"},)


@pytest.mark.parametrize(
    ("prompt", "turns"),
    [
        ("1 + 1?", QUESTION),
        pytest.param(
            "<｜User｜>\n1 + 1?\n<｜Assistant｜><think>\n", QUESTION, id="RLinf's sample of boba"
        ),
        ("<｜begin▁of▁sentence｜><｜User｜>1 + 1?<｜Assistant｜>", QUESTION),
        ("<｜User｜>1 + 1?", QUESTION),
        (
            "<｜begin▁of▁sentence｜>Be brief.<｜User｜>1 + 1?<｜Assistant｜><think>\n",
            ({"role": "system", "content": "Be brief."}, *QUESTION),
        ),
        (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n",
            ({"role": "system", "content": "Be brief."}, *QUESTION),
        ),
        (
            "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            QUESTION,
        ),
        ("<|im_start|>user\n1 + 1?<|im_end|>\n", QUESTION),
        ("Is |x| < |y|?", ({"role": "user", "content": "Is |x| < |y|?"},)),
    ],
)
def test_a_rendered_prompt_is_taken_apart(take, prompt, turns):
    (one,) = take(BOBA, [boba(1, prompt=prompt)]).problems
    assert one.prompt.messages == turns


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("<｜User｜>1?<｜Assistant｜><think>\nhm", "an answer is begun in its prompt"),
        ("<｜User｜>1?<｜Assistant｜>1.<｜User｜>2?<｜Assistant｜>", "an answer is begun"),
        ("<|im_start|>user\n1?<|im_end|>\n<|im_start|>assistant\n1", "an answer is begun"),
        ("1? <|im_end|>", "markers that are not understood"),
        ("<|im_start|>tool\n1?<|im_end|>", "markers that are not understood"),
        (
            "<|start_header_id|>user<|end_header_id|>\n\n1?<|eot_id|>",
            "markers that are not understood",
        ),
        ("[INST] 1? [/INST]", "markers that are not understood"),
        ("<start_of_turn>user\n1?<end_of_turn>", "markers that are not understood"),
    ],
)
def test_what_cannot_be_taken_apart_is_left_out(take, prompt, why):
    chosen = take(BOBA, [boba(9), boba(1, prompt=prompt)])
    assert len(chosen.problems) == 1 and why in next(iter(chosen.left_out.counts))


def test_one_gold_answer_twice_is_one(take):
    twice = boba(1, solutions=["\\boxed{2}", "so \\boxed{ 2 }"])
    assert take(BOBA, [twice]).problems[0].prompt.answer == "2"
    assert len(take(S1K, [s1k(1, solution="\\boxed{2}, so \\boxed{2}")]).problems) == 1


def test_repeated_problems_are_one_and_contradictions_none_in_any_order(take):
    again = boba(1, prompt=boba(1)["prompt"].replace(" + ", "  +\n"), query_id="other")
    rows = [boba(1), again, boba(2), boba(2, solutions=["\\boxed{5}"]), boba(2), boba(3)]
    found = [take(BOBA, shuffled(rows, seed)) for seed in range(8)]
    for chosen in found:
        assert chosen.left_out.counts == {
            "the same problem again": 1,
            "its gold answers contradict each other": 3,
        }
        assert [one.prompt.to_row() for one in chosen.problems] == [
            one.prompt.to_row() for one in found[0].problems
        ]
    assert len(found[0].problems) == 2


def test_the_choice_is_uniform_by_seed_and_independent_of_the_order(take, tmp_path):
    rows = [boba(number) for number in range(20)]
    assert keys(take(BOBA, rows, count=5)) == keys(take(BOBA, shuffled(rows, 1), count=5))
    # A larger choice contains the smaller one.
    assert keys(take(BOBA, rows, count=9))[:5] == keys(take(BOBA, rows, count=5))
    counts = Counter(key for seed in range(400) for key in keys(take(BOBA, rows, seed, 5)))
    # 400 draws of 5 out of 20, without replacement: the variance of a count is 400 * 1/4 * 3/4, and
    # the counts sum up to 2000, so that the statistic has 19 degrees of freedom; 43.8 at p = 0.001.
    assert len(counts) == 20
    assert sum((n - 100) ** 2 / 75 for n in counts.values()) * 19 / 20 < 43.8


def test_gold_answers_that_the_verifier_cannot_read_are_replaced(take):
    rows = [boba(n) if n % 2 else boba(n, solutions=["\\boxed{yes}"]) for n in range(12)]
    with VerifierPool("numeric", Limits(workers=1)) as pool:
        chosen = take(BOBA, rows, count=5, pool=pool)
        assert len(chosen.problems) == 5
        assert {int(one.prompt.answer) % 2 for one in chosen.problems} == {0}
        # In the order of the draw: what numeric can read of it.
        drawn = [one for one in take(BOBA, rows).problems if one.prompt.answer != "yes"]
        assert keys(chosen) == [one.prompt.key for one in drawn][:5]
        assert chosen.left_out.counts["a gold answer that numeric cannot use"] >= 1
        with pytest.raises(DataError, match="no problem for boba-200 in 1 rows"):
            take(BOBA, [boba(0, solutions=["\\boxed{yes}"])], pool=pool)


@pytest.mark.parametrize(
    ("recipe", "row", "says"),
    [
        (BOBA, {"question": "1?"}, "line 1: there is no `prompt`; the row has question. No row"),
        (S1K, boba(1), "line 1: there is no `question`; the row has prompt, .*another release"),
        (S1K, [1], "has to be an object"),
    ],
)
def test_a_file_with_other_fields_is_refused(take, recipe, row, says):
    with pytest.raises(DataError, match=says):
        take(recipe, [row, row])


def test_a_published_parquet_file_and_prompts_on_disk(tmp_path):
    path = str(tmp_path / "train-00000-of-00001.parquet")
    Dataset.from_list([s1k(n) for n in range(30)]).to_parquet(path)
    chosen = choose(S1K, path, seed=0, count=10)
    written = str(tmp_path / "prompts.jsonl")
    write_rows(written, [one.prompt.to_row() for one in chosen.problems])
    read = load_prompts(written)
    assert [one.to_row() for one in read] == [one.prompt.to_row() for one in chosen.problems]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"prompt": "a"}, {"prompt": " a "}], "line 2: the same prompt as .*line 1"),
        ([{"prompt": "a", "id": 1}, {"prompt": "b", "id": "1"}], "line 2: the same id as"),
        ([{"question": "a"}], "needs `prompt`, found question"),
        ([{"prompt": [{"role": "assistant", "content": "a"}]}], "it has to end with a question"),
        (["3"], "has to be an object"),
        ([], "no prompts in it"),
    ],
)
def test_prompts_that_cannot_be_asked_are_refused(tmp_path, rows, says):
    with pytest.raises(DataError, match=says):
        load_prompts(write(tmp_path / "prompts.jsonl", rows))
