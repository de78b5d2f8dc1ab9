"The verdicts in git follow from their rules and from the figures beside them in git."
import re
import shutil

import pandas as pd
import pytest
from conftest import ROOT

from mmreid.methods.registry import load_params
from mmreid.ranking.official import headlines
from mmreid.report.claims import load_claims
from mmreid.report.gather import with_verdicts
from mmreid.report.table2 import load_rows, with_publications
from mmreid.report.verdicts import LEAST_WEIGHT, MeasuredTables, all_of, judged, ledger, relation_verdict

BOOKS = sorted(path.parent for path in ROOT.glob("results/**/claims.csv"))
INTERVAL = re.compile(r"\[([^,]+), ([^\]]+)\]")
ROUNDED = 1e-3      # what the tables keep of a figure


def table(path, **types):
    return pd.read_csv(path, dtype=types, keep_default_na=False, na_values={"low": "", "high": ""})


def trainings(folder):
    "How many trainings at least are behind each row of a report."
    params = load_params(ROOT / "params.yaml")
    return len(params.study.seeds if folder.name == "study" else params.seeds)


def faults_of_rows(folder):
    "Rows of the ledger that tables in git give in full: figures, margins, statistics and orderings."
    found, metrics = table(folder / "claims.csv"), table(folder / "metrics.csv", seed=str)
    differences = table(folder / "tables/differences.csv")
    fused, concatenated = (differences[differences.protocol == name] for name in ("fused", "concatenated"))
    claims = with_publications(load_claims(), load_rows())
    again = ledger(claims, MeasuredTables(headlines(metrics), fused, concatenated=concatenated))
    given = ["figure", "margin", "statistic", "ordering"]
    key = ["claim", "dataset", "variant", "metric"]
    pair = [rows[rows.kind.isin(given)] for rows in (found, again)]
    both = pair[0].merge(pair[1], on=key, how="outer", suffixes=("", "_again"))
    differ = (both.verdict != both.verdict_again) | (both.note != both.note_again)
    for name in ("measured", "low", "high"):
        own, other = (pd.to_numeric(both[column]) for column in (name, f"{name}_again"))
        differ |= ((own - other).abs() > ROUNDED) | (own.isna() != other.isna())
    return [f"{row.claim}: {row.verdict}, but {row.verdict_again}" for row in both[differ].itertuples()]


def verdict_by_rule(row, claim, runs):
    "The verdict on a comparison of facts or on a weight, from the intervals that its row shows."
    if row.kind == "comparison": return relation_verdict(claim.relation, row.low, row.high, runs, claim.by)
    return all_of([judged(float(low), float(high), runs, by=LEAST_WEIGHT) for low, high in INTERVAL.findall(row.note)])


def faults_of_rules(folder):
    "Rows about facts whose verdict is not that of their interval. The samples behind the interval are not in git."
    found, claims, runs = table(folder / "claims.csv"), load_claims(), trainings(folder)
    facts = found[found.kind.isin(["comparison", "weight"]) & (found.verdict != "not run")]
    again = [(row, verdict_by_rule(row, claims[row.claim], runs)) for row in facts.itertuples()]
    assert len(again) > 5
    return [f"{row.claim}: {row.verdict}, but {verdict}" for row, verdict in again if verdict != row.verdict]


def faults_of_differences(folder):
    "Differences whose verdict is not that of their interval, corrected p and number of trainings."
    found = table(folder / "tables/differences.csv")
    again = with_verdicts(found.drop(columns="verdict"))
    assert (found.runs >= trainings(folder)).all() and len(found) > 10
    return [f"{row.row} - {row.against}" for row in found[found.verdict != again.verdict].itertuples()]


@pytest.mark.parametrize("folder", BOOKS, ids=lambda folder: str(folder.relative_to(ROOT)))
@pytest.mark.parametrize("faults", [faults_of_rows, faults_of_rules, faults_of_differences])
def test_every_verdict_follows_from_its_figures(folder, faults): assert faults(folder) == []


def changed(path, change):
    "Change the rows of a table on disk."
    rows = table(path)
    change(rows)
    rows.to_csv(path, index=False)


def test_faults_are_noticed(tmp_path):
    "The test of the tests: a verdict that no figure supports, in each table."
    folder = tmp_path / "quick"
    for path in ("claims.csv", "metrics.csv", "tables/differences.csv"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "results/quick" / path, folder / path)

    def claim(kind): return lambda rows: rows.__setitem__("verdict", rows.verdict.mask(rows.kind == kind, "holds"))
    for kind in ("ordering", "margin"): changed(folder / "claims.csv", claim(kind))
    assert len(faults_of_rows(folder)) >= 2 and faults_of_rules(folder) == []
    for kind in ("weight", "comparison"): changed(folder / "claims.csv", claim(kind))
    assert len(faults_of_rules(folder)) >= 2 and faults_of_differences(folder) == []
    changed(folder / "tables/differences.csv", lambda rows: rows.__setitem__("verdict", "more"))
    assert faults_of_differences(folder)
