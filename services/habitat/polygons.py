"""Areas of polygons on the earth, by their points alone. Pure, as units, zones and sorties ask alike."""

import itertools
import math
from collections.abc import Sequence

from google.type.latlng_pb2 import LatLng

RADIUS_KM = 6371.0088
"""Mean radius of the earth (IUGG); against CGCS2000's ellipsoid an area differs by less than a percent."""


def area_km2(points: Sequence[LatLng]) -> float:
    """The area of a polygon whose last point is joined to its first, on the sphere."""
    total = 0.0
    for one, next_ in itertools.pairwise([*points, points[0]]):
        span = math.radians(next_.longitude - one.longitude)
        total += span * (2 + math.sin(math.radians(one.latitude)) + math.sin(math.radians(next_.latitude)))
    return abs(total) * RADIUS_KM**2 / 2
