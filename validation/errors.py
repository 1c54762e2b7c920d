"""What can be wrong with a contract."""

from pathlib import Path

from validation.rule import Rule


class RuleError(Exception):
    """One expectation cannot be used as written.

    `problem` says what is wrong with it, `instead` what to write.
    """

    def __init__(self, problem: str, instead: str) -> None:
        super().__init__(f"{problem}; {instead}")
        self.problem = problem
        self.instead = instead


class ContractError(Exception):
    """A contract file cannot be used: nothing of it is applied.

    `index` counts the expectations of the suite from 0, and is None where the file as a whole is wrong;
    `expectation` is the type of that expectation, where it could be read.
    """

    def __init__(
        self, file: Path, index: int | None, problem: str, instead: str, expectation: str | None = None
    ) -> None:
        where = str(file) if index is None else f"{file}, expectations[{index}]"
        named = f" ({expectation})" if expectation else ""
        super().__init__(f"{where}{named}: {problem}; {instead}")
        self.file = file
        self.index = index
        self.expectation = expectation
        self.problem = problem
        self.instead = instead


class EvaluationFailed(Exception):
    """Great Expectations raised while it evaluated a rule that looks at several rows at once, or gave one answer for
    all of them.

    No row can be blamed, so none is rejected or accepted: the batch must not be committed.
    """

    def __init__(self, rule: Rule, detail: str) -> None:
        named = f"{rule.expectation} on {', '.join(rule.columns)}"
        super().__init__(f"Great Expectations cannot evaluate {named}: {detail}; correct or remove this expectation")
        self.rule = rule
        self.detail = detail
