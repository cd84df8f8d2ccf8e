"""Scores of the embedded pairs before any training, which ship beside them: a newcomer's first run
does not answer a thousand questions twice.

`python -m bench.run.shipped` makes them anew, as a change of the evaluation's code asks for. A
score is found by what it depends on; one of other code is passed over, never read.
"""

from dataclasses import dataclass

from bench.core.config import Experiment, Runtime
from bench.core.processes import ALONE
from bench.core.progress import Progress
from bench.pairs.pair import embedded_pair_names, get_pair
from bench.run.evaluations import Baseline, Evaluations, write_shipped
from bench.run.plan import make_plan
from bench.tasks.protocol import asking_of
from bench.tasks.results import TaskResult


@dataclass(frozen=True)
class Untrained:
    """An embedded pair before any training, and what a default run looks its scores up by."""

    evaluations: Evaluations
    models: tuple[Baseline, ...]
    tasks: tuple[str, ...]

    def names(self) -> set[str]:
        return {self._name(model, task) for model in self.models for task in self.tasks}

    def scores(self) -> dict[str, TaskResult]:
        """name -> the score of a model on a task of a default run."""
        return {
            self._name(model, task): self.evaluations.examine(
                model.model, model.tokenizer, [task], model.stops, model.label
            )[task]
            for model in self.models
            for task in self.tasks
        }

    def _name(self, model: Baseline, task: str) -> str:
        return self.evaluations.file_of(model, task, None).stem


def untrained(name: str) -> Untrained:
    """The embedded pair of that name, loaded."""
    experiment, runtime = Experiment(pair=name), Runtime(progress="off")
    plan = make_plan(experiment, runtime)
    loaded = plan.load_pair()
    commits = {"student": None, "teacher": None}
    models = tuple(
        Baseline(label, model, loaded.tokenizer, stops, plan.baseline_key(side, commits))
        for label, side, model, stops in (
            ("untrained", "student", loaded.student, loaded.student_stop_ids),
            ("teacher", "teacher", loaded.teacher, loaded.teacher_stop_ids),
        )
    )
    asking = asking_of(experiment, loaded.chat)
    evaluations = Evaluations(runtime, asking, None, Progress("off"), ALONE)
    return Untrained(evaluations, models, experiment.eval_tasks)


def main() -> None:
    """Write the scores of every embedded pair."""
    for name in embedded_pair_names():
        file = get_pair(name).baselines
        assert file is not None
        scores = untrained(name).scores()
        write_shipped(file, scores)
        told = ", ".join(f"{key} {score.mean:.3f}" for key, score in scores.items())
        print(f"{file}: {told}")


if __name__ == "__main__":
    main()
