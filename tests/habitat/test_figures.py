"""What the areas state of their indicators (指标) can be computed: filters over filterable fields, sums over
numbers."""

import pytest

from mesh import contract, filters
from services.habitat.figures import Figure
from services.habitat.service import AREAS
from tests.county import REGION, County

FIGURES = [figure for area in AREAS for figure in getattr(area, "FIGURES", ())]


def test_no_two_have_the_same_id() -> None:
    assert FIGURES
    assert len({figure.id for figure in FIGURES}) == len(FIGURES)


@pytest.mark.parametrize("figure", FIGURES, ids=[figure.id for figure in FIGURES])
def test_asks_what_can_be_asked(county: County, figure: Figure) -> None:
    codec, of = county.store.codec(figure.resource), contract.resource(figure.resource)
    for text in filter(None, (figure.part, figure.whole)):
        assert filters.condition(text, codec, REGION) is not None
    for field in filter(None, (figure.part_sum, figure.whole_sum)):
        assert of.shape.field(field).kind in ("int", "double")
        assert of.shape.field(field).filterable
