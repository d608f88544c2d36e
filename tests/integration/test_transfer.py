"""Reports out of a spreadsheet into a node and back: CSV in UTF-8 and GB 18030, XLSX; what is wrong is said
by line and column; a rerun adds nothing."""

import csv
import pathlib
from collections.abc import Iterator

import openpyxl
import pytest

from cli import sheets, transfer
from mesh import contract
from tests.integration.test_local_node import County, mesh

HEADER = ["类别", "描述", "区划代码", "位置", "联系人", "联系电话", "发现时间"]
GOOD = ["WASTE", "村口垃圾", "360423100201", "29.26,115.1", "欧阳娜娜", "13800138000", "2026-03-01 09:30"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    found = County(tmp_path_factory.mktemp("transfer") / "360423")
    assert found.up().returncode == 0
    yield found
    mesh("down", "--data", str(found.data))


def sheet(path: pathlib.Path, rows: list[list[str]], encoding: str = "utf-8-sig") -> pathlib.Path:
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(path)
        return path
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def load(node: County, path: pathlib.Path) -> tuple[int, str, str]:
    token = node.token("VO", "360423")
    said = mesh("import", "--data", str(node.data), "habitat/reports", str(path), "--region", "360423",
                "--token", token)  # fmt: skip
    return said.returncode, said.stdout.splitlines()[-1] if said.stdout else "", said.stderr


def many(mark: str, count: int) -> list[list[str]]:
    return [HEADER, *([*GOOD[:1], f"{mark} 第{n}处", *GOOD[2:]] for n in range(count))]


@pytest.mark.parametrize(
    ("name", "encoding"), [("a.csv", "utf-8-sig"), ("b.csv", "utf-8"), ("c.csv", "gb18030"), ("d.xlsx", "")]
)
def test_takes_every_kind_of_sheet_and_a_rerun_adds_nothing(
    node: County, tmp_path: pathlib.Path, name: str, encoding: str
) -> None:
    path = sheet(tmp_path / name, many(name, 3), encoding)
    assert load(node, path)[:2] == (0, "3 added, 0 there already, 0 wrong")
    assert load(node, path)[:2] == (0, "0 added, 3 there already, 0 wrong")
    sheet(path, many(name, 5), encoding)
    assert load(node, path)[:2] == (0, "2 added, 3 there already, 0 wrong"), "goes on where it broke off"


def test_says_what_is_wrong_by_line_and_column_and_takes_the_rest(
    node: County, tmp_path: pathlib.Path
) -> None:
    rows = many("错", 250)
    rows[2][0] = "RUBBISH"
    rows[7][3] = "29.26"
    rows[120][5] = "12345"
    rows[121][2] = "999999100201"
    rows[249][1] = ""
    code, tally, wrong = load(node, sheet(tmp_path / "a.csv", rows))
    assert (code, tally) == (1, "245 added, 0 there already, 5 wrong")
    for line, column in ((3, "类别"), (8, "位置"), (121, "联系电话"), (122, "区划代码"), (250, "描述")):
        assert f"line {line}, {column}: " in wrong


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (["类别", "颜色"], "column 2: '颜色' is none of"),
        (["类别", "类别"], "stands there twice"),
        ([], "is empty"),
    ],
)
def test_refuses_a_header_that_it_does_not_know(
    node: County, tmp_path: pathlib.Path, header: list[str], said: str
) -> None:
    code, _, wrong = load(node, sheet(tmp_path / "a.csv", [header, GOOD] if header else []))
    assert code == 1
    assert said in wrong


def exported(node: County, to: pathlib.Path, kind: str, *more: str) -> list[dict[str, str]]:
    words = ("--region", "360423", "--token", node.token("KA"), *more)
    said = mesh("export", "--data", str(node.data), f"habitat/{kind}", str(to), *words)
    assert said.returncode == 0, said.stderr
    header, *rows = csv.reader(to.read_text("utf-8-sig").splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_writes_whatever_a_domain_lists(node: County, tmp_path: pathlib.Path) -> None:
    wanted = exported(node, tmp_path / "a.csv", "standards", "--filter", 'code = "GB 3838-2002"')
    assert [(row["name"].rpartition("/")[2], row["code"]) for row in wanted] == [
        ("gb-3838-2002", "GB 3838-2002"), ("gb-3838-2002-source", "GB 3838-2002"),
    ]  # fmt: skip
    assert (wanted[0]["classes"], wanted[0]["valid_from"]) == ("Ⅰ；Ⅱ；Ⅲ；Ⅳ；Ⅴ", "2002-06-01")
    assert exported(node, tmp_path / "b.csv", "stations") == []


def test_writes_figures_with_what_they_are_of(node: County, tmp_path: pathlib.Path) -> None:
    found = {row["编号"]: row for row in exported(node, tmp_path / "a.csv", "figures")}
    assert (found["H-2.1"]["指标"], found["H-2.1"]["分母"], found["H-2.1"]["值"]) == ("接入率", "0.0", "")
    assert found["H-2.1"]["口径"].startswith("count(villagePoints")
    assert found["H-2.1"]["截止时间"].endswith("+08:00")
    refused = mesh("export", "--data", str(node.data), "habitat/figures", str(tmp_path / "b.csv"), "--region",
                   "360423", "--token", node.token("KA"), "--filter", "x = 1")  # fmt: skip
    assert "cannot be asked for by filter" in refused.stderr


def test_knows_every_list_of_the_domain(tmp_path: pathlib.Path) -> None:
    found = contract.read("village.habitat.v1")
    for method in found.methods.values():
        named = method.name.removeprefix("List")
        if named != method.name and "filter" in method.request_fields:
            of = transfer.kind("habitat", named[0].lower() + named[1:])
            titles = [column.title for column in sheets.shown(of.shape)]
            assert "name" in titles, method.name
            assert len(titles) == len(set(titles)), method.name


@pytest.mark.parametrize("name", ["out.csv", "out.xlsx"])
def test_writes_what_the_caller_may_see_with_contacts_masked(
    node: County, tmp_path: pathlib.Path, name: str
) -> None:
    mark = f"=导出{name}"
    load(node, sheet(tmp_path / "in.csv", many(mark, 4)))
    to = tmp_path / name
    said = mesh("export", "--data", str(node.data), "habitat/reports", str(to), "--region", "360423",
                "--token", node.token("KA"), "--filter", "state = REPORTED")  # fmt: skip
    assert said.returncode == 0, said.stderr
    if name.endswith("csv"):
        rows = list(csv.reader(to.read_text("utf-8-sig").splitlines()))
    else:
        rows = [[str(c or "") for c in row] for row in openpyxl.load_workbook(to).active.values]
    found = [dict(zip(rows[0], row, strict=True)) for row in rows[1:] if mark in "".join(row)]
    assert len(found) == 4
    assert found[0]["联系电话"] == "138****8000"
    assert found[0]["描述"].startswith("'="), "a cell is no formula"
    assert found[0]["发现时间"].startswith("2026-03-01 09:30")
    assert f"{len(rows) - 1} records" in said.stdout
