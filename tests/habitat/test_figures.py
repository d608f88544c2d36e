"""What the areas state of their indicators (指标) can be computed: filters over filterable fields, sums over
numbers."""

from mesh import contract, filters
from services.habitat import figures
from services.habitat.service import AREAS
from tests.county import REGION, County
from village.habitat.v1 import figure_pb2

FIGURES = [figure for area in AREAS for figure in getattr(area, "FIGURES", ())]


def test_no_two_have_the_same_id() -> None:
    assert FIGURES
    assert len({figure.id for figure in FIGURES}) == len(FIGURES)


def test_ask_what_can_be_asked(county: County) -> None:
    for figure in FIGURES:
        codec, of = county.store.codec(figure.resource), contract.resource(figure.resource)
        for text in filter(None, (figure.part, figure.whole)):
            assert filters.condition(text, codec, REGION) is not None, figure.id
        for field in filter(None, (figure.part_sum, figure.whole_sum)):
            assert of.shape.field(field).kind in ("int", "double"), figure.id


def test_are_computed_all_at_once(county: County) -> None:
    found = county.call("county", figure_pb2.ComputeFiguresRequest(parent=f"regions/{REGION}")).figures
    assert [f.id for f in found] == sorted((f.id for f in FIGURES), key=figures._place)
