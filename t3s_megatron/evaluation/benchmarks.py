# SPDX-License-Identifier: Apache-2.0
"""Students on one of the paper's benchmarks, through evalscope."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from t3s_megatron.data.durable import check_folder
from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.evaluation.evalscope import Evalscope, configuration, read_answers
from t3s_megatron.evaluation.evaluate import Asking, Evaluated, note_truncation, probe_prompts
from t3s_megatron.evaluation.students import Student, find_servers, probe
from t3s_megatron.evaluation.suites import Benchmark, beside_the_paper
from t3s_megatron.monitor.comparison import BASE, Answers, compare, score


def evaluate_benchmark(
    benchmark: Benchmark,
    students: Sequence[Student],
    asking: Asking,
    harness: Evalscope,
    datasets: str | None,
    output: str,
    say: Callable[[str], None],
) -> Evaluated:
    """As `evaluate_file`. A benchmark that evalscope does not have is `left`, with what to do."""
    done = Evaluated()
    if benchmark.dataset is None:
        done.left.append(
            f"{benchmark.name}: evalscope does not have it; give its problems and gold answers as "
            "--suite FILE"
        )
        return done
    notes: list[str] = []
    models: dict[str, Answers] = {}
    for student in students:
        work = os.path.join(output, benchmark.dataset, student.name)
        try:
            answers, found, agreed = _of_student(
                benchmark.dataset, student, asking, harness, datasets, work, say
            )
        except T3SError as error:
            done.left.append(f"{benchmark.name}: {error}")
            continue
        models[student.name] = answers
        notes += [f"{student.name}: {note}" for note in found]
        notes += note_truncation(student.name, answers, asking.max_tokens)
        done.about[student.name] = {"folder": student.folder, "probe_agreement": agreed,
                                    "evalscope": harness.version}  # fmt: skip
    if BASE in models:
        base = score(models[BASE])
        notes += beside_the_paper(benchmark, base.accuracy, base.standard_error)
    done.comparisons.append(compare(benchmark.name, models, notes))
    return done


def _of_student(
    dataset: str,
    student: Student,
    asking: Asking,
    harness: Evalscope,
    datasets: str | None,
    work: str,
    say: Callable[[str], None],
) -> tuple[Answers, list[str], float | None]:
    served_as = os.path.join(work, "served_as")
    if os.path.exists(os.path.join(work, "reports")):
        # Finished: no server is needed for what is there.
        with open(served_as, encoding="utf-8") as file:
            model = file.read()
        try:
            return *read_answers(work, model, dataset, asking.samples), None
        except MismatchError as error:
            say(f"{student.name}: {error}; it is run again")
    served = find_servers(student, asking.urls, asking.reload, asking.timeout)
    if len(served.urls) > 1:
        say(f"evalscope asks one server: {served.urls[0]}")
    agreed = None
    if asking.probes:
        agreed = probe(student, served, probe_prompts(asking.probes), asking.timeout)
    check_folder(work)
    with open(served_as, "w", encoding="utf-8") as file:
        file.write(served.model)
    sampling = {
        "temperature": asking.temperature, "top_p": asking.top_p, "max_tokens": asking.max_tokens,
        "timeout": asking.timeout,
        **({"extra_body": asking.extra} if asking.extra else {}),
    }  # fmt: skip
    config = configuration(
        dataset, model=served.model, url=served.urls[0], samples=asking.samples,
        sampling=sampling, concurrency=asking.concurrency, work=work, datasets=datasets,
    )  # fmt: skip
    say(f"{student.name}: evalscope {harness.version} runs {dataset}; {os.path.join(work, 'log')}")
    harness.run(config, work)
    return *read_answers(work, served.model, dataset, asking.samples), agreed
